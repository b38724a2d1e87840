//! Finds a request's access token: in the `Authorization` header (RFC 6750 §2.1), or in a cookie if
//! one is configured.

use http::header::{AUTHORIZATION, COOKIE, HOST, HeaderMap, ORIGIN};

use sidegate_common::bearer::{bearer, one_token};

use crate::domain::request::Presented;

/// The relevant headers of the checked request, each with all its values.
pub trait Headers {
    /// Values of `Authorization`.
    fn authorization(&self) -> impl Iterator<Item = &[u8]>;
    /// Values of `Cookie`.
    fn cookie(&self) -> impl Iterator<Item = &[u8]>;
    /// Values of `Origin`.
    fn origin(&self) -> impl Iterator<Item = &[u8]>;
}

impl Headers for HeaderMap {
    fn authorization(&self) -> impl Iterator<Item = &[u8]> {
        self.get_all(AUTHORIZATION).into_iter().map(http::HeaderValue::as_bytes)
    }

    fn cookie(&self) -> impl Iterator<Item = &[u8]> {
        self.get_all(COOKIE).into_iter().map(http::HeaderValue::as_bytes)
    }

    fn origin(&self) -> impl Iterator<Item = &[u8]> {
        self.get_all(ORIGIN).into_iter().map(http::HeaderValue::as_bytes)
    }
}

/// The single value of a header; `None` if it is missing or repeated.
pub fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).into_iter();
    values.next().filter(|_| values.next().is_none()).map(http::HeaderValue::as_bytes)
}

/// The single `Host` of a request, or its authority in HTTP/2.
pub fn host<'a>(headers: &'a HeaderMap, uri: &'a http::Uri) -> Option<&'a [u8]> {
    single(headers, HOST.as_str()).or_else(|| uri.authority().map(|authority| authority.as_str().as_bytes()))
}

/// Finds the token. `cookie` is `TOKEN_COOKIE`; `method` and `host` belong to the checked request.
pub fn present<'a>(
    headers: &'a impl Headers,
    cookie: Option<&str>,
    method: &str,
    host: Option<&[u8]>,
) -> Presented<'a> {
    let from_header = from_authorization(headers);
    let Some(name) = cookie else { return from_header };
    match (from_header, from_cookie(headers, name)) {
        (refused @ Presented::Refused(_), _) => refused,
        (from_header, Presented::Nothing) => from_header,
        (Presented::Token(_), _) => Presented::Refused("both an Authorization header and a cookie"),
        (Presented::Nothing, Presented::Token(_)) if !is_safe(method) && !same_origin(headers, host) => {
            Presented::Refused("a cookie on an unsafe method without an Origin of the same host")
        }
        (Presented::Nothing, from_cookie) => from_cookie,
    }
}

fn from_authorization(headers: &impl Headers) -> Presented<'_> {
    presented(bearer(headers.authorization()))
}

fn presented<'a>(found: Result<Option<&'a str>, &'static str>) -> Presented<'a> {
    match found {
        Ok(Some(token)) => Presented::Token(token),
        Ok(None) => Presented::Nothing,
        Err(why) => Presented::Refused(why),
    }
}

fn from_cookie<'a>(headers: &'a impl Headers, name: &str) -> Presented<'a> {
    let pairs = headers.cookie().flat_map(|value| value.split(|byte| *byte == b';'));
    let mut found = pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        (&pair[..equals] == name.as_bytes()).then(|| &pair[equals + 1..])
    });
    let Some(value) = found.next() else { return Presented::Nothing };
    if found.next().is_some() {
        return Presented::Refused("two cookies of the same name");
    }
    if value.is_empty() { Presented::Nothing } else { presented(one_token(value).map(Some)) }
}

/// RFC 9110 §9.2.1.
fn is_safe(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE")
}

/// Browsers send `Origin` with every request of an unsafe method, and no page can change it.
fn same_origin(headers: &impl Headers, host: Option<&[u8]>) -> bool {
    let mut values = headers.origin();
    let (Some(origin), None, Some(host)) = (values.next(), values.next(), host) else { return false };
    let authority = origin.strip_prefix(b"https://").or_else(|| origin.strip_prefix(b"http://"));
    authority.is_some_and(|authority| !authority.is_empty() && authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        map
    }

    fn shown(presented: Presented<'_>) -> Result<Option<String>, &'static str> {
        match presented {
            Presented::Nothing => Ok(None),
            Presented::Token(token) => Ok(Some(token.to_owned())),
            Presented::Refused(why) => Err(why),
        }
    }

    fn cookie(method: &str, pairs: &[(&'static str, &[u8])]) -> Result<Option<String>, &'static str> {
        shown(present(&headers(pairs), Some("token"), method, Some(b"app.example")))
    }

    #[test]
    fn cookie_counts_only_if_configured() {
        let map = headers(&[("cookie", b"token=a.b.c")]);
        assert_eq!(present(&map, None, "GET", None), Presented::Nothing);
        assert_eq!(cookie("GET", &[("cookie", b"x=1; token=a.b.c; y=2")]), Ok(Some("a.b.c".to_owned())));
        assert_eq!(cookie("GET", &[("cookie", b"tokens=a; xtoken=b; token")]), Ok(None));
        assert_eq!(cookie("GET", &[("cookie", b"token=")]), Ok(None));
        assert!(cookie("GET", &[("cookie", b"token=a; token=b")]).is_err());
        assert!(cookie("GET", &[("cookie", b"token=a"), ("cookie", b"token=a")]).is_err());
        assert!(cookie("GET", &[("cookie", b"token=\"a\",b")]).is_err());
        assert!(cookie("GET", &[("cookie", b"token=a"), ("authorization", b"Bearer a")]).is_err());
        assert_eq!(cookie("GET", &[("cookie", b"x=1"), ("authorization", b"Bearer a")]), Ok(Some("a".to_owned())));
    }

    #[test]
    fn cookie_on_unsafe_method_needs_same_origin() {
        let with = |origins: &[&'static [u8]]| {
            let mut pairs: Vec<(&'static str, &[u8])> = vec![("cookie", b"token=a")];
            pairs.extend(origins.iter().map(|origin| ("origin", *origin)));
            cookie("POST", &pairs).is_ok()
        };
        assert!(with(&[b"https://app.example"]));
        assert!(with(&[b"http://APP.example"]));
        for wrong in
            [&b"https://evil.example"[..], b"null", b"", b"https://", b"https://app.example:8443", b"app.example"]
        {
            assert!(!with(&[wrong]), "{wrong:?}");
        }
        assert!(!with(&[]));
        assert!(!with(&[b"https://app.example", b"https://app.example"]));
    }
}
