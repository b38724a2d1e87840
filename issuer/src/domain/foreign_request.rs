//! A request to revoke tokens of another issuer, in the words of its tokens.

use sidegate_common::foreign::ids::ClaimPath;

/// Which of an issuer's tokens are revoked, in the words of its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForeignTarget {
    /// A user, by the subject claim.
    User(String),
    /// A session, by the session claim.
    Session(String),
    /// A token: the JWT itself, or its token claim.
    Token(String),
    /// A signing key, by `kid`.
    Key(String),
    /// Every token.
    All,
    /// Every token whose claim has this value.
    Claim(ClaimPath, String),
}

/// A request about another issuer's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRequest {
    /// The issuer's name.
    pub issuer: String,
    /// Which tokens.
    pub target: ForeignTarget,
}

impl ForeignTarget {
    /// The target's kind, for logs and metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Session(_) => "session",
            Self::Token(_) => "token",
            Self::Key(_) => "key",
            Self::All => "all",
            Self::Claim(..) => "claim",
        }
    }
}

/// Why tokens of another issuer cannot be revoked as requested.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignError {
    /// No such issuer.
    #[error("issuer is not one of ISSUERS_FILE")]
    UnknownIssuer,
    /// The user of a request without issuer looks like one of another issuer.
    #[error("user begins with the name of an issuer of ISSUERS_FILE: give issuer, and user without that prefix")]
    PrefixedUser,
    /// Tokens of this issuer have no such claim, so the revocation could match none.
    #[error("tokens of this issuer have no {0}")]
    NoSuchClaim(&'static str),
    /// The claim is not among `revocable`.
    #[error("claim is not listed as revocable in ISSUERS_FILE")]
    NotRevocable,
    /// Nothing may write the entry yet.
    #[error("set FOREIGN_ENTRIES=on once every verifier can read such entries")]
    EntriesOff,
    /// A value that no token can have.
    #[error("{0} is malformed, or not of this issuer")]
    Unfit(&'static str),
}
