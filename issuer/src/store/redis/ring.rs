//! What this issuer acknowledged lately: replayed when Redis lost its data, or another server took over.
//!
//! Replication is asynchronous: a failover may lose the last acknowledged writes. For as long as the ring remembers them,
//! the issuer that acknowledged them puts them back.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sidegate_common::wire::Position;

use super::deed::Deed;
use crate::store::counts::Counts;

/// How long an acknowledged entry is remembered after it was last seen to be safe. Twice the time that a failover takes,
/// and more than a minute.
pub(super) const REMEMBERED: Duration = Duration::from_secs(120);
/// The most entries remembered, about 60 MB: beyond it the oldest go first.
const ENTRIES_MAX: usize = 500_000;

pub(super) struct Ring {
    state: Mutex<State>,
    counts: Counts,
}

#[derive(Default)]
struct State {
    deeds: VecDeque<(Instant, Deed)>,
    /// The turn of the first of them; each next one has the next turn.
    first: u64,
}

impl State {
    fn forget_one(&mut self) {
        self.deeds.pop_front();
        self.first += 1;
    }
}

impl Ring {
    pub(super) fn new(counts: Counts) -> Self {
        Self { state: Mutex::default(), counts }
    }

    /// Remembers what the log has taken.
    pub(super) fn acknowledged(&self, deed: Deed) {
        let mut state = self.locked();
        state.deeds.push_back((Instant::now(), deed));
        if state.deeds.len() > ENTRIES_MAX {
            state.forget_one();
            if self.counts.forgotten.inc() == 0 {
                tracing::warn!(most = ENTRIES_MAX, "more revocations in two minutes than a replay can hold");
            }
        }
    }

    /// Forgets what was safe for long enough at `looked`, when the log was last seen to be the one it was before: while
    /// nothing can be seen, nothing is forgotten.
    pub(super) fn settled(&self, looked: Instant) {
        let mut state = self.locked();
        while state.deeds.front().is_some_and(|(at, _)| looked.saturating_duration_since(*at) > REMEMBERED) {
            state.forget_one();
        }
    }

    /// What is remembered of a partition, oldest first, each with its turn.
    pub(super) fn lately(&self, partition: u16) -> Vec<(u64, Deed)> {
        let state = self.locked();
        let turns = (state.first..).zip(&state.deeds);
        turns
            .filter(|(_, (_, deed))| deed.partition == partition)
            .map(|(turn, (_, deed))| (turn, deed.clone()))
            .collect()
    }

    /// The deed of this turn stands elsewhere in the log now.
    pub(super) fn moved(&self, turn: u64, position: Position) {
        let mut state = self.locked();
        let at = turn.checked_sub(state.first).and_then(|at| usize::try_from(at).ok());
        if let Some((_, deed)) = at.and_then(|at| state.deeds.get_mut(at)) {
            deed.position = Some(position);
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::session::Terms;
    use sidegate_common::revocation::Target;

    const TERMS: Terms = Terms { access_ttl: 1, idle_ttl: 1, absolute_ttl: 1, retry_window: 0, lifetime_max: 60 };

    fn deed(partition: u16) -> Deed {
        Deed::done(partition, Target::Key { kid: "k".into() }, &TERMS, None)
    }

    #[test]
    fn remembers_by_partition_until_long_after_it_was_seen_to_be_safe() {
        let ring = Ring::new(Counts::default());
        let before = Instant::now();
        ring.acknowledged(deed(1));
        assert_eq!((ring.lately(0).len(), ring.lately(1).len()), (0, 1));
        ring.settled(before + REMEMBERED);
        assert_eq!(ring.lately(1).len(), 1, "an outage does not make it older");
        ring.settled(Instant::now() + REMEMBERED + Duration::from_millis(1));
        assert_eq!(ring.lately(1).len(), 0);
    }

    #[test]
    fn is_bounded_and_counts_what_it_forgets() {
        let counts = Counts::default();
        let ring = Ring::new(counts.clone());
        (0..ENTRIES_MAX + 3).for_each(|_| ring.acknowledged(deed(0)));
        let lately = ring.lately(0);
        assert_eq!((lately.len(), lately[0].0), (ENTRIES_MAX, 3));
        let elsewhere = Position { ms: 9, sequence: 9 };
        ring.moved(2, elsewhere);
        ring.moved(4, elsewhere);
        assert_eq!(ring.lately(0)[1].1.position, Some(elsewhere), "the first three are forgotten");
        assert_eq!(ring.lately(0).iter().filter(|(_, deed)| deed.position.is_some()).count(), 1);
        assert_eq!(counts.forgotten.get(), 3);
    }
}
