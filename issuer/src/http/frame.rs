//! What every answer gets: a request id, no caching, CORS, and a 500 instead of a dropped connection.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use aws_lc_rs::rand;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use sidegate_runtime::serve::Peer;
use tracing::Instrument as _;

use super::api::Api;
use super::error::Failure;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request's identifier: 96 random bits, in hexadecimal.
#[derive(Clone)]
pub(super) struct RequestId(pub(super) String);

fn request_id() -> RequestId {
    let mut bytes = [0; 12];
    // Without randomness the id is of no use, and nothing else will work either.
    let _no_randomness = rand::fill(&mut bytes);
    RequestId(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The frame around every handler.
pub(super) async fn frame<U, S, P>(
    State(api): State<Arc<Api<U, S, P>>>,
    mut request: Request,
    next: Next,
) -> Response<Body>
where
    Api<U, S, P>: Send + Sync,
{
    let id = request_id();
    let peer = match request.extensions().get::<Peer>() {
        Some(Peer::Tcp(address)) => address.to_string(),
        _ => String::new(),
    };
    let span = tracing::info_span!("request", id = id.0, method = %request.method(), path = request.uri().path(), peer);
    let origin = request.headers().get(header::ORIGIN).cloned();
    let preflight = api.cors.is_preflight(request.method(), request.headers());
    request.extensions_mut().insert(id.clone());
    let mut response = if preflight {
        let mut empty = Response::new(Body::empty());
        *empty.status_mut() = StatusCode::NO_CONTENT;
        empty
    } else {
        let handled = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
        handled.unwrap_or_else(|_| {
            span.in_scope(|| tracing::error!("a handler panicked"));
            Failure::Internal.into_response(&id.0)
        })
    };
    span.in_scope(|| tracing::debug!(status = response.status().as_u16(), "answered"));
    api.metrics.answered(response.status().as_u16());
    let headers = response.headers_mut();
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        headers.insert(X_REQUEST_ID, value);
    }
    api.cors.allow(origin.as_ref(), preflight, headers);
    response
}
