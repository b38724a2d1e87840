//! The bearer token of a request, by the same rules as the verifier's.

use http::{HeaderMap, HeaderValue, header};
use sidegate_common::bearer;
use sidegate_common::token::Rejection;

/// The bearer token; `None` without an `Authorization` header, or with one of another scheme.
///
/// # Errors
/// Two headers, or anything but one token after `Bearer`.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Rejection> {
    let values = headers.get_all(header::AUTHORIZATION).into_iter().map(HeaderValue::as_bytes);
    bearer::bearer(values).map_err(|_| Rejection::NotCompact)
}

/// The bearer token of a protected route.
///
/// # Errors
/// As [`bearer`], and if the token is missing.
pub(super) fn required_bearer(headers: &HeaderMap) -> Result<&str, Rejection> {
    bearer(headers)?.ok_or(Rejection::Missing)
}
