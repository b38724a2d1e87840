//! The external test vectors, and a verifier for them.

use std::path::PathBuf;

use serde_json::Value;
use sidegate_common::jwks;
use sidegate_common::key::{KeyRing, VerifyingKey};
use sidegate_common::secret::Secret;
use sidegate_common::time::UnixTime;
use sidegate_common::token::Policy;
use sidegate_hostile::{Forge, Setting};

/// The time of every check.
pub const NOW: UnixTime = UnixTime(1_700_000_000);

/// A file of `SIDEGATE_VECTORS`; `None`, with a message, where the folder is absent.
pub fn vector(path: &str) -> Option<PathBuf> {
    let folder = std::env::var("SIDEGATE_VECTORS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors").to_owned());
    let folder = PathBuf::from(folder);
    if !folder.is_dir() {
        println!("skipped: no test vectors; set SIDEGATE_VECTORS to their folder");
        return None;
    }
    let path = folder.join(path);
    assert!(path.exists(), "the vectors lack {}", path.display());
    Some(path)
}

/// A JSON file of the vectors.
pub fn json(path: &str) -> Option<Value> {
    let text = std::fs::read(vector(path)?).unwrap();
    Some(serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{path}: {error}")))
}

/// The verification keys for `forge`'s tokens.
pub fn ring(forge: &Forge) -> KeyRing {
    match (forge.secret(), forge.jwk()) {
        (Some(secret), _) => KeyRing::new(vec![VerifyingKey::hs256(&Secret::new(secret)).unwrap()]).unwrap(),
        (None, Some(jwk)) => jwks::parse(serde_json::json!({"keys": [jwk]}).to_string().as_bytes()).unwrap(),
        (None, None) => panic!("a forge has a key"),
    }
}

/// The verifier's policy.
pub fn policy(setting: &Setting) -> Policy {
    Policy {
        issuer: setting.issuer.clone(),
        audiences: vec![setting.audience.clone()],
        leeway_seconds: setting.leeway,
        lifetime_max_seconds: setting.lifetime_max,
    }
}

/// The bytes of hexadecimal digits.
pub fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
