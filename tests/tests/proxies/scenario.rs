//! The everyday requests that every proxy must handle, one after the other on one running proxy.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use sidegate_common::sync::Sink as _;
use sidegate_tests::daemon::{Daemon, good};
use sidegate_tests::http::{At, Reply};
use sidegate_tests::proxies::{IDENTITY, Kind, Proxy};
use sidegate_tests::scratch::Scratch;
use sidegate_tests::talk::Talk;
use sidegate_tests::wait::eventually;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::identity::{keeps_identity_whatever_connection_names, removes_what_clients_make_up};

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
[[route]]
methods = ["OPTIONS"]
path = "/cors/**"
access = "public"
"#;
/// The values of a header that reached the application, in any spelling that could be read as this
/// name.
pub fn reached(reply: &Reply, name: &str) -> Vec<String> {
    reached_in(&reply.json(), name)
}

pub fn reached_in(seen: &serde_json::Value, name: &str) -> Vec<String> {
    let letters = |name: &str| name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "");
    let headers = seen["headers"].as_array().expect("headers").iter();
    let values = headers.filter(|pair| letters(pair[0].as_str().unwrap()) == letters(name));
    values.map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
}

pub async fn scenario(kind: Kind) {
    let folder = Scratch::new();
    let file = folder.file("routes.toml");
    std::fs::write(&file, ROUTES).unwrap();
    // 0666: nginx and HAProxy run their workers as another user. In production they share the
    // socket's group.
    let attach = folder.file("attach.sock");
    let settings = [
        ("ROUTES_FILE", file.to_str().unwrap()),
        ("MAX_STALENESS", "5s"),
        ("VERIFIER_SOCKET_MODE", "0666"),
        ("ATTACH_SOCKET", attach.to_str().unwrap()),
    ];
    let mut daemon = Daemon::start_in(folder, &settings);
    let (state, proving) = (Arc::clone(&daemon.state), Arc::new(AtomicBool::new(true)));
    let prover = std::thread::spawn({
        let proving = Arc::clone(&proving);
        move || {
            while proving.load(Ordering::Relaxed) {
                state.fresh(0, sidegate_runtime::clock::reading(), 0);
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
    daemon.prove();
    let started = kind.start_every_way(daemon.folder.path(), &daemon.socket).await;
    let Some((mut proxy, ways)) = started else { return };
    for (way, at) in ways.iter().enumerate() {
        proxy.at = at.clone();
        allows_by_name(&proxy).await;
        denies(&proxy).await;
        removes_what_clients_make_up(&proxy, "/a", Some("/public/a")).await;
        if !at.is_h2() {
            keeps_identity_whatever_connection_names(&proxy, "/a").await;
        }
        obeys_routes(&proxy).await;
        takes_what_clients_send(&proxy).await;
        refuses_odd_methods_and_old_versions_without_a_token(&proxy).await;
        a_thousand_connections(&proxy, &daemon, &format!("dave{way}")).await;
        revoked_mid_connection(&proxy, &daemon, way).await;
    }
    proving.store(false, Ordering::Relaxed);
    prover.join().unwrap();
    let token = good("bob");
    let all_answer = async |what: &str, status: u16| {
        for at in &ways {
            eventually(&format!("{at:?}: {what}"), || async {
                let reply = at.get("/a").bearer(&token).send().await;
                assert!([200, 503].contains(&reply.status.as_u16()), "{kind:?}: {at:?}: {what}: {}", reply.status);
                (reply.status == status).then_some(())
            })
            .await;
        }
    };
    all_answer("stale", 503).await;
    daemon.prove();
    all_answer("fresh again", 200).await;
    daemon.stop.send_replace(true);
    daemon.task.take().unwrap().await.unwrap();
    // What shared memory says of a dead daemon holds for up to a second.
    if kind.has_module() {
        all_answer("down", 503).await;
    }
    let before = proxy.app.count();
    for at in &ways {
        assert_eq!(at.get("/a").bearer(&token).send().await.status, 503, "{kind:?}: {at:?}: down");
    }
    assert_eq!(proxy.app.count(), before, "nothing passes without a verifier");
}

async fn allows_by_name(proxy: &Proxy) {
    let token = good("alice");
    let trace =
        [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", "vendor=1")];
    let call = trace.iter().fold(proxy.at.get("/a/b?c=d"), |call, (name, value)| call.header(name, value));
    let reply = call.bearer(&token).send().await;
    assert_eq!(reply.status, 200, "{}", proxy.program.output());
    assert_eq!(reply.json()["uri"], "/a/b?c=d");
    assert_eq!(reached(&reply, "x-auth-subject"), ["alice"]);
    for name in IDENTITY {
        assert_eq!(reached(&reply, name).len(), 1, "{name}");
    }
    for (name, value) in trace {
        assert_eq!(reached(&reply, name), [value], "the trace reaches the application");
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
    assert_eq!(proxy.app.count(), before, "no such request reached the application");
}

async fn obeys_routes(proxy: &Proxy) {
    let token = good("alice");
    let get = |path: &str| proxy.at.get(path);
    assert_eq!(get("/public/a?x=/admin").send().await.status, 200);
    assert_eq!(get("/admin/a").bearer(&token).send().await.status, 403);
    assert_eq!(get("/a/b").bearer(&token).send().await.status, 200);
    assert_eq!(proxy.at.call(Method::OPTIONS, "/cors/a").send().await.status, 200, "a preflight, by a rule of its own");
    assert_eq!(get("/cors/a").send().await.status, 401);
    assert_eq!(proxy.at.call(Method::DELETE, "/a/b").bearer(&token).send().await.status, 403, "the method is sent");
    // Hints that the client sends itself are ignored.
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
        let status = status_of(&proxy.at, path).await;
        assert!(["400", "401", "403", "404"].contains(&status.as_str()), "{path}: {status}");
    }
    for path in ["/public/a#/../../admin", "/public/a%23/admin"] {
        assert_ne!(status_of(&proxy.at, path).await, "200", "{path}");
    }
    assert_eq!(proxy.app.count(), before, "no such request reached the application");
}

/// The status of a request for exactly this target, as text.
async fn status_of(at: &At, target: &str) -> String {
    let (At::H2(address) | At::TlsH2(address)) = at else {
        let line = format!("GET {target} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n");
        return status(at, &line).await;
    };
    // A client library would read the target as a URI.
    let (version, scheme) = match at {
        At::H2(_) => ("--http2-prior-knowledge", "http"),
        _ => ("--http2", "https"),
    };
    let mut curl = Command::new("curl");
    curl.args([version, "-sk", "-m", "20", "-o", "/dev/null", "-w", "%{http_code} %{http_version}"]);
    curl.args(["--request-target", target, &format!("{scheme}://{address}/")]);
    let output = tokio::task::block_in_place(|| curl.output().unwrap());
    let answer = String::from_utf8(output.stdout).unwrap();
    let (status, version) = answer.split_once(' ').unwrap();
    assert!(status == "000" || version == "2", "{target}: {answer}");
    status.to_owned()
}

/// The status of the answer to a request of HTTP/1, as text; empty without one.
async fn status(at: &At, request: &str) -> String {
    let mut line = String::new();
    let exchange = async {
        let mut stream = BufReader::new(at.connect().await.unwrap());
        stream.write_all(request.as_bytes()).await?;
        // Some proxies keep the connection for a second longer.
        stream.read_line(&mut line).await
    };
    let _closed = tokio::time::timeout(Duration::from_secs(20), exchange).await.expect("an answer");
    line.split(' ').nth(1).unwrap_or_default().to_owned()
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
    if !proxy.at.is_h2() {
        let old = format!("GET /a HTTP/1.0\r\nHost: app\r\nAuthorization: Bearer {token}\r\n\r\n");
        assert_eq!(status(&proxy.at, &old).await, "200");
    }
    let huge = proxy.at.get("/a").bearer(&token).header("x-huge", &"x".repeat(6_000)).send().await;
    assert_eq!(huge.status, 200);
    let huge = proxy.at.get("/a").bearer(&"x".repeat(7_500)).send().await;
    assert_ne!(huge.status, 200);
}

async fn refuses_odd_methods_and_old_versions_without_a_token(proxy: &Proxy) {
    let before = proxy.app.count();
    for method in ["POST", "PUT", "PATCH", "OPTIONS", "PROPFIND", "TRACE", "FROBNICATE", "M-SEARCH", "get"] {
        for version in ["HTTP/1.1\r\nConnection: close", "HTTP/1.0"] {
            let head = format!("{method} /a {version}\r\nHost: app\r\nContent-Length: 0\r\n\r\n");
            let status = if proxy.at.is_h2() {
                let answer = Talk::connect(&proxy.at).await.try_ask(head.as_bytes()).await;
                answer.map_or_else(|_| String::new(), |status| status.to_string())
            } else {
                status(&proxy.at, &head).await
            };
            assert!(status.is_empty() || status.starts_with('4') || status == "501", "{method} {version}: {status}");
        }
    }
    assert_eq!(proxy.app.count(), before, "no such request reached the application");
}

/// A thousand connections open at once, each used twice: before and after its session ends.
async fn a_thousand_connections(proxy: &Proxy, daemon: &Daemon, user: &str) {
    let request = format!("GET /a HTTP/1.1\r\nHost: app\r\nAuthorization: Bearer {}\r\n\r\n", good(user)).into_bytes();
    let mut streams: Vec<Option<Talk>> = (0..1_000).map(|_| None).collect();
    for expected in [200, 401] {
        let mut asking = tokio::task::JoinSet::new();
        let turn = Arc::new(tokio::sync::Semaphore::new(64));
        for stream in streams.drain(..) {
            let (at, request, turn) = (proxy.at.clone(), request.clone(), Arc::clone(&turn));
            asking.spawn(async move {
                let _turn = turn.acquire().await.unwrap();
                let mut stream = match stream {
                    Some(stream) => stream,
                    None => Talk::connect(&at).await,
                };
                assert_eq!(stream.ask(&request).await, expected);
                stream
            });
        }
        while let Some(stream) = asking.join_next().await {
            streams.push(Some(stream.unwrap()));
        }
        assert_eq!(streams.len(), 1_000);
        daemon.revoke_session(&format!("sid-of-{user}"));
    }
}

async fn revoked_mid_connection(proxy: &Proxy, daemon: &Daemon, way: usize) {
    let mut stream = Talk::connect(&proxy.at).await;
    let ask =
        |token: &str| format!("GET /a HTTP/1.1\r\nHost: app\r\nAuthorization: Bearer {token}\r\n\r\n").into_bytes();
    let user = format!("carol{way}");
    let (carol, erin) = (ask(&good(&user)), ask(&good("erin")));
    for _ in 0..3 {
        assert_eq!(stream.ask(&carol).await, 200);
    }
    daemon.revoke_session(&format!("sid-of-{user}"));
    assert_eq!(stream.ask(&carol).await, 401, "on the same connection");
    assert_eq!(stream.ask(&erin).await, 200, "which is kept, and good for others");
    assert_eq!(stream.ask(&carol).await, 401);
}
