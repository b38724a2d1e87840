//! Checking one token: from the tokens seen before if it is there, by full verification if not; and in both cases by
//! time, revocation and freshness, which nothing here remembers.

use std::sync::Arc;

use sidegate_common::clock::Moment;
use sidegate_common::revocation_state::Unavailable;
use sidegate_common::time::{LEEWAY_MAX_SECONDS, UnixTime};
use sidegate_common::token::{Rejection, VerifiedToken};
use sidegate_common::token_checker::{GoodToken, TokenChecker, TokenError};

use super::seen::{Seen, SeenTokens};

/// A checker with a memory for verified tokens. `R` is what the wire renders of a token, once.
#[derive(Debug)]
pub struct Checker<R> {
    tokens: Arc<TokenChecker>,
    seen: SeenTokens<R>,
    render: fn(&VerifiedToken) -> R,
}

/// The verdict on a token, with what was rendered of it.
#[derive(Debug)]
pub enum Checked<R> {
    /// Good right now.
    Good(GoodToken, Arc<Seen<R>>),
    /// Not good.
    Denied(Rejection),
    /// That cannot be said.
    CannotJudge(Unavailable),
}

impl<R> From<TokenError> for Checked<R> {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Rejected(rejection) => Self::Denied(rejection),
            TokenError::Unavailable(why) => Self::CannotJudge(why),
        }
    }
}

impl<R> Checker<R> {
    /// A checker that remembers about `entries` tokens.
    pub fn new(tokens: Arc<TokenChecker>, entries: usize, render: fn(&VerifiedToken) -> R) -> Self {
        Self { tokens, seen: SeenTokens::new(entries), render }
    }

    /// What checks them.
    pub const fn tokens(&self) -> &Arc<TokenChecker> {
        &self.tokens
    }

    /// Drops tokens that have expired at `now`, beyond the largest leeway, from memory.
    pub fn expire(&self, now: UnixTime) {
        self.seen.expire(now, LEEWAY_MAX_SECONDS, self.tokens.state().key_epoch());
    }

    /// Checks a token.
    pub fn check(&self, token: &str, at: Moment) -> Checked<R> {
        // Read before the keys are: a token verified while they change is kept under the old epoch, and so not used.
        let key_epoch = self.tokens.state().key_epoch();
        if let Some(seen) = self.seen.find(token, key_epoch) {
            return match self.tokens.recheck(seen.verified(), at) {
                Ok(good) => Checked::Good(good, seen),
                Err(error) => error.into(),
            };
        }
        match self.tokens.check(token, at) {
            Ok(good) => {
                let verified = Arc::clone(good.token());
                let rendered = (self.render)(&verified);
                let seen = self.seen.keep(token, key_epoch, verified, rendered);
                Checked::Good(good, seen)
            }
            Err(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, AT};
    use sidegate_common::revocation_state::OnStale;

    #[test]
    fn a_remembered_token_is_still_judged_each_time() {
        let tokens = testing::tokens(OnStale::Deny);
        let checker = Checker::new(Arc::clone(&tokens), 64, |_| ());
        let (token, verified) = testing::verified("one");
        assert!(matches!(checker.check(&token, AT), Checked::Good(..)));
        assert!(checker.seen.find(&token, tokens.state().key_epoch()).is_some());
        let late = Moment { monotonic_ms: AT.monotonic_ms + 1_000_000, ..AT };
        assert!(matches!(checker.check(&token, late), Checked::CannotJudge(Unavailable::Stale(_))));
        let expired = Moment { now: verified.claims().expires_at().plus(60), ..AT };
        assert!(matches!(checker.check(&token, expired), Checked::Denied(Rejection::Expired)));
        testing::revoke_session(&tokens, &verified.claims().sid);
        assert!(matches!(checker.check(&token, AT), Checked::Denied(Rejection::Revoked)));
    }

    #[test]
    fn other_keys_forget_what_was_verified() {
        let tokens = testing::tokens(OnStale::Deny);
        let checker = Checker::new(Arc::clone(&tokens), 64, |_| ());
        let (token, _) = testing::verified("one");
        assert!(matches!(checker.check(&token, AT), Checked::Good(..)));
        tokens.set_keys(testing::other_keys());
        assert!(matches!(checker.check(&token, AT), Checked::Denied(Rejection::UnknownKey)));
    }
}
