//! A kept connection that takes requests without a body as HTTP/1.1 text, whatever is spoken on it.

use std::io::{Error, ErrorKind};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::bench::load::Stream;
use crate::http::At;

/// The limit for a response.
const LIMIT: Duration = Duration::from_secs(30);

/// One kept connection.
pub enum Talk {
    Text(Stream),
    H2 {
        sender: SendRequest<Empty<Bytes>>,
        /// What the target is appended to.
        origin: &'static str,
        body: Bytes,
    },
}

impl Talk {
    /// # Panics
    /// Nothing listens.
    pub async fn connect(at: &At) -> Self {
        if !at.is_h2() {
            return Self::Text(Stream::connect(at).await);
        }
        let stream = TokioIo::new(at.connect().await.expect("connects"));
        let (sender, connection) = handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        let origin = if matches!(at, At::TlsH2(_)) { "https://app" } else { "http://app" };
        Self::H2 { sender, origin, body: Bytes::new() }
    }

    /// Sends a request and returns the status of the complete response.
    ///
    /// # Panics
    /// Nothing answers.
    pub async fn ask(&mut self, request: &[u8]) -> u16 {
        self.try_ask(request).await.expect("an answer")
    }

    /// Sends a request and returns the status of the complete response.
    ///
    /// # Errors
    /// The connection or the stream was closed.
    pub async fn try_ask(&mut self, request: &[u8]) -> std::io::Result<u16> {
        let limit = |_| Err(Error::from(ErrorKind::TimedOut));
        match self {
            Self::Text(stream) => tokio::time::timeout(LIMIT, stream.try_ask(request)).await.unwrap_or_else(limit),
            Self::H2 { sender, origin, body } => {
                let exchange = async {
                    let response = sender.send_request(translate(request, origin)?).await.map_err(Error::other)?;
                    let status = response.status().as_u16();
                    *body = response.into_body().collect().await.map_err(Error::other)?.to_bytes();
                    Ok(status)
                };
                tokio::time::timeout(LIMIT, exchange).await.unwrap_or_else(limit)
            }
        }
    }

    /// The body of the last response.
    pub fn body(&self) -> &[u8] {
        match self {
            Self::Text(stream) => stream.body(),
            Self::H2 { body, .. } => body,
        }
    }
}

/// The request for HTTP/2, which has no `Host` and no `Connection`.
fn translate(text: &[u8], origin: &str) -> std::io::Result<Request<Empty<Bytes>>> {
    let text = std::str::from_utf8(text).map_err(Error::other)?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut request = Request::builder().method(method).uri(format!("{origin}{target}"));
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        if !["host", "connection", "content-length"].iter().any(|hop| name.eq_ignore_ascii_case(hop)) {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(Error::other)?;
            request = request.header(name, HeaderValue::from_str(value).map_err(Error::other)?);
        }
    }
    request.body(Empty::new()).map_err(Error::other)
}
