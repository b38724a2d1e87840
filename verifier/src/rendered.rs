//! The rendered response to a good token, cached with the token: only the wire fills it, once.

use std::sync::OnceLock;

use bytes::Bytes;
use http::HeaderMap;

/// The allowing response to a token, in the forms requested so far.
#[derive(Debug, Default)]
pub struct RenderedAnswer {
    headers: OnceLock<HeaderMap>,
    grpc: OnceLock<Bytes>,
}

impl RenderedAnswer {
    /// The identity headers, made by `render` on the first call.
    pub fn headers(&self, render: impl FnOnce() -> HeaderMap) -> &HeaderMap {
        self.headers.get_or_init(render)
    }

    /// The gRPC response message, made by `encode` on the first call.
    pub fn grpc(&self, encode: impl FnOnce() -> Bytes) -> &Bytes {
        self.grpc.get_or_init(encode)
    }
}
