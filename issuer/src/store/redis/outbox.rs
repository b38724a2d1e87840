//! Revocations that Redis refused: the client received 503, and they are delivered once Redis accepts them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::replay_entry::ReplayEntry;
use crate::store::counts::StoreCounts;

/// The most that is kept, about 20 MB. Beyond it only the client's own retry helps.
const PENDING_MAX: usize = 100_000;

/// A partition, and what of it is dead.
type Key = (u16, Vec<u8>);

/// An entry that is pending.
struct Pending {
    turn: u64,
    entry: ReplayEntry,
    /// Over which of the partition's logs it was given.
    generation: u64,
    /// The log has it already; what it must be confirmed by does not.
    appended: bool,
}

#[derive(Default)]
struct State {
    pending: HashMap<Key, Pending>,
    /// How many were ever put in: tells an entry from a later one of the same key.
    turn: u64,
}

/// What this issuer owes the log.
pub(super) struct Outbox {
    state: Mutex<State>,
    most: usize,
    counts: StoreCounts,
}

/// An entry on its way, and which turn of its key it was.
pub(super) struct PendingDelivery {
    key: Key,
    turn: u64,
    pub(super) entry: ReplayEntry,
    pub(super) generation: u64,
    pub(super) appended: bool,
}

impl Outbox {
    pub(super) fn new(counts: StoreCounts) -> Self {
        Self { state: Mutex::default(), most: PENDING_MAX, counts }
    }

    /// Keeps what was refused, with the `generation` of the log that was asked. The later threshold wins.
    pub(super) fn keep(&self, entry: ReplayEntry, generation: u64) {
        self.put(entry, generation, false);
    }

    /// Keeps what the log has taken, but what it must be confirmed by has not.
    pub(super) fn keep_unconfirmed(&self, entry: ReplayEntry, generation: u64) {
        self.put(entry, generation, true);
    }

    fn put(&self, mut entry: ReplayEntry, mut generation: u64, appended: bool) {
        let key = entry.key();
        let mut state = self.locked();
        if let Some(held) = state.pending.get(&key) {
            keep_later(&mut entry, &held.entry);
            generation = generation.min(held.generation);
        } else if state.pending.len() >= self.most {
            if self.counts.overflowed.inc().is_power_of_two() || self.counts.overflowed.get() == 1 {
                tracing::error!(
                    most = self.most,
                    "the outbox is full; a revocation that Redis refused is dropped, and its client must retry"
                );
            }
            return;
        }
        state.turn += 1;
        let turn = state.turn;
        state.pending.insert(key, Pending { turn, entry, generation, appended });
        self.measure(&state);
    }

    /// Removes an entry that the client's retry has stored meanwhile.
    pub(super) fn done(&self, entry: &ReplayEntry) {
        let mut state = self.locked();
        if !state.pending.is_empty() && state.pending.remove(&entry.key()).is_some() {
            self.measure(&state);
        }
    }

    /// Up to `most` of a partition that have not been delivered; those with a threshold only if it is `settled`.
    pub(super) fn deliveries(&self, partition: u16, settled: bool, most: usize) -> Vec<PendingDelivery> {
        let state = self.locked();
        let may_go = |pending: &Pending| settled || pending.appended || !pending.entry.has_threshold();
        let of = state.pending.iter().filter(|((its, _), pending)| *its == partition && may_go(pending)).take(most);
        let delivery = |(key, pending): (&Key, &Pending)| PendingDelivery {
            key: key.clone(),
            turn: pending.turn,
            entry: pending.entry.clone(),
            generation: pending.generation,
            appended: pending.appended,
        };
        of.map(delivery).collect()
    }

    /// Notes that the log has it, as the delivery's entry says.
    pub(super) fn appended(&self, delivery: &PendingDelivery) {
        let mut state = self.locked();
        if let Some(pending) = state.pending.get_mut(&delivery.key).filter(|pending| pending.turn == delivery.turn) {
            (pending.appended, pending.entry) = (true, delivery.entry.clone());
        }
    }

    /// Takes out what the log has now, but for what was refused again meanwhile.
    pub(super) fn delivered(&self, deliveries: &[PendingDelivery]) {
        let mut state = self.locked();
        for delivery in deliveries {
            if state.pending.get(&delivery.key).is_some_and(|pending| pending.turn == delivery.turn) {
                state.pending.remove(&delivery.key);
                self.counts.delivered.inc();
            }
        }
        self.measure(&state);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.locked().pending.is_empty()
    }

    fn measure(&self, state: &State) {
        self.counts.outbox.set(i64::try_from(state.pending.len()).unwrap_or(i64::MAX));
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep_later(entry: &mut ReplayEntry, held: &ReplayEntry) {
    let target = &mut entry.revocation.target;
    if let Some(before) = held.revocation.target.threshold().max(target.threshold()) {
        *target = target.clone().with_threshold(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidegate_common::revocation::Target;
    use sidegate_common::time::UnixTime;

    fn user(sub: &str, threshold: u64) -> ReplayEntry {
        ReplayEntry::pending(0, Target::Subject { sub: sub.into(), threshold: UnixTime(threshold) })
    }

    fn held(outbox: &Outbox) -> Vec<ReplayEntry> {
        outbox.deliveries(0, true, 10).into_iter().map(|delivery| delivery.entry).collect()
    }

    #[test]
    fn keeps_one_of_a_kind_with_the_later_threshold() {
        let outbox = Outbox::new(StoreCounts::default());
        outbox.keep(user("1", 9), 0);
        outbox.keep(user("1", 7), 0);
        assert_eq!(held(&outbox).len(), 1);
        assert_eq!(held(&outbox)[0].revocation.target, user("1", 9).revocation.target);
        outbox.done(&user("1", 12));
        assert!(outbox.is_empty(), "the retry did it");
    }

    #[test]
    fn what_is_refused_again_while_on_its_way_stays() {
        let counts = StoreCounts::default();
        let outbox = Outbox::new(counts.clone());
        outbox.keep(user("1", 7), 0);
        outbox.keep(user("2", 7), 0);
        let deliveries = outbox.deliveries(0, true, 10);
        outbox.keep(user("1", 9), 0);
        outbox.delivered(&deliveries);
        assert_eq!(held(&outbox)[0].revocation.target, user("1", 9).revocation.target);
        assert_eq!((counts.outbox.get(), counts.delivered.get()), (1, 1));
    }

    #[test]
    fn order_given_again_keeps_the_generation_it_was_first_given_over() {
        let outbox = Outbox::new(StoreCounts::default());
        outbox.keep(user("1", 7), 3);
        outbox.keep(user("1", 9), 4);
        assert_eq!(outbox.deliveries(0, true, 10)[0].generation, 3);
    }

    #[test]
    fn an_order_up_to_a_moment_waits_for_a_settled_log() {
        let outbox = Outbox::new(StoreCounts::default());
        outbox.keep(user("1", 7), 0);
        outbox.keep(ReplayEntry::pending(0, Target::Key { kid: "k".into() }), 0);
        assert_eq!((outbox.deliveries(0, false, 10).len(), outbox.deliveries(0, true, 10).len()), (1, 2));
    }

    #[test]
    fn is_bounded_and_counts_what_it_refuses() {
        let counts = StoreCounts::default();
        let outbox = Outbox { most: 2, ..Outbox::new(counts.clone()) };
        ["1", "2", "3"].iter().for_each(|sub| outbox.keep(user(sub, 7), 0));
        outbox.keep(user("2", 8), 0);
        assert_eq!((counts.outbox.get(), counts.overflowed.get()), (2, 1));
    }
}
