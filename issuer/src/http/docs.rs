//! GET /openapi.json, and a docs page without external resources.

use std::sync::{Arc, LazyLock};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Response, header};

use super::api::Api;
use super::call::Call;
use super::openapi::document;
use super::response::Answer;

const PAGE: &str = include_str!("docs/page.html");
const SCRIPT: &str = include_str!("docs/page.js");
/// Only resources of this listener.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'; \
     base-uri 'none'; form-action 'none'";

pub(super) async fn openapi<U, S, P>(_api: Arc<Api<U, S, P>>, _call: Call) -> Answer {
    // Built once: a client that requests it and does not read the response costs no copy.
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(document().to_string()));
    let mut response = Response::new(Body::from(DOCUMENT.clone()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

pub(super) async fn page<U, S, P>(_api: Arc<Api<U, S, P>>, _call: Call) -> Answer {
    let mut response = text(PAGE, "text/html; charset=utf-8");
    let policy = HeaderValue::from_static(CONTENT_SECURITY_POLICY);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

pub(super) async fn script<U, S, P>(_api: Arc<Api<U, S, P>>, _call: Call) -> Answer {
    Ok(text(SCRIPT, "text/javascript; charset=utf-8"))
}

fn text(body: &'static str, media_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
