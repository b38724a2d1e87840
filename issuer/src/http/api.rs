//! The state that all handlers share.

use std::sync::{Arc, PoisonError, RwLock};

use sidegate_common::clock::CheckTime;
use sidegate_common::secret::LiveSecret;
use sidegate_common::token_checker::{GoodToken, TokenError};

use super::error::Failure;
use super::origin::{CorsOrigins, TrustedProxies};
use super::readiness::Readiness;
use crate::domain::Auth;
use crate::keys::set::PublicKeys;
use crate::metrics::Metrics;

/// Reads the issuer's clocks.
pub type ClockFn = Arc<dyn Fn() -> CheckTime + Send + Sync>;

/// The handlers' shared state.
pub struct Api<U, S, P> {
    /// Login, refresh and logout.
    pub auth: Auth<U, S, P>,
    /// The issuer's clocks.
    pub clock: ClockFn,
    /// The issuer's counters.
    pub metrics: Metrics,
    /// Whether the stores would accept a login and a logout.
    pub readiness: Readiness,
    /// The public keys for verifiers.
    pub public_keys: RwLock<Arc<PublicKeys>>,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub proxies: TrustedProxies,
    /// Origins whose web pages may call.
    pub cors: CorsOrigins,
    /// The bearer token of the admin API, if one is set.
    pub admin_token: LiveSecret,
}

impl<U, S, P> Api<U, S, P> {
    /// The public keys for verifiers, as they are now.
    pub fn published(&self) -> Arc<PublicKeys> {
        Arc::clone(&self.public_keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the published keys.
    pub fn publish(&self, keys: PublicKeys) {
        *self.public_keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// Checks the bearer token of a protected route, as every verifier would.
    pub(super) fn check(&self, token: &str) -> Result<GoodToken, Failure> {
        self.auth.tokens.check(token, (self.clock)()).map_err(|error| match error {
            TokenError::Rejected(rejection) => Failure::Denied(rejection),
            TokenError::Unavailable(why) => Failure::CannotCheck(why),
        })
    }
}
