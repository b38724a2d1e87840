//! The responses to refused requests: the daemon's status, headers and body.

use sidegate_client::Denied;
use sidegate_common::problem::{Code, MEDIA_TYPE, Problem};
use sidegate_common::routes::{Requirement, Shortfall};
use sidegate_common::token::Rejection;

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The stable code, for Envoy's access log.
    pub code: &'static str,
}

impl Answer {
    /// For a token that is missing, not good, or could not be checked.
    pub fn denied(denied: &Denied) -> Self {
        match denied {
            Denied::Missing => Self::problem(Code::TokenMissing, &Rejection::Missing.to_string(), None),
            Denied::Invalid { why } => Self::problem(Code::TokenInvalid, why, None),
            Denied::Expired => Self::problem(Code::TokenExpired, &Rejection::Expired.to_string(), None),
            Denied::Revoked => Self::problem(Code::TokenRevoked, &Rejection::Revoked.to_string(), None),
            Denied::InsufficientScope { required } => Self::lacks_scope(required),
            Denied::Stale => Self::problem(Code::Stale, Code::Stale.title(), None),
            // A client must not see errors between this process and its daemon.
            Denied::Unavailable(_) => {
                Self::problem(Code::TemporarilyUnavailable, Code::TemporarilyUnavailable.title(), None)
            }
        }
    }

    /// For a good token that does not meet `requirement`.
    pub fn unmet(requirement: &Requirement, shortfall: Shortfall) -> Self {
        match shortfall {
            Shortfall::Scope => Self::lacks_scope(&requirement.scope),
            Shortfall::Audience => Self::problem(Code::TokenInvalid, &shortfall.detail(""), None),
        }
    }

    /// After a panic.
    pub fn internal() -> Self {
        Self::problem(Code::Internal, Code::Internal.title(), None)
    }

    /// The status that gRPC has for it.
    pub fn grpc_status(&self) -> &'static str {
        match self.status {
            401 => "16", // UNAUTHENTICATED
            403 => "7",  // PERMISSION_DENIED
            503 => "14", // UNAVAILABLE
            _ => "13",   // INTERNAL
        }
    }

    fn lacks_scope(scope: &str) -> Self {
        Self::problem(Code::InsufficientScope, &Shortfall::Scope.detail(scope), Some(scope))
    }

    fn problem(code: Code, detail: &str, scope: Option<&str>) -> Self {
        let mut headers = vec![("cache-control", "no-store".to_owned()), ("content-type", MEDIA_TYPE.to_owned())];
        headers.extend(code.challenge(scope).map(|challenge| ("www-authenticate", challenge)));
        if code.status() == 503 {
            headers.push(("retry-after", "1".to_owned()));
        }
        Self { status: code.status(), headers, body: Problem::with_detail(code, detail).to_json(), code: code.name() }
    }
}
