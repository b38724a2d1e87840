//! Pushes that the log has not confirmed yet. Any client that may publish can forge a push, and a
//! failover can lose a true one's entry. Each is applied, but kept apart until the log has shown
//! that it has the entry or lacks it.

use std::collections::VecDeque;

use crate::log_protocol::Position;
use crate::revocation::Revocation;
use crate::sync::{Entry, Push, ReadFrom};

/// Log entries that are remembered, so that pushes which repeat them need no read.
const RECENT_MAX: usize = 1024;
/// The most unconfirmed pushes; beyond it the oldest become permanent.
const PUSHES_MAX: usize = 100_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    push: Push,
    /// The machine's number at its arrival: probes and reads with a greater number were sent after
    /// it.
    number: u64,
    /// It followed the newest entry then held, and no other push claims its position.
    chained: bool,
    /// When a read sent after it has shown that the log lacks it.
    absent: Option<u64>,
}

/// The unconfirmed pushes of one partition, and recent entries of its log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Unconfirmed {
    waiting: Vec<Waiting>,
    recent: VecDeque<Push>,
    /// The greatest position that has ever been in `waiting`, and in `recent`: a later push is in
    /// neither, which saves a burst of pushes a search each.
    waiting_to: Position,
    recent_to: Position,
    /// A read that looks for pushes: its number, and its start.
    looking: Option<(u64, Position)>,
    /// Since the machine's last `take_decided`.
    decided: Decided,
}

/// Pushes that are no longer unconfirmed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Decided {
    /// The log has them.
    pub confirmed: Vec<Push>,
    /// The log can no longer say whether it had them: they become permanent.
    pub kept: Vec<Push>,
    /// The log lacks them.
    pub dropped: Vec<Push>,
}

impl Unconfirmed {
    /// True if the log has shown exactly this entry.
    pub fn is_known(&self, position: Position, revocation: &Revocation) -> bool {
        position <= self.recent_to && self.recent.iter().rev().any(|(at, known)| *at == position && known == revocation)
    }

    /// Adds a push.
    pub fn add(&mut self, number: u64, position: Position, revocation: Revocation, chained: bool) {
        let mut claimed = false;
        if position <= self.waiting_to {
            for other in self.waiting.iter_mut().filter(|other| other.push.0 == position) {
                if other.push.1 == revocation {
                    return;
                }
                (other.chained, claimed) = (false, true);
            }
        }
        self.waiting_to = self.waiting_to.max(position);
        if self.waiting.len() == PUSHES_MAX {
            self.decided.kept.push(self.waiting.remove(0).push);
        }
        let chained = chained && !claimed;
        self.waiting.push(Waiting { push: (position, revocation), number, chained, absent: None });
    }

    /// Handles entries that the log has shown.
    pub fn shown(&mut self, entries: &[Entry]) {
        let readable = entries.iter().filter_map(|entry| Some((entry.position, entry.revocation.as_ref().ok()?)));
        for (position, revocation) in readable {
            self.confirm_where(|one| one.push.0 == position && one.push.1 == *revocation);
            self.remember((position, revocation.clone()));
        }
    }

    /// Handles a head that ends with `last`, by a probe with this number. True if a chain of pushes
    /// leads from the held entries to it: then the log has them all.
    pub fn chain_ends(&mut self, last: Position) -> bool {
        let ends = self.waiting.iter().any(|one| one.chained && one.push.0 == last);
        if ends {
            self.confirm_where(|one| one.chained && one.push.0 <= last);
        }
        ends
    }

    /// Drops pushes that were not in the log, now that a probe with this number has confirmed that
    /// the log is the same.
    pub fn drop_absent(&mut self, probe: u64) {
        let gone = |one: &mut Waiting| one.absent.is_some_and(|at| at < probe);
        self.decided.dropped.extend(self.waiting.extract_if(.., gone).map(|one| one.push));
    }

    /// Where a read must start to find pushes that arrived before this probe, if there are any.
    pub fn look(&mut self, probe: u64, read: u64) -> Option<ReadFrom> {
        let suspects = self.waiting.iter().filter(|one| one.number < probe && one.absent.is_none());
        let lowest = suspects.map(|one| one.push.0).min()?;
        if self.looking.is_some() {
            return None;
        }
        self.looking = Some((read, lowest));
        Some(ReadFrom::At(lowest))
    }

    /// Handles a page of a read for pushes; false if the read was for something else. `number` is
    /// the machine's current one.
    pub fn found(&mut self, request: u64, entries: &[Entry], complete: bool, number: u64) -> bool {
        let Some((_, from)) = self.looking.take_if(|(looking, _)| *looking == request) else { return false };
        self.shown(entries);
        let to = entries.last().map(|entry| entry.position).filter(|_| !complete);
        for one in self.waiting.iter_mut().filter(|one| one.number < request && one.push.0 >= from) {
            if to.is_none_or(|to| one.push.0 <= to) {
                one.absent = Some(number);
            }
        }
        true
    }

    /// The log can no longer decide: makes all unconfirmed pushes permanent.
    pub fn keep(&mut self) {
        self.decided.kept.extend(self.waiting.drain(..).map(|one| one.push));
        self.recent.clear();
        self.looking = None;
        (self.waiting_to, self.recent_to) = (Position::START, Position::START);
    }

    /// The decisions since the last call.
    pub fn take_decided(&mut self) -> Decided {
        std::mem::take(&mut self.decided)
    }

    fn confirm_where(&mut self, which: impl Fn(&Waiting) -> bool) {
        if self.waiting.is_empty() {
            return;
        }
        for one in self.waiting.extract_if(.., |one| which(one)).collect::<Vec<_>>() {
            self.remember(one.push.clone());
            self.decided.confirmed.push(one.push);
        }
    }

    fn remember(&mut self, push: Push) {
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent_to = self.recent_to.max(push.0);
        self.recent.push_back(push);
    }
}
