//! POST /introspect: RFC 7662, for applications and libraries that support the standard.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use http::{Request, Response};
use hyper::body::Incoming;
use sidegate_common::claims::Claims;
use sidegate_common::problem::Code;
use sidegate_runtime::serve::{BodyError, Peer, is_encoded, read_body};

use super::answer::{CheckAnswer, json, problem};
use super::body::Body;
use crate::domain::request::CheckRequest;
use crate::verifier::{Verdict, Verifier};

/// The limit of a form, in bytes: a token of maximum size and room for hints.
pub const BODY_BYTES_MAX: usize = 16 * 1024;
/// The timeout for receiving a body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The error detail for a body with a `Content-Encoding`.
pub const NOT_DECODED: &str = "send the body without Content-Encoding";

const NAME: &str = "introspect";

/// The response for an active token (RFC 7662 §2.2).
#[derive(serde::Serialize)]
struct Active<'a> {
    active: bool,
    token_type: &'static str,
    #[serde(flatten)]
    claims: &'a Claims,
}

#[derive(serde::Serialize)]
struct Inactive {
    active: bool,
}

/// Handles an introspection request.
pub async fn introspect(verifier: Arc<Verifier>, peer: Peer, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let answer = match caller_allowed(&verifier, peer, &parts.headers) {
        Err((code, why)) => problem(code, why, None),
        Ok(()) if !is_form(&parts.headers) => {
            problem(Code::UnsupportedMediaType, "send application/x-www-form-urlencoded", None)
        }
        Ok(()) if is_encoded(&parts.headers) => problem(Code::UnsupportedMediaType, NOT_DECODED, None),
        Ok(()) => match read_body(body, BODY_BYTES_MAX, BODY_TIMEOUT).await {
            Ok(form) => inspect(&verifier, &form).await,
            Err(error) => body_problem(error),
        },
    };
    verifier.answered(NAME, answer.outcome);
    answer.into()
}

/// The error response for an unreadable body.
pub fn body_problem(error: BodyError) -> CheckAnswer {
    match error {
        BodyError::TooLarge => problem(Code::PayloadTooLarge, "the body is limited to 16 KiB", None),
        BodyError::NotReceived => problem(Code::InvalidRequest, "the body did not arrive", None),
    }
}

/// Any process that can open the Unix socket may ask; over TCP the caller needs `INTROSPECT_TOKEN`
/// (RFC 7662 §2.1).
fn caller_allowed(verifier: &Verifier, peer: Peer, headers: &HeaderMap) -> Result<(), (Code, &'static str)> {
    if peer == Peer::Unix {
        return Ok(());
    }
    let secret = verifier.introspect_token();
    if !secret.is_set() {
        return Err((Code::NotFound, "introspection is served on the Unix socket only"));
    }
    let mut values = headers.get_all(AUTHORIZATION).into_iter();
    let presented = match (values.next(), values.next()) {
        (Some(value), None) => credential(value.as_bytes()),
        _ => None,
    };
    match presented {
        None => Err((Code::TokenMissing, "introspection over TCP needs INTROSPECT_TOKEN")),
        Some(presented) if secret.matches(&presented) => Ok(()),
        Some(_) => Err((Code::TokenInvalid, "not the INTROSPECT_TOKEN of this verifier")),
    }
}

/// The secret as a bearer token, or as the password of HTTP Basic, which OAuth libraries send.
fn credential(value: &[u8]) -> Option<Vec<u8>> {
    let at = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = (&value[..at], value[at..].trim_ascii_start());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(rest.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let decoded = STANDARD.decode(rest).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded[colon + 1..].to_vec())
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes()).unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

async fn inspect(verifier: &Verifier, form: &[u8]) -> CheckAnswer {
    let Ok(pairs) = serde_urlencoded::from_bytes::<Vec<(String, String)>>(form) else {
        return problem(Code::InvalidRequest, "the form is malformed", None);
    };
    let mut tokens = pairs.iter().filter(|(name, _)| name == "token");
    let (Some((_, token)), None) = (tokens.next(), tokens.next()) else {
        return problem(Code::InvalidRequest, "token is missing or repeated", None);
    };
    // RFC 7662 §2.2: a bad token is not an error of the request, and the response does not say why
    // it is bad.
    let inactive = |code: Code| CheckAnswer { outcome: code.name(), ..json(&Inactive { active: false }) };
    match verifier.check(&CheckRequest::of_token(token)).await {
        Verdict::Allow(good, _) => json(&Active { active: true, token_type: "Bearer", claims: good.claims() }),
        Verdict::Deny(denial) => inactive(denial.code()),
        // Without a route there is no public access.
        Verdict::Public => inactive(Code::TokenInvalid),
        Verdict::Unavailable(why) => problem(why.code(), &why.to_string(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_parse_in_both_schemes() {
        assert_eq!(credential(b"Bearer abc"), Some(b"abc".to_vec()));
        assert_eq!(credential(b"basic Y2xpZW50OmE6Yg=="), Some(b"a:b".to_vec()), "the password may contain a colon");
        for bad in [&b""[..], b"Bearer", b"Digest x", b"Basic !", b"Basic YWJj"] {
            assert_eq!(credential(bad), None, "{bad:?}");
        }
    }
}
