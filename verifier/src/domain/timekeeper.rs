//! The verifier's time, shared by all threads: a floor that never goes back (DESIGN.md §6).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};

use sidegate_common::time::{Instants, TimeFloor, UnixTime};
use sidegate_common::verdict::Moment;

/// How often the floor is moved, in milliseconds: checks between two moves share one reading.
const ADVANCE_EVERY_MS: u64 = 50;

/// Turns readings of the two clocks into [`Moment`]s.
#[derive(Debug)]
pub struct Timekeeper {
    floor: Mutex<TimeFloor>,
    seconds: AtomicU64,
    advanced_ms: AtomicU64,
}

impl Timekeeper {
    /// Starts at what the clocks read now.
    pub fn new(now: Instants) -> Self {
        let floor = TimeFloor::new(now);
        Self {
            seconds: AtomicU64::new(floor.seconds().0),
            advanced_ms: AtomicU64::new(now.monotonic_ms),
            floor: Mutex::new(floor),
        }
    }

    /// The moment that `monotonic_ms` stands for. `both` reads both clocks, and is only asked when the floor has to move.
    pub fn moment(&self, monotonic_ms: u64, both: impl FnOnce() -> Instants) -> Moment {
        let advanced = self.advanced_ms.load(Ordering::Acquire);
        if monotonic_ms.saturating_sub(advanced) >= ADVANCE_EVERY_MS {
            self.advance(both());
        }
        Moment { now: UnixTime(self.seconds.load(Ordering::Acquire)), monotonic_ms }
    }

    /// Takes another machine's time ([`TimeFloor::confirm`]).
    pub fn confirm(&self, other: UnixTime, now: Instants) {
        let confirmed = self.floor.lock().unwrap_or_else(PoisonError::into_inner).confirm(other, now);
        self.seconds.fetch_max(confirmed.0, Ordering::AcqRel);
    }

    /// One thread moves the floor; the others go on with the one it is about to replace.
    fn advance(&self, now: Instants) {
        let mut floor = match self.floor.try_lock() {
            Ok(floor) => floor,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.seconds.fetch_max(floor.advance(now).0, Ordering::AcqRel);
        self.advanced_ms.fetch_max(now.monotonic_ms, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_moves_with_both_clocks_and_never_back() {
        let at = |wall_ms, monotonic_ms| Instants { wall_ms, monotonic_ms };
        let keeper = Timekeeper::new(at(1_000_000, 10));
        assert_eq!(keeper.moment(10, || unreachable!("the floor is new")).now, UnixTime(1_000));
        assert_eq!(keeper.moment(3_010, || at(1_003_000, 3_010)).now, UnixTime(1_003));
        let back = keeper.moment(4_010, || at(900_000, 4_010));
        assert_eq!(back.now, UnixTime(1_003));
        assert_eq!(back.monotonic_ms, 4_010);
        keeper.confirm(UnixTime(4_600), at(4_601_000, 4_020));
        assert_eq!(keeper.moment(4_030, || unreachable!("not yet")).now, UnixTime(4_600), "both clocks say so");
    }
}
