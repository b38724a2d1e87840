//! The attack corpus through every path of verifier and issuer: the same verdict on all, for each
//! kind of key.

use std::collections::BTreeMap;

use sidegate_client::{Denied, Sidegate};
use sidegate_hostile::{Case, Expected, Forge, KeyKind, Setting, authorization, corpus};
use sidegate_proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use sidegate_proto::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use sidegate_proto::envoy::service::auth::v3::check_response::HttpResponse;
use sidegate_proto::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use sidegate_runtime::clock::unix_now;
use sidegate_tests::daemon::Daemon;
use sidegate_tests::http::{At, Call, raw};
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{EMAIL, Issuer, SECRET};
use sidegate_tests::users;

const INTROSPECT: &str = "an-introspection-token";

async fn daemon(forge: &Forge) -> Daemon {
    let folder = Scratch::new();
    let attach = folder.file("attach.sock");
    let attach = attach.to_str().unwrap();
    let jwks = folder.file("jwks.json");
    let jwks = jwks.to_str().unwrap().to_owned();
    let mut settings = vec![("ATTACH_SOCKET", attach), ("INTROSPECT_TOKEN", INTROSPECT)];
    let secret = forge.secret().map(|secret| std::str::from_utf8(secret).unwrap());
    match secret {
        Some(secret) => settings.push(("JWT_SECRET_KEY", secret)),
        None => {
            let set = serde_json::json!({"keys": [forge.jwk()]}).to_string();
            std::fs::write(&jwks, set).unwrap();
            settings.extend([("JWKS_FILE", jwks.as_str()), ("JWT_SECRET_KEY", "")]);
        }
    }
    let daemon = Daemon::start_in(folder, &settings);
    daemon.prove();
    daemon
}

/// True if the token is one word that fits into a header line.
fn fits_a_header(token: &str) -> bool {
    token.len() < 16 * 1024 && token.bytes().all(|byte| byte.is_ascii_graphic())
}

const fn code(expected: Expected) -> &'static str {
    match expected {
        Expected::Good => "",
        Expected::Invalid => "token_invalid",
        Expected::Expired => "token_expired",
        Expected::Missing => "token_missing",
    }
}

async fn over_http(call: Call, case: &Case, path: &str) {
    let reply = call.send().await;
    let status = if case.expected == Expected::Good { 200 } else { 401 };
    assert_eq!(reply.status, status, "{path}: {} / {}: {}", case.category, case.name, case.token);
    if status == 401 {
        assert_eq!(reply.code(), code(case.expected), "{path}: {} / {}", case.category, case.name);
        assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("x-auth-")), "{path}: {}", case.name);
    }
}

async fn over_grpc(client: &mut AuthorizationClient<tonic::transport::Channel>, case: &Case) {
    let headers = [("authorization".to_owned(), format!("Bearer {}", case.token))].into();
    let http = HttpRequest { method: "GET".into(), path: "/".into(), headers, ..HttpRequest::default() };
    let request = Request { http: Some(http) };
    let attributes = AttributeContext { request: Some(request), ..AttributeContext::default() };
    let answer = client.check(CheckRequest { attributes: Some(attributes) }).await.unwrap().into_inner();
    let good = case.expected == Expected::Good;
    assert_eq!(answer.status.map(|status| status.code == 0), Some(good), "gRPC: {} / {}", case.category, case.name);
    match answer.http_response {
        Some(HttpResponse::OkResponse(_)) => assert!(good),
        Some(HttpResponse::DeniedResponse(denied)) => {
            assert!(!good && denied.body.contains(code(case.expected)), "gRPC: {}: {}", case.name, denied.body);
        }
        other => panic!("gRPC: {}: {other:?}", case.name),
    }
}

fn in_process(client: &Sidegate, case: &Case) {
    // Twice: a valid token is answered by the daemon first, and then from shared memory.
    for _ in 0..2 {
        let got = match client.check(&case.token) {
            Ok(_) => Expected::Good,
            Err(Denied::Expired) => Expected::Expired,
            Err(Denied::Missing) => Expected::Missing,
            Err(Denied::Invalid { .. }) => Expected::Invalid,
            Err(other) => panic!("client: {} / {}: {other}", case.category, case.name),
        };
        assert_eq!(got, case.expected, "client: {} / {}: {}", case.category, case.name, case.token);
    }
}

async fn every_path(kind: KeyKind) {
    let forge = Forge::generate(kind);
    let daemon = daemon(&forge).await;
    let At::Tcp(address) = daemon.tcp else { panic!("TCP") };
    let mut grpc = AuthorizationClient::connect(format!("http://{address}")).await.unwrap();
    let attach = daemon.folder.file("attach.sock");
    let client = Sidegate::builder().socket(&daemon.socket).attach_socket(attach).connect();
    let cases = corpus(&forge, &Setting::at(unix_now().0));
    let mut tally: BTreeMap<&str, usize> = BTreeMap::new();
    for case in cases.iter().filter(|case| !case.frozen) {
        if case.token.len() < 16 * 1024 {
            over_http(daemon.at.post("/verify").body(case.token.clone()), case, "/verify").await;
            *tally.entry("/verify").or_default() += 1;
        }
        if fits_a_header(&case.token) {
            for path in ["/check", "/envoy/a", "/nginx", "/forward", "/haproxy"] {
                over_http(daemon.at.get(path).bearer(&case.token), case, path).await;
                *tally.entry(path).or_default() += 1;
            }
            if case.token.len() < 12 * 1024 {
                over_http(daemon.tcp.get("/check").bearer(&case.token).h2(), case, "/check over h2").await;
                over_grpc(&mut grpc, case).await;
                *tally.entry("/check over h2").or_default() += 1;
                *tally.entry("gRPC").or_default() += 1;
            }
            let encoded: String = case.token.bytes().map(|byte| format!("%{byte:02x}")).collect();
            if encoded.len() < 12 * 1024 {
                let reply = daemon.at.post("/introspect").form(&format!("token={encoded}")).send().await;
                let active = reply.json()["active"].as_bool();
                assert_eq!(active, Some(case.expected == Expected::Good), "/introspect: {}", case.name);
                *tally.entry("/introspect").or_default() += 1;
            }
        }
        let (client, case) = (client.clone(), case.clone());
        tokio::task::spawn_blocking(move || in_process(&client, &case)).await.unwrap();
        *tally.entry("Rust client").or_default() += 1;
    }
    println!("{kind:?}: {} cases, 0 wrong verdicts; {tally:?}", cases.len());
    assert!(tally.values().all(|count| *count > 500), "{tally:?}");
}

/// The issuer's protected route, then logout and refresh: an expired token may still end its
/// session.
async fn every_path_of_the_issuer(kind: KeyKind) {
    let forge = Forge::generate(kind);
    let folder = Scratch::new();
    let database = folder.file("app.db");
    users::sqlite(&database, &[EMAIL]).await;
    let (database, keys) = (format!("sqlite://{}", database.display()), folder.file("keys"));
    let store = format!("sqlite://{}", folder.file("store.db").display());
    let mut settings = vec![("DATABASE_URL", database.as_str()), ("STORE_URL", store.as_str())];
    match forge.secret() {
        Some(secret) => settings.push(("JWT_SECRET_KEY", std::str::from_utf8(secret).unwrap())),
        None => {
            std::fs::create_dir(&keys).unwrap();
            std::fs::write(keys.join("key.pem"), forge.private_pem().unwrap()).unwrap();
            settings.extend([("JWT_SECRET_KEY", ""), ("JWT_KEYS_DIR", keys.to_str().unwrap())]);
            settings.push(("SESSION_SECRET_KEY", SECRET));
        }
    }
    let mut issuer = Issuer::start(&folder, "issuer", &settings).await;
    // A new store cannot know the revocations before its creation, so older tokens would be
    // refused.
    assert!(issuer.program.stop().success());
    let pool = sqlx::SqlitePool::connect(&store).await.unwrap();
    sqlx::query("UPDATE meta SET since = 0").execute(&pool).await.unwrap();
    pool.close().await;
    issuer.restart().await;
    let cases = corpus(&forge, &Setting::at(unix_now().0));
    let cases: Vec<_> = cases.iter().filter(|case| !case.frozen && fits_a_header(&case.token)).collect();
    for case in &cases {
        over_http(issuer.at.get("/auth/me").bearer(&case.token), case, "/auth/me").await;
        let reply = issuer.refresh(&case.token).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (401, "invalid_grant"), "refresh: {}", case.name);
    }
    for case in &cases {
        let reply = issuer.logout(&case.token).await;
        if matches!(case.expected, Expected::Good | Expected::Expired) {
            assert_eq!(reply.status, 204, "logout: {} / {}", case.category, case.name);
        } else {
            let code = (reply.status.as_u16(), reply.code());
            assert_eq!(code, (401, self::code(case.expected).to_owned()), "logout: {} / {}", case.category, case.name);
        }
    }
    println!("{kind:?}: {} cases through /auth/me, /auth/refresh and /auth/logout, 0 wrong verdicts", cases.len());
    assert!(cases.len() > 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_issuer_gives_the_same_verdicts_for_hs256() {
    every_path_of_the_issuer(KeyKind::Hs256).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_issuer_gives_the_same_verdicts_for_eddsa() {
    every_path_of_the_issuer(KeyKind::EdDsa).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_issuer_gives_the_same_verdicts_for_es256() {
    every_path_of_the_issuer(KeyKind::Es256).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_issuer_gives_the_same_verdicts_for_rs256() {
    every_path_of_the_issuer(KeyKind::Rs256).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hs256_gets_the_same_verdict_on_every_path() {
    every_path(KeyKind::Hs256).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eddsa_gets_the_same_verdict_on_every_path() {
    every_path(KeyKind::EdDsa).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn es256_gets_the_same_verdict_on_every_path() {
    every_path(KeyKind::Es256).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs256_gets_the_same_verdict_on_every_path() {
    every_path(KeyKind::Rs256).await;
}

#[tokio::test]
async fn header_sets_as_raw_bytes() {
    let forge = Forge::generate(KeyKind::Hs256);
    let daemon = daemon(&forge).await;
    let good = corpus(&forge, &Setting::at(unix_now().0)).into_iter().find(|case| case.expected == Expected::Good);
    let sets = authorization::sets(&good.unwrap().token);
    for set in &sets {
        let mut request = b"GET /check HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".to_vec();
        for line in &set.lines {
            request.extend_from_slice(line);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        for at in [&daemon.at, &daemon.tcp] {
            let answer = raw(at, &request, std::time::Duration::from_secs(20)).await;
            let answer = String::from_utf8_lossy(&answer);
            let right = match set.expected {
                Expected::Good => answer.starts_with("HTTP/1.1 200"),
                expected => answer.starts_with("HTTP/1.1 401") && answer.contains(code(expected)),
            };
            assert!(right || (set.may_be_400 && answer.starts_with("HTTP/1.1 400")), "{}: {answer}", set.name);
        }
    }
    println!("{} header sets, 0 wrong verdicts", sets.len());
    assert!(sets.len() >= 54);
}
