//! Maps a verdict to status, headers and body: the only such table, for every interface.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};

use sidegate_common::claims::Claims;
use sidegate_common::identity_headers::{self, NAMES};
use sidegate_common::problem::{Code, MEDIA_TYPE, Problem};
use sidegate_common::routes::Shortfall;
use sidegate_common::token_checker::GoodToken;
use sidegate_runtime::trace::Parent;

use super::body::Body;
use crate::domain::request::Denial;
use crate::verifier::Verdict;

/// The identity headers ([`NAMES`]).
pub const IDENTITY: [HeaderName; 7] = [
    HeaderName::from_static(NAMES[0]),
    HeaderName::from_static(NAMES[1]),
    HeaderName::from_static(NAMES[2]),
    HeaderName::from_static(NAMES[3]),
    HeaderName::from_static(NAMES[4]),
    HeaderName::from_static(NAMES[5]),
    HeaderName::from_static(NAMES[6]),
];
/// The age of a list that is older than allowed.
pub const STALE: HeaderName = HeaderName::from_static(identity_headers::STALE);

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const ABSENT: HeaderValue = HeaderValue::from_static(identity_headers::ABSENT);
const PROBLEM: HeaderValue = HeaderValue::from_static(MEDIA_TYPE);
const SOON: HeaderValue = HeaderValue::from_static("1");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The identity headers for the claims of a good token.
fn identity(good: &GoodToken) -> HeaderMap {
    let Claims { sub, sid, jti, client_id, scope, exp, .. } = good.claims();
    let scope = scope.as_deref().unwrap_or("-");
    identity_headers([sub.as_str(), sid, jti, client_id, scope, &exp.to_string(), good.issuer_name()].map(|text| {
        // Claims are visible ASCII (common::text); if one were not, the request would pass without
        // an identity.
        HeaderValue::from_str(text).unwrap_or(ABSENT)
    }))
}

fn identity_headers(values: [HeaderValue; 7]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(CACHE_CONTROL, NO_STORE);
    IDENTITY.into_iter().zip(values).for_each(|(name, value)| drop(headers.insert(name, value)));
    headers
}

/// A response, before an interface formats it.
#[derive(Clone, Debug)]
pub struct CheckAnswer {
    /// 200, 401, 403 or 503; interfaces other than checks also use the other codes of the error
    /// table.
    pub status: StatusCode,
    /// All headers with a meaning.
    pub headers: HeaderMap,
    /// Empty, or a problem document.
    pub body: Bytes,
    /// For logs and metrics: `allowed`, `public`, or the stable code.
    pub outcome: &'static str,
}

/// The table.
pub fn answer(verdict: Verdict) -> CheckAnswer {
    match verdict {
        Verdict::Allow(good, cached) => {
            let mut headers = cached.rendered().headers(|| identity(&good)).clone();
            if let Some(seconds) = good.stale_seconds() {
                headers.insert(STALE, HeaderValue::from(seconds));
            }
            allowed(headers, "allowed")
        }
        Verdict::Public => allowed(identity_headers([ABSENT; 7]), "public"),
        Verdict::Deny(denial) => denied(&denial),
        Verdict::Unavailable(why) => problem(why.code(), &why.to_string(), None),
    }
}

const fn allowed(headers: HeaderMap, outcome: &'static str) -> CheckAnswer {
    CheckAnswer { status: StatusCode::OK, headers, body: Bytes::new(), outcome }
}

fn denied(denial: &Denial) -> CheckAnswer {
    match denial {
        Denial::Token(rejection) => problem(rejection.code(), &rejection.to_string(), None),
        Denial::NotOneToken(what) => problem(denial.code(), what, None),
        Denial::Scope(scope) => problem(denial.code(), &Shortfall::Scope.detail(scope), Some(scope)),
        Denial::Audience => problem(denial.code(), &Shortfall::Audience.detail(""), None),
        Denial::NoTarget(why) | Denial::Header(why) => problem(denial.code(), why, None),
    }
}

/// An error response, the same for every interface.
pub fn problem(code: Code, detail: &str, scope: Option<&str>) -> CheckAnswer {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(CONTENT_TYPE, PROBLEM);
    if let Some(challenge) = code.challenge(scope).and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, SOON);
    }
    let body = Bytes::from(Problem::with_detail(code, detail).to_json());
    CheckAnswer { status, headers, body, outcome: code.name() }
}

/// A JSON document.
pub fn json(value: &impl serde::Serialize) -> CheckAnswer {
    match serde_json::to_vec(value) {
        Err(_) => problem(Code::Internal, Code::Internal.title(), None),
        Ok(body) => {
            let mut headers = HeaderMap::with_capacity(4);
            headers.insert(CACHE_CONTROL, NO_STORE);
            headers.insert(CONTENT_TYPE, JSON);
            CheckAnswer { status: StatusCode::OK, headers, body: body.into(), outcome: "allowed" }
        }
    }
}

impl From<CheckAnswer> for Response<Body> {
    fn from(answer: CheckAnswer) -> Self {
        let mut response = Self::new(Body::whole(answer.body));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        response
    }
}

/// 405 with the allowed methods (RFC 9110 §15.5.6).
pub fn not_allowed(allow: &'static str) -> CheckAnswer {
    let mut answer = problem(Code::MethodNotAllowed, Code::MethodNotAllowed.title(), None);
    answer.headers.insert(ALLOW, HeaderValue::from_static(allow));
    answer
}

/// Logs a check with its trace id.
pub fn log_check<'a>(interface: &'static str, outcome: &'static str, parent: impl FnOnce() -> Option<Parent<'a>>) {
    // Without a subscriber for the level the values are not computed.
    let shown = |parent: Parent<'a>| tracing::field::display(parent.trace_id());
    tracing::debug!(interface, outcome, trace_id = parent().map(shown), "checked");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::request::CheckRequest;
    use crate::testing::{self, AT};
    use sidegate_common::clock::CheckTime;
    use sidegate_common::revocation_state::Unavailable;
    use sidegate_common::token::Rejection;

    fn shown(answer: &CheckAnswer, name: &HeaderName) -> String {
        answer.headers.get(name).map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
    }

    fn identity(answer: &CheckAnswer) -> Vec<String> {
        IDENTITY.iter().map(|name| shown(answer, name)).collect()
    }

    #[test]
    fn allow_is_200_with_all_identity_headers() {
        let verifier = testing::verifier("allow", None);
        let (token, verified) = testing::verified("the-jti");
        let good = answer(verifier.decide(&CheckRequest::of_token(&token), AT));
        assert_eq!(good.status, 200);
        assert!(good.body.is_empty());
        let claims = verified.claims();
        let expected = ["42", &claims.sid, "the-jti", "sidegate", "read write", &claims.exp.to_string(), "home"];
        assert_eq!(identity(&good), expected);
        assert_eq!(shown(&good, &CACHE_CONTROL), "no-store");
        assert!(!good.headers.contains_key(&STALE));
        let late = CheckTime { monotonic_ms: AT.monotonic_ms + 100_000, ..AT };
        let stale = answer(verifier.decide(&CheckRequest::of_token(&token), late));
        assert_eq!(stale.status, 200);
        assert_eq!(shown(&stale, &STALE), "100");
    }

    #[test]
    fn public_is_200_with_all_identity_headers_absent() {
        let public = answer(Verdict::Public);
        assert_eq!(public.status, 200);
        assert_eq!(identity(&public), ["-"; 7]);
    }

    #[test]
    fn denial_is_401_or_403_with_a_challenge() {
        let rows = [
            (Denial::Token(Rejection::Missing), 401, "token_missing", "Bearer"),
            (Denial::Token(Rejection::Expired), 401, "token_expired", "invalid_token"),
            (Denial::Token(Rejection::Revoked), 401, "token_revoked", "invalid_token"),
            (Denial::Token(Rejection::Signature), 401, "token_invalid", "invalid_token"),
            (Denial::NotOneToken("x"), 401, "token_invalid", "invalid_token"),
            (Denial::Audience, 401, "token_invalid", "invalid_token"),
            (Denial::Scope("admin".into()), 403, "insufficient_scope", "scope=\"admin\""),
            (Denial::NoTarget("x"), 403, "forbidden", ""),
            (Denial::Header("x"), 403, "forbidden", ""),
        ];
        for (denial, status, code, challenge) in rows {
            let answer = answer(Verdict::Deny(denial));
            assert_eq!(answer.status, status, "{code}");
            assert_eq!(answer.outcome, code);
            assert!(shown(&answer, &WWW_AUTHENTICATE).contains(challenge), "{answer:?}");
            let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(body["code"], code);
        }
    }

    #[test]
    fn unavailable_is_503_with_retry_after() {
        for (why, code) in [
            (Unavailable::NotLoaded, "temporarily_unavailable"),
            (Unavailable::NoKeys, "temporarily_unavailable"),
            (Unavailable::Stale(31), "stale"),
        ] {
            let answer = answer(Verdict::Unavailable(why));
            assert_eq!((answer.status.as_u16(), answer.outcome), (503, code));
            assert_eq!(shown(&answer, &RETRY_AFTER), "1");
            assert_eq!(shown(&answer, &WWW_AUTHENTICATE), "");
        }
    }
}
