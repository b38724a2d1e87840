//! The `Authorization` header (RFC 6750 §2.1), strictly: one field, one token, nothing after it.

use http::{HeaderMap, header};
use sidegate_common::token::Rejection;

/// The bearer token; none if there is no `Authorization` header, or one of another scheme.
///
/// # Errors
/// Two headers, or something else than one token after `Bearer`.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Rejection> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(Rejection::NotCompact);
    }
    let text = field.to_str().map_err(|_| Rejection::NotCompact)?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Ok(None);
    }
    let token = token.trim_start_matches(' ');
    // What b64token allows (RFC 6750 §2.1), so neither comma nor space.
    let plain = token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b));
    if token.is_empty() || !plain { Err(Rejection::NotCompact) } else { Ok(Some(token)) }
}

/// The bearer token of a protected route.
///
/// # Errors
/// As [`bearer`], and if there is none.
pub(super) fn required_bearer(headers: &HeaderMap) -> Result<&str, Rejection> {
    bearer(headers)?.ok_or(Rejection::Missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for value in values {
            map.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn one_token_and_nothing_else() {
        assert_eq!(bearer(&headers(&["Bearer a.b.c"])), Ok(Some("a.b.c")));
        assert_eq!(bearer(&headers(&["bEARER   a.b.c"])), Ok(Some("a.b.c")));
        assert_eq!(bearer(&headers(&[])), Ok(None));
        assert_eq!(bearer(&headers(&["Basic YTpi"])), Ok(None));
        for bad in ["Bearer", "Bearer ", "Bearer a,b", "Bearer a b", "Bearer a\t", "Bearer a.b.c, Basic x"] {
            assert!(bearer(&headers(&[bad])).is_err(), "{bad}");
        }
        assert!(bearer(&headers(&["Bearer a", "Bearer a"])).is_err());
        assert_eq!(required_bearer(&headers(&[])), Err(Rejection::Missing));
    }
}
