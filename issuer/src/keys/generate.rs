//! Making private keys, as PKCS#8 in PEM (RFC 5958, RFC 7468).

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-256.
    Es256,
    /// RSA of 3072 bits.
    Rs256,
}

impl KeyKind {
    /// Parses the name on the command line.
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "eddsa" | "ed25519" => Some(Self::EdDsa),
            "es256" => Some(Self::Es256),
            "rs256" => Some(Self::Rs256),
            _ => None,
        }
    }
}

/// Key generation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key generation failed")]
pub struct NoKey;

/// Makes a private key in PEM.
///
/// # Errors
/// The library failed.
pub fn generate(kind: KeyKind) -> Result<Zeroizing<Vec<u8>>, NoKey> {
    let der = match kind {
        KeyKind::EdDsa => {
            let key = Ed25519KeyPair::generate().map_err(|_| NoKey)?;
            Zeroizing::new(key.to_pkcs8v1().map_err(|_| NoKey)?.as_ref().to_vec())
        }
        KeyKind::Es256 => {
            let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| NoKey)?;
            Zeroizing::new(key.to_pkcs8v1().map_err(|_| NoKey)?.as_ref().to_vec())
        }
        KeyKind::Rs256 => {
            let key = rsa::KeyPair::generate(KeySize::Rsa3072).map_err(|_| NoKey)?;
            let der: Pkcs8V1Der<'_> = key.as_der().map_err(|_| NoKey)?;
            Zeroizing::new(der.as_ref().to_vec())
        }
    };
    Ok(pem(&der))
}

fn pem(der: &[u8]) -> Zeroizing<Vec<u8>> {
    let text = Zeroizing::new(STANDARD.encode(der));
    let mut out = Zeroizing::new(b"-----BEGIN PRIVATE KEY-----\n".to_vec());
    for line in text.as_bytes().chunks(64) {
        out.extend(line);
        out.push(b'\n');
    }
    out.extend(b"-----END PRIVATE KEY-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidegate_common::key::{Algorithm, SigningKey};

    #[test]
    fn a_key_of_every_kind_signs() {
        for (name, algorithm) in [("eddsa", Algorithm::EdDsa), ("ES256", Algorithm::Es256), ("rs256", Algorithm::Rs256)]
        {
            let made = generate(KeyKind::parse(name).unwrap()).unwrap();
            let key = SigningKey::from_pem(&made).unwrap();
            assert_eq!(key.algorithm(), algorithm);
            assert!(key.jwk().is_some());
        }
        assert_eq!(KeyKind::parse("hs256"), None);
    }
}
