//! Why a token is not accepted, by the daemon's stable codes.

use std::borrow::Cow;
use std::io::ErrorKind;

use serde::Serialize;

/// A rejection, or a failed check, with the daemon's code (docs/errors.md).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No token was presented.
    #[error("no access token was sent")]
    Missing,
    /// Malformed, damaged, forged, or not valid yet.
    #[error("the access token is not valid: {why}")]
    Invalid {
        /// The daemon's detail text.
        why: Cow<'static, str>,
    },
    /// The token has expired.
    #[error("the access token has expired")]
    Expired,
    /// The token, its session, its user's tokens or its key has been revoked.
    #[error("the access token has been revoked")]
    Revoked,
    /// The token is good, but lacks a scope.
    #[error("the access token lacks the scope {required}")]
    InsufficientScope {
        /// The required scope, space separated.
        required: String,
    },
    /// The daemon's list of revocations is older than its policy allows, so the token cannot be
    /// checked.
    #[error("the list of revoked tokens may be out of date")]
    Stale,
    /// The daemon could not be reached, so the token could not be checked.
    #[error("the token could not be checked: {0}")]
    Unavailable(#[from] DaemonError),
}

/// Why a request to the daemon failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DaemonError {
    /// No process listens at the socket.
    #[error("no connection to the verifier ({0})")]
    Connect(ErrorKind),
    /// The connection broke.
    #[error("the connection to the verifier broke ({0})")]
    Broken(ErrorKind),
    /// No answer in time.
    #[error("the verifier did not answer in time")]
    Timeout,
    /// A malformed response.
    #[error("malformed answer from the verifier")]
    Answer,
    /// The daemon itself could not check, or failed, with this HTTP status.
    #[error("the verifier answered {0}; `sidegate-verifier status` says why")]
    Daemon(u16),
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: String,
    error: &'a str,
    error_description: String,
    code: &'a str,
}

impl Denied {
    pub(crate) const NOT_COMPACT: Self = Self::Invalid { why: Cow::Borrowed("not a compact JWS") };

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::Invalid { .. } => "token_invalid",
            Self::Expired => "token_expired",
            Self::Revoked => "token_revoked",
            Self::InsufficientScope { .. } => "insufficient_scope",
            Self::Stale => "stale",
            Self::Unavailable(_) => "temporarily_unavailable",
        }
    }

    /// The HTTP status for the error: 401, 403 or 503.
    pub fn status(&self) -> u16 {
        match self {
            Self::InsufficientScope { .. } => 403,
            Self::Stale | Self::Unavailable(_) => 503,
            _ => 401,
        }
    }

    /// The value of `WWW-Authenticate` (RFC 6750 §3) for a 401 or 403.
    pub fn challenge(&self) -> Option<String> {
        match self {
            Self::Missing => Some("Bearer".to_owned()),
            Self::InsufficientScope { required } => {
                let title = self.title();
                Some(format!(
                    "Bearer error=\"insufficient_scope\", error_description=\"{title}\", scope=\"{required}\""
                ))
            }
            Self::Stale | Self::Unavailable(_) => None,
            _ => Some(format!("Bearer error=\"invalid_token\", error_description=\"{}\"", self.title())),
        }
    }

    /// The title of the error, in the daemon's words (docs/errors.md).
    pub fn title(&self) -> &'static str {
        match self {
            Self::Missing => "No access token was sent",
            Self::Invalid { .. } => "The access token is not valid",
            Self::Expired => "The access token has expired",
            Self::Revoked => "The access token has been revoked",
            Self::InsufficientScope { .. } => "The access token does not allow this",
            Self::Stale => "The list of revoked tokens may be out of date",
            Self::Unavailable(_) => "The service cannot answer right now",
        }
    }

    /// The body of the response, `application/problem+json` (RFC 9457).
    pub fn problem_json(&self) -> String {
        let error = match self.status() {
            401 => "invalid_token",
            403 => "insufficient_scope",
            _ => "temporarily_unavailable",
        };
        let title = self.title();
        // A client must not see errors between this process and its daemon.
        let detail = if self.status() == 503 { title.to_owned() } else { self.to_string() };
        let body = Body {
            r#type: format!("urn:sidegate:error:{}", self.code()),
            title,
            status: self.status(),
            error_description: detail.clone(),
            detail,
            error,
            code: self.code(),
        };
        serde_json::to_string(&body).unwrap_or_default()
    }

    /// Maps the daemon's error response.
    pub(crate) fn from_answer(status: u16, code: &str, detail: String) -> Self {
        match (code, status) {
            ("token_missing", _) => Self::Missing,
            ("token_expired", _) => Self::Expired,
            ("token_revoked", _) => Self::Revoked,
            ("insufficient_scope", _) => Self::InsufficientScope { required: String::new() },
            ("stale", _) => Self::Stale,
            ("token_invalid", _) | (_, 401 | 413) => Self::Invalid { why: detail.into() },
            _ => Self::Unavailable(DaemonError::Daemon(status)),
        }
    }
}
