//! The revocation, and its bytes in the log (docs/protocol.md, "Entry").

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::foreign::ids::{ClaimId, ForeignId, NameTag};
use crate::text::is_identifier;
use crate::time::UnixTime;

/// The entry format of this build: the high half of an entry's first byte.
pub const ENTRY_VERSION: u8 = 1;
/// The largest entry, in bytes: a subject of 255 bytes with its threshold.
pub const ENTRY_BYTES_MAX: usize = 1 + 4 + 6 + 255;

/// 48 bits of SHA-256 of a subject: selects the partition and the line of the shared-memory table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectTag(u64);

impl SubjectTag {
    /// The bits of a tag.
    pub const BITS: u32 = 48;
    const NONE: u64 = (1 << Self::BITS) - 1;

    /// The tag of a subject: the first six bytes of its SHA-256, big endian. All ones is mapped to
    /// zero, since it means "unknown" in an entry.
    pub fn of(sub: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, sub.as_bytes());
        let mut bytes = [0; 8];
        bytes[2..].copy_from_slice(&hash.as_ref()[..6]);
        let tag = u64::from_be_bytes(bytes);
        Self(if tag == Self::NONE { 0 } else { tag })
    }

    /// The tag of another issuer's subject: the first six bytes of its identifier. All ones is mapped
    /// to zero.
    pub fn of_foreign(subject: &ForeignId) -> Self {
        let mut bytes = [0; 8];
        bytes[2..].copy_from_slice(&subject[..6]);
        let tag = u64::from_be_bytes(bytes);
        Self(if tag == Self::NONE { 0 } else { tag })
    }

    /// The tag as a number below 2^48.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The tag with this [`SubjectTag::value`]; `None` if it is out of range.
    pub fn from_value(value: u64) -> Option<Self> {
        (value < Self::NONE).then_some(Self(value))
    }

    /// The partition, of `partitions` (at least one), that has all entries of the subject.
    pub fn partition(self, partitions: u16) -> u16 {
        (self.0 % u64::from(partitions.max(1))) as u16
    }
}

/// The identifier of a token or session: nearly always 128 bits, which are stored packed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Id {
    /// A canonical base64url string of 16 bytes.
    Packed([u8; 16]),
    /// Any other 1 to 255 visible ASCII characters.
    Text(Box<str>),
}

impl Id {
    /// Parses an identifier from a token; `None` if it is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() == 22 {
            let mut bytes = [0; 16];
            if URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) == Ok(16) {
                return Some(Self::Packed(bytes));
            }
        }
        is_identifier(text).then(|| Self::Text(text.into()))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Packed(bytes) => f.write_str(&URL_SAFE_NO_PAD.encode(bytes)),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// Which tokens are revoked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The token with this `jti`.
    Token {
        /// The token's identifier.
        jti: Id,
        /// The user's tag, where known.
        subject: Option<SubjectTag>,
    },
    /// Every token with this `sid`.
    Session {
        /// The session's identifier.
        sid: Id,
        /// The user's tag, where known.
        subject: Option<SubjectTag>,
    },
    /// Every token of `sub` with `iat` at or before the threshold.
    Subject {
        /// The user.
        sub: Box<str>,
        /// The last revoked `iat`.
        threshold: UnixTime,
    },
    /// Every token of the partition with `iat` at or before the threshold.
    All {
        /// The last revoked `iat`.
        threshold: UnixTime,
    },
    /// Every token signed under this key.
    Key {
        /// The key's identifier.
        kid: Box<str>,
    },
    /// Every token of another issuer's subject with `iat` at or before the threshold.
    ForeignSubject {
        /// The subject.
        subject: ForeignId,
        /// The last revoked `iat`.
        threshold: UnixTime,
    },
    /// Every token of another issuer that has this claim value, with `iat` at or before the
    /// threshold.
    Claim {
        /// The issuer, the claim and its value.
        claim: ClaimId,
        /// The last revoked `iat`.
        threshold: UnixTime,
    },
}

impl Target {
    /// The last revoked `iat`, of a kind that has one.
    pub const fn threshold(&self) -> Option<UnixTime> {
        match self {
            Self::Subject { threshold, .. }
            | Self::All { threshold }
            | Self::ForeignSubject { threshold, .. }
            | Self::Claim { threshold, .. } => Some(*threshold),
            Self::Token { .. } | Self::Session { .. } | Self::Key { .. } => None,
        }
    }

    /// The same, revoking up to `threshold`, if the kind has one.
    pub fn with_threshold(mut self, threshold: UnixTime) -> Self {
        match &mut self {
            Self::Subject { threshold: held, .. }
            | Self::All { threshold: held }
            | Self::ForeignSubject { threshold: held, .. }
            | Self::Claim { threshold: held, .. } => *held = threshold,
            Self::Token { .. } | Self::Session { .. } | Self::Key { .. } => {}
        }
        self
    }
}

/// A revocation: which tokens are revoked, and how long the entry must be kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Revocation {
    /// Which tokens.
    pub target: Target,
    /// After this time every token that it revokes has expired.
    pub expires_at: UnixTime,
}

/// Why an entry could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Written by a newer version.
    #[error("entry of unknown version {0}")]
    Version(u8),
    /// Of an unknown kind.
    #[error("entry of unknown kind {0}")]
    Kind(u8),
    /// Cut short, too long, or with an invalid value.
    #[error("malformed entry")]
    Malformed,
}

const TOKEN: u8 = 1;
const SESSION: u8 = 2;
const SUBJECT: u8 = 3;
const ALL: u8 = 4;
const KEY: u8 = 5;
const CLAIM: u8 = 6;
const FOREIGN_SUBJECT: u8 = 7;
/// Set in the first byte when the identifier is text, not 16 packed bytes.
const TEXT: u8 = 8;

impl Revocation {
    /// Encodes the entry: `version|kind`, `expires_at` (u32 BE), then the fields of the kind.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        out.push(ENTRY_VERSION << 4);
        out.extend(seconds(self.expires_at));
        let kind = match &self.target {
            Target::Token { jti, subject } => put_id(&mut out, TOKEN, jti, *subject),
            Target::Session { sid, subject } => put_id(&mut out, SESSION, sid, *subject),
            Target::Subject { sub, threshold } => {
                out.extend(seconds(*threshold));
                out.extend(sub.as_bytes());
                SUBJECT
            }
            Target::All { threshold } => {
                out.extend(seconds(*threshold));
                ALL
            }
            Target::Key { kid } => {
                out.extend(kid.as_bytes());
                KEY
            }
            Target::Claim { claim: ClaimId { issuer, claim, value }, threshold } => {
                out.extend(seconds(*threshold));
                out.extend(issuer);
                out.extend(claim);
                out.extend(value);
                CLAIM
            }
            Target::ForeignSubject { subject, threshold } => {
                out.extend(seconds(*threshold));
                out.extend(subject);
                FOREIGN_SUBJECT
            }
        };
        out[0] |= kind;
        out
    }

    /// Decodes an entry, strictly.
    ///
    /// # Errors
    /// Another version or kind, or bytes that [`Revocation::to_bytes`] never writes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EntryError> {
        let (&first, rest) = bytes.split_first().ok_or(EntryError::Malformed)?;
        if first >> 4 != ENTRY_VERSION {
            return Err(EntryError::Version(first >> 4));
        }
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(EntryError::Malformed);
        }
        let (expires_at, rest) = take_seconds(rest)?;
        let text = first & TEXT != 0;
        let target = match first & !TEXT & 0x0f {
            TOKEN => take_id(rest, text).map(|(jti, subject)| Target::Token { jti, subject })?,
            SESSION => take_id(rest, text).map(|(sid, subject)| Target::Session { sid, subject })?,
            SUBJECT if !text => {
                let (threshold, sub) = take_seconds(rest)?;
                Target::Subject { sub: identifier(sub)?, threshold }
            }
            ALL if !text => match take_seconds(rest)? {
                (threshold, []) => Target::All { threshold },
                _ => return Err(EntryError::Malformed),
            },
            KEY if !text => Target::Key { kid: identifier(rest)? },
            CLAIM if !text => {
                let (threshold, rest) = take_seconds(rest)?;
                Target::Claim { claim: take_claim(rest).ok_or(EntryError::Malformed)?, threshold }
            }
            FOREIGN_SUBJECT if !text => {
                let (threshold, subject) = take_seconds(rest)?;
                let subject = subject.try_into().map_err(|_| EntryError::Malformed)?;
                Target::ForeignSubject { subject, threshold }
            }
            _ => return Err(EntryError::Kind(first & 0x0f)),
        };
        Ok(Self { target, expires_at })
    }
}

fn seconds(moment: UnixTime) -> [u8; 4] {
    u32::try_from(moment.0).unwrap_or(u32::MAX).to_be_bytes()
}

fn take_seconds(bytes: &[u8]) -> Result<(UnixTime, &[u8]), EntryError> {
    let (head, rest) = bytes.split_first_chunk::<4>().ok_or(EntryError::Malformed)?;
    Ok((UnixTime(u64::from(u32::from_be_bytes(*head))), rest))
}

fn put_id(out: &mut Vec<u8>, kind: u8, id: &Id, subject: Option<SubjectTag>) -> u8 {
    let tag = subject.map_or(SubjectTag::NONE, SubjectTag::value);
    out.extend(&tag.to_be_bytes()[2..]);
    match id {
        Id::Packed(bytes) => {
            out.extend(bytes);
            kind
        }
        Id::Text(text) => {
            out.extend(text.as_bytes());
            kind | TEXT
        }
    }
}

fn take_id(bytes: &[u8], text: bool) -> Result<(Id, Option<SubjectTag>), EntryError> {
    let (tag, rest) = bytes.split_first_chunk::<6>().ok_or(EntryError::Malformed)?;
    let mut wide = [0; 8];
    wide[2..].copy_from_slice(tag);
    let subject = SubjectTag::from_value(u64::from_be_bytes(wide));
    let id = if text {
        match Id::parse(&identifier(rest)?) {
            Some(id @ Id::Text(_)) => id,
            _ => return Err(EntryError::Malformed),
        }
    } else {
        Id::Packed(rest.try_into().map_err(|_| EntryError::Malformed)?)
    };
    Ok((id, subject))
}

fn take_claim(bytes: &[u8]) -> Option<ClaimId> {
    let (issuer, rest) = bytes.split_first_chunk::<{ size_of::<NameTag>() }>()?;
    let (claim, value) = rest.split_first_chunk::<{ size_of::<NameTag>() }>()?;
    Some(ClaimId { issuer: *issuer, claim: *claim, value: value.try_into().ok()? })
}

fn identifier(bytes: &[u8]) -> Result<Box<str>, EntryError> {
    let text = std::str::from_utf8(bytes).map_err(|_| EntryError::Malformed)?;
    if is_identifier(text) { Ok(text.into()) } else { Err(EntryError::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foreign::ids::{SUBJECT, foreign_id};

    fn all_kinds() -> Vec<Revocation> {
        let subject = Some(SubjectTag::of("42"));
        let expires_at = UnixTime(1_800_000_000);
        let packed = || Id::parse("AAECAwQFBgcICQoLDA0ODw").unwrap();
        let text = || Id::parse("order-17").unwrap();
        let targets = [
            Target::Token { jti: packed(), subject },
            Target::Token { jti: text(), subject: None },
            Target::Session { sid: packed(), subject },
            Target::Session { sid: text(), subject: None },
            Target::Subject { sub: "alice@example.org".into(), threshold: UnixTime(1_700_000_000) },
            Target::All { threshold: UnixTime(1_700_000_000) },
            Target::Key { kid: "k1".into() },
            Target::Claim {
                claim: ClaimId::of("https://idp.example.com", "claim.azp", "app1"),
                threshold: UnixTime(1_700_000_000),
            },
            Target::ForeignSubject {
                subject: foreign_id("https://idp.example.com", SUBJECT, "alice"),
                threshold: UnixTime(1_700_000_000),
            },
        ];
        targets.into_iter().map(|target| Revocation { target, expires_at }).collect()
    }

    #[test]
    fn every_kind_round_trips() {
        for revocation in all_kinds() {
            assert_eq!(Revocation::from_bytes(&revocation.to_bytes()), Ok(revocation));
        }
    }

    #[test]
    fn longest_identifier_makes_the_largest_entry() {
        let jti = Id::parse(&"x".repeat(255)).unwrap();
        let longest = Revocation { target: Target::Token { jti, subject: None }, expires_at: UnixTime(1) };
        assert_eq!(longest.to_bytes().len(), ENTRY_BYTES_MAX);
        assert_eq!(Revocation::from_bytes(&longest.to_bytes()), Ok(longest));
    }

    #[test]
    fn session_entry_has_27_bytes() {
        assert_eq!(all_kinds()[2].to_bytes().len(), 27, "27 bytes keep Redis' stream below 40 bytes an entry");
    }

    #[test]
    fn cut_or_padded_entry_is_an_error() {
        for revocation in all_kinds() {
            let bytes = revocation.to_bytes();
            let fixed = match &revocation.target {
                Target::Token { jti: Id::Packed(_), .. } | Target::Session { sid: Id::Packed(_), .. } => bytes.len(),
                Target::All { .. } | Target::Claim { .. } | Target::ForeignSubject { .. } => bytes.len(),
                Target::Token { .. } | Target::Session { .. } => 12,
                Target::Subject { .. } => 10,
                Target::Key { .. } => 6,
            };
            for cut in 0..fixed {
                assert!(Revocation::from_bytes(&bytes[..cut]).is_err(), "{revocation:?} cut at {cut}");
            }
            let padded = [bytes.as_slice(), b" "].concat();
            assert!(Revocation::from_bytes(&padded).is_err(), "{revocation:?} padded");
        }
    }

    #[test]
    fn unknown_version_or_kind_is_in_the_error() {
        let mut bytes = all_kinds()[0].to_bytes();
        bytes[0] = 0x21;
        assert_eq!(Revocation::from_bytes(&bytes), Err(EntryError::Version(2)));
        bytes[0] = 0x10;
        assert_eq!(Revocation::from_bytes(&bytes), Err(EntryError::Kind(0)));
        bytes[0] = 0x1c;
        assert_eq!(Revocation::from_bytes(&bytes), Err(EntryError::Kind(12)), "no text form of this kind");
        for kind in &all_kinds()[4..] {
            let mut bytes = kind.to_bytes();
            bytes[0] |= TEXT;
            assert_eq!(Revocation::from_bytes(&bytes), Err(EntryError::Kind(bytes[0] & 0x0f)), "{kind:?}");
        }
        assert_eq!(Revocation::from_bytes(&[]), Err(EntryError::Malformed));
        assert_eq!(Revocation::from_bytes(&[0x13; 400]), Err(EntryError::Malformed));
    }

    #[test]
    fn ids_are_packed_only_when_canonical() {
        assert!(matches!(Id::parse("AAECAwQFBgcICQoLDA0ODw"), Some(Id::Packed(_))));
        let trailing_bits = "AAECAwQFBgcICQoLDA0ODx";
        assert!(matches!(Id::parse(trailing_bits), Some(Id::Text(_))), "not the same token identifier");
        assert_eq!(Id::parse(""), None);
        assert_eq!(Id::parse("-"), None);
        assert_eq!(Id::parse("AAECAwQFBgcICQoLDA0ODw").unwrap().to_string(), "AAECAwQFBgcICQoLDA0ODw");
    }

    #[test]
    fn partitions_are_stable() {
        let tag = SubjectTag::of("42");
        assert_eq!(tag.value(), 0x73_47_5c_b4_0a_56, "first six bytes of SHA-256(\"42\")");
        assert_eq!(tag.partition(1), 0);
        assert_eq!(tag.partition(0), 0, "zero partitions count as one");
        assert_eq!(SubjectTag::of_foreign(&[0xff; 16]).value(), 0, "all ones means unknown");
        assert_eq!(SubjectTag::of_foreign(&[1; 16]).value(), 0x01_01_01_01_01_01);
        assert_eq!([7, 11, 13].map(|partitions| tag.partition(partitions)), [0, 10, 11]);
    }
}
