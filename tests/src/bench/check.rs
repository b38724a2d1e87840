//! `/check` over the Unix socket, compared with bare hyper servers that answer 200: one without
//! headers, one with as many.

use std::time::Duration;

use super::bare::{self, Says};
use super::load;
use super::row::{Goal, Row, quantile};
use crate::http::At;
use crate::stack::{EMAIL, Stack, Store};

const PAIRS: usize = 9;
const ONE_RUN: Duration = Duration::from_millis(500);

/// Throughput and p99 at 1, 8 and 32 connections, all servers with one worker.
pub async fn rows() -> Vec<Row> {
    let stack = Stack::with(Store::Embedded, 1, &[], &[("WORKER_THREADS", "1"), ("RUST_LOG", "warn")]).await;
    let ours = stack.verifiers[0].at.clone();
    let (_bare, bare) = bare::start(&stack.folder, 1, Says::Yes).await;
    let (_same, same) = bare::start(&stack.folder, 1, Says::Identity).await;
    let mut requests = Vec::new();
    for _ in 0..32 {
        requests.push(load::check_request(&stack.issuer.login(EMAIL).await.access));
    }
    let mut rows = Vec::new();
    for connections in [1, 8, 32] {
        let row = |what, unit, peer, goal| {
            let name = format!("/check {what}, {connections} conn.");
            Row { name, unit, peer, ours: Vec::new(), theirs: Vec::new(), goal }
        };
        let at_32 = connections == 32;
        let goals = if at_32 { [Goal::AtLeast(0.85), Goal::AtMost(1.3)] } else { [Goal::None, Goal::None] };
        for (peer, at, goals) in [
            ("bare hyper", At::Unix(bare.clone()), goals),
            ("the same with 7 headers", At::Unix(same.clone()), [Goal::None, Goal::None]),
        ] {
            let mut throughput = row("throughput", "/s", peer, goals[0]);
            let mut p99 = row("p99", "us", peer, goals[1]);
            for _ in 0..PAIRS {
                let mut a = load::run(&ours, &requests, connections, ONE_RUN).await;
                let mut b = load::run(&at, &requests, connections, ONE_RUN).await;
                throughput.ours.push(a.per_second);
                throughput.theirs.push(b.per_second);
                p99.ours.push(quantile(&mut a.latencies_us, 0.99));
                p99.theirs.push(quantile(&mut b.latencies_us, 0.99));
            }
            rows.extend([throughput, p99]);
        }
    }
    rows
}
