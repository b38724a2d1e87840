//! Requests of proxies that are not installed here, byte for byte as in their sources: the
//! verifier's responses to Traefik, ingress-nginx, newer nginx and newer Caddy.

use std::time::Duration;

use sidegate_tests::daemon::{Daemon, good};
use sidegate_tests::http::raw;
use sidegate_tests::scratch::Scratch;

const ROUTES: &str = r#"
[[route]]
methods = ["GET"]
path = "/public/**"
access = "public"
[[route]]
path = "/admin/**"
scopes = ["admin"]
"#;

/// Name and head of each; METHOD, TARGET and AUTHORIZATION are placeholders for the client's
/// values.
const RECORDED: [(&str, &str); 6] = [
    (
        "Traefik 3 ForwardAuth",
        "GET /forward HTTP/1.1\r\nHost: 127.0.0.1:8081\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\nAUTHORIZATION\
         X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: app.example\r\nX-Forwarded-Method: METHOD\r\n\
         X-Forwarded-Port: 443\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Uri: TARGET\r\n\
         X-Original-Uri: /public/made-up\r\nForwarded: for=1.2.3.4;proto=https\r\nAccept-Encoding: gzip\r\n\r\n",
    ),
    (
        "Traefik with authRequestHeaders",
        "GET /forward HTTP/1.1\r\nHost: 127.0.0.1:8081\r\nUser-Agent: Go-http-client/1.1\r\nAUTHORIZATION\
         X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: app.example\r\nX-Forwarded-Method: METHOD\r\n\
         X-Forwarded-Port: 80\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Uri: TARGET\r\nAccept-Encoding: gzip\r\n\r\n",
    ),
    (
        "Traefik with preserveRequestMethod",
        "METHOD /forward HTTP/1.1\r\nHost: 127.0.0.1:8081\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 0\r\n\
         AUTHORIZATIONX-Forwarded-Host: app.example\r\nX-Forwarded-Method: METHOD\r\nX-Forwarded-Proto: http\r\n\
         X-Forwarded-Uri: TARGET\r\nAccept-Encoding: gzip\r\n\r\n",
    ),
    (
        "ingress-nginx with auth-method",
        "GET /nginx HTTP/1.0\r\nX-Request-ID: 0a1b\r\nHost: sidegate.sidegate.svc\r\nX-Original-URL: https://app.example/public/a\r\n\
         X-Original-Method: METHOD\r\nX-Sent-From: nginx-ingress-controller\r\nX-Real-IP: 10.0.0.9\r\n\
         X-Forwarded-For: 10.0.0.9\r\nX-Original-URI: TARGET\r\nX-Auth-Request-Redirect: TARGET\r\nConnection: close\r\n\
         AUTHORIZATIONUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n",
    ),
    (
        "nginx 1.29.7 and later, keep-alive by default",
        "GET /nginx HTTP/1.1\r\nHost: localhost\r\nX-Original-URI: TARGET\r\nX-Original-Method: METHOD\r\n\
         User-Agent: curl/8.5.0\r\nAccept: */*\r\nAUTHORIZATION\r\n",
    ),
    (
        "Caddy 2.10, with the client's query on the check's URL",
        "GET /forward?scope=admin&path=/public/a HTTP/1.1\r\nHost: app.example\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\
         AUTHORIZATIONAccept-Encoding: gzip\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: app.example\r\n\
         X-Forwarded-Method: METHOD\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Uri: TARGET\r\n\
         X_forwarded_uri: /public/made-up\r\n\r\n",
    ),
];

struct Asked {
    status: u16,
    text: String,
}

async fn ask(daemon: &Daemon, head: &str, method: &str, target: &str, tokens: &[&str]) -> Asked {
    let authorization: String = tokens.iter().map(|token| format!("Authorization: Bearer {token}\r\n")).collect();
    let head = head.replace("AUTHORIZATION", &authorization).replace("METHOD", method).replace("TARGET", target);
    // One exchange on a connection that ends: any further bytes would be one response too many.
    let head =
        if head.contains("Connection: close") { head } else { head.replacen("\r\n", "\r\nConnection: close\r\n", 1) };
    let answer = raw(&daemon.tcp, head.as_bytes(), Duration::from_secs(20)).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    Asked { status: status.unwrap_or_else(|| panic!("no answer: {text:?}")), text }
}

#[tokio::test]
async fn recorded_proxy_requests_get_the_documented_answers() {
    let folder = Scratch::new();
    let file = folder.file("routes.toml");
    std::fs::write(&file, ROUTES).unwrap();
    let daemon = Daemon::start_in(folder, &[("ROUTES_FILE", file.to_str().unwrap())]);
    daemon.prove();
    for (index, (name, head)) in RECORDED.into_iter().enumerate() {
        let (user, token) = (format!("user-{index}"), good(&format!("user-{index}")));
        let token = token.as_str();
        let cases: [(&str, &str, &[&str], u16); 10] = [
            ("GET", "/a/b?c=d", &[token], 200),
            ("POST", "/a", &[token], 200),
            ("GET", "/a", &[], 401),
            ("GET", "/a", &["a.b.c"], 401),
            ("GET", "/a", &[token, token], 401),
            ("GET", "/public/a", &[], 200),
            ("DELETE", "/public/a", &[], 401),
            ("GET", "/admin/a", &[token], 403),
            ("GET", "/public/..%2fadmin", &[], 401),
            ("GET", "/public/..%2fadmin", &[token], 403),
        ];
        for (method, target, tokens, status) in cases {
            let asked = ask(&daemon, head, method, target, tokens).await;
            assert_eq!(asked.status, status, "{name}: {method} {target}: {}", asked.text);
            assert!(asked.text.to_lowercase().contains("cache-control: no-store"), "{name}: {}", asked.text);
            if status == 200 {
                let who = if tokens.is_empty() { "-" } else { &user };
                assert!(asked.text.contains(&format!("x-auth-subject: {who}\r\n")), "{name}: {}", asked.text);
                assert!(asked.text.ends_with("\r\n\r\n"), "{name}: an allowing answer has no body: {}", asked.text);
            }
        }
        daemon.revoke_session(&format!("sid-of-{user}"));
        assert_eq!(ask(&daemon, head, "GET", "/a", &[token]).await.status, 401, "{name}: revoked");
    }
}

#[tokio::test]
async fn ingress_nginx_without_auth_method_sends_no_original_request() {
    let head = RECORDED[3].1.replace("X-Original-URI: TARGET\r\n", "");
    let folder = Scratch::new();
    let file = folder.file("routes.toml");
    std::fs::write(&file, ROUTES).unwrap();
    let with_routes = Daemon::start_in(folder, &[("ROUTES_FILE", file.to_str().unwrap())]);
    with_routes.prove();
    let token = good("alice");
    assert_eq!(ask(&with_routes, &head, "GET", "/public/a", &[&token]).await.status, 403, "X-Original-URL is ignored");
    let without = Daemon::start(&[]).await;
    assert_eq!(ask(&without, &head, "GET", "/a", &[&token]).await.status, 200);
    assert_eq!(ask(&without, &head, "GET", "/a", &[]).await.status, 401);
}
