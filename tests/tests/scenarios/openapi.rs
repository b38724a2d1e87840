//! The API description compared with the API, and the docs page without any network.

use std::collections::BTreeSet;

use http::Method;
use serde_json::Value;
use sidegate_tests::stack::{Stack, Store};

const METHODS: [&str; 6] = ["get", "post", "put", "delete", "patch", "head"];

#[tokio::test(flavor = "multi_thread")]
async fn openapi_describes_exactly_the_routes() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let document = stack.issuer.at.get("/openapi.json").send().await.json();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    let paths = document["paths"].as_object().expect("paths");
    for (path, operations) in paths {
        let described: BTreeSet<_> = operations.as_object().expect("operations").keys().map(String::as_str).collect();
        for name in METHODS {
            let method = Method::from_bytes(name.to_uppercase().as_bytes()).expect("a method");
            let reply = stack.issuer.at.call(method, &path.replace("{sid}", "x")).send().await;
            let status = reply.status.as_u16();
            if described.contains(name) {
                assert!(status != 405 && (status != 404 || path.contains('{')), "{name} {path}: {status}");
                let documented = operations[name]["responses"].get(status.to_string());
                assert!(documented.is_some(), "{name} {path}: {status} is not described");
            } else if !(name == "head" && described.contains("get")) {
                assert_eq!(status, 405, "{name} {path} is not described");
                let allowed = reply.header("allow").expect("Allow").to_lowercase();
                for method in &described {
                    assert!(allowed.contains(*method), "{path}: {allowed}");
                }
            }
        }
    }
    // The reverse: every specified endpoint is described.
    for (method, path) in [
        ("post", "/auth/login"),
        ("post", "/auth/refresh"),
        ("post", "/auth/logout"),
        ("get", "/auth/me"),
        ("get", "/auth/sessions"),
        ("delete", "/auth/sessions/{sid}"),
        ("get", "/.well-known/jwks.json"),
        ("get", "/openapi.json"),
    ] {
        assert!(paths.get(path).is_some_and(|operations| operations.get(method).is_some()), "{method} {path}");
    }
}

/// Every string of a JSON value.
fn strings(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::String(text) => out.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, out)),
        Value::Object(members) => members.values().for_each(|item| strings(item, out)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docs_page_loads_no_external_resources() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let page = stack.issuer.at.get("/docs").send().await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").expect("a policy").to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("http"), "{policy}");
    let script = stack.issuer.at.get("/docs/page.js").send().await;
    assert_eq!(script.status, 200);
    for body in [&page.body, &script.body] {
        let text = String::from_utf8_lossy(body);
        assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("//cdn"), "{text}");
    }
    let mut all = Vec::new();
    strings(&stack.issuer.at.get("/openapi.json").send().await.json(), &mut all);
    assert!(all.iter().all(|text| !text.contains("://")), "the document refers to nothing outside");
}
