//! `ISSUERS_FILE`: the issuers whose tokens are revoked here.

use sidegate_common::foreign::file::{self, FileLimits, IssuerEntry};
use sidegate_common::token::Policy;
use sidegate_runtime::clock::unix_now;
use sidegate_runtime::settings::{ConfigError, Settings};

/// Reads the file, if it is set.
///
/// # Errors
/// The first mistake, with the issuer and the key.
pub(super) fn read(settings: &Settings, policy: &Policy) -> Result<Option<Vec<IssuerEntry>>, ConfigError> {
    let Some(path) = settings.text("ISSUERS_FILE") else { return Ok(None) };
    let refused = |why: String| ConfigError::new("ISSUERS_FILE", format!("{path}: {why}"));
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    // Whose subjects have no prefix concerns only verifiers, which may have no home issuer.
    let limits = FileLimits { home: None, lifetime_max: policy.lifetime_max_seconds, now: unix_now() };
    let entries = file::parse(&text, limits).map_err(|error| refused(error.to_string()))?;
    match entries.iter().find(|entry| entry.iss == policy.issuer) {
        Some(entry) => Err(refused(format!("issuer {}: iss is this issuer's own (JWT_ISSUER)", entry.name))),
        None => Ok(Some(entries)),
    }
}
