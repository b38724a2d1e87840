//! Shared by the axum and tower integrations: the token of a request, the check that never blocks a
//! runtime thread, the error response.

use ::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use ::http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::denied::DaemonError;
use crate::{Denied, Sidegate, Verified};

/// The bearer token of a request (RFC 6750 §2.1).
///
/// # Errors
/// [`Denied::Missing`] if there is no token; [`Denied::Invalid`] if there are two, or the value is
/// malformed.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Denied> {
    crate::bearer(headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes))
}

/// Checks a token in async code: at once if possible, otherwise on a blocking thread of the
/// runtime.
///
/// # Errors
/// As [`Sidegate::check`].
pub async fn check(sidegate: &Sidegate, token: &str) -> Result<Verified, Denied> {
    if let Some(answer) = sidegate.try_cached(token) {
        return answer;
    }
    let (sidegate, token) = (sidegate.clone(), token.to_owned());
    let asked = tokio::task::spawn_blocking(move || sidegate.check(&token)).await;
    asked.unwrap_or(Err(Denied::Unavailable(DaemonError::Answer)))
}

/// The error response: status, challenge, problem document.
pub fn refusal<B: From<String>>(denied: &Denied) -> Response<B> {
    let mut response = Response::new(B::from(denied.problem_json()));
    *response.status_mut() = StatusCode::from_u16(denied.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(challenge) = denied.challenge().and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if denied.status() == 503 {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
