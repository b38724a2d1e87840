//! HTTP/2 with hand-made frames (RFC 9113): floods, resets, endless lists. The server closes, or
//! stays within its limits.

use std::time::Duration;

use sidegate_tests::bench::memory::rss_mb;
use sidegate_tests::hostile_clients::{PREFACE, frame};
use sidegate_tests::stack::{Stack, Store};
use sidegate_tests::wait::WAIT_LIMIT;

use crate::hardening::support::{Connection, Site, sites};

/// Frame types (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// How long to read from a server that may keep the connection.
const BRIEF: Duration = Duration::from_millis(500);
/// Limit of the memory cost of a flood, in MB: far below the bytes sent.
const MEMORY_MB: f64 = 48.0;

/// HPACK: `GET` or `POST` of a path at `x`, with the path uncompressed (RFC 7541 §6.2.2, appendix
/// A).
fn request(post: bool, path: &str) -> Vec<u8> {
    let method = if post { 0x83 } else { 0x82 };
    let length = u8::try_from(path.len()).unwrap();
    [&[method, 0x86, 0x01, 1, b'x', 0x04, length], path.as_bytes()].concat()
}

/// The stream numbers that a client may use, in order.
fn streams() -> impl Iterator<Item = u32> {
    (0..).map(|n| 2 * n + 1)
}

async fn open(site: &Site<'_>) -> Connection {
    let mut connection = Connection::open(site.at).await;
    connection.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
    connection
}

/// The frames that the server sent: kind, flags, stream, payload.
fn frames(bytes: &[u8]) -> Vec<(u8, u8, u32, &[u8])> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some((head, after)) = rest.split_first_chunk::<9>() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some((payload, after)) = after.split_at_checked(length) else { break };
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        found.push((head[3], head[4], stream, payload));
        rest = after;
    }
    found
}

/// The error code of a GOAWAY, if there is one.
fn goaway(bytes: &[u8]) -> Option<u32> {
    let (.., payload) = frames(bytes).into_iter().find(|(kind, ..)| *kind == GOAWAY)?;
    payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().unwrap()))
}

/// Sends `flood` repeatedly without reading, then reads until `silence` has passed; true if the
/// server closes.
async fn pour(connection: &mut Connection, flood: &[u8], times: usize, silence: Duration) -> bool {
    for _ in 0..times {
        if !connection.send_within(flood, Duration::from_secs(2)).await {
            break;
        }
    }
    connection.read_for(silence).await
}

/// Floods `site`; its program's memory must not grow, and other clients must be served meanwhile.
/// True if the server closes.
async fn withstands(site: &Site<'_>, what: &str, start: &[u8], flood: &[u8], times: usize, silence: Duration) -> bool {
    let before = rss_mb(site.program.pid());
    let mut connection = open(site).await;
    connection.send(start).await;
    let mut flooding = Box::pin(pour(&mut connection, flood, times, silence));
    let closed = loop {
        tokio::select! {
            closed = &mut flooding => break closed,
            () = site.serves() => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    drop(flooding);
    let grown = rss_mb(site.program.pid()) - before;
    assert!(grown < MEMORY_MB, "{}: {what}: {grown:.0} MB more", site.name);
    site.serves().await;
    closed
}

async fn stack() -> Stack {
    Stack::start(Store::Embedded, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_neither_grow_memory_nor_block_others() {
    let stack = stack().await;
    for site in sites(&stack) {
        // Unread responses: the server must stop reading before it runs out of memory.
        let pings = frame(PING, 0, 0, &[7; 8]).repeat(1000);
        withstands(&site, "PING flood", b"", &pings, 1000, BRIEF).await;
        let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(1000);
        withstands(&site, "SETTINGS flood", b"", &settings, 1000, BRIEF).await;
        let open = frame(HEADERS, END_HEADERS, 1, &request(true, "/verify"));
        let empty = frame(DATA, 0, 1, &[]).repeat(1000);
        withstands(&site, "empty DATA flood", &open, &empty, 1000, BRIEF).await;
        let unknown = frame(0x77, 0, 0, &[0; 64]).repeat(1000);
        withstands(&site, "flood of unknown frames", b"", &unknown, 200, BRIEF).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_end_the_connection() {
    let stack = stack().await;
    for site in sites(&stack) {
        let block = request(false, site.path);
        let pair = |stream| {
            let headers = frame(HEADERS, END_STREAM | END_HEADERS, stream, &block);
            [headers, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
        };
        let flood: Vec<u8> = streams().take(20_000).flat_map(pair).collect();
        assert!(
            withstands(&site, "rapid reset", b"", &flood, 1, WAIT_LIMIT).await,
            "{}: the connection is kept",
            site.name
        );
        // Makes the server itself reset each stream, with a window update of zero.
        let block = request(true, "/verify");
        let pair = |stream| {
            let headers = frame(HEADERS, END_HEADERS, stream, &block);
            [headers, frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
        };
        let flood: Vec<u8> = streams().take(20_000).flat_map(pair).collect();
        assert!(
            withstands(&site, "made to reset", b"", &flood, 1, WAIT_LIMIT).await,
            "{}: the connection is kept",
            site.name
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_header_lists_are_refused() {
    let stack = stack().await;
    for site in sites(&stack) {
        let start = frame(HEADERS, END_STREAM, 1, &request(false, site.path));
        let more = frame(CONTINUATION, 0, 1, &[&[0x00, 1, b'a', 0x7f, 0xf1, 0x1e], &[b'a'; 4080][..]].concat());
        assert!(
            withstands(&site, "CONTINUATION flood", &start, &more, 20_000, WAIT_LIMIT).await,
            "{}: kept",
            site.name
        );
        let empty = frame(CONTINUATION, 0, 1, &[]).repeat(1000);
        assert!(
            withstands(&site, "empty CONTINUATION flood", &start, &empty, 1000, WAIT_LIMIT).await,
            "{}: kept",
            site.name
        );
        // One entry of 4,000 bytes in the connection's table, referenced 16,000 times: 64 MB in one
        // frame.
        let entry = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'a'; 4000]].concat();
        let bomb = [request(false, site.path), entry, vec![0xbe; 12_000]].concat();
        let mut connection = open(&site).await;
        connection.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb)).await;
        let ended = |received: &[u8]| {
            let ends =
                |(kind, _, stream, _): &(u8, u8, u32, &[u8])| *stream == 1 && [HEADERS, RST_STREAM].contains(kind);
            frames(received).iter().any(ends) || goaway(received).is_some()
        };
        connection.read_until(ended).await;
        let got = frames(&connection.received);
        assert!(ended(&connection.received), "{}: {got:?}", site.name);
        // 431 is not in HPACK's static table, so its digits are in the block.
        if let Some((.., block)) = got.iter().find(|(kind, _, stream, _)| *stream == 1 && *kind == HEADERS) {
            assert!(!block.contains(&0x88), "{}: 200 after a bomb", site.name);
        }
        site.serves().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_over_the_limit_are_refused() {
    let stack = stack().await;
    let site = sites(&stack).into_iter().nth(2).unwrap();
    let mut connection = open(&site).await;
    // Endless bodies hold their streams; more than the announced number are refused.
    let block = request(true, "/verify");
    for stream in streams().take(300) {
        connection.send(&frame(HEADERS, END_HEADERS, stream, &block)).await;
    }
    let refused = |received: &[u8]| frames(received).iter().filter(|(kind, ..)| *kind == RST_STREAM).count();
    connection.read_until(|received| refused(received) >= 100 || goaway(received).is_some()).await;
    let got = frames(&connection.received);
    let announced = got.iter().find(|(kind, flags, ..)| *kind == SETTINGS && *flags == 0).unwrap().3;
    let most = announced
        .chunks(6)
        .find(|entry| entry[..2] == [0, 3])
        .map(|entry| u32::from_be_bytes(entry[2..].try_into().unwrap()));
    assert_eq!(most, Some(100));
    let refused = refused(&connection.received);
    assert!(refused >= 100 || goaway(&connection.received).is_some(), "{refused} refused");
    site.serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_frames_end_the_connection() {
    let stack = stack().await;
    for site in sites(&stack) {
        let headers = frame(HEADERS, END_STREAM | END_HEADERS, 1, &request(false, site.path));
        for (what, bytes) in [
            ("a frame beyond the announced size", frame(DATA, 0, 1, &[0; 20_000])),
            ("a stream of the server's", frame(HEADERS, END_STREAM | END_HEADERS, 2, &request(false, site.path))),
            ("DATA on a stream that was never opened", frame(DATA, 0, 5, b"x")),
            ("CONTINUATION out of nowhere", frame(CONTINUATION, END_HEADERS, 1, &[])),
            ("HEADERS in the middle of HEADERS", [frame(HEADERS, 0, 1, &[0x82]), headers.clone()].concat()),
            ("SETTINGS of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
            ("PING of seven bytes", frame(PING, 0, 0, &[0; 7])),
            ("a window of no growth", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
            ("a window beyond 31 bits", frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
            ("HPACK that names no entry", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0xff, 0xff, 0x0f])),
            ("RST_STREAM of an idle stream", frame(RST_STREAM, 0, 9, &[0; 4])),
        ] {
            let mut connection = open(&site).await;
            connection.send(&bytes).await;
            connection.until_closed(what).await;
            let code = goaway(&connection.received);
            assert!(code.is_some_and(|code| code != 0), "{}: {what}: {code:?}", site.name);
        }
        site.serves().await;
    }
}
