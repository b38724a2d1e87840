//! A check request, and why it is denied.

use sidegate_common::claims::Claims;
use sidegate_common::problem::Code;
use sidegate_common::token::Rejection;

use sidegate_common::routes::{Requirement, Shortfall};

/// The token that a request presents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presented<'a> {
    /// No token at all.
    Nothing,
    /// One token, unverified.
    Token(&'a str),
    /// Not exactly one token; the text says what instead.
    Refused(&'static str),
}

/// A request to check.
#[derive(Clone, Copy, Debug)]
pub struct CheckRequest<'a> {
    /// Its token.
    pub token: Presented<'a>,
    /// Its method.
    pub method: &'a str,
    /// Its path and query, raw; `None` where routes do not apply.
    pub target: Option<&'a [u8]>,
    /// The caller's requirement beside the route's. It closes even a public route.
    pub requirement: Option<&'a Requirement>,
}

impl<'a> CheckRequest<'a> {
    /// A check of a token alone, without the request that it came with.
    pub const fn of_token(token: &'a str) -> Self {
        Self { token: Presented::Token(token), method: "", target: None, requirement: None }
    }
}

/// Why a request is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The token is missing or not good.
    Token(Rejection),
    /// Not exactly one token; the text says what instead.
    NotOneToken(&'static str),
    /// The token is good, but lacks this scope.
    Scope(String),
    /// The token is good, but for another audience.
    Audience,
    /// The proxy did not name the request; the text says what is missing.
    NoTarget(&'static str),
    /// The request has a header that the application could mistake for an identity header.
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

    /// Why a good token with these claims does not meet `requirement`; `None` if it does.
    pub fn unmet(requirement: &Requirement, claims: &Claims) -> Option<Self> {
        match requirement.met_by(claims.scope.as_deref(), |audience| claims.aud.names(audience)) {
            Ok(()) => None,
            Err(Shortfall::Scope) => Some(Self::Scope(requirement.scope.clone())),
            Err(Shortfall::Audience) => Some(Self::Audience),
        }
    }
}
