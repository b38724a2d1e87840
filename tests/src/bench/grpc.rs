//! Envoy's gRPC check over the Unix socket, compared with a bare tonic service that always allows.

use std::time::Duration;

use prost::Message as _;
use sidegate_proto::envoy::service::auth::v3::attribute_context::Request;
use sidegate_proto::envoy::service::auth::v3::{AttributeContext, CheckRequest};

use super::bare::{self, Says};
use super::h2::{Grpc, call};
use super::load::run_as;
use super::row::{Goal, Row, quantile};
use crate::grpc_check::{attributes, channel, check};
use crate::http::At;
use crate::stack::{EMAIL, Stack, Store};

const PAIRS: usize = 9;
const ONE_RUN: Duration = Duration::from_millis(500);
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

fn question(token: &str) -> Vec<u8> {
    let bearer = format!("Bearer {token}");
    let headers = [
        (":authority", "app.example"),
        (":method", "GET"),
        (":path", "/a/b?c=d"),
        (":scheme", "https"),
        ("accept", "*/*"),
        ("authorization", &bearer),
        ("user-agent", "curl/7.88.1"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "b7c7a2b0-5f5e-4a43-9c3e-0d9c6d5f4c1a"),
    ];
    let request = Some(Request { http: Some(attributes("GET", "/a/b?c=d", &headers)) });
    let attributes = Some(AttributeContext { request, ..AttributeContext::default() });
    call(CHECK, &CheckRequest { attributes }.encode_to_vec())
}

/// Throughput and p99 at 8 and 32 connections, both servers with one worker.
pub async fn rows() -> Vec<Row> {
    let stack = Stack::with(Store::Embedded, 1, &[], &[("WORKER_THREADS", "1"), ("RUST_LOG", "warn")]).await;
    let ours = stack.verifiers[0].at.clone();
    let (_bare, bare) = bare::start(&stack.folder, 1, Says::Grpc).await;
    let mut requests = Vec::new();
    for _ in 0..32 {
        requests.push(question(&stack.issuer.login(EMAIL).await.access));
    }
    let At::Unix(socket) = &ours else { panic!("the verifier listens on a Unix socket") };
    let bearer = format!("Bearer {}", stack.issuer.login(EMAIL).await.access);
    let http = attributes("GET", "/a", &[("authorization", &bearer)]);
    let answer = check(&channel(socket).await, Some(http), &[]).await;
    assert_eq!(answer.status.map(|status| status.code), Some(0), "what is measured is a yes");
    let theirs = At::Unix(bare);
    let mut rows = Vec::new();
    for connections in [8, 32] {
        let at_32 = connections == 32;
        let row = |what, unit, goal| {
            let name = format!("gRPC check {what}, {connections} conn.");
            let goal = if at_32 { goal } else { Goal::None };
            Row { name, unit, peer: "bare tonic", ours: Vec::new(), theirs: Vec::new(), goal }
        };
        let mut throughput = row("throughput", "/s", Goal::AtLeast(0.85));
        let mut p99 = row("p99", "us", Goal::AtMost(1.3));
        for _ in 0..PAIRS {
            let mut a = run_as::<Grpc>(&ours, &requests, connections, ONE_RUN).await;
            let mut b = run_as::<Grpc>(&theirs, &requests, connections, ONE_RUN).await;
            throughput.ours.push(a.per_second);
            throughput.theirs.push(b.per_second);
            p99.ours.push(quantile(&mut a.latencies_us, 0.99));
            p99.theirs.push(quantile(&mut b.latencies_us, 0.99));
        }
        rows.extend([throughput, p99]);
    }
    rows
}
