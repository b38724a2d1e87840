//! What a state machine reports: counters, its phase, and what a snapshot must store.

use crate::log_protocol::Position;
use crate::sync::Lineage;
use crate::time::UnixTime;

/// The counters since the machine was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Counters {
    /// Pushes that did not follow the newest entry: one in between was lost.
    pub gaps: u64,
    /// Reads of the log because a proof had failed; includes the first read.
    pub resyncs: u64,
    /// Resyncs that began at the start of the log.
    pub full_reads: u64,
    /// Pushes of entries already held.
    pub duplicates: u64,
    /// Pushes that were not revocation messages.
    pub foreign: u64,
    /// Pushes that were dropped: the log never had them.
    pub forged: u64,
    /// Entries that this build cannot decode, pushed or read.
    pub unreadable: u64,
    /// Probes that were not answered in time.
    pub probes_lost: u64,
}

/// The machine's phase, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No connection.
    Disconnected,
    /// Connected, but no head has been received yet.
    Probing,
    /// Reading the log.
    Reading,
    /// Everything that the last probe saw is held.
    Live,
}

impl Phase {
    /// The stable name, for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Probing => "probing",
            Self::Reading => "reading",
            Self::Live => "live",
        }
    }
}

/// What a restarted verifier needs to resume from a snapshot: the list has every entry of the log
/// up to `last`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    /// The log's identity.
    pub lineage: Lineage,
    /// The position up to which the list is complete.
    pub last: Position,
    /// The log's `since` at that time.
    pub since: UnixTime,
    /// The store's clock when the list was last proven complete.
    pub proven: UnixTime,
}
