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

pub use head::{Answer, Head, Lineage, Role};
pub use machine::Machine;
pub use report::{Checkpoint, Counters, Phase};
pub use sink::Sink;
pub use timing::Timing;

use crate::revocation::{EntryError, Revocation};
use crate::time::{Instants, UnixTime};
use crate::wire::{Message, Position};

/// A pushed revocation: where it says that it stands, and what it says.
pub type Push = (Position, Revocation);

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
    /// This host has gone by a time that was ahead and may have dropped entries too early: the log is to be read from its
    /// start before anything is proven again.
    ReadWhole,
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
    /// Hold this revocation, which was pushed; apart from the others, until one of the next three is asked for.
    Apply {
        /// Where it stands; its milliseconds say when it was stored.
        position: Position,
        /// What it says.
        revocation: Revocation,
    },
    /// Hold these, which were pushed, for good: the log has them.
    Confirm(Vec<Push>),
    /// Hold these, which were pushed, for good: the log can no longer be asked whether it had them.
    Keep(Vec<Push>),
    /// Let these go, which were pushed: the log does not have them, and never had.
    Drop(Vec<Push>),
    /// Hold these revocations, which were read.
    ApplyAll(Vec<Revocation>),
    /// Tokens with `iat` at or before this moment cannot be judged by the list: refuse them.
    Since(UnixTime),
    /// The store's clock, as the head just answered has it; before anything that the head proves
    /// ([`crate::time::TimeFloor::confirm`]).
    Time(UnixTime),
    /// The list was complete at this instant.
    Fresh(Instants),
    /// Give the connection up and make a new one.
    Reconnect,
    /// What keeps the list from being proven, when that changes; none when it is proven again.
    Alarm(Option<Alarm>),
    /// An alarm that does not keep the list from being proven is raised, or over.
    Warning(Alarm, bool),
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

/// Why a store that answers proves nothing, or what an operator should see to.
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
    /// This host's wall clock is behind the store's by more than machines may differ. A log that was read whole proves nothing
    /// meanwhile: what it has forgotten as expired, this host would take for living.
    ClockBehind,
    /// This host's wall clock is ahead of the store's by more than machines may differ.
    ClockAhead,
    /// The log is believed although the replay after its last change of server or data was never marked as done.
    ReplayMissing,
    /// The data set is of a newer layout than this build reads.
    NewerLayout,
}

impl Alarm {
    /// Every alarm, for metrics that must exist before they are needed.
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
            Self::ClockAhead => "clock_ahead",
            Self::ReplayMissing => "replay_missing",
        }
    }
}
