//! The daemon's message on the attach socket, and its bytes.

/// How long every message is.
pub const MESSAGE_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"SGATTACH";
const VERSION: u32 = 1;
const SEGMENT: u32 = 1;
const NOT_YET: u32 = 2;
const REFUSED: u32 = 3;

/// What the daemon says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A segment; its descriptor came with this message.
    Segment {
        /// Which one.
        id: u64,
        /// How long it is.
        bytes: u64,
        /// The daemon's `CLOCK_MONOTONIC` when it sent this, nanoseconds.
        monotonic_ns: u64,
        /// The daemon's `CLOCK_REALTIME` when it sent this, nanoseconds since 1970.
        realtime_ns: u64,
    },
    /// There is no segment yet; one may follow on this connection.
    NotYet,
    /// The peer may not have it; the connection ends.
    Refused,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not from a Sidegate daemon.
    #[error("not a Sidegate attach socket")]
    Magic,
    /// Another version of the protocol.
    #[error("unsupported attach protocol version {0}")]
    Version(u32),
    /// A kind of message this build does not know.
    #[error("unknown attach message kind {0}")]
    Kind(u32),
}

impl Message {
    /// The message's bytes: magic, version, kind, then four 64-bit numbers and two that are zero; host byte order.
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

    /// Reads a message's bytes.
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
    fn every_message_survives_its_bytes() {
        let segment = Message::Segment { id: u64::MAX, bytes: 4096, monotonic_ns: 3, realtime_ns: 4 };
        for message in [segment, Message::NotYet, Message::Refused] {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn other_bytes_are_refused_by_name() {
        let good = Message::NotYet.encode();
        let with = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            Message::decode(&bytes)
        };
        assert_eq!(with(0, b'X'), Err(MessageError::Magic));
        assert_eq!(with(8, 9), Err(MessageError::Version(9)));
        assert_eq!(with(12, 77), Err(MessageError::Kind(77)));
    }
}
