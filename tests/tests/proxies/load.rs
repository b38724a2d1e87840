//! Many connections to an application that answers 200 to everything, including requests that the
//! proxy sends to the verifier.
//!
//! `SIDEGATE_PROXY_REQUESTS` requests to each proxy (10,000 by default), 64 connections; half of
//! them without a token. The second half of a run adds revoked and broken tokens, and forged
//! identity headers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use sidegate_tests::daemon::{Daemon, good};
use sidegate_tests::http::At;
use sidegate_tests::proxies::{IDENTITY, Kind};
use sidegate_tests::scratch::Scratch;
use sidegate_tests::talk::Talk;

const CONNECTIONS: usize = 64;
/// Connections are renewed after this many requests: nginx closes them after 1,000.
const ROUND: u64 = 10_000;
const USERS: usize = 16;

/// A request, and whether the application may receive it.
struct Request {
    bytes: Vec<u8>,
    allowed: bool,
}

struct Requests {
    allowed: Vec<Request>,
    without_token: Vec<Request>,
    mixed: Vec<Request>,
}

impl Requests {
    fn new(daemon: &Daemon) -> Self {
        let request = |name: &str, headers: String, allowed: bool| Request {
            bytes: format!("GET /load/{name}/x HTTP/1.1\r\nHost: app\r\n{headers}\r\n").into_bytes(),
            allowed,
        };
        let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
        let spoofed: String = IDENTITY.iter().map(|name| format!("{name}: mallory\r\n")).collect();
        let (mut allowed, mut mixed) = (Vec::new(), Vec::new());
        for user in 0..USERS {
            let (name, gone) = (format!("user{user}"), format!("gone{user}"));
            let (token, revoked) = (good(&name), good(&gone));
            daemon.revoke_session(&format!("sid-of-{gone}"));
            allowed.push(request(&name, bearer(&token), true));
            mixed.push(request(&name, format!("{spoofed}{}", bearer(&token)), true));
            mixed.push(request("-", bearer(&revoked), false));
            mixed.push(request(&name, bearer(&token), true));
            mixed.push(request("-", format!("{}{spoofed}", bearer(&token[..token.len() - 4])), false));
        }
        let without_token = vec![request("-", String::new(), false), request("-", spoofed, false)];
        Self { allowed, without_token, mixed }
    }

    /// Request number `index` of a run; every second one is without a token.
    fn get(&self, index: usize, mixed: bool) -> &Request {
        let (kind, index) = match (index.is_multiple_of(2), mixed) {
            // Plain runs send no forged headers.
            (true, false) => (&self.without_token[..1], 0),
            (true, true) => (&self.without_token[..], index / 2),
            (false, false) => (&self.allowed[..], index / 2),
            (false, true) => (&self.mixed[..], index / 2),
        };
        &kind[index % kind.len()]
    }
}

pub async fn nothing_gets_through_at_64_connections(kind: Kind) {
    let wanted = std::env::var("SIDEGATE_PROXY_REQUESTS").map_or(ROUND, |text| text.parse().expect("a number"));
    let daemon = Daemon::start_in(Scratch::new(), &[("VERIFIER_SOCKET_MODE", "0666")]);
    daemon.prove();
    let started = kind.start_every_way(daemon.folder.path(), &daemon.socket).await;
    let Some((proxy, ways)) = started else { return };
    let requests = Arc::new(Requests::new(&daemon));
    let (started, mut sent, mut statuses) = (Instant::now(), 0, BTreeMap::new());
    while sent < wanted {
        let round = ROUND.min(wanted - sent) / (2 * ways.len() as u64);
        for (at, mixed) in ways.iter().flat_map(|at| [(at, false), (at, true)]) {
            for (status, count) in run(at, &requests, mixed, round).await {
                *statuses.entry(status).or_insert(0) += count;
            }
            sent += round;
        }
    }
    let per_second = sent as f64 / started.elapsed().as_secs_f64();
    let [through, misnamed, checks] = proxy.app.faults();
    println!(
        "proxies: {kind:?} {sent} requests {through} through {misnamed} misnamed {checks} checks astray, {per_second:.0}/s {statuses:?}"
    );
    assert_eq!([through, misnamed, checks], [0; 3], "{kind:?}");
    let count = |allowed, status| statuses.get(&(allowed, status)).copied().unwrap_or(0);
    // On a busy machine a check may time out, which is 503.
    let (passed, unavailable) = (count(true, 200), count(true, 503));
    let (refused, unavailable_too) = (count(false, 401), count(false, 503));
    assert_eq!(passed + unavailable + refused + unavailable_too, sent, "{kind:?}: {statuses:?}");
    assert!(passed > unavailable, "{kind:?}: {statuses:?}");
}

/// Sends `count` requests over all connections together, and counts responses by whether the
/// request was allowed, and status.
async fn run(at: &At, requests: &Arc<Requests>, mixed: bool, count: u64) -> BTreeMap<(bool, u16), u64> {
    let mut connections = tokio::task::JoinSet::new();
    for connection in 0..CONNECTIONS {
        let (at, requests) = (at.clone(), Arc::clone(requests));
        connections.spawn(async move {
            let mut statuses = BTreeMap::new();
            let mut stream = Talk::connect(&at).await;
            // Alternates requests with and without a token on each connection, and on neighbouring
            // connections at once.
            for index in (connection..count as usize).step_by(CONNECTIONS) {
                let request = requests.get(index + index / CONNECTIONS, mixed);
                let status = match stream.try_ask(&request.bytes).await {
                    Ok(status) => status,
                    Err(_) => {
                        stream = Talk::connect(&at).await;
                        stream.ask(&request.bytes).await
                    }
                };
                *statuses.entry((request.allowed, status)).or_insert(0) += 1;
            }
            statuses
        });
    }
    let mut total = BTreeMap::new();
    while let Some(statuses) = connections.join_next().await {
        for (key, count) in statuses.expect("a client succeeds") {
            *total.entry(key).or_insert(0) += count;
        }
    }
    total
}
