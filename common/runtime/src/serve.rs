//! Serves HTTP/1.0, HTTP/1.1 and h2c on one listener, with limits, and drains requests in flight on
//! a stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use sidegate_common::problem::{Code, MEDIA_TYPE, Problem};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::connection_budget::{ConnectionActivity, ConnectionBudget, FIELD_BYTES, STREAM_BYTES};
use crate::connection_io::TimedIo;
use crate::connection_timeouts::{Answering, ConnectionTimeouts, drive};
use crate::program::stopped;
use crate::request_line::RequestLines;
use crate::socket::{Accepted, Listener};

/// The peer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP client.
    Tcp(SocketAddr),
    /// A process on this host, with access by the socket's mode.
    Unix,
}

/// A listener's limits.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The memory budget, shared with other listeners of the program.
    pub budget: Arc<ConnectionBudget>,
    /// How long a client may take to send a request's head, from its first byte.
    pub head_timeout: Duration,
    /// How long a connection may stay without a request.
    pub idle_timeout: Duration,
    /// How long a client may read nothing of a response.
    pub write_timeout: Duration,
    /// Streams of one h2 connection.
    pub streams_max: u32,
    /// How long requests in flight may take after a stop.
    pub grace: Duration,
}

impl Limits {
    /// The default limits, within `budget`; `grace` is for requests in flight after a stop.
    pub const fn new(budget: Arc<ConnectionBudget>, grace: Duration) -> Self {
        Self {
            budget,
            head_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(10),
            streams_max: 100,
            grace,
        }
    }
}

/// The limit of a request's head in HTTP/1, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const H2_HEAD_BYTES_MAX: u32 = 16 * 1024;
/// How much an h2 client may send unread per stream and per connection: bodies are small.
const H2_WINDOW: u32 = 65_535;
/// How much of a stream's response is buffered until the client reads.
const H2_SEND_BYTES_MAX: usize = 16 * 1024;
/// The `Retry-After`, in seconds, of a request rejected for lack of memory.
const RETRY_SECONDS: &str = "1";
/// Accepting can fail for lack of file descriptors: wait a little instead of spinning.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// After a stop, open connections are served this much longer, and every response asks them to
/// close: closing them at once would lose requests in transit.
const LINGER: Duration = Duration::from_millis(250);
const LINGER_LOOK: Duration = Duration::from_millis(5);

/// Serves `listener` until `stop`, then drains: no new connection is accepted, and open ones get
/// their responses and are closed. `service_for` makes the service of one connection.
pub async fn serve<M, S, B>(listener: Listener, limits: Limits, mut stop: watch::Receiver<bool>, service_for: M)
where
    M: Fn(Peer) -> S,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Each connection has a receiver: a message makes it finish; when all are gone the drain is
    // done.
    let (drain, draining) = watch::channel(());
    let mut accepts = AcceptState::default();
    let closing = Arc::new(AtomicBool::new(false));
    let begin = |(io, peer): (Io, Peer), activity: Arc<ConnectionActivity>| {
        let service = ClosingService { service: service_for(peer), closing: Arc::clone(&closing) };
        match io {
            Io::Tcp(stream) => {
                let io = TimedIo::new(RequestLines::new(stream), Arc::clone(&activity));
                spawn(io, service, &limits, draining.clone(), activity);
            }
            Io::Unix(stream) => {
                let io = TimedIo::new(RequestLines::new(stream), Arc::clone(&activity)).over_unix();
                spawn(io, service, &limits, draining.clone(), activity);
            }
        }
    };
    let address = listener.describe();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok(accepted) => {
                accepts.succeeded(&address);
                tokio::select! {
                    activity = limits.budget.admit() => begin(accepted, activity),
                    () = stopped(&mut stop) => {
                        begin(accepted, limits.budget.admit_without_room());
                        break;
                    }
                }
            }
            // The client has closed meanwhile, which is not an error.
            Err(error) if is_of_client(&error) => {}
            Err(error) => {
                accepts.failed(&address, &error);
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    closing.store(true, Ordering::Relaxed);
    let end = tokio::time::Instant::now() + limits.grace;
    listener.close(|accepted| match wrap(accepted) {
        Ok(accepted) => begin(accepted, limits.budget.admit_without_room()),
        Err(error) => tracing::warn!(%error, "pending connection lost"),
    });
    drop(draining);
    let all_gone = async {
        while drain.receiver_count() > 0 {
            tokio::time::sleep(LINGER_LOOK).await;
        }
    };
    let _some_stay = tokio::time::timeout(LINGER.min(limits.grace), all_gone).await;
    let _no_connection_is_open = drain.send(());
    if tokio::time::timeout_at(end, drain.closed()).await.is_err() {
        tracing::warn!(address, "requests were still in flight at the end of the grace period");
    }
}

/// Whether accepting works, so that a line is logged on a change only.
#[derive(Default)]
struct AcceptState {
    failures: u64,
}

impl AcceptState {
    fn failed(&mut self, address: &str, error: &std::io::Error) {
        self.failures += 1;
        if self.failures == 1 {
            tracing::warn!(%error, address, "accept failed; trying again until it succeeds");
        }
    }

    fn succeeded(&mut self, address: &str) {
        if self.failures > 0 {
            tracing::info!(address, failures = self.failures, "accepting again");
            self.failures = 0;
        }
    }
}

fn is_of_client(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput};
    // InvalidInput: setting an option on a connection that is already closed.
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput)
}

/// A service that asks HTTP/1 clients to close once the server is stopping. (h2 has GOAWAY for
/// that.)
struct ClosingService<S> {
    service: S,
    closing: Arc<AtomicBool>,
}

/// Changes a response; usually the identity.
type Finish<R, E> = fn(Result<R, E>) -> Result<R, E>;

impl<S, B> Service<Request<Incoming>> for ClosingService<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = futures_util::future::Map<S::Future, Finish<S::Response, S::Error>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let parting = self.closing.load(Ordering::Relaxed) && request.version() <= Version::HTTP_11;
        let finish: Finish<S::Response, S::Error> = if parting { add_connection_close } else { std::convert::identity };
        self.service.call(request).map(finish)
    }
}

fn add_connection_close<B, E>(answer: Result<Response<B>, E>) -> Result<Response<B>, E> {
    answer.map(|mut response| {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    })
}

enum Io {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

async fn accept(listener: &Listener) -> std::io::Result<(Io, Peer)> {
    match listener {
        Listener::Tcp(listener, _) => {
            let (stream, address) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Io::Tcp(stream), Peer::Tcp(address)))
        }
        Listener::Unix(listener, _) => Ok((Io::Unix(listener.accept().await?.0), Peer::Unix)),
    }
}

fn wrap(accepted: Accepted) -> std::io::Result<(Io, Peer)> {
    match accepted {
        Accepted::Tcp(stream, address) => {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            Ok((Io::Tcp(tokio::net::TcpStream::from_std(stream)?), Peer::Tcp(address)))
        }
        Accepted::Unix(stream) => {
            stream.set_nonblocking(true)?;
            Ok((Io::Unix(tokio::net::UnixStream::from_std(stream)?), Peer::Unix))
        }
    }
}

fn spawn<I, S, B>(
    stream: TimedIo<I>,
    service: S,
    limits: &Limits,
    draining: watch::Receiver<()>,
    activity: Arc<ConnectionActivity>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Responses are small: one copied write is cheaper than a vectored one.
    // Not max_headers: hyper's default limit is 100, and setting it makes hyper allocate for every
    // request.
    builder.http1().header_read_timeout(None).writev(false).max_buf_size(HEAD_BYTES_MAX).half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(H2_HEAD_BYTES_MAX)
        .initial_stream_window_size(H2_WINDOW)
        .initial_connection_window_size(H2_WINDOW)
        .max_send_buf_size(H2_SEND_BYTES_MAX)
        .max_pending_accept_reset_streams(Some(20))
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    let stream = TokioIo::new(stream);
    let timeouts =
        ConnectionTimeouts { head: limits.head_timeout, idle: limits.idle_timeout, write: limits.write_timeout };
    tokio::spawn(async move {
        let requests = Arc::clone(&activity);
        let service = service_fn(move |request| {
            // A rejected request is dropped at once, with its charge.
            let asked = match refusal(&request) {
                Some(problem) => Err(problem),
                None => requests
                    .request(bytes_held(&request))
                    .map(|open| (open, service.call(request)))
                    .ok_or_else(|| Problem::new(Code::TemporarilyUnavailable)),
            };
            async move {
                match asked {
                    Ok((open, answer)) => Ok::<_, S::Error>(answer.await?.map(|body| Answering::new(body, open))),
                    Err(problem) => Ok(refused(&problem)),
                }
            }
        });
        let connection = builder.serve_connection(stream, service).into_owned();
        if let Err(error) = drive(connection, activity, timeouts, draining).await {
            tracing::debug!(%error, "connection ended");
        }
    });
}

/// The charge of a request beside its connection's buffers, in bytes: HTTP/1 heads are in the
/// buffers.
fn bytes_held(request: &Request<Incoming>) -> usize {
    if request.version() != Version::HTTP_2 {
        return 0;
    }
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES);
    STREAM_BYTES + fields.sum::<usize>()
}

/// Why a request is rejected on every listener: two servers may read two `Host` fields differently
/// (RFC 9112 §3.2).
fn refusal(request: &Request<Incoming>) -> Option<Problem> {
    let hosts = request.headers().get_all(HOST).iter().take(2).count();
    (hosts > 1).then(|| Problem::with_detail(Code::InvalidRequest, "two Host fields"))
}

/// A response without a call of the service.
fn refused<B>(problem: &Problem) -> Response<Answering<B>> {
    let mut response = Response::new(Answering::Refused(Some(Bytes::from(problem.to_json()))));
    *response.status_mut() = StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    if problem.code == Code::TemporarilyUnavailable {
        headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// True if a body is compressed or otherwise encoded, which is not supported: 415 (RFC 9110
/// §15.5.16).
pub fn is_encoded(headers: &HeaderMap) -> bool {
    let encodings = headers.get_all(CONTENT_ENCODING);
    encodings.iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Why a request's body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Longer than the limit.
    #[error("body too large")]
    TooLarge,
    /// Not sent in time, or the connection broke.
    #[error("body not received")]
    NotReceived,
}

/// Reads a whole body of at most `bytes_max`, within `timeout`.
///
/// # Errors
/// The body is too long, or does not arrive.
pub async fn read_body<B>(body: B, bytes_max: usize, timeout: Duration) -> Result<bytes::Bytes, BodyError>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(BodyError::TooLarge);
    }
    let limited = http_body_util::Limited::new(body, bytes_max);
    match tokio::time::timeout(timeout, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(BodyError::TooLarge),
        Ok(Err(_)) | Err(_) => Err(BodyError::NotReceived),
    }
}
