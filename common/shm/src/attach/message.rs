//! The daemon's message on the attach socket, and its bytes.

/// The length of every message.
pub const MESSAGE_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"SGATTACH";
const VERSION: u32 = 1;
const SEGMENT: u32 = 1;
const NOT_YET: u32 = 2;
const REFUSED: u32 = 3;

/// A message from the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMessage {
    /// A segment; its descriptor is attached to the message.
    Segment {
        /// The segment's identifier.
        id: u64,
        /// The segment's length.
        bytes: u64,
        /// The daemon's `CLOCK_MONOTONIC` at sending, in nanoseconds.
        monotonic_ns: u64,
        /// The daemon's `CLOCK_REALTIME` at sending, in nanoseconds since 1970.
        realtime_ns: u64,
    },
    /// There is no segment yet; a later message may announce one.
    NotYet,
    /// The peer is not permitted; the connection ends.
    Refused,
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not from a Sidegate daemon.
    #[error("not a Sidegate attach socket")]
    Magic,
    /// Another version of the protocol.
    #[error("unsupported attach protocol version {0}")]
    Version(u32),
    /// An unknown kind of message.
    #[error("unknown attach message kind {0}")]
    Kind(u32),
}

impl AttachMessage {
    /// Encodes the message: magic, version, kind, then four 64-bit numbers and two zeros; host byte
    /// order.
    pub fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let (kind, numbers) = match *self {
            Self::Segment { id, bytes, monotonic_ns, realtime_ns } => (SEGMENT, [id, bytes, monotonic_ns, realtime_ns]),
            Self::NotYet => (NOT_YET, [0; 4]),
            Self::Refused => (REFUSED, [0; 4]),
        };
        let mut out = [0; MESSAGE_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_ne_bytes());
        out[12..16].copy_from_slice(&kind.to_ne_bytes());
        for (number, place) in numbers.iter().zip(out[16..].chunks_exact_mut(8)) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        out
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// Another magic, version or kind.
    pub fn decode(bytes: &[u8; MESSAGE_BYTES]) -> Result<Self, MessageError> {
        if bytes[..8] != MAGIC {
            return Err(MessageError::Magic);
        }
        let half = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        match (half(8), half(12)) {
            (VERSION, SEGMENT) => Ok(Self::Segment {
                id: number(16),
                bytes: number(24),
                monotonic_ns: number(32),
                realtime_ns: number(40),
            }),
            (VERSION, NOT_YET) => Ok(Self::NotYet),
            (VERSION, REFUSED) => Ok(Self::Refused),
            (VERSION, kind) => Err(MessageError::Kind(kind)),
            (version, _) => Err(MessageError::Version(version)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_round_trips() {
        let segment = AttachMessage::Segment { id: u64::MAX, bytes: 4096, monotonic_ns: 3, realtime_ns: 4 };
        for message in [segment, AttachMessage::NotYet, AttachMessage::Refused] {
            assert_eq!(AttachMessage::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn malformed_messages_have_distinct_errors() {
        let good = AttachMessage::NotYet.encode();
        let with = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            AttachMessage::decode(&bytes)
        };
        assert_eq!(with(0, b'X'), Err(MessageError::Magic));
        assert_eq!(with(8, 9), Err(MessageError::Version(9)));
        assert_eq!(with(12, 77), Err(MessageError::Kind(77)));
    }
}
