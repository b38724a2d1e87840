//! The proof that a verifier's list of revocations is complete: a pure state machine, one per partition of the log.
//!
//! Events go in, actions come out. There is no socket, task or clock here, so the daemon, the
//! simulator and the model checker run the same code. docs/protocol.md ("Following the log")
//! describes it.
//!
//! Invariants:
//! - Pushes deliver entries early, but may be lost, repeated or delayed. Every push is applied, but
//!   counts as the next entry only if it names its predecessor.
//! - `last` is the position up to which *every* entry of the adopted [`Lineage`] is held. It moves
//!   over a push only if that push's predecessor is `last`, and over a page of the log read from
//!   `last` on.
//! - A [`Head`] answers a probe after the probe was sent. If `last` has reached it, nothing is
//!   missing that was in the log when the probe was sent: the list is proven as of that instant, by
//!   this machine's clock.
//! - Another lineage (the data set's epoch, and the replication id of Redis' stream) voids `last`,
//!   but never an entry: the log is read from its start, and its entries are added to the list.

mod head;
mod machine;
mod report;
mod sink;
mod timing;
mod unconfirmed;

#[cfg(test)]
mod model;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use head::{Head, Lineage, ProbeAnswer, Role};
pub use machine::Machine;
pub use report::{Checkpoint, Counters, Phase};
pub use sink::Sink;
pub use timing::Timing;

use crate::log_protocol::{Message, Position};
use crate::revocation::{EntryError, Revocation};
use crate::time::{ClockReading, UnixTime};

/// A pushed revocation with the position that it claims.
pub type Push = (Position, Revocation);

/// What the follower observed. Pushes and answers of one connection arrive in the order in which
/// the store sent them: a push sent before an answer is delivered before that answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new connection is up, and the store has confirmed its subscription.
    Subscribed,
    /// The connection is closed, with every open request.
    Disconnected,
    /// An entry was pushed.
    Pushed(Message),
    /// Something was pushed that is not a revocation message.
    Garbled,
    /// A probe was answered.
    Answered {
        /// The token of the probe.
        token: u64,
        /// The store's answer.
        answer: ProbeAnswer,
    },
    /// A read was answered.
    Page {
        /// The number of the read.
        request: u64,
        /// Entries in the order of the log.
        entries: Vec<Entry>,
        /// The log has no entry after these.
        complete: bool,
    },
    /// This host's clock was ahead, so entries may have been dropped too early: the log must be
    /// read from its start before the list can be proven again.
    ReadWhole,
    /// Time has passed.
    Tick,
}

/// One entry of the log, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The entry's position.
    pub position: Position,
    /// The entry, if this build can decode it.
    pub revocation: Result<Revocation, EntryError>,
}

/// What the follower must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask for the head of the log, on the connection that is subscribed.
    Probe {
        /// Returned with the answer.
        token: u64,
    },
    /// Read one page of the log, on the same connection.
    Read {
        /// Returned with the page.
        request: u64,
        /// Where the page begins.
        from: ReadFrom,
    },
    /// Add this pushed revocation to the unconfirmed ones, until `Confirm`, `Keep` or `Drop`
    /// decides.
    Apply {
        /// Its position; the milliseconds say when it was stored.
        position: Position,
        /// The revocation.
        revocation: Revocation,
    },
    /// Make these pushes permanent: the log has them.
    Confirm(Vec<Push>),
    /// Make these pushes permanent: the log can no longer say whether it had them.
    Keep(Vec<Push>),
    /// Drop these pushes: the log never had them.
    Drop(Vec<Push>),
    /// Add these revocations, which were read from the log.
    ApplyAll(Vec<Revocation>),
    /// Reject tokens with `iat` at or before this time: the list may lack their revocations.
    Since(UnixTime),
    /// The store's clock, as in the head just received; emitted before anything that the head
    /// proves ([`crate::time::TimeFloor::confirm`]).
    Time(UnixTime),
    /// The list was complete at this instant.
    Fresh(ClockReading),
    /// Close the connection and open a new one.
    Reconnect,
    /// What keeps the list from being proven, on every change; `None` when the list is proven
    /// again.
    Alarm(Option<Alarm>),
    /// An alarm that does not keep the list from being proven is raised (true) or cleared (false).
    Warning(Alarm, bool),
}

/// Where a page of the log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadFrom {
    /// With the oldest entry.
    Start,
    /// With the entry at this position.
    At(Position),
    /// With the first entry after this position.
    After(Position),
}

/// Why a store's answer proves nothing, or what an operator should repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alarm {
    /// The store has no data set: it was emptied, or no issuer has ever written to it.
    NoEpoch,
    /// The log does not end where its head says: a key was deleted by hand.
    LogDamaged,
    /// The store rejects the command: permissions, loading, busy.
    Refused,
    /// The server is a replica.
    Replica,
    /// The server is a master without its replicas, and may have been replaced.
    Isolated,
    /// The data set's number of partitions has changed since this verifier started.
    Partitions,
    /// The log has an entry that this build cannot decode.
    UnreadableEntry,
    /// This host's wall clock is behind the store's by more than the permitted skew. A log that was
    /// read completely proves nothing meanwhile: the log has trimmed entries as expired whose
    /// tokens this host would still accept.
    ClockBehind,
    /// This host's wall clock is ahead of the store's by more than the permitted skew.
    ClockAhead,
    /// The log is accepted although the replay after its last change of server or data was never
    /// marked as done.
    ReplayMissing,
    /// The data set has a newer layout than this build reads.
    NewerLayout,
}

impl Alarm {
    /// Every alarm, so that metrics exist from the start.
    pub const ALL: [Self; 11] = [
        Self::NoEpoch,
        Self::LogDamaged,
        Self::Refused,
        Self::Replica,
        Self::Isolated,
        Self::Partitions,
        Self::UnreadableEntry,
        Self::ClockBehind,
        Self::NewerLayout,
        Self::ClockAhead,
        Self::ReplayMissing,
    ];

    /// The stable name, for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoEpoch => "no_epoch",
            Self::LogDamaged => "log_damaged",
            Self::Refused => "refused",
            Self::Replica => "replica",
            Self::Isolated => "isolated",
            Self::Partitions => "partitions",
            Self::UnreadableEntry => "unreadable_entry",
            Self::ClockBehind => "clock_behind",
            Self::NewerLayout => "newer_layout",
            Self::ClockAhead => "clock_ahead",
            Self::ReplayMissing => "replay_missing",
        }
    }
}
