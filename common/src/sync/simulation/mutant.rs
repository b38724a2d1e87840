//! Ways to weaken a follower, an issuer or a store: what the tests of the tests take a rule away with, without a trace in the
//! machine itself.

use super::truth::packed;
use crate::revocation::{Revocation, Target};
use crate::sync::{Answer, Entry, Event, Head, Lineage, Machine, ReadFrom};
use crate::time::{Instants, UnixTime};
use crate::wire::Position;

/// What lacks one of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Takes every push for the next one.
    NoPredecessorCheck,
    /// Compares positions only, whatever log they are of.
    CounterOnly,
    /// Takes an answer to a probe for the proof, whether or not what was pushed before it has arrived.
    ProbeBeforePushes,
    /// Forgets an entry when its token expires, without leeway and skew.
    ForgetsAtExpiry,
    /// Counts from when the answer came, not from when the probe was sent.
    FreshOnReceipt,
    /// Never says what it cannot know. It matters when more is lost than issuers remember.
    NoSince,
    /// Steps over entries that it cannot read.
    SkipsUnreadable,
    /// Goes on from a snapshot although the clock was ahead when it was written. It has a schedule of its own, too: the time
    /// goes by the store's clock at the next probe.
    TrustsAnySnapshot,
    /// Does not mind that its clock is behind the store's. A schedule of every kind of fault hardly ever makes that matter; it
    /// has one of its own.
    AnyClock,
    /// Takes a reading for the proof when it has reached the head it was for, whatever has become of the log meanwhile.
    /// Only the model checker makes it.
    ProvenByTheLastPage,
    /// Believes every log, whether or not issuers have put back what it lost.
    BelievesUnsettled,
    /// An issuer that puts back only what it acknowledged itself.
    OwnEntriesOnly,
    /// An issuer that tells by its wall clock how long ago it acknowledged something, and forgets what is two minutes old.
    AgesByWallClock,
    /// A store that condemns sessions by their last rotation, not by their birth.
    SessionsByLastRotation,
    /// An issuer that rotates sessions in a log that is not settled.
    RotatesUnsettled,
    /// An issuer that creates sessions in a log that is not settled: watermarks that come back may be above them.
    CreatesUnsettled,
}

impl Mutant {
    /// Those that schedules of every kind of fault catch.
    pub const ALL: [Self; 11] = [
        Self::NoPredecessorCheck,
        Self::CounterOnly,
        Self::ProbeBeforePushes,
        Self::ForgetsAtExpiry,
        Self::FreshOnReceipt,
        Self::SkipsUnreadable,
        Self::BelievesUnsettled,
        Self::OwnEntriesOnly,
        Self::SessionsByLastRotation,
        Self::RotatesUnsettled,
        Self::CreatesUnsettled,
    ];

    /// What a follower without this rule makes of an event.
    pub fn weaken(self, machine: &Machine, event: Event, now: Instants) -> Event {
        let last = machine.last();
        match (self, event) {
            (Self::NoPredecessorCheck, Event::Pushed(mut message)) => {
                message.previous = last;
                Event::Pushed(message)
            }
            (Self::ProbeBeforePushes, Event::Answered { token, answer: Answer::Head(mut head) }) => {
                if machine.lineage() == Some(&head.lineage) {
                    head.last = last;
                }
                Event::Answered { token, answer: Answer::Head(head) }
            }
            (Self::AnyClock, Event::Answered { token, answer: Answer::Head(mut head) }) => {
                head.now = head.now.min(UnixTime(now.wall_ms / 1000));
                Event::Answered { token, answer: Answer::Head(head) }
            }
            (Self::BelievesUnsettled, Event::Answered { token, answer: Answer::Head(head) }) => {
                Event::Answered { token, answer: Answer::Head(Head { settled: true, ..head }) }
            }
            (Self::CounterOnly, event) => counter_only(event, last),
            (Self::SkipsUnreadable, Event::Page { request, entries, complete }) => {
                let skip = |entry: Entry| Entry { revocation: entry.revocation.or(Ok(nothing())), ..entry };
                Event::Page { request, entries: entries.into_iter().map(skip).collect(), complete }
            }
            (_, event) => event,
        }
    }

    /// And of where to read from.
    pub fn weaken_read(self, from: ReadFrom) -> ReadFrom {
        match (self, from) {
            (Self::CounterOnly, ReadFrom::At(at)) => ReadFrom::After(at),
            _ => from,
        }
    }
}

/// What revokes nothing.
fn nothing() -> Revocation {
    Revocation { target: Target::Token { jti: packed(usize::MAX >> 8), subject: None }, expires_at: UnixTime(0) }
}

/// All logs look like one, and a log never looks shorter than before.
fn counter_only(event: Event, last: Position) -> Event {
    match event {
        Event::Pushed(mut message) => {
            message.epoch = "any".into();
            Event::Pushed(message)
        }
        Event::Answered { token, answer: Answer::Head(mut head) } => {
            head.lineage = Lineage { epoch: "any".into(), history: "any".into() };
            head.last = head.last.max(last);
            Event::Answered { token, answer: Answer::Head(head) }
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
