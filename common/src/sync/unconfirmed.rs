//! Pushes that the log has not confirmed yet: whoever may publish can forge one, and a failover can take the entry of a true
//! one away. They are obeyed, but stand apart until the log has shown their bytes, or that it does not have them.

use std::collections::VecDeque;

use crate::revocation::Revocation;
use crate::sync::{Entry, Push, ReadFrom};
use crate::wire::Position;

/// Entries of the log that are remembered, so that pushes which repeat them need no look at the log.
const RECENT_MAX: usize = 1024;
/// Pushes that stand apart; beyond it the oldest are held for good.
const PUSHES_MAX: usize = 100_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    push: Push,
    /// The machine's number at its arrival: probes and reads with a greater one were asked for after it.
    number: u64,
    /// It followed the newest entry then held, and no other push claims its position.
    chained: bool,
    /// When a read that was asked for after it had shown that the log does not have it.
    absent: Option<u64>,
}

/// The pushes of one partition that stand apart, and what the log has shown lately.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Unconfirmed {
    waiting: Vec<Waiting>,
    recent: VecDeque<Push>,
    /// The greatest position that has stood in `waiting`, and in `recent`: a push beyond it is in neither, which spares
    /// a burst of pushes a look at all of them each.
    waiting_to: Position,
    recent_to: Position,
    /// A read that looks for pushes: its number, and from where.
    looking: Option<(u64, Position)>,
    /// Since the last look by the machine.
    decided: Decided,
}

/// Pushes that no longer stand apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Decided {
    /// The log has them.
    pub confirmed: Vec<Push>,
    /// The log can no longer be asked about them: they are held for good.
    pub kept: Vec<Push>,
    /// The log does not have them.
    pub dropped: Vec<Push>,
}

impl Unconfirmed {
    /// True if the log has shown this very entry.
    pub fn is_known(&self, position: Position, revocation: &Revocation) -> bool {
        position <= self.recent_to && self.recent.iter().rev().any(|(at, known)| *at == position && known == revocation)
    }

    /// A push that has arrived.
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

    /// The log has shown these entries.
    pub fn shown(&mut self, entries: &[Entry]) {
        let readable = entries.iter().filter_map(|entry| Some((entry.position, entry.revocation.as_ref().ok()?)));
        for (position, revocation) in readable {
            self.confirm_where(|one| one.push.0 == position && one.push.1 == *revocation);
            self.remember((position, revocation.clone()));
        }
    }

    /// The log ends with `last`, by a probe with this number. True if the pushes that followed each other lead there from what was
    /// held: then the log has them all.
    pub fn chain_ends(&mut self, last: Position) -> bool {
        let ends = self.waiting.iter().any(|one| one.chained && one.push.0 == last);
        if ends {
            self.confirm_where(|one| one.chained && one.push.0 <= last);
        }
        ends
    }

    /// Lets go what was not in the log, now that a probe with this number has named the same log as before.
    pub fn drop_absent(&mut self, probe: u64) {
        let gone = |one: &mut Waiting| one.absent.is_some_and(|at| at < probe);
        self.decided.dropped.extend(self.waiting.extract_if(.., gone).map(|one| one.push));
    }

    /// From where the log has to be read to find pushes that came before the probe with this number, if there are any.
    pub fn look(&mut self, probe: u64, read: u64) -> Option<ReadFrom> {
        let suspects = self.waiting.iter().filter(|one| one.number < probe && one.absent.is_none());
        let lowest = suspects.map(|one| one.push.0).min()?;
        if self.looking.is_some() {
            return None;
        }
        self.looking = Some((read, lowest));
        Some(ReadFrom::At(lowest))
    }

    /// A page that was read to find pushes; false if it was read for something else. `number` is the machine's present one.
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

    /// Nothing can be said any more of what stands apart: it is held for good.
    pub fn keep(&mut self) {
        self.decided.kept.extend(self.waiting.drain(..).map(|one| one.push));
        self.recent.clear();
        self.looking = None;
        (self.waiting_to, self.recent_to) = (Position::START, Position::START);
    }

    /// What has been decided since the last call.
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
