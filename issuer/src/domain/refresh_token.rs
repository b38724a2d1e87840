//! The refresh token: opaque to clients, authenticated before any store is read, never accepted as
//! a bearer token.
//!
//! `base64url( 0x01 | key tag (4) | subject tag (6) | session id (16) | generation (u32 BE) | MAC
//! (16) )`, where the MAC is HMAC-SHA256 truncated to 128 bits under a key derived from
//! `SESSION_SECRET_KEY`. A child is made under its parent's key, so that N refreshes of one token
//! give the same child.

use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sidegate_common::key::derive;
use sidegate_common::revocation::SubjectTag;
use sidegate_common::secret::Secret;

const VERSION: u8 = 1;
const BODY_BYTES: usize = 1 + 4 + 6 + 16 + 4;
const MAC_BYTES: usize = 16;
const TOKEN_BYTES: usize = BODY_BYTES + MAC_BYTES;
/// Length of a refresh token, in characters.
pub const TOKEN_CHARS: usize = (TOKEN_BYTES * 4).div_ceil(3);

/// The contents of a refresh token whose MAC was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    /// The tag of the session's user.
    pub subject: SubjectTag,
    /// The session's 16 bytes.
    pub sid: [u8; 16],
    /// The token's generation in the session.
    pub generation: u32,
    key_tag: [u8; 4],
}

impl RefreshToken {
    /// The successor of this token, of `generation`, under the same key.
    pub const fn child(self, generation: u32) -> Self {
        Self { generation, ..self }
    }
}

/// Why a string is not a refresh token of this issuer. Never sent to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefreshTokenError {
    /// Wrong length or encoding.
    #[error("malformed refresh token")]
    Malformed,
    /// Made under an unknown key: neither current nor previous.
    #[error("refresh token of an unknown key")]
    UnknownKey,
    /// Forged or damaged.
    #[error("refresh token with a wrong MAC")]
    Forged,
}

struct Key {
    tag: [u8; 4],
    mac: hmac::Key,
}

/// The keys that create and verify refresh tokens. They can be replaced at any time.
pub struct RefreshKeys {
    ring: RwLock<Arc<Ring>>,
}

struct Ring {
    current: Key,
    previous: Vec<Key>,
}

impl Ring {
    fn key(&self, tag: [u8; 4]) -> Option<&Key> {
        std::iter::once(&self.current).chain(&self.previous).find(|key| key.tag == tag)
    }
}

impl std::fmt::Debug for RefreshKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RefreshKeys(***)")
    }
}

/// No key can be derived from a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no key can be derived from the session secret")]
pub struct KeyDerivationError;

impl Key {
    fn new(secret: &Secret) -> Result<Self, KeyDerivationError> {
        let mac = derive::<32>(secret, b"sidegate refresh").map_err(|_| KeyDerivationError)?;
        let tag = *derive::<4>(secret, b"sidegate refresh key tag").map_err(|_| KeyDerivationError)?;
        Ok(Self { tag, mac: hmac::Key::new(hmac::HMAC_SHA256, mac.as_slice()) })
    }
}

impl RefreshKeys {
    /// Derives keys from the current session secret and the previous ones.
    ///
    /// # Errors
    /// The key derivation refuses a secret.
    pub fn new(current: &Secret, previous: &[Secret]) -> Result<Self, KeyDerivationError> {
        let previous = previous.iter().map(Key::new).collect::<Result<_, _>>()?;
        Ok(Self { ring: RwLock::new(Arc::new(Ring { current: Key::new(current)?, previous })) })
    }

    /// Uses the keys of `other` from now on.
    pub fn replace(&self, other: &Self) {
        let ring = other.ring();
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = ring;
    }

    fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The first refresh token of a session.
    pub fn first(&self, subject: SubjectTag, sid: [u8; 16]) -> RefreshToken {
        RefreshToken { subject, sid, generation: 0, key_tag: self.ring().current.tag }
    }

    /// Encodes a token. `None` if its key was removed after [`RefreshKeys::read`] returned the
    /// token.
    pub fn write(&self, token: &RefreshToken) -> Option<String> {
        let ring = self.ring();
        let key = ring.key(token.key_tag)?;
        let mut bytes = body(token).to_vec();
        bytes.extend(&hmac::sign(&key.mac, &bytes).as_ref()[..MAC_BYTES]);
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Decodes a token strictly: canonical base64url of the exact length, a known key, a valid MAC.
    ///
    /// # Errors
    /// The text is not such a token.
    pub fn read(&self, text: &str) -> Result<RefreshToken, RefreshTokenError> {
        if text.len() != TOKEN_CHARS {
            return Err(RefreshTokenError::Malformed);
        }
        let mut bytes = [0; TOKEN_BYTES];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(TOKEN_BYTES) if bytes[0] == VERSION => {}
            _ => return Err(RefreshTokenError::Malformed),
        }
        let (body, mac) = bytes.split_at(BODY_BYTES);
        let mut rest = &body[1..];
        let key_tag = take(&mut rest)?;
        let ring = self.ring();
        let key = ring.key(key_tag).ok_or(RefreshTokenError::UnknownKey)?;
        let expected = hmac::sign(&key.mac, body);
        constant_time::verify_slices_are_equal(&expected.as_ref()[..MAC_BYTES], mac)
            .map_err(|_| RefreshTokenError::Forged)?;
        let mut wide = [0; 8];
        wide[2..].copy_from_slice(&take::<6>(&mut rest)?);
        let subject = SubjectTag::from_value(u64::from_be_bytes(wide)).ok_or(RefreshTokenError::Malformed)?;
        let sid = take(&mut rest)?;
        let generation = u32::from_be_bytes(take(&mut rest)?);
        Ok(RefreshToken { subject, sid, generation, key_tag })
    }
}

fn body(token: &RefreshToken) -> [u8; BODY_BYTES] {
    let mut out = [0; BODY_BYTES];
    out[0] = VERSION;
    out[1..5].copy_from_slice(&token.key_tag);
    out[5..11].copy_from_slice(&token.subject.value().to_be_bytes()[2..]);
    out[11..27].copy_from_slice(&token.sid);
    out[27..].copy_from_slice(&token.generation.to_be_bytes());
    out
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], RefreshTokenError> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or(RefreshTokenError::Malformed)?;
    *bytes = rest;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    fn keys() -> RefreshKeys {
        RefreshKeys::new(&secret("the session secret of this test!"), &[]).unwrap()
    }

    #[test]
    fn a_written_token_is_read_back() {
        let keys = keys();
        let token = keys.first(SubjectTag::of("42"), [7; 16]).child(9);
        let text = keys.write(&token).unwrap();
        assert_eq!(text.len(), TOKEN_CHARS);
        assert_eq!(keys.read(&text), Ok(token));
    }

    #[test]
    fn any_changed_character_is_refused() {
        let keys = keys();
        let text = keys.write(&keys.first(SubjectTag::of("42"), [7; 16])).unwrap();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(keys.read(std::str::from_utf8(&changed).unwrap()).is_err(), "changed at {at}");
        }
        for shape in ["", "a", &text[1..], &format!("{text}A"), &format!("{text}="), &"=".repeat(TOKEN_CHARS), "é"] {
            assert_eq!(keys.read(shape), Err(RefreshTokenError::Malformed), "{shape}");
        }
    }

    #[test]
    fn a_replaced_secret_still_reads_and_makes_children() {
        let old = keys();
        let parent = old.first(SubjectTag::of("42"), [7; 16]);
        let text = old.write(&parent).unwrap();
        let new_secret = secret("another session secret, for later");
        let both = RefreshKeys::new(&new_secret, &[secret("the session secret of this test!")]).unwrap();
        let read = both.read(&text).unwrap();
        assert_eq!(both.write(&read.child(1)), old.write(&parent.child(1)), "two issuers give the same child");
        let only_new = RefreshKeys::new(&new_secret, &[]).unwrap();
        assert_eq!(only_new.read(&text), Err(RefreshTokenError::UnknownKey));
        assert_eq!(only_new.write(&read), None);
    }

    #[test]
    fn keys_can_be_replaced_while_in_use() {
        let in_use = keys();
        let text = in_use.write(&in_use.first(SubjectTag::of("42"), [7; 16])).unwrap();
        let new = secret("another session secret, for later");
        in_use.replace(&RefreshKeys::new(&new, &[secret("the session secret of this test!")]).unwrap());
        assert!(in_use.read(&text).is_ok(), "the one before is still good");
        in_use.replace(&RefreshKeys::new(&new, &[]).unwrap());
        assert_eq!(in_use.read(&text), Err(RefreshTokenError::UnknownKey));
    }

    #[test]
    fn debug_output_shows_no_key() {
        assert_eq!(format!("{:?}", keys()), "RefreshKeys(***)");
    }
}
