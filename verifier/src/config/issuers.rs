//! `ISSUERS_FILE`: read, checked, and its secrets with it.

use std::path::{Path, PathBuf};

use sidegate_common::foreign::file::{self, FileLimits, IssuerEntry, KeysFrom};
use sidegate_common::key::VerifyingKey;
use sidegate_common::secret::Secret;
use sidegate_common::token::Policy;
use sidegate_runtime::clock::unix_now;
use sidegate_runtime::settings::{ConfigError, Settings, read_secret_file};

use super::KeyConfig;

/// An issuer, with the key made of its `secret_file`.
#[derive(Clone, Debug)]
pub struct ConfiguredIssuer {
    /// Its entry.
    pub entry: IssuerEntry,
    /// The key, where the entry names a secret.
    pub secret: Option<VerifyingKey>,
}

/// `ISSUERS_FILE` and what is in it.
#[derive(Clone, Debug)]
pub struct IssuersConfig {
    /// The file.
    pub path: PathBuf,
    /// Its issuers.
    pub issuers: Vec<ConfiguredIssuer>,
}

const SETTING: &str = "ISSUERS_FILE";

/// Reads the file, if it is set.
///
/// # Errors
/// The first mistake, with the issuer and the key.
pub fn read(settings: &Settings, keys: &KeyConfig, policy: &Policy) -> Result<Option<IssuersConfig>, ConfigError> {
    let Some(path) = settings.text(SETTING).map(PathBuf::from) else { return Ok(None) };
    let refused = |why: String| ConfigError::new(SETTING, format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|error| refused(error.to_string()))?;
    let home = keys.is_given().then_some(policy.issuer.as_str());
    let limits = FileLimits { home, lifetime_max: policy.lifetime_max_seconds, now: unix_now() };
    let entries = file::parse(&text, limits).map_err(|error| refused(error.to_string()))?;
    let mut others: Vec<Secret> = SECRETS.iter().filter_map(|name| settings.secret(name)).collect();
    let mut issuers = Vec::new();
    for entry in entries {
        let secret = match &entry.keys {
            KeysFrom::Secret(path) => {
                let secret = read_secret(path, &others);
                let secret = secret.map_err(|why| refused(format!("issuer {}: secret_file {why}", entry.name)))?;
                let key = VerifyingKey::hs256(&secret);
                others.push(secret);
                Some(key.map_err(|error| refused(format!("issuer {}: secret_file: {error}", entry.name)))?)
            }
            _ => None,
        };
        issuers.push(ConfiguredIssuer { entry, secret });
    }
    Ok(Some(IssuersConfig { path, issuers }))
}

/// No issuer's secret may equal one of these: its owner could mint or read what is not its own.
const SECRETS: [&str; 4] = ["JWT_SECRET_KEY", "JWT_SECRET_KEY_PREVIOUS", "FEED_TOKEN", "INTROSPECT_TOKEN"];

fn read_secret(path: &Path, others: &[Secret]) -> Result<Secret, String> {
    let path = path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))?;
    let secret = read_secret_file(path)?;
    if others.iter().any(|other| other.matches(secret.expose())) {
        return Err("is the same as another secret".to_owned());
    }
    Ok(secret)
}
