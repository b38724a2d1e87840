//! Tests of keys: weak secrets, derivation, look-up in a ring.

use super::*;

#[test]
fn short_and_well_known_secrets_are_rejected() {
    assert_eq!(VerifyingKey::hs256(&Secret::new("short")).unwrap_err(), KeyError::SecretTooShort(5));
    assert_eq!(VerifyingKey::hs256(&Secret::new([b'a'; 31])).unwrap_err(), KeyError::SecretTooShort(31));
    let well_known = Secret::new("abcdefghijklmnopqrstuvwxyz123456");
    let refused = VerifyingKey::hs256(&well_known);
    assert!(refused.is_err() || !crate::weak_secrets::is_weak(well_known.expose()));
}

#[test]
fn kid_of_a_secret_is_stable() {
    let kid = |secret: &str| hs256_kid(&Secret::new(secret)).unwrap();
    let (kid, of) = (kid("0123456789abcdef0123456789ABCDEF-test"), kid);
    assert_eq!(kid.len(), 22);
    assert_eq!(kid, of("0123456789abcdef0123456789ABCDEF-test"));
    assert_ne!(kid, of("0123456789abcdef0123456789ABCDEF-tesu"));
}

#[test]
fn failed_derivation_is_an_error() {
    let secret = Secret::new("0123456789abcdef0123456789ABCDEF-test");
    assert!(derive::<8160>(&secret, b"x").is_ok());
    assert_eq!(derive::<8161>(&secret, b"x").map(drop), Err(KeyError::Derivation));
}

#[test]
fn kid_and_algorithm_must_both_match() {
    let secret = Secret::new("one-secret-of-more-than-thirty-two-bytes");
    let key = VerifyingKey::hs256(&secret).unwrap();
    let kid = key.kid().to_owned();
    let ring = KeyRing::new(vec![key]).unwrap();
    assert!(ring.named(Some(&kid), "HS256").is_some());
    assert!(ring.named(Some(&kid), "RS256").is_none());
    assert!(ring.named(Some(&kid), "hs256").is_none());
    assert!(ring.named(Some("other"), "HS256").is_none());
    assert!(ring.named(None, "HS256").is_some());
    let twice = vec![VerifyingKey::hs256(&secret).unwrap(), VerifyingKey::hs256(&secret).unwrap()];
    assert_eq!(KeyRing::new(twice).unwrap_err(), DuplicateKid(kid));
}
