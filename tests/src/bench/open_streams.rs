//! Responses without end through a proxy: the application that gives them, and a client that holds
//! many.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};

const PER_CONNECTION: usize = 100;
/// A stream that is still open so long after its token's revocation is never cut.
const WAIT_MAX: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// One event, then silence.
struct Events {
    begun: bool,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.begun {
            return Poll::Pending;
        }
        self.begun = true;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: 1\n\n")))))
    }
}

/// Starts an application that answers every request with a stream of events, on a thread of its
/// own.
pub fn start_app() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("for tokio");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(serve(listener));
    });
    address
}

async fn serve(listener: std::net::TcpListener) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    while let Ok((stream, _)) = listener.accept().await {
        let _slower_without = stream.set_nodelay(true);
        tokio::spawn(async move {
            let service = service_fn(async |_: http::Request<Incoming>| {
                let response = http::Response::builder().header("content-type", "text/event-stream");
                Ok::<_, Infallible>(response.body(Events { begun: false }).expect("a response"))
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http2().max_concurrent_streams(None);
            let _proxy_gone = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// One open stream.
#[derive(Clone, Debug, Default)]
pub struct OpenStream(Arc<OnceLock<Instant>>);

impl OpenStream {
    pub fn has_ended(&self) -> bool {
        self.0.get().is_some()
    }
}

/// Opens `count` streams over HTTP/2, number N with token N modulo the number of tokens. Returns
/// once each has had its first event.
pub async fn open(at: SocketAddr, tokens: &[String], count: usize) -> Vec<OpenStream> {
    let numbers: Vec<usize> = (0..count).collect();
    let connections: Vec<_> = numbers
        .chunks(PER_CONNECTION)
        .map(|numbers| {
            let tokens: Vec<String> = numbers.iter().map(|number| tokens[number % tokens.len()].clone()).collect();
            tokio::spawn(connection(at, tokens))
        })
        .collect();
    let mut streams = Vec::with_capacity(count);
    for connection in connections {
        streams.extend(connection.await.expect("the streams are opened"));
    }
    streams
}

async fn connection(at: SocketAddr, tokens: Vec<String>) -> Vec<OpenStream> {
    let tcp = TcpStream::connect(at).await.expect("connects");
    tcp.set_nodelay(true).expect("nodelay");
    let (mut sender, driver) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.expect("an HTTP/2 connection");
    tokio::spawn(driver);
    let mut streams = Vec::new();
    for token in tokens {
        let request = http::Request::get(format!("http://{at}/events"))
            .header("authorization", format!("Bearer {token}"))
            .body(Empty::<Bytes>::new())
            .expect("a request");
        let response = sender.send_request(request).await.expect("a response");
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let first = body.frame().await;
        assert!(first.is_some_and(|frame| frame.is_ok()), "the first event");
        let stream = OpenStream::default();
        streams.push(stream.clone());
        let held = sender.clone();
        tokio::spawn(async move {
            while let Some(Ok(_)) = body.frame().await {}
            let _only_once = stream.0.set(Instant::now());
            drop(held);
        });
    }
    streams
}

/// Waits for these streams to end. Milliseconds from `since`, in order; infinite for a stream that
/// does not end.
pub async fn ends(streams: &[OpenStream], since: Instant) -> Vec<f64> {
    while since.elapsed() < WAIT_MAX && !streams.iter().all(OpenStream::has_ended) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let end = |stream: &OpenStream| match stream.0.get() {
        Some(end) => end.saturating_duration_since(since).as_secs_f64() * 1e3,
        None => f64::INFINITY,
    };
    let mut all: Vec<f64> = streams.iter().map(end).collect();
    all.sort_by(f64::total_cmp);
    all
}
