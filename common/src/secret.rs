//! Bytes that never reach a log and are wiped when dropped.

use std::sync::{Arc, PoisonError, RwLock};

use zeroize::Zeroizing;

/// The shortest HMAC secret, in bytes (RFC 7518 §3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// Secret bytes: `Debug` shows a mask, and dropping wipes them.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes ownership of the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes. The name lets a reviewer find every use.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, if they are UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Compares with `presented`; constant time for equal lengths.
    pub fn matches(&self, presented: &[u8]) -> bool {
        use subtle::ConstantTimeEq;
        self.0.as_slice().ct_eq(presented).into()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// An optional secret that can be replaced at run time. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct LiveSecret(Arc<RwLock<Option<Secret>>>);

impl LiveSecret {
    /// Holds this secret until it is replaced.
    pub fn new(secret: Option<Secret>) -> Self {
        Self(Arc::new(RwLock::new(secret)))
    }

    /// Replaces the secret.
    pub fn replace(&self, secret: Option<Secret>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = secret;
    }

    /// True if a secret is set.
    pub fn is_set(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Compares with `presented`, in constant time for equal lengths; false if no secret is set.
    pub fn matches(&self, presented: &[u8]) -> bool {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().is_some_and(|secret| secret.matches(presented))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_secret_matches_its_current_value() {
        let live = LiveSecret::new(None);
        assert!(!live.is_set() && !live.matches(b""));
        let shared = live.clone();
        shared.replace(Some(Secret::new("canary")));
        assert!(live.is_set() && live.matches(b"canary") && !live.matches(b"other"));
        assert!(!format!("{live:?}").contains("canary"));
    }

    #[test]
    fn debug_is_masked_and_comparison_is_exact() {
        let secret = Secret::new("canary");
        assert_eq!(format!("{secret:?}"), "Secret(***)");
        assert!(secret.matches(b"canary"));
        assert!(!secret.matches(b"canarz"));
        assert!(!secret.matches(b"canar"));
    }
}
