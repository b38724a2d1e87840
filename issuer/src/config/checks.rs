//! Checks of settings against each other: refuses combinations that cannot work, warns of unlikely
//! ones.

use std::time::Duration;

use sidegate_runtime::settings::checks::{check_ports, check_probe_interval};
use sidegate_runtime::settings::{ConfigError, Settings};

use super::{Config, StoreConfig};

/// How often verifiers fetch public keys by default (`JWKS_REFRESH`).
const JWKS_REFRESH_DEFAULT: Duration = Duration::from_secs(300);

/// Refuses settings that are valid one by one but cannot work together.
///
/// # Errors
/// Names the setting that should be changed.
pub(super) fn check(settings: &Settings, config: &Config) -> Result<(), ConfigError> {
    check_probe_interval(settings, config.probe_interval, config.staleness.max_ms)?;
    let listen = &config.listen;
    let mut bound = vec![("ISSUER_LISTEN", listen.public), ("ISSUER_ADMIN_LISTEN", listen.admin)];
    if matches!(config.store, StoreConfig::Embedded { .. }) {
        bound.push(("ISSUER_FEED_LISTEN", listen.feed));
    }
    check_ports(&bound)
}

/// Warns of combinations that are probably a mistake.
pub fn warnings(settings: &Settings, config: &Config) -> Vec<String> {
    let mut all: Vec<String> = settings.near_misses().iter().map(ToString::to_string).collect();
    let mut idle = |names: &[&'static str], why: &str| {
        let given = names.iter().filter(|name| settings.is_given(name));
        all.extend(given.map(|name| format!("{name} has no effect: {why}")));
    };
    match &config.store {
        StoreConfig::Redis { .. } => idle(&["STORE_URL", "ISSUER_FEED_LISTEN", "FEED_TOKEN"], "REDIS_URL is set"),
        StoreConfig::Embedded { .. } => idle(
            &[
                "REDIS_PREFIX",
                "REDIS_REQUIRE_PERSISTENCE",
                "REDIS_REQUIRE_NOEVICTION",
                "REDIS_WAIT_REPLICAS",
                "REDIS_WAIT_TIMEOUT",
                "REDIS_WAIT_FSYNC",
            ],
            "REDIS_URL is not set; the embedded store is used",
        ),
    }
    if config.keys.folder.is_none() {
        idle(&["KEY_PREPUBLISH"], "JWT_KEYS_DIR is not set");
    }
    if matches!(config.store, StoreConfig::Embedded { .. }) && !settings.is_given("STORE_URL") {
        let name = settings.text("STORE_URL").unwrap_or_default().trim_start_matches("sqlite://");
        let path = std::path::absolute(name).map_or_else(|_| name.to_owned(), |path| path.display().to_string());
        all.push(format!(
            "neither REDIS_URL nor STORE_URL is set: sessions and revocations are kept in {path}; set one of them"
        ));
    }
    let lifetimes = &config.lifetimes;
    for (name, seconds, other, limit, effect) in [
        ("REFRESH_TOKEN_TTL", lifetimes.idle_ttl, "SESSION_TTL_MAX", lifetimes.absolute_ttl, "sessions end earlier"),
        (
            "ACCESS_TOKEN_TTL",
            lifetimes.access_ttl,
            "SESSION_TTL_MAX",
            lifetimes.absolute_ttl,
            "tokens outlive their session",
        ),
        (
            "REFRESH_RETRY_WINDOW",
            lifetimes.retry_window,
            "REFRESH_TOKEN_TTL",
            lifetimes.idle_ttl,
            "sessions end earlier",
        ),
        (
            "LEEWAY",
            config.policy.leeway_seconds,
            "ACCESS_TOKEN_TTL",
            lifetimes.access_ttl,
            "expired tokens are accepted for longer than they were valid",
        ),
    ] {
        if seconds > limit {
            let (value, most) = (settings.text(name).unwrap_or_default(), settings.text(other).unwrap_or_default());
            all.push(format!("{name} ({value}) is longer than {other} ({most}): {effect}"));
        }
    }
    if config.keys.folder.is_some() && config.keys.prepublish < JWKS_REFRESH_DEFAULT {
        all.push(
            "KEY_PREPUBLISH is below 5m, the default of the verifiers' JWKS_REFRESH: a key may sign before every verifier has it"
                .to_owned(),
        );
    }
    if let (Some(jwt), Some(session)) = (&config.keys.jwt.current, &config.keys.session)
        && jwt.matches(session.expose())
    {
        all.push(
            "SESSION_SECRET_KEY is the same as JWT_SECRET_KEY, which every verifier holds; set a secret of its own"
                .to_owned(),
        );
    }
    all
}
