//! What the axum and tower integrations share: the token of a request, the check that never blocks a runtime's thread, the
//! answer to one who is denied.

use ::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use ::http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::daemon::Trouble;
use crate::{Denied, Sidegate, Verified};

/// The bearer token of a request (RFC 6750 §2.1).
///
/// # Errors
/// [`Denied::Missing`] if there is none; [`Denied::Invalid`] if there are two, or something else stands there.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Denied> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let value = all.next().ok_or(Denied::Missing)?;
    if all.next().is_some() {
        return Err(Denied::Invalid { why: "two Authorization headers".into() });
    }
    let value = value.to_str().map_err(|_| Denied::NOT_COMPACT)?;
    let (scheme, token) = value.split_once(' ').ok_or(Denied::Missing)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim_start_matches(' ')) } else { Err(Denied::Missing) }
}

/// Checks a token in async code: at once if that is possible, else on a blocking thread of the runtime.
///
/// # Errors
/// As [`Sidegate::check`].
pub async fn check(sidegate: &Sidegate, token: &str) -> Result<Verified, Denied> {
    if let Some(answer) = sidegate.try_cached(token) {
        return answer;
    }
    let (sidegate, token) = (sidegate.clone(), token.to_owned());
    let asked = tokio::task::spawn_blocking(move || sidegate.check(&token)).await;
    asked.unwrap_or(Err(Denied::Unavailable(Trouble::Answer)))
}

/// The answer to one who is denied: status, challenge, problem document.
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
