//! GET /.well-known/jwks.json

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderValue, Response, header};

use super::api::Api;
use super::call::Call;
use super::router::Answer;

/// The public keys (RFC 7517 §5), serialized. Never an HMAC key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicKeys {
    /// The JWK set as JSON.
    pub json: String,
    /// How long the set may be cached, in seconds: less than a key is published before it signs.
    pub max_age: u64,
}

pub(super) async fn jwks<U, S, P>(api: Arc<Api<U, S, P>>, _call: Call) -> Answer {
    let keys = api.published();
    let mut response = Response::new(Body::from(keys.json.clone()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    if let Ok(value) = HeaderValue::from_str(&format!("public, max-age={}", keys.max_age)) {
        headers.insert(header::CACHE_CONTROL, value);
    }
    Ok(response)
}
