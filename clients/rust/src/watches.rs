//! The watched tokens of a client, and what is called when one ends.
//!
//! Sharded by the thread that adds, so that the workers of a proxy do not wait for each other; the sweeper decides on copies,
//! without a lock.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sidegate_shm::Probe;

use crate::denied::{DaemonError, Denied};
use crate::verified::Verified;

pub(crate) type OnEnd = Box<dyn FnOnce(Denied) + Send>;

const SHARDS: usize = 16;
/// How many tokens are copied at once, under the lock.
const BATCH: usize = 512;

/// The watched tokens of a client.
pub(crate) struct Watches {
    /// The process whose thread sweeps them; a forked child makes its own.
    pub(crate) pid: u32,
    /// How long a token is kept that cannot be checked; `None` for ever.
    pub(crate) grace: Option<Duration>,
    shards: [Mutex<Shard>; SHARDS],
    started: AtomicBool,
    asleep: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
}

#[derive(Default)]
struct Shard {
    added: u64,
    /// After a sweep that left nothing to be done.
    quiet: Option<Quiet>,
    slots: Vec<Slot>,
    /// Beside the slots: the token, and what is called.
    tokens: Vec<Option<(Verified, OnEnd)>>,
    free: Vec<u32>,
}

/// Which watch: the number is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) number: u64,
    slot: u32,
}

/// What a sweep needs of a watched token.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    /// `None`: free.
    key: Option<Key>,
    pub(crate) probe: Probe,
    pub(crate) epoch: u64,
    pub(crate) swept: Swept,
}

/// When a token was found good last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Swept {
    /// In which generation of shared memory; 0: not yet.
    pub(crate) generation: u64,
    /// The daemon is not asked about it before this moment.
    pub(crate) ask_at: Option<Instant>,
}

/// Until one is added, none of a shard's tokens is due before a new generation, and this `exp`.
#[derive(Clone, Copy)]
struct Quiet {
    generation: u64,
    exp_s: u64,
}

/// One sweep.
#[derive(Clone, Copy)]
pub(crate) struct Round {
    pub(crate) generation: u64,
    pub(crate) now_s: u64,
    /// Looks every token up.
    pub(crate) all: bool,
}

impl Round {
    fn skips(self, shard: &Shard) -> bool {
        let quiet = |quiet: &Quiet| quiet.generation == self.generation && self.now_s < quiet.exp_s;
        !self.all && shard.quiet.as_ref().is_some_and(quiet)
    }
}

/// The shard of this thread.
fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static OWN: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS));
    OWN.with(Cell::get)
}

impl Watches {
    pub(crate) fn new(grace: Option<Duration>) -> Arc<Self> {
        Arc::new(Self {
            pid: std::process::id(),
            grace,
            shards: Default::default(),
            started: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        })
    }

    /// Watches a token: `on_end` is called once, on the sweeping thread, unless the watch is removed before. `start` starts
    /// that thread, and is false if there can be none.
    pub(crate) fn add(self: &Arc<Self>, token: Verified, on_end: OnEnd, start: impl FnOnce(&Arc<Self>) -> bool) -> Key {
        let key = self.insert(token, on_end);
        if !self.started.load(Ordering::Relaxed) && !self.started.swap(true, Ordering::Relaxed) {
            if !start(self) {
                self.started.store(false, Ordering::Relaxed);
                // Without a thread the end would not be noticed.
                self.end(key, Denied::Unavailable(DaemonError::Timeout));
            }
        } else if self.asleep.load(Ordering::Relaxed) {
            let _awake = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.notify_one();
        }
        key
    }

    fn insert(&self, token: Verified, on_end: OnEnd) -> Key {
        let own = own_shard();
        let mut shard = self.locked(own);
        shard.added += 1;
        shard.quiet = None;
        let number = shard.added * SHARDS as u64 + own as u64;
        let (probe, epoch) = (token.probe(), token.epoch());
        let entry = Some((token, on_end));
        let slot = match shard.free.pop() {
            Some(slot) => slot,
            None => shard.slots.len() as u32,
        };
        let key = Key { number, slot };
        let filled = Slot { key: Some(key), probe, epoch, swept: Swept::default() };
        if slot as usize == shard.slots.len() {
            shard.slots.push(filled);
            shard.tokens.push(entry);
        } else {
            (shard.slots[slot as usize], shard.tokens[slot as usize]) = (filled, entry);
        }
        key
    }

    fn locked(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard_of(&self, key: Key) -> MutexGuard<'_, Shard> {
        self.locked((key.number % SHARDS as u64) as usize)
    }

    /// Removes a watch; what it held is dropped without the lock.
    pub(crate) fn remove(&self, key: Key) {
        let _held = self.shard_of(key).take(key);
    }

    /// Ends a watch, unless it has been removed.
    pub(crate) fn end(&self, key: Key, why: Denied) {
        let held = self.shard_of(key).take(key);
        if let Some((_, on_end)) = held
            && catch_unwind(AssertUnwindSafe(|| on_end(why))).is_err()
        {
            tracing::error!("what was to be called at the end of a token panicked");
        }
    }

    /// The token of a watch.
    pub(crate) fn token(&self, key: Key) -> Option<Verified> {
        let shard = self.shard_of(key);
        let (token, _) = shard.tokens.get(key.slot as usize).filter(|_| shard.holds(key))?.as_ref()?;
        Some(token.clone())
    }

    /// Keeps the daemon's new answer about a token.
    pub(crate) fn renew(&self, key: Key, token: Verified, swept: Swept) {
        let (probe, epoch) = (token.probe(), token.epoch());
        let mut shard = self.shard_of(key);
        if shard.holds(key) {
            let slot = key.slot as usize;
            shard.slots[slot] = Slot { key: Some(key), probe, epoch, swept };
            if let Some((held, _)) = &mut shard.tokens[slot] {
                *held = token;
            }
        }
    }

    /// Passes copies of all that `due` selects to `visit`, without a lock; those that it calls clear are of the round's
    /// generation then.
    pub(crate) fn sweep(&self, round: Round, due: impl Fn(&Slot) -> bool, mut visit: impl FnMut(Key, &Slot) -> bool) {
        for index in 0..SHARDS {
            self.sweep_shard(index, round, &due, &mut visit);
        }
    }

    fn sweep_shard(
        &self,
        index: usize,
        round: Round,
        due: &impl Fn(&Slot) -> bool,
        visit: &mut impl FnMut(Key, &Slot) -> bool,
    ) {
        let mut shard = self.locked(index);
        if round.skips(&shard) {
            return;
        }
        shard.quiet = None;
        let added = shard.added;
        drop(shard);
        let mut quiet = Some(Quiet { generation: round.generation, exp_s: u64::MAX });
        let mut batch: Vec<(Key, Slot)> = Vec::new();
        let mut first = 0;
        loop {
            batch.clear();
            let shard = self.locked(index);
            let length = shard.slots.len();
            for slot in shard.slots.iter().skip(first).take(BATCH) {
                let Some(key) = slot.key else { continue };
                if due(slot) {
                    batch.push((key, *slot));
                } else if slot.swept.ask_at.is_some() {
                    quiet = None;
                }
                quiet = quiet.map(|quiet| Quiet { exp_s: quiet.exp_s.min(slot.probe.exp_s()), ..quiet });
            }
            drop(shard);
            let visited = batch.len();
            batch.retain(|(key, slot)| visit(*key, slot));
            quiet = quiet.filter(|_| batch.len() == visited);
            if !batch.is_empty() {
                let mut shard = self.locked(index);
                batch.iter().for_each(|(key, _)| shard.settle(*key, round.generation));
            }
            first += BATCH;
            if first >= length {
                break;
            }
        }
        let mut shard = self.locked(index);
        shard.quiet = quiet.filter(|_| shard.added == added);
    }

    pub(crate) fn is_empty(&self) -> bool {
        (0..SHARDS).all(|index| {
            let shard = self.locked(index);
            shard.slots.len() == shard.free.len()
        })
    }

    /// Waits while there is no watch, but not longer than `most`.
    pub(crate) fn sleep_while_empty(&self, most: Duration) {
        let guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.store(true, Ordering::Relaxed);
        // A watch added after this look sees the line above, since both take the shard's lock.
        if self.is_empty() {
            let _waited = self.wake.wait_timeout(guard, most);
        }
        self.asleep.store(false, Ordering::Relaxed);
    }
}

impl Shard {
    fn holds(&self, key: Key) -> bool {
        self.slots.get(key.slot as usize).is_some_and(|slot| slot.key == Some(key))
    }

    fn take(&mut self, key: Key) -> Option<(Verified, OnEnd)> {
        if !self.holds(key) {
            return None;
        }
        let slot = key.slot as usize;
        self.slots[slot].key = None;
        self.free.push(key.slot);
        self.tokens[slot].take()
    }

    fn settle(&mut self, key: Key, generation: u64) {
        if self.holds(key) {
            self.slots[key.slot as usize].swept = Swept { generation, ask_at: None };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;
    use crate::verified::Answer;

    fn token(exp: u64) -> Verified {
        let claims = format!(r#"{{"iss":"i","sub":"s","client_id":"c","iat":1,"exp":{exp},"jti":"j","sid":"x"}}"#);
        let json = format!(r#"{{"claims":{claims},"segment":"0","epoch":0}}"#);
        serde_json::from_str::<Answer<'_>>(&json).unwrap().keep("token", |_| None).unwrap()
    }

    /// How many tokens a sweep looks at.
    fn looked_at(watches: &Watches, generation: u64, now_s: u64, all: bool, clear: bool) -> u32 {
        let count = Cell::new(0);
        let due = |slot: &Slot| {
            count.set(count.get() + 1);
            all || slot.swept.generation != generation || slot.probe.exp_s() <= now_s
        };
        watches.sweep(Round { generation, now_s, all }, due, |_, _| clear);
        count.get()
    }

    #[test]
    fn sweep_skips_tokens_only_while_none_is_due() {
        let watches = Watches::new(None);
        let first = watches.insert(token(100), Box::new(|_| ()));
        assert_eq!(looked_at(&watches, 1, 0, false, true), 1, "it is new");
        assert_eq!(looked_at(&watches, 1, 99, false, true), 0, "nothing has changed");
        assert_eq!(looked_at(&watches, 1, 99, true, true), 1, "all are looked up now and then");
        assert_eq!(looked_at(&watches, 1, 99, false, true), 0);
        assert_eq!(looked_at(&watches, 1, 100, false, true), 1, "it expires");
        let _second = watches.insert(token(200), Box::new(|_| ()));
        assert_eq!(looked_at(&watches, 1, 0, false, true), 2, "one is new");
        assert_eq!(looked_at(&watches, 2, 0, false, false), 2, "something has changed");
        assert_eq!(looked_at(&watches, 2, 0, false, true), 2, "they were in doubt");
        watches.remove(first);
        assert_eq!(looked_at(&watches, 2, 0, false, true), 0);
        assert_eq!(looked_at(&watches, 3, 0, false, true), 1, "the second is left");
        assert_eq!(looked_at(&watches, 3, 150, false, true), 0, "the first's expiry counts no more");
    }
}
