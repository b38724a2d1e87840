//! Every other documented nginx configuration: the README's, the demonstration's, and the one with
//! issuer and application behind one origin.

use sidegate_tests::daemon::{Daemon, good};
use sidegate_tests::http::At;
use sidegate_tests::program::free_port;
use sidegate_tests::proxies::{Kind, Proxy, deploy};
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{EMAIL, Stack, Store, tokens};
use sidegate_tests::wait::eventually;

use crate::identity::{keeps_identity_whatever_connection_names, removes_what_clients_make_up};
use crate::scenario::reached;

/// The frame that nginx needs if it is not installed as a service.
const AROUND: &str = "pid NGINX_DIR/nginx.pid;
error_log NGINX_DIR/error.log;
events {}
http {
  client_body_temp_path NGINX_DIR/body;
  proxy_temp_path NGINX_DIR/proxy;
  fastcgi_temp_path NGINX_DIR/fastcgi;
  uwsgi_temp_path NGINX_DIR/uwsgi;
  scgi_temp_path NGINX_DIR/scgi;
  BLOCK
}";

fn daemon() -> Daemon {
    let daemon = Daemon::start_in(Scratch::new(), &[("VERIFIER_SOCKET_MODE", "0666")]);
    daemon.prove();
    daemon
}

/// Checks `proxy` at `path`: no access without a token or under another name, 503 without a
/// verifier.
async fn protects(proxy: &Proxy, path: &str, mut daemon: Daemon) {
    let none = proxy.at.get(path).send().await;
    assert_eq!((none.status.as_u16(), none.code().as_str()), (401, "token_missing"));
    assert_eq!(proxy.app.count(), 0);
    removes_what_clients_make_up(proxy, path, None).await;
    keeps_identity_whatever_connection_names(proxy, path).await;
    daemon.revoke_session("sid-of-alice");
    let revoked = proxy.at.get(path).bearer(&good("alice")).send().await;
    assert_eq!((revoked.status.as_u16(), revoked.code().as_str()), (401, "token_revoked"));
    daemon.stop.send_replace(true);
    daemon.task.take().unwrap().await.unwrap();
    let down = proxy.at.get(path).bearer(&good("bob")).send().await;
    assert_eq!((down.status.as_u16(), down.code().as_str()), (503, "temporarily_unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_block_of_the_readme_protects() {
    let readme = std::fs::read_to_string(deploy().join("../README.md")).unwrap();
    let (_, from) = readme.split_once("```nginx\n").expect("the README has a block for nginx");
    let (block, _) = from.split_once("```").unwrap();
    for word in ["/run/sidegate/verifier.sock", "127.0.0.1:3000", "listen 8000;", "/etc/nginx/"] {
        assert!(block.contains(word), "{word} is replaced here");
    }
    let daemon = daemon();
    let words = [
        ("BLOCK", block),
        ("/run/sidegate/verifier.sock", "VERIFIER_SOCKET"),
        ("127.0.0.1:3000", "APP_ADDRESS"),
        ("listen 8000;", "listen NGINX_LISTEN;"),
        ("/etc/nginx/", "NGINX_DIR/"),
    ];
    let started = Kind::Nginx.start_with(AROUND, daemon.folder.path(), &daemon.socket, &words).await;
    let Some(proxy) = started else { return };
    protects(&proxy, "/api/a", daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_protects() {
    let shipped = std::fs::read_to_string(deploy().join("compose/nginx.conf")).unwrap();
    let daemon = daemon();
    let inner = format!("listen 127.0.0.1:{};", free_port());
    let words = [
        ("/tmp/", "NGINX_DIR/"),
        ("/etc/sidegate/", "NGINX_DIR/"),
        ("/run/sidegate/verifier.sock", "VERIFIER_SOCKET"),
        ("listen 8000;", "listen NGINX_LISTEN;"),
        ("listen 127.0.0.1:8001;", inner.as_str()),
        // The demonstration's own application reports only the subject.
        ("proxy_pass http://127.0.0.1:8001;", "proxy_pass http://APP_ADDRESS;"),
    ];
    for (word, _) in words {
        assert!(shipped.contains(word), "{word} is replaced here");
    }
    let started = Kind::Nginx.start_with(&shipped, daemon.folder.path(), &daemon.socket, &words).await;
    let Some(proxy) = started else { return };
    protects(&proxy, "/private/a", daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn issuer_and_application_behind_one_origin() {
    let shipped = std::fs::read_to_string(deploy().join("nginx/one-origin.conf")).unwrap();
    let mut stack = Stack::start(Store::Embedded, 0).await;
    stack.add_verifier(&[("VERIFIER_SOCKET_MODE", "0666")]).await;
    let (At::Tcp(issuer), At::Unix(socket)) = (&stack.issuer.at, &stack.verifiers[0].at) else {
        panic!("the issuer listens on TCP, the verifier on a socket")
    };
    let words = [("ISSUER_ADDRESS", issuer.to_string())];
    let words = words.each_ref().map(|(word, value)| (*word, value.as_str()));
    let Some(proxy) = Kind::Nginx.start_with(&shipped, stack.folder.path(), socket, &words).await else { return };
    let body = serde_json::json!({"email": EMAIL, "password": sidegate_tests::users::PASSWORD});
    let token = tokens(&proxy.at.post("/auth/login").json(&body).send().await);
    let seen = proxy.at.get("/a").bearer(&token.access).header("x-auth-subject", "mallory").send().await;
    assert_eq!((seen.status.as_u16(), reached(&seen, "x-auth-subject")), (200, vec!["1".to_owned()]));
    assert_eq!(reached(&seen, "x-auth-issuer"), ["home"]);
    assert_eq!(proxy.at.get("/auth/me").bearer(&token.access).send().await.status, 200);
    assert_eq!(proxy.at.post("/auth/logout").bearer(&token.access).send().await.status, 204);
    eventually("the application to be closed", || async {
        let reply = proxy.at.get("/a").bearer(&token.access).send().await;
        (reply.status == 401).then_some(())
    })
    .await;
    assert_eq!(proxy.at.get("/a").send().await.code(), "token_missing");
}
