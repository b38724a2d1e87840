//! The responses that handlers build: a JSON document, nothing, or a failure.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};

use super::error::Failure;

/// A handler's result.
pub(super) type Answer = Result<Response<Body>, Failure>;

/// A 200 with a JSON body.
pub(super) fn json(body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A 204.
pub(super) fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
