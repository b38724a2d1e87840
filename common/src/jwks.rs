//! JWK sets as a verifier reads them (RFC 7517 §5).

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet};

use crate::key::{Algorithm, KeyError, KeyRing, VerifyingKey};

/// The size limit of a JWK set, in bytes.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;
/// The limit of keys in a set.
pub const JWKS_KEYS_MAX: usize = 64;

/// Why a whole JWK set was rejected. The previous keys stay in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Larger than [`JWKS_BYTES_MAX`], or more than [`JWKS_KEYS_MAX`] keys.
    #[error("the JWK set is too large")]
    TooLarge,
    /// Not a JSON object with `keys`, or it has a duplicate member.
    #[error("not a JWK set")]
    Malformed,
    /// A symmetric key in a public document: its secret is compromised.
    #[error("the JWK set holds a symmetric key")]
    Symmetric,
    /// A private key in a public document.
    #[error("the JWK set holds a private key")]
    Private,
    /// Two keys with the same `kid`.
    #[error("the JWK set names the kid {0:?} twice")]
    DuplicateKid(String),
    /// No key that can verify a token.
    #[error("the JWK set holds no key for the accepted algorithms")]
    Empty,
}

/// Reads a JWK set; keys of other kinds or uses are skipped (RFC 7517 §5).
///
/// # Errors
/// See [`JwksError`].
pub fn parse(bytes: &[u8]) -> Result<KeyRing, JwksError> {
    parse_with(bytes, VerifyingKey::from_jwk)
}

/// As [`parse`], for an issuer that signs only with `algorithms`; keys for others are skipped.
///
/// # Errors
/// See [`JwksError`].
pub fn parse_for(bytes: &[u8], algorithms: &[Algorithm]) -> Result<KeyRing, JwksError> {
    parse_with(bytes, |jwk| VerifyingKey::from_jwk_for(jwk, algorithms))
}

fn parse_with(bytes: &[u8], key: impl Fn(&Jwk) -> Result<VerifyingKey, KeyError>) -> Result<KeyRing, JwksError> {
    if bytes.len() > JWKS_BYTES_MAX {
        return Err(JwksError::TooLarge);
    }
    let value = crate::json::parse(bytes).ok_or(JwksError::Malformed)?;
    let members = value.get("keys").and_then(|keys| keys.as_array()).ok_or(JwksError::Malformed)?;
    if members.len() > JWKS_KEYS_MAX {
        return Err(JwksError::TooLarge);
    }
    let has = |name: &str| members.iter().any(|member| member.get(name).is_some());
    if has("k") {
        return Err(JwksError::Symmetric);
    }
    if has("d") {
        return Err(JwksError::Private);
    }
    // Each member is parsed alone, so that a malformed or unsupported key does not hide the others.
    let keys = members.iter().filter_map(|member| serde_json::from_value::<Jwk>(member.clone()).ok());
    let set = JwkSet { keys: keys.collect() };
    if set.keys.iter().any(|jwk| matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_))) {
        return Err(JwksError::Symmetric);
    }
    let usable: Vec<_> = set.keys.iter().filter_map(|jwk| key(jwk).ok()).collect();
    if usable.is_empty() {
        return Err(JwksError::Empty);
    }
    KeyRing::new(usable).map_err(|duplicate| JwksError::DuplicateKid(duplicate.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn set(keys: &str) -> Vec<u8> {
        format!("{{\"keys\":[{keys}]}}").into_bytes()
    }

    #[test]
    fn key_without_kid_gets_its_thumbprint() {
        let ring = parse(&set(ED25519)).unwrap();
        assert_eq!(ring.keys()[0].kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", "RFC 8037 appendix A.3");
    }

    #[test]
    fn unsupported_keys_are_skipped_and_secrets_rejected() {
        let foreign = r#"{"kty":"XYZ","kid":"x"},{"kty":"EC","crv":"P-521","x":"AA","y":"AA"},5"#;
        assert_eq!(parse(&set(&format!("{foreign},{ED25519}"))).unwrap().keys().len(), 1);
        assert_eq!(parse(&set(foreign)).unwrap_err(), JwksError::Empty);
        let oct = r#"{"kty":"oct","k":"AAAA"}"#;
        assert_eq!(parse(&set(&format!("{ED25519},{oct}"))).unwrap_err(), JwksError::Symmetric);
        let private = ED25519.replace("}", r#","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}"#);
        assert_eq!(parse(&set(&private)).unwrap_err(), JwksError::Private);
    }

    #[test]
    fn wrong_use_or_algorithm_is_skipped() {
        for extra in
            [r#","use":"enc"}"#, r#","alg":"ES256"}"#, r#","alg":"HS256"}"#, r#","kid":""}"#, r#","kid":"a b"}"#]
        {
            let jwk = ED25519.replace('}', extra);
            assert_eq!(parse(&set(&jwk)).unwrap_err(), JwksError::Empty, "{jwk}");
        }
    }

    #[test]
    fn hostile_documents_are_rejected() {
        for bad in ["", "[]", "{}", "null", "{\"keys\":{}}", "{\"keys\":1}", "{\"keys\":[]"] {
            assert_eq!(parse(bad.as_bytes()).unwrap_err(), JwksError::Malformed, "{bad}");
        }
        assert_eq!(parse(b"{\"keys\":[]}").unwrap_err(), JwksError::Empty);
        assert_eq!(parse(&vec![b' '; JWKS_BYTES_MAX + 1]).unwrap_err(), JwksError::TooLarge);
        assert_eq!(parse(&set(&vec!["1"; 65].join(","))).unwrap_err(), JwksError::TooLarge);
        let named = ED25519.replace('}', r#","kid":"a"}"#);
        assert_eq!(parse(&set(&format!("{named},{named}"))).unwrap_err(), JwksError::DuplicateKid("a".into()));
        let short_rsa = r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#;
        assert_eq!(parse(&set(short_rsa)).unwrap_err(), JwksError::Empty);
        let off_curve = r#"{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#;
        assert_eq!(parse(&set(off_curve)).unwrap_err(), JwksError::Empty);
    }
}
