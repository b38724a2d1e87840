//! What the wire has made of a good token, kept with the token: the wire alone fills it, once, and the verifier only carries
//! it.

use std::sync::OnceLock;

use bytes::Bytes;
use http::HeaderMap;

/// The allowing answer to a token, in the forms that have been asked for.
#[derive(Debug, Default)]
pub struct RenderedAnswer {
    headers: OnceLock<HeaderMap>,
    grpc: OnceLock<Bytes>,
}

impl RenderedAnswer {
    /// The headers that say who sent the token, made by `render` the first time.
    pub fn headers(&self, render: impl FnOnce() -> HeaderMap) -> &HeaderMap {
        self.headers.get_or_init(render)
    }

    /// The answer as a message of gRPC, made by `encode` the first time.
    pub fn grpc(&self, encode: impl FnOnce() -> Bytes) -> &Bytes {
        self.grpc.get_or_init(encode)
    }
}
