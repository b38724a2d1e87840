//! Mutants: ways to weaken a follower, an issuer or a store, to test the tests. The machine itself
//! has no code for them.

use super::truth::packed;
use crate::log_protocol::Position;
use crate::revocation::{Revocation, Target};
use crate::sync::{Entry, Event, Head, Lineage, Machine, ProbeAnswer, ReadFrom};
use crate::time::{ClockReading, UnixTime};

/// A participant that lacks one of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Accepts every push as the next entry.
    NoPredecessorCheck,
    /// Compares positions only, whatever their lineage.
    CounterOnly,
    /// Accepts a probe's answer as the proof, whether or not the earlier pushes have arrived.
    ProbeBeforePushes,
    /// Drops an entry when its token expires, without leeway and skew.
    DropsAtExpiry,
    /// Dates freshness by the arrival of the answer, not by the sending of the probe.
    FreshOnReceipt,
    /// Ignores `since`. It matters when more is lost than issuers remember.
    NoSince,
    /// Skips entries that it cannot decode.
    SkipsUnreadable,
    /// Resumes from a snapshot although the clock was ahead when it was written. It also has its
    /// own schedule: in the others the next probe corrects the time by the store's clock.
    TrustsAnySnapshot,
    /// Ignores that its clock is behind the store's. A schedule of all faults hardly ever makes
    /// that matter, so it has its own.
    AnyClock,
    /// Accepts a finished read as the proof, although the log may have changed meanwhile. Only the
    /// model checker makes it.
    ProvenByTheLastPage,
    /// Accepts every log, whether or not issuers have put back what it lost.
    AcceptsUnsettled,
    /// An issuer that puts back only what it acknowledged itself.
    OwnEntriesOnly,
    /// An issuer that measures the age of its acknowledgements by its wall clock, and drops what is
    /// two minutes old.
    AgesByWallClock,
    /// A store that ends sessions by their last rotation, not by their creation.
    SessionsByLastRotation,
    /// An issuer that rotates sessions in an unsettled log.
    RotatesUnsettled,
    /// An issuer that creates sessions in an unsettled log: replayed watermarks may be above them.
    CreatesUnsettled,
    /// A store that takes the sessions of its data for all there were, although a late order was given over other data.
    MovedOrdersKeepTheirReach,
    /// An issuer that takes a restored copy for as complete as the copy says, although it has seen data lost since then.
    TrustsSinceOfABackup,
    /// Takes every log for one that lacks nothing of an enrolled issuer, also one made after a loss.
    EnrolmentCoversEveryLog,
}

impl Mutant {
    /// Those that schedules of all faults catch.
    pub const ALL: [Self; 11] = [
        Self::NoPredecessorCheck,
        Self::CounterOnly,
        Self::ProbeBeforePushes,
        Self::DropsAtExpiry,
        Self::FreshOnReceipt,
        Self::SkipsUnreadable,
        Self::AcceptsUnsettled,
        Self::OwnEntriesOnly,
        Self::SessionsByLastRotation,
        Self::RotatesUnsettled,
        Self::CreatesUnsettled,
    ];

    /// The event as a follower without this rule handles it.
    pub fn weaken(self, machine: &Machine, event: Event, now: ClockReading) -> Event {
        let last = machine.last();
        match (self, event) {
            (Self::NoPredecessorCheck, Event::Pushed(mut message)) => {
                message.previous = last;
                Event::Pushed(message)
            }
            (Self::ProbeBeforePushes, Event::Answered { token, answer: ProbeAnswer::Head(mut head) }) => {
                if machine.lineage() == Some(&head.lineage) {
                    head.last = last;
                }
                Event::Answered { token, answer: ProbeAnswer::Head(head) }
            }
            (Self::AnyClock, Event::Answered { token, answer: ProbeAnswer::Head(mut head) }) => {
                head.now = head.now.min(UnixTime(now.wall_ms / 1000));
                Event::Answered { token, answer: ProbeAnswer::Head(head) }
            }
            (Self::AcceptsUnsettled, Event::Answered { token, answer: ProbeAnswer::Head(head) }) => {
                Event::Answered { token, answer: ProbeAnswer::Head(Head { settled: true, ..head }) }
            }
            (Self::CounterOnly, event) => counter_only(event, last),
            (Self::SkipsUnreadable, Event::Page { request, entries, complete }) => {
                let skip = |entry: Entry| Entry { revocation: entry.revocation.or(Ok(nothing())), ..entry };
                Event::Page { request, entries: entries.into_iter().map(skip).collect(), complete }
            }
            (_, event) => event,
        }
    }

    /// The start of a read as a follower without this rule chooses it.
    pub fn weaken_read(self, from: ReadFrom) -> ReadFrom {
        match (self, from) {
            (Self::CounterOnly, ReadFrom::At(at)) => ReadFrom::After(at),
            _ => from,
        }
    }
}

/// A revocation without effect.
fn nothing() -> Revocation {
    Revocation { target: Target::Token { jti: packed(usize::MAX >> 8), subject: None }, expires_at: UnixTime(0) }
}

/// All logs look like one that never shrinks.
fn counter_only(event: Event, last: Position) -> Event {
    match event {
        Event::Pushed(mut message) => {
            message.epoch = "any".into();
            Event::Pushed(message)
        }
        Event::Answered { token, answer: ProbeAnswer::Head(mut head) } => {
            head.lineage = Lineage { epoch: "any".into(), replication_id: "any".into() };
            head.last = head.last.max(last);
            Event::Answered { token, answer: ProbeAnswer::Head(head) }
        }
        Event::Page { request, mut entries, complete } => {
            if last != Position::START {
                entries.insert(0, Entry { position: last, revocation: Ok(nothing()) });
            }
            Event::Page { request, entries, complete }
        }
        event => event,
    }
}
