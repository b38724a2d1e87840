//! Key names and messages of the revocation log, between issuers and verifiers (docs/protocol.md).

use crate::revocation::{EntryError, Revocation};

/// The message format of this build.
pub const MESSAGE_VERSION: &str = "1";
/// The longest message accepted from the channel, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// The field of a stream entry that has the revocation's bytes.
pub const LOG_FIELD: &str = "r";

/// A position in a partition's log: Redis' stream id, `milliseconds-sequence`. Totally ordered;
/// positions in a log only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Milliseconds since 1970 by the store's clock, when the entry was appended.
    pub ms: u64,
    /// Distinguishes entries of the same millisecond.
    pub sequence: u64,
}

impl Position {
    /// The position before every entry.
    pub const START: Self = Self { ms: 0, sequence: 0 };

    /// Parses `ms-sequence`, strictly: decimal digits, no sign, no leading zero.
    pub fn parse(text: &str) -> Option<Self> {
        let (ms, sequence) = text.split_once('-')?;
        Some(Self { ms: decimal(ms)?, sequence: decimal(sequence)? })
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.ms, self.sequence)
    }
}

fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// The key names of a partition. All share one hash tag, so that one script may use them on a
/// Cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisKeys {
    tag: String,
}

impl RedisKeys {
    /// The keys of partition `partition` under `REDIS_PREFIX`.
    pub fn new(prefix: &str, partition: u16) -> Self {
        Self { tag: format!("{{{prefix}:{partition}}}") }
    }

    /// The common prefix of all names.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Hash: `v`, `epoch`, `last`, `since`, `partitions`, `all`.
    pub fn meta(&self) -> String {
        format!("{}:meta", self.tag)
    }

    /// Stream: the revocation log.
    pub fn log(&self) -> String {
        format!("{}:log", self.tag)
    }

    /// Shard channel: each entry as it is appended.
    pub fn channel(&self) -> String {
        format!("{}:feed", self.tag)
    }

    /// Hash: one session's record.
    pub fn session(&self, sid: &str) -> String {
        format!("{}:session:{sid}", self.tag)
    }

    /// Sorted set: a user's live sessions by the time they end.
    pub fn user(&self, sub: &str) -> String {
        format!("{}:user:{sub}", self.tag)
    }

    /// String: a user's watermark. Tokens issued, and sessions created, at or before it are
    /// revoked.
    pub fn watermark(&self, sub: &str) -> String {
        format!("{}:watermark:{sub}", self.tag)
    }

    /// String: a user's watermark of tokens only, which keeps the sessions.
    pub fn token_watermark(&self, sub: &str) -> String {
        format!("{}:token_watermark:{sub}", self.tag)
    }
}

/// A pushed entry: its data set, its position, and the position of its predecessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The data set's identifier.
    pub epoch: Box<str>,
    /// The previous entry's position ([`Position::START`] for the first).
    pub previous: Position,
    /// The entry's position.
    pub position: Position,
    /// The entry, if this build can decode it.
    pub revocation: Result<Revocation, EntryError>,
}

/// Why bytes on the channel are not a revocation message. The message is counted and ignored:
/// pub/sub is only a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a revocation message")]
pub struct UnknownMessage;

impl Message {
    /// Reads `1 SP epoch SP previous SP position SP entry-bytes`.
    ///
    /// # Errors
    /// Malformed bytes, or more than [`MESSAGE_BYTES_MAX`].
    pub fn parse(bytes: &[u8]) -> Result<Self, UnknownMessage> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(UnknownMessage);
        }
        let mut parts = bytes.splitn(5, |byte| *byte == b' ');
        let mut word = || parts.next().and_then(|part| std::str::from_utf8(part).ok()).ok_or(UnknownMessage);
        if word()? != MESSAGE_VERSION {
            return Err(UnknownMessage);
        }
        let epoch = word()?;
        let previous = Position::parse(word()?).ok_or(UnknownMessage)?;
        let position = Position::parse(word()?).ok_or(UnknownMessage)?;
        if !is_epoch(epoch) || position <= previous {
            return Err(UnknownMessage);
        }
        let revocation = Revocation::from_bytes(parts.next().ok_or(UnknownMessage)?);
        Ok(Self { epoch: epoch.into(), previous, position, revocation })
    }
}

/// True for a data set identifier: 1 to 64 characters of base64url.
pub fn is_epoch(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revocation::{Id, SubjectTag, Target};
    use crate::time::UnixTime;

    #[test]
    fn positions_are_strict_and_ordered() {
        let position = Position::parse("1700000000000-3").unwrap();
        assert_eq!(position.to_string(), "1700000000000-3");
        assert!(position > Position::parse("1700000000000-2").unwrap());
        assert!(position < Position::parse("1700000000001-0").unwrap());
        for bad in ["", "-", "1", "1-", "-1", "01-0", "1-00", "+1-0", "1-0-0", "1-18446744073709551616", " 1-0"] {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn keys_of_a_partition_share_a_hash_tag() {
        let keys = RedisKeys::new("sidegate", 3);
        for key in [keys.meta(), keys.log(), keys.channel(), keys.session("x"), keys.user("u"), keys.watermark("u")] {
            assert!(key.starts_with("{sidegate:3}:"), "{key}");
        }
    }

    fn sample() -> (Vec<u8>, Revocation) {
        let revocation = Revocation {
            target: Target::Session {
                sid: Id::parse("AAECAwQFBgcICQoLDA0ODw").unwrap(),
                subject: Some(SubjectTag::of("42")),
            },
            expires_at: UnixTime(1_800_000_000),
        };
        let mut bytes = b"1 epochA 5-0 5-1 ".to_vec();
        bytes.extend(revocation.to_bytes());
        (bytes, revocation)
    }

    #[test]
    fn messages_carry_position_and_predecessor() {
        let (bytes, revocation) = sample();
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(&*message.epoch, "epochA");
        assert_eq!(message.previous, Position { ms: 5, sequence: 0 });
        assert_eq!(message.position, Position { ms: 5, sequence: 1 });
        assert_eq!(message.revocation, Ok(revocation));
    }

    #[test]
    fn entry_bytes_may_contain_spaces() {
        let mut bytes = b"1 e 0-0 5-1 ".to_vec();
        bytes.extend(
            Revocation { target: Target::All { threshold: UnixTime(0x2020_2020) }, expires_at: UnixTime(0x2020_2020) }
                .to_bytes(),
        );
        assert!(Message::parse(&bytes).unwrap().revocation.is_ok());
    }

    #[test]
    fn unknown_messages_are_errors() {
        let (bytes, _) = sample();
        for bad in [
            &b""[..],
            b"hello",
            b"2 e 0-0 5-1 x",
            b"1 e 5-1 5-1 x",
            b"1 e 6-0 5-1 x",
            b"1  0-0 5-1 x",
            b"1 e 0-0 5-1",
            b"\xff",
        ] {
            assert_eq!(Message::parse(bad), Err(UnknownMessage), "{bad:?}");
        }
        assert_eq!(Message::parse(&[b'1'; 1_000_000]), Err(UnknownMessage));
        for cut in 0..16 {
            assert!(Message::parse(&bytes[..cut]).is_err());
        }
        assert!(Message::parse(&bytes[..20]).unwrap().revocation.is_err(), "a cut entry is not obeyed");
    }
}
