//! Key names and messages: the contract between issuers and verifiers (docs/protocol.md).

use crate::revocation::{EntryError, Revocation};

/// The format of messages that this build writes.
pub const MESSAGE_VERSION: &str = "1";
/// The longest message taken from the channel, in bytes; longer ones are foreign.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// The field of a stream entry that holds the revocation's bytes.
pub const LOG_FIELD: &str = "r";

/// A place in a partition's log: Redis' stream id, `milliseconds-sequence`. Totally ordered; never goes back in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Milliseconds since 1970 by the store's clock, when the entry was appended.
    pub ms: u64,
    /// Distinguishes entries of one millisecond.
    pub sequence: u64,
}

impl Position {
    /// Before every entry.
    pub const START: Self = Self { ms: 0, sequence: 0 };

    /// Reads `ms-sequence`, strictly: decimal digits, no sign, no leading zero.
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

/// The names of one partition's keys. All share one hash tag, so that one script may touch them on a Cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    tag: String,
}

impl Keys {
    /// The keys of partition `partition` under `REDIS_PREFIX`.
    pub fn new(prefix: &str, partition: u16) -> Self {
        Self { tag: format!("{{{prefix}:{partition}}}") }
    }

    /// What the names of all of them begin with.
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

    /// Shard channel that carries each entry as it is appended.
    pub fn channel(&self) -> String {
        format!("{}:feed", self.tag)
    }

    /// Hash: one session's record.
    pub fn session(&self, sid: &str) -> String {
        format!("{}:session:{sid}", self.tag)
    }

    /// Sorted set: a user's live sessions by the moment they end.
    pub fn user(&self, sub: &str) -> String {
        format!("{}:user:{sub}", self.tag)
    }

    /// String: a user's watermark: tokens issued, and sessions created, at or before it are dead.
    pub fn watermark(&self, sub: &str) -> String {
        format!("{}:watermark:{sub}", self.tag)
    }

    /// String: a user's watermark of tokens only: the sessions were kept.
    pub fn token_watermark(&self, sub: &str) -> String {
        format!("{}:token_watermark:{sub}", self.tag)
    }
}

/// An entry as it is pushed: where it stands, after which one, and in which data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The data set's identifier.
    pub epoch: Box<str>,
    /// The entry before it ([`Position::START`] for the first).
    pub previous: Position,
    /// Where it stands.
    pub position: Position,
    /// What it says, where this build can read it.
    pub revocation: Result<Revocation, EntryError>,
}

/// Why a message is not one of ours. It is counted, never obeyed, and cannot hurt: pub/sub is only a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a revocation message")]
pub struct ForeignMessage;

impl Message {
    /// Reads `1 SP epoch SP previous SP position SP entry-bytes`.
    ///
    /// # Errors
    /// Anything else, and anything over [`MESSAGE_BYTES_MAX`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ForeignMessage> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(ForeignMessage);
        }
        let mut parts = bytes.splitn(5, |byte| *byte == b' ');
        let mut word = || parts.next().and_then(|part| std::str::from_utf8(part).ok()).ok_or(ForeignMessage);
        if word()? != MESSAGE_VERSION {
            return Err(ForeignMessage);
        }
        let epoch = word()?;
        let previous = Position::parse(word()?).ok_or(ForeignMessage)?;
        let position = Position::parse(word()?).ok_or(ForeignMessage)?;
        if !is_epoch(epoch) || position <= previous {
            return Err(ForeignMessage);
        }
        let revocation = Revocation::from_bytes(parts.next().ok_or(ForeignMessage)?);
        Ok(Self { epoch: epoch.into(), previous, position, revocation })
    }
}

/// True for a data set's identifier: 1 to 64 characters of base64url.
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
        let keys = Keys::new("sidegate", 3);
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
    fn entry_bytes_may_hold_spaces() {
        let mut bytes = b"1 e 0-0 5-1 ".to_vec();
        bytes.extend(
            Revocation { target: Target::All { threshold: UnixTime(0x2020_2020) }, expires_at: UnixTime(0x2020_2020) }
                .to_bytes(),
        );
        assert!(Message::parse(&bytes).unwrap().revocation.is_ok());
    }

    #[test]
    fn foreign_messages_are_refused() {
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
            assert_eq!(Message::parse(bad), Err(ForeignMessage), "{bad:?}");
        }
        assert_eq!(Message::parse(&[b'1'; 1_000_000]), Err(ForeignMessage));
        for cut in 0..16 {
            assert!(Message::parse(&bytes[..cut]).is_err());
        }
        assert!(Message::parse(&bytes[..20]).unwrap().revocation.is_err(), "a cut entry is not obeyed");
    }
}
