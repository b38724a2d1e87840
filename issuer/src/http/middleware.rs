//! Middleware around every handler: request id, tracing, no caching, CORS, and a 500 instead of a
//! dropped connection.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use aws_lc_rs::rand;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use sidegate_runtime::serve::Peer;
use sidegate_runtime::trace::{self, Parent};
use tracing::Instrument as _;

use super::api::Api;
use super::error::Failure;
use super::origin::CorsOrigins;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request's identifier: 96 random bits, in hexadecimal.
#[derive(Clone)]
pub(super) struct RequestId(pub(super) String);

fn request_id() -> RequestId {
    let mut bytes = [0; 12];
    // An id without randomness is useless, but without randomness all else fails as well.
    let _no_randomness = rand::fill(&mut bytes);
    RequestId(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The span of a request. Probes and scrapes are frequent and uninteresting: they have none.
fn trace_span(request: &Request, parent: Option<Parent<'_>>) -> Option<trace::Span> {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let untraced = !trace::is_on() || matches!(route, Some("/livez" | "/readyz" | "/metrics"));
    (!untraced).then(|| trace::Span::request(request.method(), route, parent))
}

/// The middleware's state: the shared state, and the listener's own CORS origins.
pub(super) type MiddlewareState<U, S, P> = (Arc<Api<U, S, P>>, CorsOrigins);

/// Runs a handler and completes its response.
pub(super) async fn observe<U, S, P>(
    State((api, cors)): State<MiddlewareState<U, S, P>>,
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
    let parent = Parent::of(request.headers());
    let traced = trace_span(&request, parent);
    let trace_id = traced.as_ref().and_then(trace::Span::trace_id).or_else(|| parent.map(|parent| parent.trace_id()));
    let trace_id = trace_id.map(tracing::field::display);
    let (method, path) = (request.method(), request.uri().path());
    let span = tracing::info_span!("request", id = id.0, %method, path, peer, trace_id);
    let origin = request.headers().get(header::ORIGIN).cloned();
    let preflight = cors.is_preflight(request.method(), request.headers());
    request.extensions_mut().insert(id.clone());
    let mut response = if preflight {
        let mut empty = Response::new(Body::empty());
        *empty.status_mut() = StatusCode::NO_CONTENT;
        empty
    } else {
        let handling = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone());
        let handled = match &traced {
            Some(traced) => traced.around(handling).await,
            None => handling.await,
        };
        handled.unwrap_or_else(|_| {
            span.in_scope(|| tracing::error!("a handler panicked"));
            Failure::Internal.into_response(&id.0)
        })
    };
    span.in_scope(|| tracing::debug!(status = response.status().as_u16(), "answered"));
    api.metrics.answered(response.status().as_u16());
    if let Some(traced) = traced {
        traced.answered(response.status());
    }
    let headers = response.headers_mut();
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        headers.insert(X_REQUEST_ID, value);
    }
    cors.allow(origin.as_ref(), preflight, headers);
    response
}
