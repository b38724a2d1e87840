//! What is asked of the verifier, and why a request is denied.

use sidegate_common::claims::Claims;
use sidegate_common::problem::Code;
use sidegate_common::token::Rejection;

use super::routes::{Requirement, Shortfall};

/// What a request presents in the way of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presented<'a> {
    /// No token at all.
    Nothing,
    /// One token, not looked at yet.
    Token(&'a str),
    /// Something that is not exactly one token; says what.
    Refused(&'static str),
}

/// May this request pass?
#[derive(Clone, Copy, Debug)]
pub struct CheckRequest<'a> {
    /// Its token.
    pub token: Presented<'a>,
    /// Its method.
    pub method: &'a str,
    /// Its path and query, raw; none where routes play no part.
    pub target: Option<&'a [u8]>,
    /// What the caller asks for beside what the route does. It closes even a public route.
    pub requirement: Option<&'a Requirement>,
}

impl<'a> CheckRequest<'a> {
    /// Is this token good? No request is known that it came with.
    pub const fn of_token(token: &'a str) -> Self {
        Self { token: Presented::Token(token), method: "", target: None, requirement: None }
    }
}

/// Why a request is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The token is missing or not good.
    Token(Rejection),
    /// What was presented is not exactly one token; says what it is.
    NotOneToken(&'static str),
    /// The token is good, and lacks scope; holds the scope that is needed.
    Scope(String),
    /// The token is good, and meant for another audience.
    Audience,
    /// The proxy did not say which request it asks about; says what is missing.
    NoTarget(&'static str),
    /// The request has a header that the application could take for an identity header; says so.
    Header(&'static str),
}

impl Denial {
    /// The stable code that a client sees.
    pub const fn code(&self) -> Code {
        match self {
            Self::Token(rejection) => rejection.code(),
            Self::NotOneToken(_) | Self::Audience => Code::TokenInvalid,
            Self::Scope(_) => Code::InsufficientScope,
            Self::NoTarget(_) | Self::Header(_) => Code::Forbidden,
        }
    }

    /// Why a good token with these claims does not meet `requirement`; none if it does.
    pub fn unmet(requirement: &Requirement, claims: &Claims) -> Option<Self> {
        match requirement.met_by(claims) {
            Ok(()) => None,
            Err(Shortfall::Scope) => Some(Self::Scope(requirement.scope.clone())),
            Err(Shortfall::Audience) => Some(Self::Audience),
        }
    }
}
