//! A request in parts: the client, and the body, read within limits.

use std::time::Duration;

use axum::body::Body;
use http::request::Parts;
use http::{Request, header};
use sidegate_runtime::serve::{BodyError, Peer, is_encoded, read_body};

use super::error::Failure;
use super::fields::{BodyKind, Fields, OtherKind};
use super::origin::{TrustedProxies, client_address};
use crate::domain::ClientInfo;

/// The longest body, in bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Time limit for receiving a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest stored `User-Agent`, in bytes.
const AGENT_BYTES_MAX: usize = 256;

/// A request whose body has not been read.
pub(super) struct Call {
    pub(super) head: Parts,
    body: Body,
}

impl Call {
    pub(super) fn new(request: Request<Body>) -> Self {
        let (head, body) = request.into_parts();
        Self { head, body }
    }

    /// The client.
    pub(super) fn client(&self, proxies: &TrustedProxies) -> ClientInfo {
        let peer = self.head.extensions.get::<Peer>();
        let agent = self.head.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let cut = agent.len().min(AGENT_BYTES_MAX);
        // A header's text is ASCII, so any cut is between characters.
        ClientInfo {
            address: client_address(peer, &self.head.headers, proxies),
            agent: agent.get(..cut).unwrap_or_default().to_owned(),
        }
    }

    /// The body's fields, from JSON or a form.
    pub(super) async fn fields(self) -> Result<Fields, Failure> {
        match self.kind()? {
            Some(kind) => read_fields(kind, self.body).await,
            None => Err(Failure::UnsupportedMediaType),
        }
    }

    /// The body's fields; empty if there is no body.
    pub(super) async fn optional_fields(self) -> Result<Fields, Failure> {
        if hyper::body::Body::is_end_stream(&self.body) {
            return Ok(Fields::default());
        }
        match self.kind()? {
            Some(kind) => read_fields(kind, self.body).await,
            None => {
                let bytes = read(self.body).await?;
                if bytes.is_empty() { Ok(Fields::default()) } else { Err(Failure::UnsupportedMediaType) }
            }
        }
    }

    fn kind(&self) -> Result<Option<BodyKind>, Failure> {
        if is_encoded(&self.head.headers) {
            return Err(Failure::UnsupportedMediaType);
        }
        BodyKind::announced(&self.head.headers).map_err(|OtherKind| Failure::UnsupportedMediaType)
    }
}

async fn read(body: Body) -> Result<bytes::Bytes, Failure> {
    read_body(body, BODY_BYTES_MAX, BODY_TIMEOUT).await.map_err(|error| match error {
        BodyError::TooLarge => Failure::TooLarge,
        BodyError::NotReceived => Failure::Invalid("the body did not arrive".to_owned()),
    })
}

async fn read_fields(kind: BodyKind, body: Body) -> Result<Fields, Failure> {
    Ok(Fields::read(kind, &read(body).await?)?)
}
