//! Bytes that never reach a log and are wiped when dropped.

use zeroize::Zeroizing;

/// Secret bytes: `Debug` shows a mask, and dropping wipes them.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes themselves. Named so that a reviewer sees every place that takes them out.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, where they are UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Compares in constant time for equal lengths.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_and_comparison_is_exact() {
        let secret = Secret::new("canary");
        assert_eq!(format!("{secret:?}"), "Secret(***)");
        assert!(secret.matches(b"canary"));
        assert!(!secret.matches(b"canarz"));
        assert!(!secret.matches(b"canar"));
    }
}
