//! Requests over TCP, TLS and Unix sockets, HTTP/1.1 and HTTP/2: through hyper, or as raw bytes for tests that misbehave.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::tls;

/// The address of a server, and what is spoken there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// HTTP/2 with prior knowledge.
    H2(SocketAddr),
    /// TLS under any certificate; ALPN chooses HTTP/1.1.
    Tls(SocketAddr),
    /// TLS under any certificate; ALPN chooses HTTP/2.
    TlsH2(SocketAddr),
}

/// A connection.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl At {
    /// True if HTTP/2 is spoken.
    pub const fn is_h2(&self) -> bool {
        matches!(self, Self::H2(_) | Self::TlsH2(_))
    }

    const fn scheme(&self) -> &'static str {
        if matches!(self, Self::Tls(_) | Self::TlsH2(_)) { "https" } else { "http" }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// Nothing listens, or the TLS handshake fails.
    pub async fn connect(&self) -> std::io::Result<Box<dyn Duplex>> {
        let tcp = async |address: &SocketAddr| {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(stream)
        };
        Ok(match self {
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Self::Tcp(address) | Self::H2(address) => Box::new(tcp(address).await?),
            Self::Tls(address) => Box::new(tls::connect(tcp(address).await?, b"http/1.1").await?),
            Self::TlsH2(address) => Box::new(tls::connect(tcp(address).await?, b"h2").await?),
        })
    }
}

/// A response.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The `code` of a problem body.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Why there was no response.
#[derive(Debug)]
pub struct NoAnswer(pub String);

/// A request under construction.
#[derive(Clone, Debug)]
pub struct Call {
    at: At,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    h2: bool,
    limit: Duration,
}

/// Limit for a response.
const LIMIT: Duration = Duration::from_secs(20);

impl At {
    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    pub fn call(&self, method: Method, path: &str) -> Call {
        let (headers, h2) = (HeaderMap::new(), self.is_h2());
        Call { at: self.clone(), method, path: path.to_owned(), headers, body: Bytes::new(), h2, limit: LIMIT }
    }
}

impl Call {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a header's name");
        self.headers.append(name, http::HeaderValue::from_bytes(value.as_bytes()).expect("a header's value"));
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub fn json(self, body: &serde_json::Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub fn form(self, body: &str) -> Self {
        self.header("content-type", "application/x-www-form-urlencoded").body(body.to_owned())
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Over h2c with prior knowledge.
    pub const fn h2(mut self) -> Self {
        self.h2 = true;
        self
    }

    /// Waits longer than usual for the response.
    pub const fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sends the request on a new connection.
    ///
    /// # Panics
    /// There is no response.
    pub async fn send(self) -> Reply {
        let what = format!("{} {}", self.method, self.path);
        self.try_send().await.unwrap_or_else(|NoAnswer(why)| panic!("{what}: {why}"))
    }

    /// Sends the request on a new connection.
    ///
    /// # Errors
    /// No connection, or no complete response in time.
    pub async fn try_send(self) -> Result<Reply, NoAnswer> {
        let limit = self.limit;
        let exchange = async move { exchange(self.at.connect().await?, self).await };
        match tokio::time::timeout(limit, exchange).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(NoAnswer(error.to_string())),
            Err(_) => Err(NoAnswer("timed out".into())),
        }
    }
}

impl At {
    /// A new connection.
    async fn http1(&self) -> Result<http1::SendRequest<Full<Bytes>>, AnyError> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.connect().await?)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

impl Call {
    fn http1_request(self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.path.parse().expect("a path");
        *request.headers_mut() = self.headers;
        request.headers_mut().entry("host").or_insert(http::HeaderValue::from_static("localhost"));
        request
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(stream: Box<dyn Duplex>, call: Call) -> Result<Reply, AnyError> {
    let uri = if call.h2 { format!("{}://localhost{}", call.at.scheme(), call.path) } else { call.path.clone() };
    let mut request = Request::builder().method(call.method).uri(uri).body(Full::new(call.body))?;
    *request.headers_mut() = call.headers;
    let response = if call.h2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    } else {
        request.headers_mut().entry("host").or_insert(http::HeaderValue::from_static("localhost"));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    };
    let (parts, body) = response.into_parts();
    Ok(Reply { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
}

/// A client of one server that keeps its connection until the server closes it.
#[derive(Debug, Default)]
pub struct Kept {
    idle: Option<http1::SendRequest<Full<Bytes>>>,
    opened: Option<Instant>,
}

impl Kept {
    /// True if the next call needs no new connection.
    pub fn is_open(&self) -> bool {
        self.idle.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Sends a request over the kept connection if that is open, otherwise over a new one.
    ///
    /// # Errors
    /// [`Failure::NotSent`] if no connection was accepted; [`Failure::Lost`] if the outcome is
    /// unknown.
    pub async fn send(&mut self, call: Call) -> Result<Reply, Failure> {
        let exchange = async {
            if let Some(kept) = self.idle.take().filter(|sender| !sender.is_closed()) {
                match self.exchange(kept, call.clone()).await {
                    Err(Failure::NotSent(_)) => {}
                    answered => return answered,
                }
            }
            self.opened = Some(Instant::now());
            let sender = call.at.http1().await.map_err(|error| Failure::NotSent(error.to_string()))?;
            self.exchange(sender, call).await
        };
        let answered = tokio::time::timeout(Duration::from_secs(20), exchange).await;
        answered.unwrap_or_else(|_| Err(self.lost("timed out".to_owned())))
    }

    async fn exchange(&mut self, mut sender: http1::SendRequest<Full<Bytes>>, call: Call) -> Result<Reply, Failure> {
        sender.ready().await.map_err(|error| Failure::NotSent(error.to_string()))?;
        let response = sender.try_send_request(call.http1_request()).await.map_err(|error| {
            let why = error.error().to_string();
            if error.message().is_some() { Failure::NotSent(why) } else { self.lost(why) }
        })?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| self.lost(error.to_string()))?.to_bytes();
        let reply = Reply { status: parts.status, headers: parts.headers, body };
        if reply.header("connection") != Some("close") {
            self.idle = Some(sender);
        }
        Ok(reply)
    }

    fn lost(&self, why: String) -> Failure {
        Failure::Lost { why, opened: self.opened.unwrap_or_else(Instant::now) }
    }
}

/// Why a request has no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The request was never sent: it may be sent elsewhere.
    NotSent(String),
    /// The request was sent, at least in part, over a connection opened at that time: a client may
    /// write to a connection before it sees that the server has died.
    Lost { why: String, opened: Instant },
}

/// Sends raw bytes and reads until the server closes, or is silent for `silence`.
pub async fn raw(at: &At, bytes: &[u8], silence: Duration) -> Vec<u8> {
    let (mut stream, mut out) = (at.connect().await.expect("connects"), Vec::new());
    if stream.write_all(bytes).await.is_err() {
        return out;
    }
    let mut chunk = [0; 4096];
    while let Ok(Ok(length)) = tokio::time::timeout(silence, stream.read(&mut chunk)).await {
        if length == 0 {
            break;
        }
        out.extend_from_slice(&chunk[..length]);
    }
    out
}
