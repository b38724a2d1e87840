//! The verifier's gRPC services through a real socket: Envoy's authorization and the standard health service.

use std::collections::BTreeMap;

use sidegate_proto::envoy::config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption};
use sidegate_proto::envoy::service::auth::v3::CheckResponse;
use sidegate_proto::envoy::service::auth::v3::attribute_context::HttpRequest;
use sidegate_proto::envoy::service::auth::v3::check_response::HttpResponse;
use sidegate_tests::daemon::{Daemon, good};
use sidegate_tests::grpc_check::{attributes, channel, check};
use sidegate_tests::http::At;
use sidegate_tests::stack::{EMAIL, Stack, Store};
use sidegate_tests::wait::eventually;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const UNAUTHENTICATED: i32 = 16;
const PERMISSION_DENIED: i32 = 7;
const UNAVAILABLE: i32 = 14;
const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;

fn overwriting(headers: &[HeaderValueOption]) -> BTreeMap<String, String> {
    let pair = |option: &HeaderValueOption| {
        assert_eq!((option.append, option.append_action), (Some(false), 2), "both say overwrite: {option:?}");
        let header = option.header.clone().unwrap();
        (header.key, header.value)
    };
    headers.iter().map(pair).collect()
}

/// The gRPC code, the HTTP status, and the headers of a response.
fn read(response: CheckResponse) -> (i32, i32, BTreeMap<String, String>) {
    let code = response.status.expect("the status is always set").code;
    match response.http_response.expect("the response is always set") {
        HttpResponse::OkResponse(ok) => (code, 200, overwriting(&ok.headers)),
        HttpResponse::DeniedResponse(no) => (code, no.status.unwrap().code, overwriting(&no.headers)),
        HttpResponse::ErrorResponse(error) => {
            let status = error.status.unwrap().code;
            (code, status + 1000, overwriting(&error.headers))
        }
    }
}

fn bearer(token: &str) -> HttpRequest {
    attributes("GET", "/a", &[("authorization", &format!("Bearer {token}"))])
}

#[tokio::test]
async fn answers_set_headers_and_never_append() {
    let daemon = Daemon::start(&[]).await;
    let channel = channel(&daemon.socket).await;
    let token = good("alice");
    let response = check(&channel, Some(bearer(&token)), &[]).await;
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { panic!("{response:?}") };
    assert_eq!(ok.headers_to_remove, ["x-auth-stale"]);
    let metadata = response.dynamic_metadata.clone().expect("the claims");
    assert!(metadata.fields.contains_key("sub") && metadata.fields.contains_key("exp"));
    let (code, status, headers) = read(response);
    assert_eq!((code, status, headers.len()), (0, 200, 7));
    assert_eq!(headers["x-auth-subject"], "alice");
    let (code, status, headers) = read(check(&channel, Some(attributes("GET", "/a", &[])), &[]).await);
    assert_eq!((code, status, headers["www-authenticate"].as_str()), (UNAUTHENTICATED, 401, "Bearer"));
    let joined = attributes("GET", "/a", &[("authorization", &format!("Bearer {token},Bearer {token}"))]);
    assert_eq!(read(check(&channel, Some(joined), &[]).await).1, 401);
    assert_eq!(read(check(&channel, None, &[]).await).0, PERMISSION_DENIED, "no attributes: no");
    daemon.revoke_session("sid-of-alice");
    let (code, _, headers) = read(check(&channel, Some(bearer(&token)), &[]).await);
    assert_eq!(code, UNAUTHENTICATED);
    assert!(headers["www-authenticate"].contains("revoked"));
}

#[tokio::test]
async fn raw_headers_are_supported() {
    let daemon = Daemon::start(&[]).await;
    let channel = channel(&daemon.socket).await;
    let value = format!("Bearer {}", good("alice"));
    let header = |text: &str, raw: &str| HeaderValue {
        key: "authorization".into(),
        value: text.into(),
        raw_value: raw.as_bytes().to_vec(),
    };
    let with = |headers: Vec<HeaderValue>| {
        Some(HttpRequest { header_map: Some(HeaderMap { headers }), ..attributes("GET", "/a", &[]) })
    };
    assert_eq!(read(check(&channel, with(vec![header("", &value)]), &[]).await).1, 200);
    assert_eq!(read(check(&channel, with(vec![header(&value, "")]), &[]).await).1, 200);
    let twice = with(vec![header("", &value), header("", &value)]);
    assert_eq!(read(check(&channel, twice, &[]).await).1, 401);
}

#[tokio::test]
async fn context_extensions_require_scope_and_audience() {
    let daemon = Daemon::start(&[]).await;
    let channel = channel(&daemon.socket).await;
    let token = good("alice");
    let ask = async |extensions: &[(&str, &str)]| read(check(&channel, Some(bearer(&token)), extensions).await);
    assert_eq!(ask(&[("scope", "read")]).await.1, 200);
    assert_eq!(ask(&[("audience", "sidegate")]).await.1, 200);
    let (code, status, headers) = ask(&[("scope", "admin")]).await;
    assert_eq!((code, status), (PERMISSION_DENIED, 403));
    assert!(headers["www-authenticate"].contains("scope=\"admin\""));
    assert_eq!(ask(&[("audience", "elsewhere")]).await.1, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_context_extension_is_503_and_logged_by_name() {
    let stack = Stack::start(Store::Embedded, 1).await;
    let verifier = &stack.verifiers[0];
    let At::Unix(socket) = &verifier.at else { panic!("a Unix socket") };
    let channel = channel(socket).await;
    let access = stack.issuer.login(EMAIL).await.access;
    for (key, value) in [("scopes", "admin"), ("required_scope", "admin"), ("Scope", "admin"), ("scopes", "other")] {
        let (code, status, headers) =
            read(check(&channel, Some(bearer(&access)), &[("scope", "read"), (key, value)]).await);
        assert_eq!((code, status), (UNAVAILABLE, 1503), "{key}");
        assert_eq!(headers["retry-after"], "1");
    }
    let output = verifier.program.output();
    for key in ["scopes", "required_scope", "Scope"] {
        let lines = output.lines().filter(|line| line.contains(&format!("\"key\":\"{key}\"")));
        assert_eq!(lines.count(), 1, "{key}: {output}");
    }
}

#[tokio::test]
async fn health_streams_per_connection_are_limited() {
    let daemon = Daemon::start(&[]).await;
    let channel = channel(&daemon.socket).await;
    let mut streams = Vec::new();
    let watch = async || HealthClient::new(channel.clone()).watch(HealthCheckRequest { service: String::new() }).await;
    for _ in 0..4 {
        streams.push(watch().await.expect("one of the few"));
    }
    assert_eq!(watch().await.unwrap_err().code(), tonic::Code::ResourceExhausted);
    streams.pop();
    eventually("room for another", || async { watch().await.ok() }).await;
}

#[tokio::test]
async fn tokens_that_cannot_be_checked_are_errors_and_not_denials() {
    let daemon = Daemon::start_unproven(&[]).await;
    let channel = channel(&daemon.socket).await;
    let (code, status, headers) = read(check(&channel, Some(bearer(&good("alice"))), &[]).await);
    assert_eq!((code, status), (UNAVAILABLE, 1503));
    assert_eq!(headers["retry-after"], "1");
}

#[tokio::test]
async fn the_health_service_follows_readiness() {
    let daemon = Daemon::start_unproven(&[]).await;
    let channel = channel(&daemon.socket).await;
    let status = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        HealthClient::new(channel.clone()).check(request).await.map(|answer| answer.into_inner().status)
    };
    let services = ["", "envoy.service.auth.v3.Authorization"];
    for service in services {
        eventually("not serving", || async { (status(service).await.ok() == Some(NOT_SERVING)).then_some(()) }).await;
    }
    daemon.prove();
    for service in services {
        eventually("serving", || async { (status(service).await.ok() == Some(SERVING)).then_some(()) }).await;
    }
    assert_eq!(status("no.such.Service").await.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn health_watchers_receive_every_change() {
    let mut daemon = Daemon::start_unproven(&[("MAX_STALENESS", "1s")]).await;
    let channel = channel(&daemon.socket).await;
    let request = HealthCheckRequest { service: "envoy.service.auth.v3.Authorization".into() };
    let mut changes = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
    let mut next = async || {
        let change = tokio::time::timeout(sidegate_tests::wait::WAIT_LIMIT, changes.message()).await.expect("a change");
        change.expect("no error").map(|answer| answer.status)
    };
    // The first message may arrive before the daemon has set its state.
    let mut first = next().await;
    while first == Some(0) {
        first = next().await;
    }
    assert_eq!(first, Some(NOT_SERVING), "no list yet");
    daemon.prove();
    assert_eq!(next().await, Some(SERVING));
    assert_eq!(next().await, Some(NOT_SERVING), "the list has gone stale");
    daemon.prove();
    assert_eq!(next().await, Some(SERVING));
    daemon.stop.send_replace(true);
    while next().await.is_some() {}
    daemon.task.take().unwrap().await.unwrap();
}

#[tokio::test]
async fn claims_are_dynamic_metadata_if_there_is_a_token() {
    use prost_types::value::Kind;
    let daemon = Daemon::start(&[]).await;
    let channel = channel(&daemon.socket).await;
    let fields = check(&channel, Some(bearer(&good("alice"))), &[]).await.dynamic_metadata.unwrap().fields;
    let text = |name: &str| match fields[name].kind.clone().unwrap() {
        Kind::StringValue(text) => text,
        other => panic!("{name}: {other:?}"),
    };
    for (name, value) in [
        ("iss", "sidegate"),
        ("aud", "sidegate"),
        ("sub", "alice"),
        ("client_id", "sidegate"),
        ("jti", "jti-of-alice"),
        ("sid", "sid-of-alice"),
        ("scope", "read write"),
    ] {
        assert_eq!(text(name), value, "{name}");
    }
    for name in ["iat", "exp"] {
        assert!(matches!(fields[name].kind, Some(Kind::NumberValue(at)) if at > 1e9), "{name}");
    }
    let denied = check(&channel, Some(attributes("GET", "/a", &[])), &[]).await;
    assert!(denied.dynamic_metadata.is_none());
}
