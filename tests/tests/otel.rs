//! Exported traces, with a collector that speaks OTLP/gRPC; needs programs built with the feature
//! `otel` (tests/run.d/otel).
#![cfg(feature = "otel")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::json;
use sidegate_tests::grpc_check;
use sidegate_tests::http::At;
use sidegate_tests::stack::{EMAIL, Stack, Store, tokens};
use sidegate_tests::users::PASSWORD;
use sidegate_tests::wait::eventually;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const SERVER: i32 = 2;
const INTERNAL: i32 = 1;
const WRONG: &str = "canary-of-a-wrong-password";

/// A collector, and everything that it received.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A received span.
#[derive(Clone, Debug)]
struct Found {
    service: String,
    span: Span,
}

impl Collector {
    /// Starts a collector and returns its address.
    async fn start() -> (Self, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let collector = Self::default();
        let service = TraceServiceServer::new(collector.clone());
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        (collector, address)
    }

    fn spans(&self) -> Vec<Found> {
        let mut found = Vec::new();
        for resource in self.0.lock().unwrap().iter().flat_map(|request| &request.resource_spans) {
            let service = text(&resource.resource.as_ref().unwrap().attributes, "service.name");
            let spans = resource.scope_spans.iter().flat_map(|scope| &scope.spans);
            found.extend(spans.map(|span| Found { service: service.clone(), span: span.clone() }));
        }
        found
    }

    /// The span of this name in this trace.
    async fn span(&self, name: &str, trace: u8) -> Found {
        eventually(&format!("the span {name} of trace {trace}"), || async {
            self.spans().into_iter().find(|found| found.span.name == name && found.span.trace_id == [trace; 16])
        })
        .await
    }

    /// All received data, as bytes.
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().iter().flat_map(|request| request.encode_to_vec()).collect()
    }
}

/// An attribute as text; empty if it is missing.
fn text(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.clone()) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

impl Found {
    fn attributes<const N: usize>(&self, names: [&str; N]) -> [String; N] {
        names.map(|name| text(&self.span.attributes, name))
    }

    fn is_child_of(&self, parent: &[u8]) -> bool {
        self.span.parent_span_id == parent
    }
}

/// The header of a caller in trace number `trace`, whose own span is number 7.
fn traceparent(trace: u8, flags: &str) -> String {
    format!("00-{}-0707070707070707-{flags}", format!("{trace:02x}").repeat(16))
}

const CALLER: [u8; 8] = [7; 8];

fn settings(collector: &str) -> [(&str, &str); 2] {
    [("OTEL_EXPORTER_OTLP_ENDPOINT", collector), ("OTEL_BSP_SCHEDULE_DELAY", "50")]
}

#[tokio::test(flavor = "multi_thread")]
async fn login_span_joins_the_callers_trace_and_has_child_spans() {
    let (collector, address) = Collector::start().await;
    let stack = Stack::with(Store::Embedded, 0, &settings(&address), &[]).await;
    let login = |trace, flags, password: &str| {
        let call = stack.issuer.at.post("/auth/login").header("traceparent", &traceparent(trace, flags));
        call.header("tracestate", "vendor=1").json(&json!({"email": EMAIL, "password": password})).send()
    };
    let reply = login(1, "01", PASSWORD).await;
    let pair = tokens(&reply);
    assert_eq!(login(2, "01", WRONG).await.status, 401);
    assert_eq!(login(3, "00", WRONG).await.status, 401);
    let call = stack.issuer.at.call(http::Method::DELETE, "/auth/sessions/AAAAAAAAAAAAAAAAAAAAAA");
    call.header("traceparent", &traceparent(4, "01")).bearer(&pair.access).send().await;
    let odd = http::Method::from_bytes(b"SECRETMETHOD").unwrap();
    stack.issuer.at.call(odd, "/secret/path?secret=query").header("traceparent", &traceparent(5, "01")).send().await;

    let found = collector.span("POST /auth/login", 1).await;
    assert_eq!((found.service.as_str(), found.span.kind), ("sidegate-issuer", SERVER));
    assert!(found.is_child_of(&CALLER), "{found:?}");
    assert_eq!(found.span.trace_state, "vendor=1");
    let names = ["http.request.method", "http.route", "http.response.status_code"];
    assert_eq!(found.attributes(names), ["POST", "/auth/login", "200"]);
    for name in ["users.find_by_email", "password.check", "store.create"] {
        let hop = collector.span(name, 1).await;
        assert!(hop.is_child_of(&found.span.span_id) && hop.span.kind == INTERNAL, "{hop:?}");
    }
    let refused = collector.span("POST /auth/login", 2).await;
    assert_eq!(refused.attributes(names), ["POST", "/auth/login", "401"]);
    let deleted = collector.span("DELETE /auth/sessions/{sid}", 4).await;
    assert_eq!(deleted.attributes(names)[1], "/auth/sessions/{sid}");
    let odd = collector.span("HTTP", 5).await;
    assert_eq!(odd.attributes(names), ["_OTHER", "", "404"]);

    let spans = collector.spans();
    assert!(!spans.iter().any(|found| found.span.trace_id == [3; 16]), "the caller did not want this one");
    assert!(!spans.iter().any(|found| found.span.name.contains("/readyz")), "probes have no spans");
    let log = stack.issuer.program.output();
    assert!(log.contains(&format!("\"trace_id\":\"{}\"", "01".repeat(16))), "the log names the trace: {log}");
    let bytes = collector.bytes();
    let secrets = [PASSWORD, WRONG, EMAIL, &pair.access, &pair.refresh, "SECRETMETHOD", "secret", "AAAAAAAAAAAA"];
    for secret in secrets {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret} was exported");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_spans_record_the_verdict() {
    let (collector, address) = Collector::start().await;
    let mut of_verifier = settings(&address).to_vec();
    of_verifier.push(("OTEL_SERVICE_NAME", "doorkeeper"));
    let stack = Stack::with(Store::Embedded, 1, &[], &of_verifier).await;
    let (verifier, pair) = (&stack.verifiers[0], stack.issuer.login(EMAIL).await);
    let token = pair.access.as_str();
    let get = |path: &str, trace| verifier.at.get(path).header("traceparent", &traceparent(trace, "01"));
    assert_eq!(get("/check", 1).bearer(token).send().await.status, 200);
    assert_eq!(get("/nginx?secret=query", 2).bearer("canary-token").send().await.status, 401);
    assert_eq!(get("/envoy/secret/path", 3).bearer(token).h2().send().await.status, 200);
    let verify = verifier.at.post("/verify").header("traceparent", &traceparent(4, "01")).body(token.to_owned());
    assert_eq!(verify.send().await.status, 200);
    let At::Unix(socket) = &verifier.at else { panic!("a Unix socket") };
    let channel = grpc_check::channel(socket).await;
    let (bearer, parent) = (format!("Bearer {token}"), traceparent(5, "01"));
    let headers = [("authorization", bearer.as_str()), ("traceparent", parent.as_str())];
    let answer = grpc_check::check(&channel, Some(grpc_check::attributes("GET", "/secret/path", &headers)), &[]).await;
    assert_eq!(answer.status.unwrap().code, 0);

    let names = ["http.request.method", "http.route", "http.response.status_code", "sidegate.outcome"];
    for (trace, name, expected) in [
        (1, "GET /check", ["GET", "/check", "200", "allowed"]),
        (2, "GET /nginx", ["GET", "/nginx", "401", "token_invalid"]),
        (3, "GET /envoy", ["GET", "/envoy", "200", "allowed"]),
        (4, "POST /verify", ["POST", "/verify", "200", "allowed"]),
    ] {
        let found = collector.span(name, trace).await;
        assert_eq!(found.attributes(names), expected);
        assert!(found.is_child_of(&CALLER) && found.service == "doorkeeper", "{found:?}");
    }
    let call = collector.span("envoy.service.auth.v3.Authorization/Check", 5).await;
    assert!(call.is_child_of(&CALLER), "{call:?}");
    let names = ["rpc.system", "rpc.service", "rpc.method", "sidegate.outcome", "http.response.status_code"];
    assert_eq!(call.attributes(names), ["grpc", "envoy.service.auth.v3.Authorization", "Check", "allowed", ""]);
    let bytes = collector.bytes();
    for secret in [token, "canary-token", "secret"] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret} was exported");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn last_spans_are_exported_before_exit() {
    let (collector, address) = Collector::start().await;
    let rarely = [("OTEL_EXPORTER_OTLP_ENDPOINT", address.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "600000")];
    let mut stack = Stack::with(Store::Embedded, 1, &rarely, &rarely).await;
    let check = stack.verifiers[0].at.get("/check").header("traceparent", &traceparent(1, "01"));
    assert_eq!(check.send().await.status, 401);
    let me = stack.issuer.at.get("/auth/me").header("traceparent", &traceparent(2, "01"));
    assert_eq!(me.send().await.status, 401);
    assert!(collector.spans().is_empty(), "they wait");
    assert!(stack.verifiers[0].program.stop().success());
    assert!(stack.issuer.program.stop().success());
    let mut names: Vec<_> = collector.spans().into_iter().map(|found| found.span.name).collect();
    names.sort();
    assert_eq!(names, ["GET /auth/me", "GET /check"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn samplers_are_applied_and_wrong_settings_warned_of() {
    let (collector, address) = Collector::start().await;
    let with = |sampler: &'static str| [&settings(&address)[..], &[("OTEL_TRACES_SAMPLER", sampler)]].concat();
    let mut stack = Stack::with(Store::Embedded, 1, &[], &with("always_off")).await;
    stack.add_verifier(&with("xray")).await;
    stack.add_verifier(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1")]).await;
    for (trace, verifier) in (1..).zip(&stack.verifiers) {
        let check = verifier.at.get("/check").header("traceparent", &traceparent(trace, "01"));
        assert_eq!(check.send().await.status, 401);
    }
    collector.span("GET /check", 2).await;
    assert!(collector.spans().iter().all(|found| found.span.trace_id == [2; 16]));
    for (verifier, named) in [(1, "OTEL_TRACES_SAMPLER"), (2, "OTEL_EXPORTER_OTLP_ENDPOINT")] {
        let log = stack.verifiers[verifier].program.output();
        assert!(log.lines().any(|line| line.contains("WARN") && line.contains(named)), "{log}");
    }
}

/// How often a program has logged that it cannot reach its collector.
fn complaints(log: &str) -> usize {
    log.lines().filter(|line| line.contains("trace export failed")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_collector_is_logged_once_and_found_later() {
    let port = sidegate_tests::program::free_port();
    let address = format!("http://127.0.0.1:{port}");
    let stack = Stack::with(Store::Embedded, 1, &[], &settings(&address)).await;
    let verifier = &stack.verifiers[0];
    // Several exports fail: each retries for about a second.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(4) {
        assert_eq!(verifier.at.get("/check").send().await.status, 401);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(complaints(&verifier.program.output()), 1, "{}", verifier.program.output());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let collector = Collector::default();
    let service = TraceServiceServer::new(collector.clone());
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    eventually("spans to arrive", || async {
        verifier.at.get("/check").send().await;
        (!collector.spans().is_empty() && verifier.program.output().contains("trace export works again")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_collector_delays_neither_requests_nor_exit() {
    // Connections wait in its accept queue forever.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let mut stack = Stack::with(Store::Embedded, 1, &settings(&address), &settings(&address)).await;
    stack.issuer.login(EMAIL).await;
    // More than the span queue holds. An export waits ten seconds: if requests waited for it, they
    // would time out.
    let mut checks = sidegate_tests::http::Kept::default();
    for _ in 0..3_000 {
        let call = stack.verifiers[0].at.get("/check").within(Duration::from_secs(5));
        assert_eq!(checks.send(call).await.unwrap().status, 401);
    }
    stack.issuer.login(EMAIL).await;
    for program in [&mut stack.verifiers[0].program, &mut stack.issuer.program] {
        let started = Instant::now();
        assert!(program.stop().success());
        assert!(started.elapsed() < Duration::from_secs(8), "the end took {:?}", started.elapsed());
    }
}
