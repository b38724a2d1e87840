//! The keys in force, from folder and secrets: one that signs, those that verify, those that are
//! published.

use std::path::Path;

use serde_json::json;
use sidegate_common::key::{DuplicateKid, KeyError, KeyRing, SigningKey, VerifyingKey};
use sidegate_common::secret::Secret;

use super::folder::{Folder, FolderError};

/// The public keys (RFC 7517 §5), serialized. Never an HMAC key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicKeys {
    /// The JWK set as JSON.
    pub json: String,
    /// How long the set may be cached, in seconds: less than a key is published before it signs.
    pub max_age: u64,
}

/// Why no set of keys can be built.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A secret.
    #[error(transparent)]
    Secret(#[from] KeyError),
    /// Two keys share an identifier.
    #[error(transparent)]
    Duplicate(#[from] DuplicateKid),
    /// Neither a folder nor a secret is set.
    #[error("there is no key to sign with")]
    Nothing,
}

/// Keys in force.
pub struct KeySet {
    /// Signs new tokens.
    pub signing: SigningKey,
    /// Verifies.
    pub ring: KeyRing,
    /// For verifiers.
    pub public: PublicKeys,
    /// Keys whose tokens are revoked.
    pub retired: Vec<String>,
}

/// HS256 secrets.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// Signs if there is no folder; otherwise only verifies.
    pub current: Option<Secret>,
    /// Only verifies.
    pub previous: Option<Secret>,
}

impl KeySet {
    /// Reads the keys. `max_age` is the cache lifetime of the public keys, in seconds.
    ///
    /// # Errors
    /// See [`KeySetError`].
    pub fn read(folder: Option<&Path>, secrets: &Secrets, max_age: u64) -> Result<Self, KeySetError> {
        let mut verifying: Vec<VerifyingKey> = Vec::new();
        for secret in secrets.current.iter().chain(&secrets.previous) {
            verifying.push(VerifyingKey::hs256(secret)?);
        }
        let Some(path) = folder else {
            let secret = secrets.current.as_ref().ok_or(KeySetError::Nothing)?;
            let public = public_keys(&[], max_age);
            let signing = SigningKey::hs256(secret)?;
            return Ok(Self { signing, ring: KeyRing::new(verifying)?, public, retired: Vec::new() });
        };
        let folder = Folder::read(path)?;
        let retired = folder.retired().to_vec();
        let (signing, published) = folder.into_keys()?;
        let all: Vec<&SigningKey> = std::iter::once(&signing).chain(&published).collect();
        let public = public_keys(&all, max_age);
        verifying.extend(all.iter().map(|key| key.verifying().clone()));
        Ok(Self { ring: KeyRing::new(verifying)?, public, retired, signing })
    }
}

fn public_keys(keys: &[&SigningKey], max_age: u64) -> PublicKeys {
    let keys: Vec<_> = keys.iter().filter_map(|key| key.jwk()).collect();
    PublicKeys { json: json!({ "keys": keys }).to_string(), max_age }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_alone_signs_and_is_never_published() {
        let current = Secret::new("a-test-secret-of-thirty-two-bytes-or-more");
        let previous = Secret::new("another-secret-of-thirty-two-bytes-or-more");
        let secrets = Secrets { current: Some(current), previous: Some(previous) };
        let set = KeySet::read(None, &secrets, 60).unwrap();
        assert_eq!(set.public.json, "{\"keys\":[]}");
        assert_eq!(set.ring.keys().len(), 2);
        assert!(matches!(KeySet::read(None, &Secrets::default(), 60), Err(KeySetError::Nothing)));
    }
}
