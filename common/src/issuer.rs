//! The accepted issuer: what its claims must contain, and its verification keys.

use std::sync::{Arc, PoisonError, RwLock};

use crate::key::KeyRing;
use crate::time::UnixTime;
use crate::token::{self, Policy, Rejection, VerifiedToken};

/// The accepted issuer. Keys can be replaced while tokens are verified.
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

    /// What the claims must contain.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The current keys.
    pub fn keys(&self) -> Arc<KeyRing> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the keys. Tokens verified before must be verified again, so only
    /// [`TokenChecker`](crate::token_checker::TokenChecker) calls this.
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

    /// Verifies a token that may have expired.
    ///
    /// # Errors
    /// See [`token::verify_expired_too`].
    pub fn verify_expired_too(&self, now: UnixTime, token: &str) -> Result<VerifiedToken, Rejection> {
        token::verify_expired_too(&self.keys(), &self.policy, now, token)
    }

    /// Checks the times of a token that has been verified before.
    ///
    /// # Errors
    /// See [`token::still_valid`].
    pub fn still_valid(&self, now: UnixTime, token: &VerifiedToken) -> Result<(), Rejection> {
        token::still_valid(token, &self.policy, now)
    }
}
