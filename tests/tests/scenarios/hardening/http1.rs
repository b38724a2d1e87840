//! HTTP/1: heads and bodies that are endless, too large, or ambiguous.

use std::time::Duration;

use sidegate_hostile::{Expected, authorization};
use sidegate_tests::http::At;
use sidegate_tests::stack::{ADMIN_TOKEN, EMAIL, Stack, Store};
use tokio::task::JoinSet;

use crate::hardening::support::{Connection, answers, sites, status};

const INTROSPECT: (&str, &str) = ("INTROSPECT_TOKEN", "an-introspection-token");

async fn stack() -> Stack {
    Stack::with(Store::Embedded, 1, &[], &[INTROSPECT]).await
}

/// Sends `start`, then a byte from time to time, until the server closes.
async fn drip(at: At, name: String, start: String, byte: &'static [u8]) -> String {
    let mut connection = Connection::open(&at).await;
    connection.send(start.as_bytes()).await;
    for _ in 0..300 {
        if connection.read_for(Duration::from_millis(100)).await || !connection.send(byte).await {
            connection.read_for(Duration::from_millis(100)).await;
            return connection.text();
        }
    }
    panic!("{name}: never closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_time_out_and_idle_connections_stay() {
    let stack = stack().await;
    let mut slow = JoinSet::new();
    let mut idle = Vec::new();
    for site in sites(&stack) {
        let mut connection = Connection::open(site.at).await;
        connection.get(site.path).await;
        idle.push((site.path, connection));
        let head = format!("GET {} HTTP/1.1\r\nHost: x\r\nX-A: ", site.path);
        for (what, start, byte) in [("a head a byte at a time", head.clone(), &b"a"[..]), ("half a head", head, b"")] {
            slow.spawn(drip(site.at.clone(), format!("{}: {what}", site.name), start, byte));
        }
        let preface = "PRI * HTTP/2.0\r\n\r\nS".to_owned();
        slow.spawn(drip(site.at.clone(), format!("{}: half a preface", site.name), preface, b""));
    }
    while let Some(ended) = slow.join_next().await {
        ended.unwrap();
    }
    for (path, connection) in &mut idle {
        connection.get(path).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_time_out() {
    let stack = stack().await;
    let (issuer, verifier) = (&stack.issuer, &stack.verifiers[0]);
    let admin = format!("Authorization: Bearer {ADMIN_TOKEN}\r\n");
    let introspect = format!("Authorization: Bearer {}\r\n", INTROSPECT.1);
    let mut slow = JoinSet::new();
    for (at, path, more) in [
        (&issuer.at, "/auth/login", ""),
        (&issuer.at, "/auth/refresh", ""),
        (&issuer.at, "/auth/logout", ""),
        (&issuer.admin, "/admin/revocations", admin.as_str()),
        (&verifier.at, "/verify", ""),
        (&verifier.tcp, "/verify", ""),
        (&verifier.tcp, "/introspect", &introspect),
    ] {
        let kind = if path == "/introspect" { "application/x-www-form-urlencoded" } else { "application/json" };
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n{more}");
        for length in ["Content-Length: 9000\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1"] {
            slow.spawn(drip(
                at.clone(),
                path.to_owned(),
                format!("{head}{length}"),
                if length.contains("9000") { b"a" } else { b"" },
            ));
        }
    }
    while let Some(ended) = slow.join_next().await {
        let answer = ended.unwrap();
        assert!((400..500).contains(&status(&answer)), "{answer}");
    }
    // A check does not read the body, and does not wait for it.
    let mut check = Connection::open(&verifier.at).await;
    check.send(b"POST /check HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n").await;
    assert!(check.until_closed("a check with a body that never comes").await.starts_with("HTTP/1.1 401"));
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_requests_are_refused_before_they_are_complete() {
    let stack = stack().await;
    for site in sites(&stack) {
        let get = format!("GET {} HTTP/1.1\r\nHost: x\r\n", site.path);
        let headers: String = (0..101).map(|n| format!("X-{n}: a\r\n")).collect();
        let cases = [
            ("101 headers", format!("{get}{headers}\r\n")),
            ("a header of 100 kB", format!("{get}X-A: {}\r\n\r\n", "a".repeat(100_000))),
            ("a header without an end", format!("{get}X-A: {}", "a".repeat(400_000))),
            ("a target of 100 kB", format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000))),
        ];
        for (what, request) in cases {
            let what = format!("{}: {what}", site.name);
            let mut connection = Connection::open(site.at).await;
            connection.send_within(request.as_bytes(), Duration::from_secs(10)).await;
            let answer = connection.until_closed(&what).await;
            // The reset that follows unread bytes may overtake the response.
            assert!(answer.is_empty() || [414, 431].contains(&status(&answer)), "{what}: {answer}");
            assert!(answers(&answer) <= 1, "{what}: {answer}");
        }
        site.serves().await;
    }
    let verifier = &stack.verifiers[0];
    for (at, path) in [(&stack.issuer.at, "/auth/login"), (&verifier.at, "/verify"), (&verifier.tcp, "/verify")] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n");
        let chunks = "1000\r\n".to_owned() + &"a".repeat(4096) + "\r\n";
        for (what, request) in [
            ("one byte too long", format!("{head}Content-Length: 16385\r\n\r\n{}", "a".repeat(16_385))),
            ("ten gigabytes", format!("{head}Content-Length: 10000000000\r\n\r\n")),
            ("chunks without an end", format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", chunks.repeat(1000))),
        ] {
            let mut connection = Connection::open(at).await;
            connection.send_within(request.as_bytes(), Duration::from_secs(10)).await;
            connection.read_until(|received| received.len() > 12).await;
            let answer = connection.text();
            let refused = if path == "/verify" { [401, 413] } else { [413, 413] };
            assert!(answer.is_empty() || refused.contains(&status(&answer)), "{path}: {what}: {answer}");
            assert!(!answer.is_empty() || what.starts_with("chunks"), "{path}: {what}: no answer");
        }
    }
}

/// Requests that two servers might end at different positions. Each is followed by another request,
/// which must not be answered.
fn ambiguous(path: &str) -> Vec<(&'static str, String)> {
    let post = |lines: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{lines}\r\n{body}")
    };
    vec![
        ("two lengths", post("Content-Length: 2\r\nContent-Length: 3\r\n", "{}")),
        ("two lengths in one", post("Content-Length: 2, 3\r\n", "{}")),
        ("a length with a sign", post("Content-Length: +2\r\n", "{}")),
        ("a negative length", post("Content-Length: -2\r\n", "{}")),
        ("a length in hexadecimal", post("Content-Length: 0x2\r\n", "{}")),
        ("a length beyond 64 bits", post("Content-Length: 99999999999999999999\r\n", "{}")),
        ("an empty length", post("Content-Length: \r\n", "{}")),
        ("length and chunks", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n")),
        ("chunks and length", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "2\r\n{}\r\n0\r\n\r\n")),
        ("chunked is not last", post("Transfer-Encoding: chunked, identity\r\n", "2\r\n{}\r\n0\r\n\r\n")),
        ("an unknown encoding", post("Transfer-Encoding: xchunked\r\n", "2\r\n{}\r\n0\r\n\r\n")),
        ("chunks in HTTP/1.0", post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n").replacen("1.1", "1.0", 1)),
        (
            "a chunk's size beyond 64 bits",
            post("Transfer-Encoding: chunked\r\n", "10000000000000002\r\n{}\r\n0\r\n\r\n"),
        ),
        ("a chunk's size with a sign", post("Transfer-Encoding: chunked\r\n", "+2\r\n{}\r\n0\r\n\r\n")),
        ("a chunk's size in quotes", post("Transfer-Encoding: chunked\r\n", "\"2\"\r\n{}\r\n0\r\n\r\n")),
        ("a chunk longer than it says", post("Transfer-Encoding: chunked\r\n", "2\r\n{}{}\r\n0\r\n\r\n")),
        ("a folded header", post("X-A: b\r\n c\r\nContent-Length: 2\r\n", "{}")),
        ("a folded length", post("Content-Length:\r\n 2\r\n", "{}")),
        ("a space before the colon", post("Content-Length : 2\r\n", "{}")),
        ("a space before the first header", post("", "").replacen("Host", " Host", 1)),
        ("a bare carriage return in a value", post("X-A: b\rContent-Length: 40\r\nContent-Length: 2\r\n", "{}")),
        ("a zero byte in a value", post("X-A: b\0c\r\nContent-Length: 2\r\n", "{}")),
        ("a zero byte in a name", post("X-\0A: b\r\nContent-Length: 2\r\n", "{}")),
        ("a header without a colon", post("X-A\r\nContent-Length: 2\r\n", "{}")),
        ("a tab in the request line", post("Content-Length: 2\r\n", "{}").replacen(' ', "\t", 1)),
        ("an unknown version", post("Content-Length: 2\r\n", "{}").replacen("HTTP/1.1", "HTTP/1.7", 1)),
        ("HTTP/0.9", format!("GET {path}\r\n")),
        ("a method with a colon", post("Content-Length: 2\r\n", "{}").replacen("POST", "PO:ST", 1)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_are_refused() {
    let stack = stack().await;
    let mut tried = 0;
    for site in sites(&stack) {
        let path = match site.name {
            "the issuer" => "/auth/login",
            "the verifier's socket" | "the verifier over TCP" => "/verify",
            _ => site.path,
        };
        for (what, request) in ambiguous(path) {
            let what = format!("{}: {what}", site.name);
            let mut connection = Connection::open(site.at).await;
            let next = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", site.path);
            connection.send(format!("{request}{next}").as_bytes()).await;
            let answer = connection.until_closed(&what).await;
            assert!((400..500).contains(&status(&answer)) || status(&answer) == 505, "{what}: {answer}");
            assert_eq!(answers(&answer), 1, "{what}: the rest was read as a request\n{answer}");
            tried += 1;
        }
        site.serves().await;
    }
    println!("{tried} ambiguous requests, each answered once and closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issuer_reads_authorization_as_the_verifier_does() {
    let stack = stack().await;
    let access = stack.issuer.login(EMAIL).await.access;
    for set in authorization::sets(&access) {
        let mut request = b"GET /auth/me HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".to_vec();
        for line in &set.lines {
            request.extend_from_slice(line);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let mut connection = Connection::open(&stack.issuer.at).await;
        connection.send(&request).await;
        let answer = connection.until_closed(set.name).await;
        let right = match set.expected {
            Expected::Good => status(&answer) == 200,
            Expected::Missing => status(&answer) == 401 && answer.contains("token_missing"),
            _ => status(&answer) == 401 && answer.contains("token_invalid"),
        };
        assert!(right || (set.may_be_400 && status(&answer) == 400), "{}: {answer}", set.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_host_fields_are_400_on_every_listener() {
    let stack = stack().await;
    for site in sites(&stack) {
        let mut connection = Connection::open(site.at).await;
        let two = format!("GET {} HTTP/1.1\r\nHost: a\r\nHost: a\r\nConnection: close\r\n\r\n", site.path);
        connection.send(two.as_bytes()).await;
        let answer = connection.until_closed(site.name).await;
        assert!(status(&answer) == 400 && answer.contains("two Host fields"), "{}: {answer}", site.name);
        site.serves().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bodies_are_415() {
    let stack = stack().await;
    let (issuer, verifier) = (&stack.issuer.at, &stack.verifiers[0].at);
    for (at, path, kind) in [
        (issuer, "/auth/login", "application/json"),
        (issuer, "/auth/refresh", "application/json"),
        (issuer, "/auth/logout", "application/json"),
        (&stack.issuer.admin, "/admin/revocations", "application/json"),
        (verifier, "/verify", "text/plain"),
        (verifier, "/introspect", "application/x-www-form-urlencoded"),
    ] {
        let call = at.post(path).bearer(ADMIN_TOKEN).header("content-type", kind).header("content-encoding", "gzip");
        let reply = call.body(&b"\x1f\x8b\x08\x00"[..]).send().await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (415, "unsupported_media_type"), "{path}");
    }
}
