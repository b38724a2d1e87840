//! Ten thousand idle connections, and a client that works.

use std::time::Duration;

use sidegate_tests::bench::{idle, load};
use sidegate_tests::stack::{EMAIL, Stack, Store};
use sidegate_tests::wait::eventually;

use crate::hardening::support::Connection;

/// Enough memory for all of them; memory.rs tests connections over the limit.
const ROOM: (&str, &str) = ("CONNECTION_MEMORY", "512");

/// One test at a time, because this process holds its side of the connections as well.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_block_no_client() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let stack = Stack::with(Store::Embedded, 1, &[], &[ROOM]).await;
    let access = stack.issuer.login(EMAIL).await.access;
    let request = [load::check_request(&access)];
    let verifier = &stack.verifiers[0];
    let connections = idle::connection_count();
    let mut silent = Vec::with_capacity(connections);
    for number in 0..connections {
        let mut connection = Connection::open(&verifier.tcp).await;
        // Some have sent a request, some are in the middle of a head, some have never sent a byte.
        match number % 10 {
            0 => drop(connection.get("/check").await),
            1 => assert!(connection.send(b"GET /check HTTP/1.1\r\nHost:").await),
            _ => {}
        }
        silent.push(connection);
    }
    let socket = load::run(&verifier.at, &request, 8, Duration::from_millis(500)).await;
    let tcp = load::run(&verifier.tcp, &request, 8, Duration::from_millis(500)).await;
    println!("{connections} idle: {:.0} checks/s over the socket, {:.0} over TCP", socket.per_second, tcp.per_second);
    assert!(socket.latencies_us.len() > 100 && tcp.latencies_us.len() > 100);
    // Those that had sent a request are served again: no connection was closed in favour of
    // another.
    silent[0].get("/check").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_slow_heads_time_out() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let stack = Stack::with(Store::Embedded, 0, &[ROOM], &[]).await;
    let connections = idle::connection_count();
    let mut slow = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut connection = Connection::open(&stack.issuer.at).await;
        assert!(connection.send(b"POST /auth/login HTTP/1.1\r\nHost: x\r\nX-A: ").await);
        slow.push(connection);
    }
    stack.issuer.login(EMAIL).await;
    let open = || async { std::fs::read_dir(format!("/proc/{}/fd", stack.issuer.program.pid())).unwrap().count() };
    eventually("the slow heads to be closed", || async { (open().await < 200).then_some(()) }).await;
    stack.issuer.login(EMAIL).await;
}
