//! The error body: RFC 9457 problem details that are also an RFC 6749 error, and the table of
//! stable codes.

use serde::Serialize;

/// Every error an HTTP client of Sidegate can see. The names are stable; docs/errors.md lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names say it; see the table below
pub enum Code {
    InvalidRequest,
    InvalidCredentials,
    InvalidGrant,
    TokenMissing,
    TokenInvalid,
    TokenExpired,
    TokenRevoked,
    InsufficientScope,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    PayloadTooLarge,
    UnsupportedMediaType,
    TemporarilyUnavailable,
    Stale,
    Internal,
}

impl Code {
    /// Every code, in the order of docs/errors.md.
    pub const ALL: [Self; 16] = [
        Self::InvalidRequest,
        Self::InvalidCredentials,
        Self::InvalidGrant,
        Self::TokenMissing,
        Self::TokenInvalid,
        Self::TokenExpired,
        Self::TokenRevoked,
        Self::InsufficientScope,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::TemporarilyUnavailable,
        Self::Stale,
        Self::Internal,
    ];

    /// One row of the table: code, HTTP status, the `error` of RFC 6749 §5.2 or RFC 6750 §3.1,
    /// title.
    const fn row(self) -> (&'static str, u16, &'static str, &'static str) {
        match self {
            Self::InvalidRequest => ("invalid_request", 400, "invalid_request", "The request is malformed"),
            Self::InvalidCredentials => ("invalid_credentials", 401, "invalid_grant", "Wrong email or password"),
            Self::InvalidGrant => ("invalid_grant", 401, "invalid_grant", "The refresh token is not valid"),
            Self::TokenMissing => ("token_missing", 401, "invalid_token", "No access token was sent"),
            Self::TokenInvalid => ("token_invalid", 401, "invalid_token", "The access token is not valid"),
            Self::TokenExpired => ("token_expired", 401, "invalid_token", "The access token has expired"),
            Self::TokenRevoked => ("token_revoked", 401, "invalid_token", "The access token has been revoked"),
            Self::InsufficientScope => {
                ("insufficient_scope", 403, "insufficient_scope", "The access token does not allow this")
            }
            Self::Forbidden => ("forbidden", 403, "access_denied", "This request is not allowed"),
            Self::NotFound => ("not_found", 404, "invalid_request", "Not found"),
            Self::MethodNotAllowed => ("method_not_allowed", 405, "invalid_request", "This method is not allowed here"),
            Self::PayloadTooLarge => ("payload_too_large", 413, "invalid_request", "The body is too large"),
            Self::UnsupportedMediaType => ("unsupported_media_type", 415, "invalid_request", "Unsupported media type"),
            Self::TemporarilyUnavailable => {
                ("temporarily_unavailable", 503, "temporarily_unavailable", "The service cannot answer right now")
            }
            Self::Stale => ("stale", 503, "temporarily_unavailable", "The list of revoked tokens may be out of date"),
            Self::Internal => ("internal", 500, "server_error", "Internal server error"),
        }
    }

    /// The stable code.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status.
    pub const fn status(self) -> u16 {
        self.row().1
    }

    /// The `error` member.
    pub const fn error(self) -> &'static str {
        self.row().2
    }

    /// The human-readable title.
    pub const fn title(self) -> &'static str {
        self.row().3
    }

    /// The value of `WWW-Authenticate` (RFC 6750 §3) when a protected route answers with this code:
    /// a bare challenge if the request had no token, otherwise with `error`. `scope` is the route's
    /// required scope, where known.
    pub fn challenge(self, scope: Option<&str>) -> Option<String> {
        match self {
            Self::TokenMissing => Some("Bearer".to_owned()),
            Self::TokenInvalid | Self::TokenExpired | Self::TokenRevoked => {
                Some(format!("Bearer error=\"invalid_token\", error_description=\"{}\"", self.title()))
            }
            Self::InsufficientScope => {
                let scope = scope.map(|scope| format!(", scope=\"{scope}\"")).unwrap_or_default();
                Some(format!("Bearer error=\"insufficient_scope\", error_description=\"{}\"{scope}", self.title()))
            }
            _ => None,
        }
    }
}

/// An error response body: `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The stable code.
    pub code: Code,
    /// The details, for a person. Never contains what a client must not know.
    pub detail: String,
    /// The request's identifier, where known (RFC 9457 §3.1.5, `instance`).
    pub request_id: Option<String>,
}

/// The media type of [`Problem::to_json`].
pub const MEDIA_TYPE: &str = "application/problem+json";

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    error: &'a str,
    error_description: String,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
}

impl Problem {
    /// A problem with the code's title as its detail.
    pub fn new(code: Code) -> Self {
        Self::with_detail(code, code.title())
    }

    /// A problem with its own detail.
    pub fn with_detail(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), request_id: None }
    }

    /// The JSON body.
    pub fn to_json(&self) -> Vec<u8> {
        let body = Body {
            r#type: format!("urn:sidegate:error:{}", self.code.name()),
            title: self.code.title(),
            status: self.code.status(),
            detail: &self.detail,
            error: self.code.error(),
            error_description: printable(&self.detail),
            code: self.code.name(),
            instance: self.request_id.as_ref().map(|id| format!("urn:sidegate:request:{id}")),
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

/// RFC 6749 §5.2 allows `%x20-21 / %x23-5B / %x5D-7E` in `error_description`.
fn printable(text: &str) -> String {
    let fit = |c: char| match c {
        '"' => '\'',
        '\\' => '/',
        ' '..='~' => c,
        _ => '?',
    };
    text.chars().map(fit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_is_a_problem_and_an_oauth_error() {
        let problem =
            Problem { request_id: Some("r1".into()), ..Problem::with_detail(Code::InvalidRequest, "\"email\" é") };
        let body: serde_json::Value = serde_json::from_slice(&problem.to_json()).unwrap();
        assert_eq!(body["type"], "urn:sidegate:error:invalid_request");
        assert_eq!(body["status"], 400);
        assert_eq!(body["code"], "invalid_request");
        assert_eq!(body["error"], "invalid_request");
        assert_eq!(body["detail"], "\"email\" é");
        assert_eq!(body["error_description"], "'email' ?");
        assert_eq!(body["instance"], "urn:sidegate:request:r1");
    }

    #[test]
    fn codes_are_distinct_with_an_error_status() {
        let names: std::collections::HashSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| (400..600).contains(&code.status())));
    }

    #[test]
    fn docs_list_every_code_with_status_and_error() {
        let page = include_str!("../../docs/errors.md");
        for code in Code::ALL {
            let row = format!("|{}|{}|{}|", code.status(), code.name(), code.error());
            assert!(page.contains(&row), "docs/errors.md lacks {row}");
        }
    }

    #[test]
    fn challenges_follow_rfc_6750() {
        assert_eq!(Code::TokenMissing.challenge(None).as_deref(), Some("Bearer"));
        assert!(Code::TokenExpired.challenge(None).unwrap().starts_with("Bearer error=\"invalid_token\""));
        let scope = Code::InsufficientScope.challenge(Some("read")).unwrap();
        assert!(scope.contains("error=\"insufficient_scope\"") && scope.ends_with("scope=\"read\""));
        assert_eq!(Code::Internal.challenge(None), None);
    }
}
