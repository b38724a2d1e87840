//! What every handler works with.

use std::sync::{Arc, PoisonError, RwLock};

use sidegate_common::clock::CheckTime;
use sidegate_common::secret::LiveSecret;
use sidegate_common::token_checker::{GoodToken, TokenError};

use super::error::Failure;
use super::jwks::PublicKeys;
use super::origin::{CorsOrigins, TrustedProxies};
use super::readiness::Readiness;
use crate::domain::Auth;
use crate::metrics::Metrics;

/// Reads the issuer's clocks.
pub type Clock = Arc<dyn Fn() -> CheckTime + Send + Sync>;

/// What handlers share.
pub struct Api<U, S, P> {
    /// What login, refresh and logout mean.
    pub auth: Auth<U, S, P>,
    /// The issuer's clocks.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether the stores would take a login and a logout.
    pub readiness: Readiness,
    /// The keys that verifiers may have.
    pub public_keys: RwLock<Arc<PublicKeys>>,
    /// Whose `X-Forwarded-For` is believed.
    pub proxies: TrustedProxies,
    /// Which web pages of other origins may call.
    pub cors: CorsOrigins,
    /// Opens the admin API, where one is set.
    pub admin_token: LiveSecret,
}

impl<U, S, P> Api<U, S, P> {
    /// The keys that verifiers may have, as they are now.
    pub fn published(&self) -> Arc<PublicKeys> {
        Arc::clone(&self.public_keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes other keys from now on.
    pub fn publish(&self, keys: PublicKeys) {
        *self.public_keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// Checks the bearer of a protected route, as every verifier would.
    pub(super) fn check(&self, token: &str) -> Result<GoodToken, Failure> {
        self.auth.tokens.check(token, (self.clock)()).map_err(|error| match error {
            TokenError::Rejected(rejection) => Failure::Denied(rejection),
            TokenError::Unavailable(why) => Failure::CannotCheck(why),
        })
    }
}
