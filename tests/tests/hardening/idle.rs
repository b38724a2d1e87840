//! Ten thousand connections that do nothing, and a client that wants to work.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use sidegate_tests::bench::load;
use sidegate_tests::stack::{EMAIL, Stack, Store};

use crate::kit::Connection;

/// As many as the issue asks for, where this process may open as many files.
fn crowd() -> usize {
    let files = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| usize::try_from(files).unwrap());
    10_000.min(files.saturating_sub(500) / 2)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_keep_nobody_out() {
    let stack = Stack::start(Store::Embedded, 1).await;
    let access = stack.issuer.login(EMAIL).await.access;
    let request = [load::check_request(&access)];
    let verifier = &stack.verifiers[0];
    let crowd = crowd();
    let mut idle = Vec::with_capacity(crowd);
    for number in 0..crowd {
        let mut connection = Connection::open(&verifier.tcp).await;
        // Some have asked once, some are in the middle of a head, some have never said a word.
        match number % 10 {
            0 => drop(connection.get("/check").await),
            1 => assert!(connection.send(b"GET /check HTTP/1.1\r\nHost:").await),
            _ => {}
        }
        idle.push(connection);
    }
    let socket = load::run(&verifier.at, &request, 8, Duration::from_millis(500)).await;
    let tcp = load::run(&verifier.tcp, &request, 8, Duration::from_millis(500)).await;
    println!("{crowd} idle: {:.0} checks/s over the socket, {:.0} over TCP", socket.per_second, tcp.per_second);
    assert!(socket.latencies_us.len() > 100 && tcp.latencies_us.len() > 100);
    // Those that had asked are served again: none was thrown out for another.
    idle[0].get("/check").await;
}
