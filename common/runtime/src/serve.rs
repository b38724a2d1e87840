//! HTTP/1.0, HTTP/1.1 and h2c on one listener, with limits on everything and a drain that finishes what is in flight.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use http::header::{CONNECTION, HeaderValue};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::patience::{Answering, Heard, Patience, Stage, attend};
use crate::program::stopped;
use crate::request_line::RequestLines;
use crate::socket::{Accepted, Listener};

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP client.
    Tcp(SocketAddr),
    /// A process on this host, let in by the socket's mode.
    Unix,
}

/// What a listener allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once; more wait in the kernel's queue.
    pub connections_max: usize,
    /// How long a client may take to send a request's head, from its first byte on.
    pub head_timeout: Duration,
    /// How long a connection may stay without a request.
    pub idle_timeout: Duration,
    /// Streams of one h2 connection.
    pub streams_max: u32,
    /// How long requests in flight may take once a stop is asked for.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            head_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            streams_max: 200,
            grace: Duration::from_secs(10),
        }
    }
}

/// Room for one request's head in HTTP/1, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const H2_HEAD_BYTES_MAX: u32 = 16 * 1024;
/// Accepting can fail for want of file descriptors: wait a little rather than spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Once a stop is asked for, open connections are served this much longer, and told to close with every answer: to close
/// them at once would lose the requests that are on their way.
const LINGER: Duration = Duration::from_millis(250);
const LINGER_LOOK: Duration = Duration::from_millis(5);

/// Serves `listener` until `stop`, then drains: nobody new is let in, who is in gets an answer and is told to close.
/// `service_for` makes the service of one connection.
pub async fn serve<M, S, B>(listener: Listener, limits: Limits, mut stop: watch::Receiver<bool>, service_for: M)
where
    M: Fn(Peer) -> S,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Each connection holds a receiver: a message makes it finish, and when all are gone the drain is done.
    let (drain, draining) = watch::channel(());
    let connections = Arc::new(Semaphore::new(limits.connections_max));
    let closing = Arc::new(AtomicBool::new(false));
    let begin = |(io, peer): (Io, Peer), permit: Option<OwnedSemaphorePermit>| {
        let service = Parting { service: service_for(peer), closing: Arc::clone(&closing) };
        match io {
            Io::Tcp(stream) => spawn(stream, service, limits, draining.clone(), permit),
            Io::Unix(stream) => spawn(stream, service, limits, draining.clone(), permit),
        }
    };
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&connections).acquire_owned() => permit,
            () = stopped(&mut stop) => break,
        };
        let Ok(permit) = permit else { break };
        tokio::select! {
            accepted = accept(&listener) => match accepted {
                Ok(accepted) => begin(accepted, Some(permit)),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            },
            () = stopped(&mut stop) => break,
        }
    }
    closing.store(true, Ordering::Relaxed);
    let end = tokio::time::Instant::now() + limits.grace;
    let address = listener.describe();
    listener.close(|accepted| match wrap(accepted) {
        Ok(accepted) => begin(accepted, None),
        Err(error) => tracing::warn!(%error, "a connection that waited is lost"),
    });
    drop(draining);
    let all_gone = async {
        while drain.receiver_count() > 0 {
            tokio::time::sleep(LINGER_LOOK).await;
        }
    };
    let _some_stay = tokio::time::timeout(LINGER.min(limits.grace), all_gone).await;
    let _nobody_is_connected = drain.send(());
    if tokio::time::timeout_at(end, drain.closed()).await.is_err() {
        tracing::warn!(address, "requests were still in flight when the grace period ended");
    }
}

/// A service that tells HTTP/1 clients to close once the server is stopping. (h2 has GOAWAY for that.)
struct Parting<S> {
    service: S,
    closing: Arc<AtomicBool>,
}

/// What is done to an answer: nothing, as a rule.
type Finish<R, E> = fn(Result<R, E>) -> Result<R, E>;

impl<S, B> Service<Request<Incoming>> for Parting<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = futures_util::future::Map<S::Future, Finish<S::Response, S::Error>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let parting = self.closing.load(Ordering::Relaxed) && request.version() <= Version::HTTP_11;
        let finish: Finish<S::Response, S::Error> = if parting { say_close } else { std::convert::identity };
        self.service.call(request).map(finish)
    }
}

fn say_close<B, E>(answer: Result<Response<B>, E>) -> Result<Response<B>, E> {
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
    stream: I,
    service: S,
    limits: Limits,
    draining: watch::Receiver<()>,
    permit: Option<OwnedSemaphorePermit>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Answers are small: one write of what lies together is cheaper than gathering it.
    // Not max_headers: hyper takes at most 100 by itself, and being told so makes it allocate for every request.
    builder.http1().header_read_timeout(None).writev(false).max_buf_size(HEAD_BYTES_MAX).half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(H2_HEAD_BYTES_MAX)
        .max_pending_accept_reset_streams(Some(20))
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    let stage = Arc::new(Stage::default());
    let stream = TokioIo::new(Heard::new(RequestLines::new(stream), Arc::clone(&stage)));
    let patience = Patience { head: limits.head_timeout, idle: limits.idle_timeout };
    tokio::spawn(async move {
        let told = Arc::clone(&stage);
        let service = service_fn(move |request| {
            let (open, answer) = (told.request(), service.call(request));
            async move { Ok::<_, S::Error>(answer.await?.map(|body| Answering::new(body, open))) }
        });
        let connection = builder.serve_connection(stream, service).into_owned();
        if let Err(error) = attend(connection, stage, patience, draining).await {
            tracing::debug!(%error, "connection ended");
        }
        drop(permit);
    });
}

/// Why a request's body was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Longer than allowed.
    #[error("body too large")]
    TooLarge,
    /// Not sent in time, or the connection broke.
    #[error("body not received")]
    NotReceived,
}

/// Reads a whole body of at most `bytes_max`, within `timeout`.
///
/// # Errors
/// It is larger, or does not arrive.
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
