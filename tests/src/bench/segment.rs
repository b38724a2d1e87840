//! The segment: bytes per entry, readers beside a busy writer; and the client: a token's first
//! check, and the delay of a logout.

use std::time::Instant;

use sidegate_client::Sidegate;

use super::load::{Stream, check_request};
use super::many_clients::{LoadedVerifier, token};
use super::row::{Goal, Row, quantile};
use crate::client::{connect, until_kept};
use crate::stack::{Stack, Store};

const PAIRS: usize = 9;
const BATCHES: usize = 2000;
const LOGOUTS: usize = 60;

pub async fn rows() -> Vec<Row> {
    let mut rows = beside_a_writer().await;
    rows.extend(first_sight().await);
    rows.extend(logout().await);
    rows
}

/// Readers' figures while 10,000 entries per second are added, and the bytes per entry at 10 M.
async fn beside_a_writer() -> Vec<Row> {
    let mut loaded = LoadedVerifier::start().await;
    loaded.revoke(1_000_000).await;
    let mut known = Some(loaded.known(10_000).await);
    let name = "10,000 tokens, 10,000 revoked a s";
    let mut median = Row::new(format!("{name}, median"), "ns", "without the writer", Goal::AtMost(1.5));
    let mut p99 = Row::new(format!("{name}, p99"), "ns", "without the writer", Goal::None);
    for _ in 0..PAIRS {
        let mut pair = Vec::new();
        for busy in [true, false] {
            let busy = busy.then(|| loaded.busy(10_000));
            let mut taken = known.take().expect("put back");
            let measure = move || (taken.checks(BATCHES), taken);
            let (times, back) = tokio::task::spawn_blocking(measure).await.expect("measured");
            known = Some(back);
            pair.push(times);
            drop(busy);
        }
        median.pair(pair[0].median, pair[1].median);
        p99.pair(pair[0].p99, pair[1].p99);
    }
    drop(known);
    loaded.revoke(10_000_000).await;
    let stats = loaded.stats();
    let mut size = Row::new("segment, each of 10 M revoked", "B", "goal of 16 B", Goal::AtMost(1.0));
    size.pair(stats.bytes as f64 / stats.entries as f64, 16.0);
    vec![median, p99, size]
}

/// A token that is new to this process, compared with `/check` of the same daemon by a bare client
/// with a kept connection.
async fn first_sight() -> Vec<Row> {
    let loaded = LoadedVerifier::start().await;
    let builder = Sidegate::builder().socket(&loaded.daemon.socket).attach_socket(&loaded.attach);
    let sidegate = builder.connect();
    let at = loaded.daemon.at.clone();
    let mut row = Row::new("first sight, p50", "us", "/check by a bare client", Goal::AtMost(1.3));
    let ours = |first: u64| {
        let sidegate = sidegate.clone();
        let tokens: Vec<String> = (first..first + 300).map(|n| token(n).1).collect();
        tokio::task::spawn_blocking(move || median_us(tokens.iter(), |token| assert!(sidegate.check(token).is_ok())))
    };
    let theirs = |first: u64| {
        let at = at.clone();
        let requests: Vec<Vec<u8>> = (first..first + 300).map(|n| check_request(&token(n).1)).collect();
        tokio::task::spawn_blocking(move || {
            let mut client = Bare::connect(&at);
            median_us(requests.iter(), |request| assert_eq!(client.ask(request), 200))
        })
    };
    for pair in 0..PAIRS as u64 {
        let ours = ours(pair * 1000).await.expect("measured");
        row.pair(ours, theirs(pair * 1000 + 500).await.expect("measured"));
    }
    vec![row]
}

fn median_us<T>(all: impl Iterator<Item = T>, mut call: impl FnMut(T)) -> f64 {
    let mut times: Vec<f64> = all
        .map(|each| {
            let begin = Instant::now();
            call(each);
            begin.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    quantile(&mut times, 0.5)
}

/// The minimum that a blocking client can do: write the request, read until the response head is
/// complete (`/check` has no body).
struct Bare {
    stream: std::os::unix::net::UnixStream,
    buffer: Vec<u8>,
}

impl Bare {
    fn connect(at: &crate::http::At) -> Self {
        let crate::http::At::Unix(path) = at else { panic!("not a Unix socket") };
        Self { stream: std::os::unix::net::UnixStream::connect(path).expect("connects"), buffer: vec![0; 8192] }
    }

    fn ask(&mut self, request: &[u8]) -> u16 {
        use std::io::{Read as _, Write as _};
        self.stream.write_all(request).expect("sent");
        let mut filled = 0;
        loop {
            let length = self.stream.read(&mut self.buffer[filled..]).expect("received");
            assert!(length > 0, "the server closed the connection");
            filled += length;
            if self.buffer[..filled].ends_with(b"\r\n\r\n") {
                let digits = std::str::from_utf8(&self.buffer[9..12]).expect("a status line");
                return digits.parse().expect("a status");
            }
        }
    }
}

/// From the 204 of a logout to the first denied check, in process and over HTTP. Each logout is of
/// another user: after seventeen logouts of one user every check goes to the daemon.
async fn logout() -> Vec<Row> {
    let quiet = [("RUST_LOG", "warn")];
    let stack = Stack::with(Store::Redis, 1, &quiet, &quiet).await;
    let users: Vec<String> = (0..PAIRS * LOGOUTS).map(|n| format!("user-{n}@example.org")).collect();
    stack.add_users(&users).await;
    let mut users = users.iter();
    let verifier = &stack.verifiers[0];
    let sidegate = connect(verifier);
    let row = |what| Row::new(format!("logout to denied in process, {what}"), "us", "over HTTP", Goal::None);
    let (mut p50, mut p99) = (row("p50"), row("p99"));
    for _ in 0..PAIRS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for turn in 0..LOGOUTS {
            let access = stack.issuer.login(users.next().expect("a user")).await.access;
            let mut prober = Stream::connect(&verifier.at).await;
            let request = check_request(&access);
            assert_eq!(prober.ask(&request).await, 200);
            let (client, token) = (sidegate.clone(), access.clone());
            tokio::task::spawn_blocking(move || until_kept(&client, &token)).await.expect("kept");
            assert_eq!(stack.issuer.logout(&access).await.status, 204);
            let acknowledged = Instant::now();
            if turn % 2 == 0 {
                while sidegate.try_cached(&access).is_some() {}
                ours.push(acknowledged.elapsed().as_secs_f64() * 1e6);
            } else {
                while prober.ask(&request).await == 200 {}
                theirs.push(acknowledged.elapsed().as_secs_f64() * 1e6);
            }
        }
        p50.pair(quantile(&mut ours, 0.5), quantile(&mut theirs, 0.5));
        p99.pair(quantile(&mut ours, 0.99), quantile(&mut theirs, 0.99));
    }
    vec![p50, p99]
}
