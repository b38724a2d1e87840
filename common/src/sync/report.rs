//! What a state machine tells of itself: counters, where it stands, and what to keep on disk.

use crate::sync::Lineage;
use crate::time::UnixTime;
use crate::wire::Position;

/// What the machine has counted since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Counters {
    /// Pushes that did not follow the newest entry held: one before them was lost.
    pub gaps: u64,
    /// Times the log was read because a proof had failed; the first reading included.
    pub resyncs: u64,
    /// Resyncs that had to begin at the start of the log.
    pub full_reads: u64,
    /// Pushes of entries already held.
    pub duplicates: u64,
    /// Pushes that were no message of ours.
    pub foreign: u64,
    /// Pushes that were let go: the log never had them.
    pub forged: u64,
    /// Entries that this build cannot read, pushed or read.
    pub unreadable: u64,
    /// Probes that were not answered in time.
    pub probes_lost: u64,
}

/// Where the machine stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No connection.
    Disconnected,
    /// Connected, and nothing to compare with yet.
    Probing,
    /// Reading the log.
    Reading,
    /// Holding everything that the last probe saw.
    Live,
}

impl Phase {
    /// Its stable name, for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Probing => "probing",
            Self::Reading => "reading",
            Self::Live => "live",
        }
    }
}

/// What a restarted verifier needs to go on from a list it has kept: everything of the log up to `last` is in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    /// Which log.
    pub lineage: Lineage,
    /// Up to where.
    pub last: Position,
    /// The log's `since` at that time.
    pub since: UnixTime,
    /// The store's clock when the list was last proven complete.
    pub proven: UnixTime,
}
