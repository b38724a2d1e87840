//! Rate limiting is documented, not built in: the documented configurations of nginx and Envoy, as shipped.

use std::process::Command;

use serde_json::json;
use sidegate_tests::http::At;
use sidegate_tests::program::{Program, free_port};
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

/// Logs in until the proxy refuses, and shows that logout still passes.
async fn limited(stack: &Stack, proxy: &At, at_once: usize) {
    eventually("the proxy to answer", || async { proxy.get("/docs").try_send().await.ok() }).await;
    let access = stack.issuer.login(EMAIL).await.access;
    let mut statuses = Vec::new();
    for _ in 0..at_once * 2 {
        let body = json!({"email": EMAIL, "password": "wrong"});
        statuses.push(proxy.post("/auth/login").json(&body).send().await.status.as_u16());
    }
    assert_eq!(statuses[0], 401, "{statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(proxy.post("/auth/logout").bearer(&access).send().await.status, 204, "logout is never limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_limits_logins_and_never_logouts() {
    if which("nginx").is_none() {
        println!("skipped: nginx is not installed");
        return;
    }
    let stack = Stack::start(Store::Embedded, 0).await;
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
    limited(&stack, &At::Tcp(([127, 0, 0, 1], port).into()), 5).await;
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

fn which(name: &str) -> Option<std::path::PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/bin"]
        .iter()
        .map(|folder| std::path::Path::new(folder).join(name))
        .find(|path| path.exists())
}

/// The Envoy of tests/run: a Python wheel in a virtual environment under the target folder.
fn envoy() -> Option<std::path::PathBuf> {
    let python = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/envoy");
    let found = Command::new("find")
        .arg(python)
        .args(["-name", "envoy*", "-type", "f", "-perm", "-u+x", "-size", "+10M"])
        .output()
        .ok()?;
    String::from_utf8_lossy(&found.stdout).lines().next().map(Into::into)
}
