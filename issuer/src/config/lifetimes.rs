//! How long tokens and sessions live, and what the issuer's own tokens must contain.

use std::time::Duration;

use sidegate_common::time::LEEWAY_MAX_SECONDS;
use sidegate_common::token::Policy;
use sidegate_runtime::settings::{ConfigError, Settings};

use super::within;
use crate::domain::session::TokenLifetimes;

pub(super) fn read(settings: &Settings) -> Result<TokenLifetimes, ConfigError> {
    let day = Duration::from_secs(24 * 60 * 60);
    let second = Duration::from_secs(1);
    let lifetime_max = within(settings, "MAX_TOKEN_LIFETIME", second, 366 * day)?;
    let access_ttl = within(settings, "ACCESS_TOKEN_TTL", second, 366 * day)?;
    if access_ttl > lifetime_max {
        return Err(settings.unfit("ACCESS_TOKEN_TTL", "at most MAX_TOKEN_LIFETIME"));
    }
    let retry_window = within(settings, "REFRESH_RETRY_WINDOW", Duration::ZERO, Duration::from_secs(300))?;
    Ok(TokenLifetimes {
        access_ttl: access_ttl.as_secs(),
        idle_ttl: within(settings, "REFRESH_TOKEN_TTL", second, 3660 * day)?.as_secs(),
        absolute_ttl: within(settings, "SESSION_TTL_MAX", second, 3660 * day)?.as_secs(),
        retry_window: retry_window.as_secs(),
        lifetime_max: lifetime_max.as_secs(),
    })
}

pub(super) fn policy(settings: &Settings, lifetimes: &TokenLifetimes) -> Result<Policy, ConfigError> {
    Ok(Policy {
        issuer: settings.required("JWT_ISSUER")?.to_owned(),
        audiences: vec![settings.required("JWT_AUDIENCE")?.to_owned()],
        leeway_seconds: within(settings, "LEEWAY", Duration::ZERO, Duration::from_secs(LEEWAY_MAX_SECONDS))?.as_secs(),
        lifetime_max_seconds: lifetimes.lifetime_max,
    })
}
