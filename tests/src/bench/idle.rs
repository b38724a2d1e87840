//! p99 of working clients while ten thousand others hold idle connections, compared with p99
//! without them.

use std::time::Duration;

use super::load::{self, Stream};
use super::memory::rss_mb;
use super::row::{Goal, Row, quantile};
use crate::hostile_clients::{Attack, at_most, start};
use crate::stack::{EMAIL, Stack, Store};

const PAIRS: usize = 7;
const ONE_RUN: Duration = Duration::from_millis(700);

/// Time for the programs to close dropped connections and to return memory.
const SETTLE: Duration = Duration::from_secs(3);

/// 10,000 connections, or as many as this process can open with some descriptors left.
pub fn connection_count() -> usize {
    at_most(10_000)
}

/// Working connections beside idle ones, then the memory cost of hostile ones.
pub async fn rows() -> Vec<Row> {
    let mut rows = vec![latency().await];
    rows.extend(memory().await);
    rows
}

/// The verifier over TCP, 8 working connections.
async fn latency() -> Row {
    // Enough memory for all of them: connections over the limit are another row.
    let room = [("RUST_LOG", "warn"), ("CONNECTION_MEMORY", "512")];
    let stack = Stack::with(Store::Embedded, 1, &[], &room).await;
    let at = stack.verifiers[0].tcp.clone();
    let requests = [load::check_request(&stack.issuer.login(EMAIL).await.access)];
    let connections = connection_count();
    let mut row = Row {
        name: format!("/check p99, {connections} idle conn."),
        unit: "us",
        peer: "none idle",
        ours: Vec::new(),
        theirs: Vec::new(),
        goal: Goal::AtMost(2.0),
    };
    for _ in 0..PAIRS {
        let mut alone = load::run(&at, &requests, 8, ONE_RUN).await;
        let mut idle = Vec::with_capacity(connections);
        for _ in 0..connections {
            let mut stream = Stream::connect(&at).await;
            // Each has sent one request, and keeps its connection.
            assert_eq!(stream.ask(&requests[0]).await, 200);
            idle.push(stream);
        }
        let mut crowded = load::run(&at, &requests, 8, ONE_RUN).await;
        row.ours.push(quantile(&mut crowded.latencies_us, 0.99));
        row.theirs.push(quantile(&mut alone.latencies_us, 0.99));
    }
    row
}

/// Both programs as shipped, with clients that have no credentials. Beside each: the limit in
/// deploy/k8s, in MiB.
async fn memory() -> Vec<Row> {
    const ATTACKS: [(&str, Attack, usize); 4] = [
        ("half heads", Attack::HalfHead, 20_000),
        ("h2 conn., 100 POSTs", Attack::Posts(100), 1000),
        ("h2 conn., 100 unread", Attack::NoWindow(100), 1000),
        ("h1 conn., never read", Attack::NeverReads(4000), 1000),
    ];
    let stack = Stack::start(Store::Embedded, 1).await;
    let (issuer, verifier) = (&stack.issuer, &stack.verifiers[0]);
    let mut rows = Vec::new();
    for (name, at, path, pid, limit) in [
        ("verifier", &verifier.tcp, "/verify", verifier.program.pid(), 128.0),
        ("issuer", &issuer.at, "/auth/login", issuer.program.pid(), 256.0),
    ] {
        let mib = || rss_mb(pid) * 1e6 / f64::from(1024 * 1024);
        let row = |what: String| Row::new(format!("{name}, {what}"), "MiB", "deploy/k8s allows", Goal::AtMost(0.9));
        for (what, attack, wanted) in ATTACKS {
            let connections = at_most(wanted);
            let mut peak = row(format!("{connections} {what}"));
            let mut most = 0.0_f64;
            let mut open = Vec::with_capacity(connections);
            for number in 0..connections {
                open.extend(start(at, path, attack).await);
                if number % 200 == 0 {
                    most = most.max(mib());
                }
            }
            peak.pair(most.max(mib()), limit);
            rows.push(peak);
            drop(open);
            tokio::time::sleep(SETTLE).await;
        }
        let mut after = row("afterwards".to_owned());
        after.pair(mib(), limit);
        rows.push(after);
    }
    rows
}
