//! A good client's p99 while ten thousand others hold connections and say nothing, against the same without them.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::load::{self, Stream};
use super::row::{Goal, Row, quantile};
use crate::stack::{EMAIL, Stack, Store};

const PAIRS: usize = 7;
const ONE_RUN: Duration = Duration::from_millis(700);

/// 10,000 connections, or as many as this process may open files and have some left.
pub fn crowd() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    10_000.min(usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(500))
}

/// The verifier over TCP, 8 working connections.
pub async fn rows() -> Vec<Row> {
    let stack = Stack::with(Store::Embedded, 1, &[], &[("RUST_LOG", "warn")]).await;
    let at = stack.verifiers[0].tcp.clone();
    let requests = [load::check_request(&stack.issuer.login(EMAIL).await.access)];
    let crowd = crowd();
    let mut row = Row {
        name: format!("/check p99, {crowd} idle conn."),
        unit: "us",
        peer: "none idle",
        ours: Vec::new(),
        theirs: Vec::new(),
        goal: Goal::AtMost(2.0),
    };
    for _ in 0..PAIRS {
        let mut alone = load::run(&at, &requests, 8, ONE_RUN).await;
        let mut idle = Vec::with_capacity(crowd);
        for _ in 0..crowd {
            let mut stream = Stream::connect(&at).await;
            // Each has asked once, and keeps its connection.
            assert_eq!(stream.ask(&requests[0]).await, 200);
            idle.push(stream);
        }
        let mut crowded = load::run(&at, &requests, 8, ONE_RUN).await;
        row.ours.push(quantile(&mut crowded.latencies_us, 0.99));
        row.theirs.push(quantile(&mut alone.latencies_us, 0.99));
    }
    vec![row]
}
