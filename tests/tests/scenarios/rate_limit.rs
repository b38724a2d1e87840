//! Rate limiting is documented, not built in: the shipped configurations of nginx and Envoy.

use std::process::Command;

use serde_json::json;
use sidegate_tests::http::{At, Reply};
use sidegate_tests::program::{Program, free_port};
use sidegate_tests::proxies::{envoy, which};
use sidegate_tests::stack::{EMAIL, Stack, Store};
use sidegate_tests::wait::eventually;

fn shipped(name: &str) -> String {
    let path = format!("{}/../deploy/rate-limit/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("a shipped file")
}

fn port_of(at: &At) -> u16 {
    let At::Tcp(address) = at else { unreachable!("TCP") };
    address.port()
}

/// Logs in until the proxy refuses, and checks that logout still passes.
async fn limited(stack: &Stack, proxy: &At, at_once: usize) -> Reply {
    eventually("the proxy to answer", || async { proxy.get("/docs").try_send().await.ok() }).await;
    let access = stack.issuer.login(EMAIL).await.access;
    let body = json!({"email": EMAIL, "password": "wrong"});
    // At once: one after the other, a slow machine might never exceed the limit.
    let login = proxy.post("/auth/login").json(&body);
    let clients: Vec<_> = (0..at_once * 2).map(|_| tokio::spawn(login.clone().send())).collect();
    let mut replies = Vec::new();
    for client in clients {
        replies.push(client.await.expect("an answer"));
    }
    assert!(replies.iter().all(|reply| [401, 429].contains(&reply.status.as_u16())), "{replies:?}");
    assert!(replies.iter().any(|reply| reply.status == 401), "{replies:?}");
    let refused = replies.into_iter().find(|reply| reply.status == 429).expect("one login is over the limit");
    assert_eq!(proxy.post("/auth/logout").bearer(&access).send().await.status, 204, "logout is never limited");
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_limits_logins_and_never_logouts() {
    if which("nginx").is_none() {
        println!("skipped: nginx is not installed");
        return;
    }
    let mut stack = Stack::start(Store::Embedded, 0).await;
    let port = free_port();
    let folder = stack.folder.path().to_str().expect("UTF-8").to_owned();
    let config = shipped("nginx.conf")
        .replace("NGINX_DIR", &folder)
        .replace("NGINX_LISTEN", &format!("127.0.0.1:{port}"))
        .replace("ISSUER_ADDRESS", &format!("127.0.0.1:{}", port_of(&stack.issuer.at)));
    std::fs::write(stack.folder.file("nginx.conf"), config).expect("written");
    std::fs::write(stack.folder.file("proxy.inc"), shipped("proxy.inc")).expect("written");
    let mut command = Command::new(which("nginx").expect("installed"));
    command.args(["-p", &folder, "-c", &format!("{folder}/nginx.conf"), "-g", "daemon off;"]);
    let _nginx = Program::start("nginx", command, &stack.folder.file("nginx.log"));
    let proxy = At::Tcp(([127, 0, 0, 1], port).into());
    let refused = limited(&stack, &proxy, 5).await;
    let problem = |reply: &Reply, status: u16, code: &str| {
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{reply:?}");
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (status, code));
        assert_eq!(reply.json()["status"], status);
    };
    problem(&refused, 429, "too_many_requests");
    assert_eq!(refused.header("retry-after"), Some("6"));
    problem(&proxy.post("/auth/logout").body("x".repeat(20_000)).send().await, 413, "payload_too_large");
    stack.issuer.program.kill();
    problem(&proxy.get("/auth/me").send().await, 503, "temporarily_unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_limits_logins_and_never_logouts() {
    let Some(envoy) = envoy() else {
        println!("skipped: Envoy is not installed");
        return;
    };
    let stack = Stack::start(Store::Embedded, 0).await;
    let port = free_port();
    let config = shipped("envoy.yaml")
        .replace("ENVOY_PORT", &port.to_string())
        .replace("ISSUER_PORT", &port_of(&stack.issuer.at).to_string());
    let file = stack.folder.file("envoy.yaml");
    std::fs::write(&file, config).expect("written");
    let mut command = Command::new(envoy);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "-c"]).arg(&file);
    let _envoy = Program::start("envoy", command, &stack.folder.file("envoy.log"));
    limited(&stack, &At::Tcp(([127, 0, 0, 1], port).into()), 20).await;
}
