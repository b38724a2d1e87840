//! GET /.well-known/jwks.json

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderValue, Response, header};

use super::api::Api;
use super::call::Call;
use super::response::Answer;

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
