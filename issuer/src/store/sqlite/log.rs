//! What the embedded store's log consists of.

use sidegate_common::log_protocol::Position;
use sidegate_common::time::UnixTime;

/// The state of the log at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedHead {
    /// The data set.
    pub epoch: String,
    /// The newest entry's position.
    pub last: Position,
    /// Every revocation after this moment is in the log.
    pub since: UnixTime,
    /// The oldest entry in the log.
    pub first: Option<Position>,
    /// The latest `iat` that is revoked for all users.
    pub all_dead: UnixTime,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The entry's position.
    pub position: Position,
    /// The serialized revocation.
    pub entry: Vec<u8>,
}
