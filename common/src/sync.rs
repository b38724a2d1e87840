//! The proof that a verifier's list of revocations is complete: a pure state machine, one per partition of the log.
//!
//! Events go in, actions come out; there is no socket, no task and no clock here, so the daemon, the simulator and the
//! model checker run the very same code. docs/protocol.md ("Following the log") says in prose what it does.
//!
//! What it rests on:
//! - Entries arrive early by push, which may lose, repeat and delay them. A push is always obeyed and never trusted to
//!   be the next one: it names its predecessor.
//! - `last` is the position up to which *every* entry of the adopted [`Lineage`] is held. It moves over a push only if
//!   that push's predecessor is `last`, and over a page of the log read from `last` on.
//! - A [`Head`] answers a probe after the probe was sent. If `last` has reached it, nothing that was in the log when
//!   the probe was sent is missing: the list is proven as of that instant, by this machine's own clock.
//! - Another lineage (the data set's own epoch, and the history id that Redis gives its replication stream) voids `last`,
//!   never an entry: the log is read from its start and united with what is held.

mod head;
mod machine;

#[cfg(test)]
mod model;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use head::{Answer, Head, Lineage, Role};
pub use machine::{Checkpoint, Counters, Machine, Phase, Timing};

use crate::revocation::{EntryError, Revocation};
use crate::time::{Instants, UnixTime};
use crate::wire::{Message, Position};

/// What happened, as the follower saw it. Pushes and answers of one connection come in the order in which the store
/// sent them: every push that was sent before an answer is given before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new connection is up, and the store has confirmed its subscription.
    Subscribed,
    /// The connection is gone, and with it every question that was under way.
    Disconnected,
    /// An entry was pushed.
    Pushed(Message),
    /// Something was pushed that is no message of ours.
    Garbled,
    /// A probe was answered.
    Answered {
        /// The token of the probe.
        token: u64,
        /// What the store said.
        answer: Answer,
    },
    /// A read was answered.
    Page {
        /// The number of the read.
        request: u64,
        /// Entries in the order of the log.
        entries: Vec<Entry>,
        /// Nothing stood in the log behind these.
        complete: bool,
    },
    /// Time has passed.
    Tick,
}

/// One entry of the log, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub position: Position,
    /// What it says, where this build can read it.
    pub revocation: Result<Revocation, EntryError>,
}

/// What the follower is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask for the head of the log, on the connection that is subscribed.
    Probe {
        /// To be given back with the answer.
        token: u64,
    },
    /// Read one page of the log, on the same connection.
    Read {
        /// To be given back with the page.
        request: u64,
        /// Where the page begins.
        from: ReadFrom,
    },
    /// Hold this revocation, which was pushed.
    Apply {
        /// Where it stands; its milliseconds say when it was stored.
        position: Position,
        /// What it says.
        revocation: Revocation,
    },
    /// Hold these revocations, which were read.
    ApplyAll(Vec<Revocation>),
    /// Tokens with `iat` at or before this moment cannot be judged by the list: refuse them.
    Since(UnixTime),
    /// The store's clock, when a list that was read whole is about to be proven: this host's wall clock is not behind it, so
    /// whatever time this host goes by is at least the earlier of the two ([`crate::time::TimeFloor::confirm`]).
    Time(UnixTime),
    /// The list was complete at this instant.
    Fresh(Instants),
    /// Give the connection up and make a new one.
    Reconnect,
    /// What keeps the list from being proven, when that changes; none when it is proven again.
    Alarm(Option<Alarm>),
}

/// Where a page of the log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadFrom {
    /// With the oldest entry.
    Start,
    /// With the entry at this position.
    At(Position),
    /// With the first entry behind this position.
    After(Position),
}

/// Why a store that answers proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alarm {
    /// It holds no data set: it was emptied, or no issuer has ever written to it.
    NoEpoch,
    /// Its log does not end where its head says: a key was deleted by hand.
    LogDamaged,
    /// It refuses the question: rights, loading, busy.
    Refused,
    /// It is a replica.
    Replica,
    /// It is a master that has lost its replicas, and may have been replaced.
    Isolated,
    /// It has another number of partitions than this verifier started with.
    Partitions,
    /// The log has an entry that this build cannot read.
    UnreadableEntry,
    /// This host's wall clock is behind the store's by more than machines may differ, and the log was read whole: what it has
    /// forgotten as expired, this host would take for living.
    ClockBehind,
    /// The data set is of a newer layout than this build reads.
    NewerLayout,
}

impl Alarm {
    /// Every alarm, for metrics that must exist before they are needed.
    pub const ALL: [Self; 9] = [
        Self::NoEpoch,
        Self::LogDamaged,
        Self::Refused,
        Self::Replica,
        Self::Isolated,
        Self::Partitions,
        Self::UnreadableEntry,
        Self::ClockBehind,
        Self::NewerLayout,
    ];

    /// Its stable name, for logs and metrics.
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
        }
    }
}
