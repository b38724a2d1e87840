//! The compact serialisation, strictly: size, alphabet, three parts, canonical base64url, an allow-listed header.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::{Rejection, UnverifiedKey};
use crate::key::{KeyRing, VerifyingKey};

/// The longest token, in bytes; checked before anything else.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// The longest signature: RSA with 8,192 bits.
pub const SIGNATURE_BYTES_MAX: usize = 1024;

/// The parts of a compact JWS (RFC 7515 §7.1), still encoded.
pub struct Parts<'a> {
    pub header: &'a str,
    pub payload: &'a str,
    pub signature: &'a str,
    /// Header, dot and payload: the signing input.
    pub signed: &'a str,
}

/// Splits a token in three; every character must be base64url or one of the two dots (RFC 8725bis
/// §3.14).
pub fn split(token: &str) -> Result<Parts<'_>, Rejection> {
    if token.is_empty() {
        return Err(Rejection::Missing);
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Rejection::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Rejection::NotCompact)?;
    let (header, payload) = signed.split_once('.').ok_or(Rejection::NotCompact)?;
    let parts = [header, payload, signature];
    if parts.iter().any(|part| part.is_empty() || part.contains('.')) {
        return Err(Rejection::NotCompact);
    }
    Ok(Parts { header, payload, signature, signed })
}

/// Decodes one part: canonical base64url without padding (RFC 7515 §2), no stray trailing bits.
pub fn decode(part: &str) -> Result<Vec<u8>, Rejection> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Rejection::NotCompact)
}

/// Decodes the signature without allocating.
pub fn decode_signature<'a>(part: &str, out: &'a mut [u8; SIGNATURE_BYTES_MAX]) -> Result<&'a [u8], Rejection> {
    let length = URL_SAFE_NO_PAD.decode_slice(part, out).map_err(|_| Rejection::NotCompact)?;
    Ok(&out[..length])
}

/// The allowed header members; `crit`, `b64`, `jku`, `jwk`, `x5u`, `zip` and all others are
/// rejected.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
    #[serde(default, deserialize_with = "string")]
    kid: Option<String>,
}

/// A member that may be absent, but not null.
fn string<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

fn header(encoded: &str) -> Result<Header, Rejection> {
    let bytes = decode(encoded)?;
    if bytes.first() != Some(&b'{') {
        // serde would also accept a JSON array for a struct.
        return Err(Rejection::Header);
    }
    serde_json::from_slice(&bytes).map_err(|_| Rejection::Header)
}

/// The key for a header that differs from the one Sidegate writes.
pub fn key_for<'a>(encoded: &str, keys: &'a KeyRing) -> Result<&'a VerifyingKey, Rejection> {
    let header = header(encoded)?;
    if header.typ != "at+jwt" && header.typ != "application/at+jwt" {
        return Err(Rejection::Type);
    }
    keys.named(header.kid.as_deref(), &header.alg).ok_or(Rejection::UnknownKey)
}

/// The key that a header names, if it is well-formed.
pub fn unverified_key(encoded: &str) -> Option<UnverifiedKey> {
    let Header { alg, kid, .. } = header(encoded).ok()?;
    Some(UnverifiedKey { algorithm: alg, kid })
}
