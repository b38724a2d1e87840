//! Every proxy, as a real program with the configuration that we ship, through the same scenario (docs/proxies.md).

use std::time::Duration;

use http::Method;
use sidegate_tests::daemon::{Daemon, good};
use sidegate_tests::http::{At, Reply, raw};
use sidegate_tests::proxies::{Kind, Proxy};
use sidegate_tests::scratch::Scratch;
use sidegate_tests::wait::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const ROUTES: &str = r#"
[[route]]
path = "/public/**"
access = "public"
[[route]]
path = "/admin/**"
scopes = ["admin"]
[[route]]
methods = ["DELETE"]
path = "/a/**"
scopes = ["delete"]
"#;
const IDENTITY: [&str; 6] =
    ["x-auth-subject", "x-auth-session", "x-auth-token-id", "x-auth-client", "x-auth-scope", "x-auth-expires"];

/// The values of a header that reached the application, in any spelling that it could take for this name.
fn reached(reply: &Reply, name: &str) -> Vec<String> {
    let folded = |name: &str| name.to_ascii_lowercase().replace(['_', '.'], "-");
    let told = reply.json();
    let headers = told["headers"].as_array().expect("headers").iter();
    let values = headers.filter(|pair| folded(pair[0].as_str().unwrap()) == name);
    values.map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
}

async fn scenario(kind: Kind) {
    let folder = Scratch::new();
    let file = folder.file("routes.toml");
    std::fs::write(&file, ROUTES).unwrap();
    // 0666: nginx and HAProxy run their workers as another user. In production they share the socket's group.
    let settings = [("ROUTES_FILE", file.to_str().unwrap()), ("MAX_STALENESS", "3s"), ("VERIFIER_SOCKET_MODE", "0666")];
    let mut daemon = Daemon::start_in(folder, &settings);
    let list = std::sync::Arc::clone(&daemon.list);
    let prover = tokio::spawn(async move {
        loop {
            list.fresh(0, sidegate_runtime::clock::instants());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    daemon.prove();
    let Some(proxy) = kind.start(&daemon).await else { return };
    allows_by_name(&proxy).await;
    denies(&proxy).await;
    removes_what_clients_make_up(&proxy).await;
    obeys_routes(&proxy).await;
    takes_what_clients_send(&proxy).await;
    a_thousand_connections(&proxy).await;
    revoked_mid_connection(&proxy, &daemon).await;
    prover.abort();
    let token = good("bob");
    let stale = eventually("the list to be stale", || async {
        let reply = proxy.at.get("/a").bearer(&token).send().await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert_eq!(stale.status, 503, "{kind:?}: stale");
    daemon.prove();
    eventually("to be fresh again", || async {
        (proxy.at.get("/a").bearer(&token).send().await.status == 200).then_some(())
    })
    .await;
    daemon.stop.send_replace(true);
    daemon.task.take().unwrap().await.unwrap();
    let before = proxy.app.count();
    let down = proxy.at.get("/a").bearer(&token).send().await;
    assert!([502, 503].contains(&down.status.as_u16()), "{kind:?}: down: {}", down.status);
    assert_eq!(proxy.app.count(), before, "nothing passes while nobody can say yes");
}

async fn allows_by_name(proxy: &Proxy) {
    let token = good("alice");
    let reply = proxy.at.get("/a/b?c=d").bearer(&token).send().await;
    assert_eq!(reply.status, 200, "{}", proxy.program.output());
    assert_eq!(reply.json()["uri"], "/a/b?c=d");
    assert_eq!(reached(&reply, "x-auth-subject"), ["alice"]);
    for name in IDENTITY {
        assert_eq!(reached(&reply, name).len(), 1, "{name}");
    }
    assert_eq!(reached(&reply, "cache-control"), [""; 0], "nothing but identity is added");
}

async fn denies(proxy: &Proxy) {
    let before = proxy.app.count();
    let none = proxy.at.get("/a").send().await;
    assert_eq!((none.status.as_u16(), none.header("www-authenticate")), (401, Some("Bearer")));
    let bad = proxy.at.get("/a").bearer("a.b.c").send().await;
    assert_eq!(bad.status, 401);
    assert!(bad.header("www-authenticate").unwrap_or_default().contains("invalid_token"), "{:?}", bad.headers);
    let token = good("alice");
    for second in [&token, "a.b.c"] {
        let twice = proxy.at.get("/a").bearer(&token).bearer(second).send().await;
        assert!([400, 401].contains(&twice.status.as_u16()), "two Authorization headers: {}", twice.status);
    }
    assert_eq!(proxy.app.count(), before, "none of these reached the application");
}

async fn removes_what_clients_make_up(proxy: &Proxy) {
    let token = good("alice");
    for target in ["/a", "/public/a"] {
        let mut call = proxy.at.get(target);
        if target == "/a" {
            call = call.bearer(&token);
        }
        for name in IDENTITY {
            for alias in [name.to_owned(), name.to_ascii_uppercase(), name.replace('-', "_"), name.replace('-', ".")] {
                call = call.header(&alias, "mallory");
            }
        }
        let reply = call.header("x-auth-stale", "mallory").send().await;
        assert_eq!(reply.status, 200);
        for name in IDENTITY.into_iter().chain(["x-auth-stale"]) {
            assert!(
                !reached(&reply, name).contains(&"mallory".to_owned()),
                "{target}: {name} survived: {:?}",
                reply.body
            );
        }
        assert_eq!(reached(&reply, "x-auth-subject"), [if target == "/a" { "alice" } else { "-" }]);
    }
}

async fn obeys_routes(proxy: &Proxy) {
    let token = good("alice");
    let get = |path: &str| proxy.at.get(path);
    assert_eq!(get("/public/a?x=/admin").send().await.status, 200);
    assert_eq!(get("/admin/a").bearer(&token).send().await.status, 403);
    assert_eq!(get("/a/b").bearer(&token).send().await.status, 200);
    assert_eq!(proxy.at.call(Method::DELETE, "/a/b").bearer(&token).send().await.status, 403, "the method is told");
    // A client that sends the hints itself is not believed.
    let hints = ["x-original-uri", "x-original-method", "x-forwarded-uri", "x-forwarded-method", "x-original-url"];
    let mut call = get("/a/b");
    for hint in hints {
        call = call.header(hint, if hint.ends_with("method") { "GET" } else { "/public/a" });
    }
    assert_eq!(call.send().await.status, 401);
    let before = proxy.app.count();
    for path in [
        "/public/../admin/a",
        "/public/%2e%2e/admin/a",
        "/public/..%2fadmin/a",
        "/public/..;/admin/a",
        "/public//../../admin/a",
    ] {
        let line = format!("GET {path} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n");
        let answer = raw(&proxy.at, line.as_bytes(), Duration::from_secs(20)).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(
            ["400", "401", "403", "404"].iter().any(|status| text.starts_with(&format!("HTTP/1.1 {status}"))),
            "{path}: {text}"
        );
    }
    for path in ["/public/a#/../../admin", "/public/a%23/admin"] {
        let line = format!("GET {path} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n");
        let answer = raw(&proxy.at, line.as_bytes(), Duration::from_secs(20)).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(proxy.app.count(), before, "none of these reached the application");
}

async fn takes_what_clients_send(proxy: &Proxy) {
    let token = good("alice");
    for method in ["POST", "PUT", "PATCH", "OPTIONS", "PROPFIND"] {
        let call = proxy.at.call(Method::from_bytes(method.as_bytes()).unwrap(), "/a").bearer(&token);
        let reply = call.body("the body of the request").send().await;
        assert_eq!(reply.status, 200, "{method}");
        assert_eq!(reply.json()["method"], method);
        assert_eq!(reply.json()["body"], "the body of the request", "{method}");
    }
    assert_eq!(proxy.at.call(Method::HEAD, "/a").bearer(&token).send().await.status, 200);
    let old = format!("GET /a HTTP/1.0\r\nHost: app\r\nAuthorization: Bearer {token}\r\n\r\n");
    let answer = raw(&proxy.at, old.as_bytes(), Duration::from_secs(20)).await;
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.") && text.contains(" 200 OK"), "{text}");
    let huge = proxy.at.get("/a").bearer(&token).header("x-huge", &"x".repeat(6_000)).send().await;
    assert_eq!(huge.status, 200);
    let huge = proxy.at.get("/a").bearer(&"x".repeat(7_500)).send().await;
    assert_ne!(huge.status, 200);
}

async fn a_thousand_connections(proxy: &Proxy) {
    let token = good("alice");
    let mut tasks = tokio::task::JoinSet::new();
    let turn = std::sync::Arc::new(tokio::sync::Semaphore::new(100));
    for _ in 0..1_000 {
        let (call, turn) = (proxy.at.get("/a").bearer(&token), std::sync::Arc::clone(&turn));
        tasks.spawn(async move {
            let _turn = turn.acquire().await.unwrap();
            call.send().await.status
        });
    }
    while let Some(status) = tasks.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
}

async fn revoked_mid_connection(proxy: &Proxy, daemon: &Daemon) {
    let At::Tcp(address) = proxy.at else { unreachable!("proxies listen on TCP") };
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET /a HTTP/1.1\r\nHost: app\r\nAuthorization: Bearer {}\r\n\r\n", good("carol"));
    for round in 0..4 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 65_536];
        let length = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut answer)).await.unwrap().unwrap();
        let status = String::from_utf8_lossy(&answer[9..12.min(length)]).into_owned();
        assert_eq!(status, if round < 3 { "200" } else { "401" }, "round {round}");
        // The rest of the answer, if it came in pieces.
        while let Ok(Ok(more)) = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut answer)).await {
            assert!(more > 0 || round == 3, "the connection is kept");
            if more == 0 {
                break;
            }
        }
        if round == 2 {
            daemon.revoke_session("sid-of-carol");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_over_grpc() {
    scenario(Kind::EnvoyGrpc).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_over_http() {
    scenario(Kind::EnvoyHttp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx() {
    scenario(Kind::Nginx).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy() {
    scenario(Kind::Caddy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy() {
    scenario(Kind::Haproxy).await;
}
