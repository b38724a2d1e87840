//! Origins of requests: web pages of other origins, and clients behind proxies.

use http::Method;
use serde_json::json;
use sidegate_tests::http::Reply;
use sidegate_tests::stack::{EMAIL, Stack, Store, tokens};
use sidegate_tests::users::PASSWORD;

const PAGE: &str = "https://app.example";

fn cors(reply: &Reply) -> Vec<&str> {
    reply.headers.keys().map(http::HeaderName::as_str).filter(|name| name.starts_with("access-control-")).collect()
}

async fn preflight(stack: &Stack, origin: &str) -> Reply {
    let call = stack.issuer.at.call(Method::OPTIONS, "/auth/login").header("origin", origin);
    let call = call.header("access-control-request-method", "POST");
    call.header("access-control-request-headers", "authorization,content-type,x-requested-with").send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_origins_may_call() {
    let login = |stack: &Stack, origin: &str| {
        let body = json!({"email": EMAIL, "password": PASSWORD});
        // Swagger UI sends a Basic header when it logs in, which is ignored.
        let call = stack.issuer.at.post("/auth/login").header("origin", origin).header("authorization", "Basic eDp5");
        call.json(&body).send()
    };
    let closed = Stack::start(Store::Embedded, 0).await;
    assert_eq!(preflight(&closed, PAGE).await.status, 405);
    let reply = login(&closed, PAGE).await;
    assert_eq!((reply.status.as_u16(), cors(&reply).len()), (200, 0), "off unless set");

    // In the spelling of an operator.
    let open = Stack::with(Store::Embedded, 0, &[("CORS_ORIGINS", "HTTPS://App.example:443/")], &[]).await;
    let allowed = preflight(&open, PAGE).await;
    assert_eq!((allowed.status.as_u16(), allowed.header("access-control-allow-origin")), (204, Some(PAGE)));
    let headers = allowed.header("access-control-allow-headers").expect("some").to_lowercase();
    for needed in ["authorization", "content-type", "x-requested-with"] {
        assert!(headers.contains(needed), "{headers}");
    }
    let reply = login(&open, PAGE).await;
    assert_eq!((reply.status.as_u16(), reply.header("access-control-allow-origin")), (200, Some(PAGE)));
    assert!(reply.header("access-control-allow-credentials").is_none(), "no cookies are involved");
    let refused = open.issuer.at.get("/auth/me").header("origin", PAGE).send().await;
    assert_eq!(refused.header("access-control-allow-origin"), Some(PAGE), "errors can be read too");
    for stranger in ["https://evil.example", "https://app.example.evil", "http://app.example", "null"] {
        assert_eq!(cors(&preflight(&open, stranger).await).len(), 0, "{stranger}");
        assert_eq!(cors(&login(&open, stranger).await).len(), 0, "{stranger}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_listener_has_no_cors_and_refusals_are_logged_once() {
    let stack = Stack::with(Store::Embedded, 0, &[("CORS_ORIGINS", PAGE)], &[]).await;
    for path in ["/livez", "/readyz", "/metrics", "/admin/sessions"] {
        let reply = stack.issuer.admin.get(path).header("origin", PAGE).send().await;
        assert_eq!(cors(&reply).len(), 0, "{path}");
        let preflight = stack.issuer.admin.call(Method::OPTIONS, path).header("origin", PAGE);
        let reply = preflight.header("access-control-request-method", "GET").send().await;
        assert_eq!((reply.status.as_u16(), cors(&reply).len()), (405, 0), "{path}");
    }
    for _ in 0..3 {
        preflight(&stack, "http://127.0.0.1:3000").await;
    }
    let output = stack.issuer.program.output();
    let lines = output.lines().filter(|line| line.contains("CORS_ORIGINS") && line.contains("http://127.0.0.1:3000"));
    assert_eq!(lines.count(), 1, "{output}");
}

#[test]
fn origins_that_no_browser_sends_are_refused_at_start() {
    for (origin, right) in [
        ("app.example", "write https://app.example"),
        ("https://*.app.example", "name each origin, or write * alone for all"),
        ("https://app.example/login", "write https://app.example"),
    ] {
        let settings = [
            ("CORS_ORIGINS", origin),
            ("JWT_SECRET_KEY", sidegate_tests::stack::SECRET),
            ("DATABASE_URL", "sqlite:///nonexistent/app.db"),
        ];
        let output = sidegate_tests::program::run("sidegate-issuer", &["check-config"], &settings, "");
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{printed}");
        assert!(printed.contains("CORS_ORIGINS") && printed.contains(right), "{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_address_is_read_in_every_usual_spelling() {
    let stack = Stack::with(Store::Embedded, 0, &[("TRUSTED_PROXIES", "127.0.0.0/8")], &[]).await;
    for (name, value, expected) in [
        ("x-forwarded-for", "192.0.2.7:4711", "192.0.2.7"),
        ("x-forwarded-for", "[2001:db8::1]:4711", "2001:db8::1"),
        ("x-forwarded-for", "[2001:db8::2]", "2001:db8::2"),
        ("x-forwarded-for", "\u{e9}vil, 192.0.2.8", "192.0.2.8"),
        ("forwarded", "for=unknown, for=\"[2001:db8::3]:4711\";proto=https", "2001:db8::3"),
    ] {
        let login = stack.issuer.at.post("/auth/login").json(&json!({"email": EMAIL, "password": PASSWORD}));
        assert_eq!(login.header(name, value).send().await.status, 200);
        let audited = format!("\"address\":\"{expected}\"");
        assert!(stack.issuer.program.output().contains(&audited), "{name}: {value}: no {audited}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_trusted_proxies_say_who_the_client_is() {
    for (trusted, expected) in [("", "127.0.0.1"), ("127.0.0.0/8", "192.0.2.7")] {
        let stack = Stack::with(Store::Embedded, 0, &[("TRUSTED_PROXIES", trusted)], &[]).await;
        let login = stack.issuer.at.post("/auth/login").json(&json!({"email": EMAIL, "password": PASSWORD}));
        let pair = tokens(&login.header("x-forwarded-for", "203.0.113.9, 192.0.2.7").send().await);
        let list = stack.issuer.at.get("/auth/sessions").bearer(&pair.access).send().await.json();
        assert_eq!(list["sessions"][0]["address"], expected, "trusted: {trusted:?}");
        let audited = format!("\"address\":\"{expected}\"");
        assert!(stack.issuer.program.output().contains(&audited), "the audit log has it too");
    }
}
