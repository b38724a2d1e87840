//! Tests of the timeouts over in-memory connections.

use std::convert::Infallible;
use std::sync::Weak;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::connection_budget::ConnectionBudget;
use crate::connection_io::{PREFACE, TimedIo};

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(600);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const SHORT_HEAD: ConnectionTimeouts = ConnectionTimeouts { head: SHORT, idle: LONG, write: LONG };
const SHORT_IDLE: ConnectionTimeouts = ConnectionTimeouts { head: LONG, idle: SHORT, write: LONG };
const SHORT_WRITE: ConnectionTimeouts = ConnectionTimeouts { head: LONG, idle: LONG, write: SHORT };

/// A client's end of a served connection, with `work` and so many response bytes for each
/// request; its activity; and the sender that stops it when dropped.
async fn serve(
    timeouts: ConnectionTimeouts,
    work: Duration,
    bytes: usize,
) -> (DuplexStream, Weak<ConnectionActivity>, watch::Sender<()>) {
    let (client, server) = duplex(4096);
    let activity = ConnectionBudget::admin().admit().await;
    let known = Arc::downgrade(&activity);
    let (going_on, stop) = watch::channel(());
    let received = TimedIo::new(server, Arc::clone(&activity));
    tokio::spawn(async move {
        let watched = Arc::clone(&activity);
        let service = service_fn(move |_| {
            let open = watched.request(0).expect("no memory is asked for");
            async move {
                tokio::time::sleep(work).await;
                let body = Full::new(Bytes::from(vec![b'x'; bytes]));
                Ok::<_, Infallible>(http::Response::new(Answering::new(body, open)))
            }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection(TokioIo::new(received), service).into_owned();
        drive(connection, activity, timeouts, stop).await
    });
    (client, known, going_on)
}

/// The connection ends, and its charges with it, though its client neither reads nor closes.
async fn ends(client: DuplexStream, activity: &Weak<ConnectionActivity>) {
    let gone = async {
        while activity.strong_count() > 0 {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it ends");
    drop(client);
}

#[tokio::test]
async fn client_that_never_reads_is_closed() {
    let (mut client, activity, _going_on) = serve(SHORT_WRITE, Duration::ZERO, 64 * 1024).await;
    client.write_all(REQUEST).await.unwrap();
    ends(client, &activity).await;
}

#[tokio::test]
async fn h2_client_that_opens_no_window_is_closed() {
    let (mut client, activity, _going_on) = serve(SHORT_WRITE, Duration::ZERO, 1024).await;
    // SETTINGS_INITIAL_WINDOW_SIZE 0, and GET / on stream 1. The frames are read, so only the
    // window blocks the response.
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    let request = [0, 0, 3, 1, 5, 0, 0, 0, 1, 0x82, 0x84, 0x86];
    client.write_all(&[&PREFACE[..], &settings, &request].concat()).await.unwrap();
    let mut out = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), client.read_to_end(&mut out)).await.expect("it ends").unwrap();
    ends(client, &activity).await;
}

#[tokio::test]
async fn slow_reader_is_kept() {
    let (mut client, _stage, _going_on) = serve(SHORT_WRITE, Duration::ZERO, 64 * 1024).await;
    client.write_all(REQUEST).await.unwrap();
    let mut part = [0; 4096];
    let mut received = 0;
    while received < 64 * 1024 {
        tokio::time::sleep(SHORT / 10).await;
        received += client.read(&mut part).await.unwrap();
    }
}

#[tokio::test]
async fn connection_closes_when_asked() {
    for (said, busy) in [(&b""[..], false), (b"GET /", false), (REQUEST, false), (PREFACE, false), (REQUEST, true)] {
        let work = if busy { LONG } else { Duration::ZERO };
        let (mut client, activity, _going_on) =
            serve(ConnectionTimeouts { head: LONG, idle: LONG, write: LONG }, work, 0).await;
        client.write_all(said).await.unwrap();
        tokio::time::sleep(SHORT).await;
        let watched = activity.upgrade().expect("it is served");
        assert_eq!(watched.is_idle(), !busy, "{said:?}");
        if busy {
            watched.close()
        } else {
            watched.close_if_idle()
        }
        drop(watched);
        ends(client, &activity).await;
    }
}

/// What the server sends, and whether it closes the connection, if the client sends `said`
/// piece by piece and then nothing, without closing. Each request takes `work`.
async fn after(said: &[&[u8]], timeouts: ConnectionTimeouts, work: Duration) -> (Vec<u8>, bool) {
    let (mut client, _, _going_on) = serve(timeouts, work, 0).await;
    let mut out = Vec::new();
    for piece in said {
        client.write_all(piece).await.unwrap();
        tokio::time::sleep(SHORT / 10).await;
    }
    let ended = tokio::time::timeout(SHORT * 20, client.read_to_end(&mut out)).await.is_ok();
    (out, ended)
}

#[tokio::test]
async fn head_timeout_covers_only_heads() {
    for said in [&b"P"[..], b"PRI * HTTP/2.0\r\n", &PREFACE[..23], b"G", b"GET / HTTP/1.1\r\nhost: x\r\nx: y"] {
        assert!(after(&[said], SHORT_HEAD, Duration::ZERO).await.1, "{said:?}");
    }
    let (out, ended) = after(&[REQUEST, b"GET /"], SHORT_HEAD, Duration::ZERO).await;
    assert!(out.starts_with(b"HTTP/1.1 200") && ended, "the second head counts too");
    assert!(!after(&[], SHORT_HEAD, Duration::ZERO).await.1);
    let (out, ended) = after(&[b"GET /", b" HTTP/1.1\r\n", b"host: x\r\n\r\n"], SHORT_HEAD, Duration::ZERO).await;
    assert!(out.starts_with(b"HTTP/1.1 200") && !ended, "in time: the connection is kept");
}

#[tokio::test]
async fn idle_connection_is_closed() {
    for said in [&[][..], &[REQUEST], &[REQUEST, REQUEST]] {
        assert!(after(said, SHORT_IDLE, Duration::ZERO).await.1, "{said:?}");
    }
    assert!(!after(&[b"GET /"], SHORT_IDLE, Duration::ZERO).await.1, "a head has its own timeout");
}

#[tokio::test]
async fn response_may_take_longer_than_the_timeouts() {
    let both = ConnectionTimeouts { head: SHORT, idle: SHORT, write: LONG };
    let (out, ended) = after(&[REQUEST, REQUEST], both, SHORT * 4).await;
    assert_eq!(out.windows(15).filter(|window| window == b"HTTP/1.1 200 OK").count(), 2);
    assert!(ended);
}

#[tokio::test]
async fn h2_client_gets_goaway_before_the_close() {
    // The client's settings; then the server's, a GOAWAY (frame type 7) and the end.
    let (out, ended) = after(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]], SHORT_IDLE, Duration::ZERO).await;
    let mut rest = out.as_slice();
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = *rest {
        kinds.push(kind);
        rest = rest.get(9 + usize::from(c) + (usize::from(b) << 8) + (usize::from(a) << 16)..).unwrap_or_default();
    }
    assert!(kinds.contains(&7), "{kinds:?}");
    assert!(!ended, "the client may still finish its requests");
}

#[tokio::test]
async fn h2_client_that_ignores_goaway_is_closed() {
    let both = ConnectionTimeouts { head: SHORT, idle: SHORT, write: LONG };
    assert!(after(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]], both, Duration::ZERO).await.1);
}
