//! POST /verify: the endpoint for Sidegate's own clients, when a token is not in their cache.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use sidegate_common::claims::Claims;
use sidegate_common::problem::Code;
use sidegate_runtime::serve::{is_encoded, read_body};

use super::answer::{CheckAnswer, STALE, answer, json, problem};
use super::body::Body;
use super::introspect::{BODY_BYTES_MAX, BODY_TIMEOUT, NOT_DECODED, body_problem};
use crate::domain::request::{CheckRequest, Denial};
use crate::verifier::{Verdict, Verifier};

const NAME: &str = "verify";

/// A good token: its claims, and the segment and key epoch of the check, so that the client knows
/// when to ask again (docs/shm.md). For a token of another issuer both are zero, so that clients
/// ask about it every time: the segment does not hold what could revoke it.
#[derive(serde::Serialize)]
struct Verified<'a> {
    issuer: &'a str,
    claims: &'a Claims,
    segment: String,
    epoch: u64,
}

/// Checks the token in the body.
pub async fn verify(verifier: Arc<Verifier>, request: Request<Incoming>) -> Response<Body> {
    let answer = if is_encoded(request.headers()) {
        problem(Code::UnsupportedMediaType, NOT_DECODED, None)
    } else {
        match read_body(request.into_body(), BODY_BYTES_MAX, BODY_TIMEOUT).await {
            Err(error) => body_problem(error),
            Ok(body) => match std::str::from_utf8(&body) {
                Ok(token) => check(&verifier, token).await,
                Err(_) => answer(Verdict::Deny(Denial::NotOneToken("not text"))),
            },
        }
    };
    verifier.answered(NAME, answer.outcome);
    answer.into()
}

async fn check(verifier: &Verifier, token: &str) -> CheckAnswer {
    // Read before the check: if either changes meanwhile, the client has the older one, and asks
    // again.
    let (segment, epoch) = (verifier.segment_id(), verifier.key_epoch());
    match verifier.check(&CheckRequest::of_token(token)).await {
        Verdict::Allow(good, _) => {
            let (segment, epoch) = if good.is_foreign() { (0, 0) } else { (segment, epoch) };
            let (issuer, claims) = (good.issuer_name(), good.claims());
            let mut answer = json(&Verified { issuer, claims, segment: format!("{segment:016x}"), epoch });
            if let Some(seconds) = good.stale_seconds() {
                answer.headers.insert(STALE, http::HeaderValue::from(seconds));
            }
            answer
        }
        other => answer(other),
    }
}
