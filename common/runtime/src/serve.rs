//! HTTP/1.0, HTTP/1.1 and h2c on one listener, with limits on everything and a drain that finishes what is in flight.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::patience::{Answering, Heard, Patience, Stage, attend};
use crate::program::stopped;
use crate::socket::Listener;

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

/// Serves `listener` until `stop`, then drains. `service_for` makes the service of one connection.
pub async fn serve<M, S, B>(listener: Listener, limits: Limits, mut stop: watch::Receiver<bool>, service_for: M)
where
    M: Fn(Peer) -> S,
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Each connection holds a receiver: a message makes it finish, and when all are gone the drain is done.
    let (drain, draining) = watch::channel(());
    let connections = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&connections).acquire_owned() => permit,
            () = stopped(&mut stop) => break,
        };
        let Ok(permit) = permit else { break };
        tokio::select! {
            accepted = accept(&listener) => match accepted {
                Ok((Io::Tcp(stream), peer)) => spawn(stream, service_for(peer), limits, draining.clone(), permit),
                Ok((Io::Unix(stream), peer)) => spawn(stream, service_for(peer), limits, draining.clone(), permit),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            },
            () = stopped(&mut stop) => break,
        }
    }
    let address = listener.describe();
    drop(listener);
    drop(draining);
    let _nobody_is_connected = drain.send(());
    if tokio::time::timeout(limits.grace, drain.closed()).await.is_err() {
        tracing::warn!(address, "requests were still in flight when the grace period ended");
    }
}

enum Io {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

async fn accept(listener: &Listener) -> std::io::Result<(Io, Peer)> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Io::Tcp(stream), Peer::Tcp(address)))
        }
        Listener::Unix(listener, _) => Ok((Io::Unix(listener.accept().await?.0), Peer::Unix)),
    }
}

fn spawn<I, S, B>(stream: I, service: S, limits: Limits, draining: watch::Receiver<()>, permit: OwnedSemaphorePermit)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
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
    let stream = TokioIo::new(Heard::new(stream, Arc::clone(&stage)));
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
