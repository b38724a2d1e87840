//! The claims of an access token (RFC 7519 §4.1, RFC 9068 §2.2).

use crate::text::{is_identifier, is_scope};
use crate::time::UnixTime;

/// The claims of an access token. Only `nbf` and `scope` are optional. Every value has been checked
/// to be safe in a header line.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Claims {
    /// The issuer (RFC 7519 §4.1.1).
    pub iss: String,
    /// The audiences (RFC 7519 §4.1.3); a single one is serialised as a string.
    pub aud: Audience,
    /// The user (RFC 7519 §4.1.2).
    pub sub: String,
    /// The OAuth client that requested the token (RFC 8693 §4.3).
    pub client_id: String,
    /// Issued at, in seconds.
    pub iat: u64,
    /// Expires at, in seconds.
    pub exp: u64,
    /// Not before, in seconds, where present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// Token identifier: 128 random bits, base64url (RFC 7519 §4.1.7).
    pub jti: String,
    /// Session identifier: 128 random bits, base64url.
    pub sid: String,
    /// Granted scope, space separated (RFC 8693 §4.2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

impl Claims {
    /// The `iat` claim.
    pub const fn issued_at(&self) -> UnixTime {
        UnixTime(self.iat)
    }

    /// The `exp` claim.
    pub const fn expires_at(&self) -> UnixTime {
        UnixTime(self.exp)
    }

    /// The name of the first claim that is not safe in a header line, and so must not be signed.
    pub fn unfit_claim(&self) -> Option<&'static str> {
        let identifiers = [("sub", &self.sub), ("sid", &self.sid), ("jti", &self.jti), ("client_id", &self.client_id)];
        if let Some((name, _)) = identifiers.into_iter().find(|(_, value)| !is_identifier(value)) {
            return Some(name);
        }
        match &self.scope {
            Some(scope) if !is_scope(scope) => Some("scope"),
            _ => None,
        }
    }
}

/// One or several audiences.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// The usual case.
    One(String),
    /// A JSON array in the token; never empty.
    Many(Vec<String>),
}

impl std::fmt::Display for Audience {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(one) => f.write_str(one),
            Self::Many(many) => f.write_str(&many.join(" ")),
        }
    }
}

impl Audience {
    /// True if `audience` is one of them.
    pub fn names(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}
