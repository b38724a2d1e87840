//! The verifier's HTTP interfaces through real sockets: every row of the status table, over each transport.

use std::time::Duration;

use http::Method;
use sidegate_tests::daemon::{Daemon, claims, good, sign};
use sidegate_tests::http::{At, Call, Reply, raw};
use sidegate_tests::proxies::IDENTITY;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::wait::eventually;

const INTROSPECT: &str = "an-introspection-token";

async fn text(at: &At, bytes: &str) -> String {
    String::from_utf8_lossy(&raw(at, bytes.as_bytes(), Duration::from_secs(5)).await).into_owned()
}

fn denied(reply: &Reply, status: u16, code: &str, challenge: &str) {
    assert_eq!(reply.status, status);
    assert_eq!(reply.code(), code);
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert!(reply.header("www-authenticate").unwrap_or_default().starts_with(challenge), "{:?}", reply.headers);
}

#[tokio::test]
async fn check_answers_any_method_on_any_transport() {
    let daemon = Daemon::start(&[]).await;
    let token = good("alice");
    for at in [&daemon.at, &daemon.tcp] {
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let reply = at.call(method, "/check?scope=ignored").bearer(&token).send().await;
            assert_eq!(reply.status, 200);
            assert!(reply.body.is_empty());
            assert_eq!(reply.header("cache-control"), Some("no-store"));
            let identity = IDENTITY.map(|name| reply.header(name).unwrap_or_default().to_owned());
            let exp = identity[5].clone();
            assert_eq!(identity, ["alice", "sid-of-alice", "jti-of-alice", "sidegate", "read write", &exp, "home"]);
            assert!(exp.parse::<u64>().is_ok());
        }
        assert_eq!(at.get("/check").bearer(&token).h2().send().await.status, 200);
        let head = text(at, &format!("HEAD /check HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n")).await;
        assert!(head.starts_with("HTTP/1.0 200") && head.ends_with("\r\n\r\n"), "{head}");
        let head = text(at, "HEAD /check HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 401") && head.ends_with("\r\n\r\n"), "no body for HEAD: {head}");
        let get = text(
            at,
            &format!(
                "GET /check HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\nauthorization: bearer {token}\r\n\r\n"
            ),
        )
        .await;
        assert!(get.starts_with("HTTP/1.0 200"), "{get}");
    }
}

#[tokio::test]
async fn connection_is_kept_and_the_body_ignored() {
    let daemon = Daemon::start(&[]).await;
    let token = good("alice");
    let one = format!("GET /check HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    let last = one.replace("host: x", "host: x\r\nconnection: close");
    let twice = text(&daemon.at, &[one.as_str(), &last].concat()).await;
    assert_eq!(twice.matches("HTTP/1.1 200 OK").count(), 2, "{twice}");
    let announced =
        format!("POST /check HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\nauthorization: Bearer {token}\r\n\r\n");
    let answered = raw(&daemon.at, announced.as_bytes(), Duration::from_secs(2)).await;
    assert!(answered.starts_with(b"HTTP/1.1 200"), "answered although the body never comes");
}

#[tokio::test]
async fn every_denial_has_its_status_code_and_challenge() {
    let daemon = Daemon::start(&[]).await;
    let check = || daemon.at.get("/check");
    denied(&check().send().await, 401, "token_missing", "Bearer");
    assert_eq!(check().send().await.header("www-authenticate"), Some("Bearer"), "bare when no token came");
    denied(&check().header("authorization", "Basic YTpi").send().await, 401, "token_missing", "Bearer");
    let invalid = "Bearer error=\"invalid_token\"";
    let token = good("alice");
    for wrong in ["a.b.c", &format!("{token},{token}"), &format!("{token} x"), &token[1..], &"x".repeat(9000)] {
        denied(&check().bearer(wrong).send().await, 401, "token_invalid", invalid);
    }
    let twice = check().bearer(&token).bearer(&token).send().await;
    denied(&twice, 401, "token_invalid", invalid);
    let old = sign(&sidegate_common::claims::Claims { iat: 1_000, exp: 2_000, ..claims("alice") });
    denied(&check().bearer(&old).send().await, 401, "token_expired", invalid);
    assert_eq!(check().bearer(&token).send().await.status, 200);
    daemon.revoke_session("sid-of-alice");
    denied(&check().bearer(&token).send().await, 401, "token_revoked", invalid);
    denied(&daemon.at.get("/nothing").send().await, 404, "not_found", "");
}

#[tokio::test]
async fn tokens_that_cannot_be_checked_are_503_everywhere() {
    let daemon = Daemon::start_unproven(&[("INTROSPECT_TOKEN", INTROSPECT)]).await;
    let token = good("alice");
    let calls = || -> Vec<Call> {
        vec![
            daemon.at.get("/check").bearer(&token),
            daemon.at.get("/envoy/a").bearer(&token),
            daemon.at.get("/nginx").bearer(&token),
            daemon.at.get("/forward").bearer(&token),
            daemon.at.get("/haproxy").bearer(&token),
            daemon.at.post("/verify").body(token.clone()),
            daemon.at.post("/introspect").form(&format!("token={token}")),
        ]
    };
    for call in calls() {
        let reply = call.send().await;
        denied(&reply, 503, "temporarily_unavailable", "");
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    let readyz = daemon.admin.get("/readyz").send().await;
    assert_eq!(readyz.status, 503);
    assert_eq!((readyz.json()["keys"].as_bool(), readyz.json()["snapshot"].as_bool()), (Some(true), Some(false)));
    daemon.prove();
    for call in calls() {
        assert_eq!(call.send().await.status, 200);
    }
    assert_eq!(daemon.admin.get("/readyz").send().await.status, 200);
}

#[tokio::test]
async fn stale_list_is_503_or_marked_as_stale() {
    for (policy, status) in [("deny", 503), ("allow", 200)] {
        let daemon = Daemon::start(&[("MAX_STALENESS", "1s"), ("ON_STALE", policy)]).await;
        let token = good("alice");
        let reply = eventually("the list to be stale", || async {
            let reply = daemon.at.get("/check").bearer(&token).send().await;
            (reply.status == 503 || reply.header("x-auth-stale").is_some()).then_some(reply)
        })
        .await;
        assert_eq!(reply.status, status);
        let readyz = daemon.admin.get("/readyz").send().await;
        if policy == "deny" {
            denied(&reply, 503, "stale", "");
            assert_eq!((readyz.status.as_u16(), readyz.json()["fresh"].as_bool()), (503, Some(false)));
        } else {
            assert!(reply.header("x-auth-stale").unwrap().parse::<u64>().unwrap() >= 1);
            assert_eq!(readyz.status, 200);
        }
        daemon.prove();
        let reply = daemon.at.get("/check").bearer(&token).send().await;
        assert_eq!((reply.status.as_u16(), reply.header("x-auth-stale")), (200, None));
    }
}

#[tokio::test]
async fn introspection_follows_rfc_7662() {
    let daemon = Daemon::start(&[("INTROSPECT_TOKEN", INTROSPECT)]).await;
    let token = good("alice");
    let ask = |form: &str| daemon.at.post("/introspect").form(form);
    let active = ask(&format!("token={token}&token_type_hint=access_token")).send().await;
    assert_eq!(active.header("cache-control"), Some("no-store"));
    let body = active.json();
    assert_eq!(body["active"], true);
    for (name, value) in [("sub", "alice"), ("token_type", "Bearer"), ("scope", "read write"), ("jti", "jti-of-alice")]
    {
        assert_eq!(body[name], value);
    }
    for bad in ["a.b.c", "", "%20"] {
        let reply = ask(&format!("token={bad}")).send().await;
        assert_eq!((reply.status.as_u16(), reply.json()), (200, serde_json::json!({"active": false})), "{bad:?}");
    }
    denied(&ask("").send().await, 400, "invalid_request", "");
    denied(&ask(&format!("token={token}&token={token}")).send().await, 400, "invalid_request", "");
    denied(&ask(&"x".repeat(20_000)).send().await, 413, "payload_too_large", "");
    denied(&daemon.at.post("/introspect").body("{}").send().await, 415, "unsupported_media_type", "");
    let get = daemon.at.get("/introspect").send().await;
    assert_eq!((get.status.as_u16(), get.header("allow")), (405, Some("POST")));
    daemon.revoke_session("sid-of-alice");
    assert_eq!(ask(&format!("token={token}")).send().await.json()["active"], false);
}

#[tokio::test]
async fn introspection_over_tcp_needs_its_token() {
    let daemon = Daemon::start(&[("INTROSPECT_TOKEN", INTROSPECT)]).await;
    let form = format!("token={}", good("alice"));
    let ask = || daemon.tcp.post("/introspect").form(&form);
    denied(&ask().send().await, 401, "token_missing", "Bearer");
    denied(&ask().bearer("wrong").send().await, 401, "token_invalid", "Bearer error");
    assert_eq!(ask().bearer(INTROSPECT).send().await.json()["active"], true);
    let basic = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("any:{INTROSPECT}"));
    assert_eq!(ask().header("authorization", &format!("Basic {basic}")).send().await.json()["active"], true);
    let without = Daemon::start(&[]).await;
    assert_eq!(without.tcp.post("/introspect").form(&form).send().await.status, 404);
    assert_eq!(without.at.post("/introspect").form(&form).send().await.json()["active"], true);
}

#[tokio::test]
async fn verify_names_segment_and_epoch() {
    let daemon = Daemon::start(&[]).await;
    let token = good("alice");
    let body = daemon.at.post("/verify").body(token.clone()).send().await.json();
    assert_eq!(body["claims"]["sub"], "alice");
    assert_eq!(body["segment"], "0000000000000000");
    assert!(body["epoch"].is_u64());
    denied(&daemon.at.post("/verify").body("a.b.c").send().await, 401, "token_invalid", "Bearer error");
    denied(&daemon.at.post("/verify").send().await, 401, "token_missing", "Bearer");
    denied(&daemon.at.post("/verify").body(vec![0xff, 0xfe]).send().await, 401, "token_invalid", "Bearer error");
    denied(&daemon.at.post("/verify").body("x".repeat(20_000)).send().await, 413, "payload_too_large", "");
    assert_eq!(daemon.at.get("/verify").send().await.status, 405);
}

#[tokio::test]
async fn cookie_counts_only_if_configured() {
    let daemon = Daemon::start(&[("TOKEN_COOKIE", "token")]).await;
    let token = good("alice");
    let cookie = format!("a=1; token={token}");
    assert_eq!(daemon.at.get("/check").header("cookie", &cookie).send().await.status, 200);
    let both = daemon.at.get("/check").header("cookie", &cookie).bearer(&token).send().await;
    denied(&both, 401, "token_invalid", "Bearer error");
    let post = || daemon.at.post("/check").header("cookie", &cookie).header("host", "app.example");
    denied(&post().send().await, 401, "token_invalid", "Bearer error");
    denied(&post().header("origin", "https://evil.example").send().await, 401, "token_invalid", "Bearer error");
    assert_eq!(post().header("origin", "https://app.example").send().await.status, 200);
    let forward = daemon.at.get("/forward").header("cookie", &cookie).header("x-forwarded-method", "POST");
    assert_eq!(forward.clone().header("x-forwarded-host", "a.example").send().await.status, 401);
    let same = forward.header("x-forwarded-host", "a.example").header("origin", "https://a.example");
    assert_eq!(same.send().await.status, 200);
    let without = Daemon::start(&[]).await;
    denied(&without.at.get("/check").header("cookie", &cookie).send().await, 401, "token_missing", "Bearer");
}

const ROUTES: &str = r#"
[[route]]
path = "/public/**"
access = "public"
[[route]]
path = "/admin/**"
scopes = ["admin"]
"#;

#[tokio::test]
async fn routes_file_decides_and_is_reloaded() {
    let folder = Scratch::new();
    let file = folder.file("routes.toml");
    std::fs::write(&file, ROUTES).unwrap();
    let daemon = Daemon::start_in(folder, &[("ROUTES_FILE", file.to_str().unwrap())]);
    daemon.prove();
    let token = good("alice");
    let nginx = |uri: &str| daemon.at.get("/nginx").header("x-original-method", "GET").header("x-original-uri", uri);
    let public = nginx("/public/a").send().await;
    assert_eq!(public.status, 200);
    assert!(IDENTITY.iter().all(|name| public.header(name) == Some("-")), "{:?}", public.headers);
    assert_eq!(nginx("/public/a").bearer(&token).send().await.header("x-auth-subject"), Some("alice"));
    assert_eq!(nginx("/public/a").bearer("bad").send().await.header("x-auth-subject"), Some("-"));
    denied(&nginx("/private").send().await, 401, "token_missing", "Bearer");
    assert_eq!(nginx("/private").bearer(&token).send().await.status, 200);
    denied(
        &nginx("/admin/x").bearer(&token).send().await,
        403,
        "insufficient_scope",
        "Bearer error=\"insufficient_scope\"",
    );
    denied(&daemon.at.get("/nginx").bearer(&token).send().await, 403, "forbidden", "");
    let twice = nginx("/public/a").header("x-original-uri", "/public/a");
    denied(&twice.send().await, 403, "forbidden", "");
    assert_eq!(daemon.at.get("/check").bearer(&token).send().await.status, 200, "routes play no part in /check");
    std::fs::write(&file, "not TOML [").unwrap();
    daemon.reload.send_modify(|count| *count += 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(nginx("/public/a").send().await.status, 200, "a broken file changes nothing");
    std::fs::write(&file, "[[route]]\npath = \"/open\"\naccess = \"public\"\n").unwrap();
    eventually("the new routes", || async { (nginx("/public/a").send().await.status == 401).then_some(()) }).await;
    assert_eq!(nginx("/open").send().await.status, 200);
}

#[tokio::test]
async fn probes_and_metrics_are_on_the_admin_listener_only() {
    let daemon = Daemon::start(&[]).await;
    daemon.at.get("/check").bearer(&good("alice")).send().await;
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(daemon.admin.get(path).send().await.status, 200, "{path}");
        assert_eq!(daemon.at.get(path).send().await.status, 404, "{path}");
        assert_eq!(daemon.admin.post(path).send().await.header("allow"), Some("GET, HEAD"));
    }
    let metrics = daemon.admin.get("/metrics").send().await;
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(text.contains("sidegate_verifier_checks_total{interface=\"check\",outcome=\"allowed\"} 1"), "{text}");
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(daemon.admin.get("/check").send().await.status, 404);
}

#[tokio::test]
async fn stop_completes_requests_in_flight() {
    let mut daemon = Daemon::start(&[]).await;
    let body = good("alice");
    let head = format!("POST /verify HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    let socket = tokio::net::UnixStream::connect(&daemon.socket).await.unwrap();
    let (mut read, mut write) = socket.into_split();
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    write.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    daemon.stop.send_replace(true);
    tokio::time::sleep(Duration::from_millis(100)).await;
    write.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    read.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    daemon.task.take().unwrap().await.unwrap();
    assert!(!daemon.socket.exists(), "the socket's file is gone");
}
