//! An issuer whose tokens are taken: what its claims must say, and the keys that it signs with.

use std::sync::{Arc, PoisonError, RwLock};

use crate::key::KeyRing;
use crate::time::UnixTime;
use crate::token::{self, Policy, Rejection, VerifiedToken};

/// An issuer. Keys can be replaced while tokens are verified.
#[derive(Debug)]
pub struct Issuer {
    policy: Policy,
    keys: RwLock<Arc<KeyRing>>,
}

impl Issuer {
    /// An issuer without keys.
    pub fn new(policy: Policy) -> Self {
        Self { policy, keys: RwLock::default() }
    }

    /// What its claims must say.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The keys in force.
    pub fn keys(&self) -> Arc<KeyRing> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other keys in force. What was verified has to be verified again: only
    /// [`TokenChecker`](crate::token_checker::TokenChecker) does this.
    pub(crate) fn set_keys(&self, ring: KeyRing) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
    }

    /// Verifies a token: signature and claims.
    ///
    /// # Errors
    /// See [`token::verify`].
    pub fn verify(&self, now: UnixTime, token: &str) -> Result<VerifiedToken, Rejection> {
        token::verify(&self.keys(), &self.policy, now, token)
    }

    /// The same for a token that may have expired.
    ///
    /// # Errors
    /// See [`token::verify_expired_too`].
    pub fn verify_expired_too(&self, now: UnixTime, token: &str) -> Result<VerifiedToken, Rejection> {
        token::verify_expired_too(&self.keys(), &self.policy, now, token)
    }

    /// Checks the times of a token that was verified before.
    ///
    /// # Errors
    /// See [`token::still_valid`].
    pub fn still_valid(&self, now: UnixTime, token: &VerifiedToken) -> Result<(), Rejection> {
        token::still_valid(token, &self.policy, now)
    }
}
