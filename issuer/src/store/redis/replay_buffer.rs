//! What this issuer acknowledged recently: replayed when Redis lost its data, or another server took over.
//!
//! Replication is asynchronous: a failover may lose the last acknowledged writes. For as long as the ring remembers them,
//! the issuer that acknowledged them puts them back.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sidegate_common::log_protocol::Position;

use super::replay_entry::ReplayEntry;
use crate::store::counts::StoreCounts;

/// How long an acknowledged entry is remembered after it was last seen to be safe, by the monotonic clock. Twice the time
/// that a failover takes, and more than a minute; by then the feed has long brought it, and what the feed holds is
/// replayed too.
pub(super) const REMEMBERED: Duration = Duration::from_secs(120);
/// The most entries remembered, about 60 MB: beyond it the oldest go first.
const ENTRIES_MAX: usize = 500_000;

/// An answer that took longer counts as refused: an issuer that was suspended meanwhile may have been taken off the list, and
/// the log may have been settled without it.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(5);

/// When, and of which of its logs, a partition was asked for something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    at: Instant,
    pub(super) generation: u64,
}

pub(super) struct ReplayBuffer {
    state: Mutex<State>,
    counts: StoreCounts,
}

#[derive(Default)]
struct State {
    entries: VecDeque<(Instant, ReplayEntry)>,
    /// The turn of the first of them; each next one has the next turn.
    first: u64,
    /// How many logs a partition has had: an answer that was asked of an earlier one counts as refused.
    generations: HashMap<u16, u64>,
    /// When a partition's log was last seen to have everything.
    safe_at: HashMap<u16, Instant>,
}

impl State {
    fn forget_one(&mut self) {
        self.entries.pop_front();
        self.first += 1;
    }

    fn is_safe(&self, at: Instant, partition: u16) -> bool {
        let safe_at = self.safe_at.get(&partition);
        safe_at.is_some_and(|safe_at| safe_at.saturating_duration_since(at) > REMEMBERED)
    }
}

impl ReplayBuffer {
    pub(super) fn new(counts: StoreCounts) -> Self {
        Self { state: Mutex::default(), counts }
    }

    /// Something is about to be asked of a partition's log.
    pub(super) fn ask(&self, partition: u16) -> Asked {
        Asked { at: Instant::now(), generation: self.generation(partition) }
    }

    /// True if an answer comes in time, and from the log that was asked.
    pub(super) fn is_valid(&self, partition: u16, asked: Asked) -> bool {
        asked.generation == self.generation(partition) && asked.at.elapsed() < ANSWER_AGE_MAX
    }

    /// How often the partition's log has been replaced since this issuer started.
    pub(super) fn generation(&self, partition: u16) -> u64 {
        self.locked().generations.get(&partition).copied().unwrap_or(0)
    }

    /// The partition has another log now. What is remembered by now is replayed into it; what the one before still answers
    /// is not, and counts as refused.
    pub(super) fn next_generation(&self, partition: u16) {
        *self.locked().generations.entry(partition).or_default() += 1;
    }

    /// Remembers what a log has taken; false if that log has been replaced meanwhile, or the answer comes too late.
    pub(super) fn acknowledged(&self, entry: ReplayEntry, asked: Asked) -> bool {
        let mut state = self.locked();
        let generation = state.generations.get(&entry.partition).copied().unwrap_or(0);
        if generation != asked.generation || asked.at.elapsed() >= ANSWER_AGE_MAX {
            return false;
        }
        state.entries.push_back((Instant::now(), entry));
        if state.entries.len() > ENTRIES_MAX {
            state.forget_one();
            if self.counts.forgotten.inc() == 0 {
                tracing::warn!(
                    most = ENTRIES_MAX,
                    "replay buffer is full; a failover now could lose older revocations"
                );
            }
        }
        true
    }

    /// Drops entries that were safe for long enough at `at`, when the partition's log was last seen
    /// complete: while the log cannot be seen, no entry is dropped.
    pub(super) fn settled(&self, partition: u16, at: Instant) {
        let mut state = self.locked();
        state.safe_at.insert(partition, at);
        while state.entries.front().is_some_and(|(at, entry)| state.is_safe(*at, entry.partition)) {
            state.forget_one();
        }
    }

    /// What is remembered of a partition, oldest first, each with its turn.
    pub(super) fn recent(&self, partition: u16) -> Vec<(u64, ReplayEntry)> {
        let state = self.locked();
        let turns = (state.first..).zip(&state.entries);
        turns
            .filter(|(_, (_, entry))| entry.partition == partition)
            .map(|(turn, (_, entry))| (turn, entry.clone()))
            .collect()
    }

    /// The entry of this turn stands elsewhere in the log now.
    pub(super) fn moved(&self, turn: u64, position: Position) {
        let mut state = self.locked();
        let at = turn.checked_sub(state.first).and_then(|at| usize::try_from(at).ok());
        if let Some((_, entry)) = at.and_then(|at| state.entries.get_mut(at)) {
            entry.position = Some(position);
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::session::TokenLifetimes;
    use sidegate_common::revocation::Target;
    use sidegate_common::time::UnixTime;

    const LIFETIMES: TokenLifetimes =
        TokenLifetimes { access_ttl: 1, idle_ttl: 1, absolute_ttl: 1, retry_window: 0, lifetime_max: 60 };

    fn entry(partition: u16) -> ReplayEntry {
        ReplayEntry::done(partition, Target::Key { kid: "k".into() }, &LIFETIMES, None, UnixTime(5))
    }

    #[test]
    fn remembers_by_partition_until_long_after_it_was_seen_to_be_safe() {
        let ring = ReplayBuffer::new(StoreCounts::default());
        let before = Instant::now();
        assert!(ring.acknowledged(entry(1), ring.ask(1)));
        assert_eq!((ring.recent(0).len(), ring.recent(1).len()), (0, 1));
        let long_after = || Instant::now() + REMEMBERED + Duration::from_millis(1);
        ring.settled(1, before + REMEMBERED);
        ring.settled(0, long_after());
        assert_eq!(ring.recent(1).len(), 1, "neither an outage makes it older, nor what another partition has");
        ring.settled(1, long_after());
        assert_eq!(ring.recent(1).len(), 0);
    }

    #[test]
    fn answers_of_a_log_that_was_replaced_are_not_taken() {
        let ring = ReplayBuffer::new(StoreCounts::default());
        let before = ring.ask(1);
        ring.next_generation(1);
        assert!(!ring.acknowledged(entry(1), before) && ring.acknowledged(entry(0), before));
        assert!(!ring.is_valid(1, before) && ring.acknowledged(entry(1), ring.ask(1)));
    }

    #[test]
    fn an_answer_that_was_long_under_way_is_not_taken() {
        let ring = ReplayBuffer::new(StoreCounts::default());
        let Some(at) = Instant::now().checked_sub(ANSWER_AGE_MAX) else { return };
        let asked = Asked { at, ..ring.ask(0) };
        assert!(!ring.is_valid(0, asked) && !ring.acknowledged(entry(0), asked));
    }

    #[test]
    fn buffer_is_bounded_and_counts_dropped_entries() {
        let counts = StoreCounts::default();
        let ring = ReplayBuffer::new(counts.clone());
        (0..ENTRIES_MAX + 3).for_each(|_| assert!(ring.acknowledged(entry(0), ring.ask(0))));
        let recent = ring.recent(0);
        assert_eq!((recent.len(), recent[0].0), (ENTRIES_MAX, 3));
        let elsewhere = Position { ms: 9, sequence: 9 };
        ring.moved(2, elsewhere);
        ring.moved(4, elsewhere);
        assert_eq!(ring.recent(0)[1].1.position, Some(elsewhere), "the first three are forgotten");
        assert_eq!(ring.recent(0).iter().filter(|(_, entry)| entry.position.is_some()).count(), 1);
        assert_eq!(counts.forgotten.get(), 3);
    }
}
