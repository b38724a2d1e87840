//! Shared by the axum and tower integrations: the token of a request, the check that never blocks a
//! runtime thread, the error response.

use ::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use ::http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::daemon::DaemonError;
use crate::{Denied, Sidegate, Verified};

/// The bearer token of a request (RFC 6750 §2.1).
///
/// # Errors
/// [`Denied::Missing`] if there is no token; [`Denied::Invalid`] if there are two, or the value is
/// malformed.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Denied> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let value = all.next().ok_or(Denied::Missing)?;
    if all.next().is_some() {
        return Err(Denied::Invalid { why: "two Authorization headers".into() });
    }
    let value = value.as_bytes();
    let (scheme, token) = value.split_at(value.iter().position(|byte| *byte == b' ').unwrap_or(value.len()));
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        // Another scheme has no bearer token, but a proxy may have joined two headers with a comma.
        let joined = value.contains(&b',') && value.to_ascii_lowercase().windows(6).any(|word| word == b"bearer");
        let two = || Denied::Invalid { why: "two Authorization headers".into() };
        return Err(if joined { two() } else { Denied::Missing });
    }
    let not_one = || Denied::Invalid { why: "more than one token, or invalid characters".into() };
    let token = std::str::from_utf8(token).map_err(|_| not_one())?.trim_start_matches(' ');
    if token.is_empty() {
        return Err(Denied::Missing);
    }
    let fits = token.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    if fits { Ok(token) } else { Err(not_one()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &[u8]) -> Result<String, &'static str> {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap())]);
        bearer(&headers).map(str::to_owned).map_err(|denied| match denied {
            Denied::Missing => "missing",
            Denied::Invalid { .. } => "invalid",
            _ => "something else",
        })
    }

    #[test]
    fn bearer_token_parses_as_in_the_daemon() {
        for value in [&b"Bearer a.b.c"[..], b"bearer a.b.c", b"BEARER  a.b.c"] {
            assert_eq!(of(value).as_deref(), Ok("a.b.c"));
        }
        for value in [&b""[..], b"Bearer", b"Bearer ", b"Bearer\ta.b.c", b"Basic YTpi,x", b"a.b.c", b"Bearerx a"] {
            assert_eq!(of(value), Err("missing"), "{value:?}");
        }
        for value in
            [&b"Bearer \ta.b.c"[..], b"Bearer \t", b"Bearer a b", b"Bearer a,b", b"Bearer \xe9", b"Basic x, Bearer y"]
        {
            assert_eq!(of(value), Err("invalid"), "{value:?}");
        }
    }
}
