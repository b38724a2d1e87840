//! The decision on a request: what its route asks for, what its token is worth.

use std::sync::Arc;

use sidegate_common::clock::Moment;
use sidegate_common::problem::Code;
use sidegate_common::revocation_state::Unavailable;
use sidegate_common::token::Rejection;
use sidegate_common::token_checker::GoodToken;

use super::check::{Checked, Checker};
use super::routes::{Access, Requirement, Shortfall};
use super::seen::Seen;

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
}

/// The answer to "may this request pass?".
#[derive(Debug)]
pub enum Decision<R> {
    /// Yes, whoever sends it.
    Public,
    /// Yes, and this is who sends it.
    Allow(GoodToken, Arc<Seen<R>>),
    /// No.
    Deny(Denial),
    /// That cannot be said.
    CannotJudge(Unavailable),
}

/// Decides on a request to a route with this `access`; `also` is asked for beside it.
pub fn decide<R>(
    checker: &Checker<R>,
    presented: Presented<'_>,
    access: &Access,
    also: Option<&Requirement>,
    at: Moment,
) -> Decision<R> {
    let requirement = match access {
        // A caller that names its own requirement (Envoy's context_extensions) closes even a public route.
        Access::Public if also.is_none() => return public(checker, presented, at),
        Access::Public => None,
        Access::Token(requirement) => Some(requirement),
    };
    let token = match presented {
        Presented::Nothing => return Decision::Deny(Denial::Token(Rejection::Missing)),
        Presented::Refused(what) => return Decision::Deny(Denial::NotOneToken(what)),
        Presented::Token(token) => token,
    };
    match checker.check(token, at) {
        Checked::Denied(rejection) => Decision::Deny(Denial::Token(rejection)),
        Checked::CannotJudge(unknown) => Decision::CannotJudge(unknown),
        Checked::Good(good, seen) => {
            for requirement in requirement.into_iter().chain(also) {
                match requirement.met_by(good.claims()) {
                    Ok(()) => {}
                    Err(Shortfall::Scope) => return Decision::Deny(Denial::Scope(requirement.scope.clone())),
                    Err(Shortfall::Audience) => return Decision::Deny(Denial::Audience),
                }
            }
            Decision::Allow(good, seen)
        }
    }
}

/// Everybody may pass; whoever brings a good token passes by name.
fn public<R>(checker: &Checker<R>, presented: Presented<'_>, at: Moment) -> Decision<R> {
    if let Presented::Token(token) = presented
        && let Checked::Good(good, seen) = checker.check(token, at)
    {
        return Decision::Allow(good, seen);
    }
    Decision::Public
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, AT};
    use sidegate_common::revocation_state::OnStale;

    fn ask(presented: Presented<'_>, access: &Access, also: Option<&Requirement>) -> String {
        let checker = Checker::new(testing::tokens(OnStale::Deny), 64, |_| ());
        match decide(&checker, presented, access, also, AT) {
            Decision::Public => "public".to_owned(),
            Decision::Allow(good, _) => good.claims().sub.clone(),
            Decision::Deny(denial) => denial.code().name().to_owned(),
            Decision::CannotJudge(unknown) => unknown.to_string(),
        }
    }

    fn needs(scope: &str, audiences: &[&str]) -> Requirement {
        Requirement { scope: scope.into(), audiences: audiences.iter().map(|a| (*a).to_owned()).collect() }
    }

    #[test]
    fn a_protected_route_needs_one_good_token() {
        let any = Access::Token(Requirement::default());
        let (token, _) = testing::verified("one");
        assert_eq!(ask(Presented::Token(&token), &any, None), "42");
        assert_eq!(ask(Presented::Nothing, &any, None), "token_missing");
        assert_eq!(ask(Presented::Refused("x"), &any, None), "token_invalid");
        assert_eq!(ask(Presented::Token("a.b.c"), &any, None), "token_invalid");
    }

    #[test]
    fn a_public_route_names_whoever_brings_a_good_token() {
        let (token, _) = testing::verified("one");
        assert_eq!(ask(Presented::Token(&token), &Access::Public, None), "42");
        for presented in [Presented::Nothing, Presented::Refused("x"), Presented::Token("a.b.c")] {
            assert_eq!(ask(presented, &Access::Public, None), "public");
        }
    }

    #[test]
    fn requirements_of_route_and_caller_add_up() {
        let (token, _) = testing::verified("one");
        let with = |access: Requirement, also: Option<Requirement>| {
            ask(Presented::Token(&token), &Access::Token(access), also.as_ref())
        };
        assert_eq!(with(needs("read", &[]), None), "42");
        assert_eq!(with(needs("admin", &[]), None), "insufficient_scope");
        assert_eq!(with(needs("read", &["elsewhere"]), None), "token_invalid");
        assert_eq!(with(needs("read", &[]), Some(needs("write", &["sidegate"]))), "42");
        assert_eq!(with(needs("read", &[]), Some(needs("admin", &[]))), "insufficient_scope");
        let also = needs("", &[]);
        assert_eq!(ask(Presented::Nothing, &Access::Public, Some(&also)), "token_missing");
    }
}
