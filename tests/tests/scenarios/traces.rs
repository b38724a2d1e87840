//! Trace context: logs name a request's trace, in every build; programs without trace export log a
//! warning.

use serde_json::{Value, json};
use sidegate_tests::grpc_check;
use sidegate_tests::http::At;
use sidegate_tests::stack::{EMAIL, Stack, Store};
use sidegate_tests::users::PASSWORD;
use sidegate_tests::wait::eventually;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The lines of a log that `wanted` selects, as JSON.
fn lines(log: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(wanted).collect()
}

async fn login(at: &At, traceparent: Option<&str>) {
    let call = at.post("/auth/login").json(&json!({"email": EMAIL, "password": PASSWORD}));
    let call = match traceparent {
        Some(traceparent) => call.header("traceparent", traceparent),
        None => call,
    };
    assert_eq!(call.send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_events_and_checks_log_their_trace_id() {
    let stack = Stack::with(Store::Embedded, 1, &[], &[("RUST_LOG", "debug")]).await;
    for traceparent in [Some(PARENT), Some("00-not-a-parent-01"), None] {
        login(&stack.issuer.at, traceparent).await;
    }
    let events = lines(&stack.issuer.program.output(), |line| line["event"] == "login");
    let traces: Vec<_> = events.iter().map(|event| event["span"]["trace_id"].as_str()).collect();
    assert_eq!(traces, [Some(TRACE), None, None], "{events:?}");

    let (verifier, token) = (&stack.verifiers[0], stack.issuer.login(EMAIL).await.access);
    let forward = |traced: bool| {
        let call = verifier.at.get("/check").bearer(&token);
        if traced { call.header("traceparent", PARENT) } else { call }
    };
    for traced in [true, false] {
        assert_eq!(forward(traced).send().await.status, 200);
    }
    let At::Unix(socket) = &verifier.at else { panic!("a Unix socket") };
    let channel = grpc_check::channel(socket).await;
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("traceparent", PARENT)];
    grpc_check::check(&channel, Some(grpc_check::attributes("GET", "/", &headers)), &[]).await;
    let checks = eventually("three checks in the log", || async {
        let checks = lines(&verifier.program.output(), |line| line["message"] == "checked");
        (checks.len() == 3).then_some(checks)
    })
    .await;
    let traces: Vec<_> = checks.iter().map(|check| check["trace_id"].as_str()).collect();
    assert_eq!(traces, [Some(TRACE), None, Some(TRACE)], "{checks:?}");
}

#[cfg(not(feature = "otel"))]
#[tokio::test(flavor = "multi_thread")]
async fn unsupported_trace_export_is_warned_of_once() {
    let asked = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")];
    let stack = Stack::with(Store::Embedded, 1, &asked, &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://x")]).await;
    let programs = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", stack.issuer.program.output()),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", stack.verifiers[0].program.output()),
    ];
    for (setting, log) in programs {
        let warnings = lines(&log, |line| line["level"] == "WARN" && line["message"].to_string().contains("otel"));
        assert_eq!(warnings.len(), 1, "{log}");
        let message = warnings[0]["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("{setting} is set")) && message.contains("feature otel"), "{message}");
    }
}
