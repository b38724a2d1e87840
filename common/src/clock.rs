//! The time by which tokens are checked, shared by all threads: a floor under the wall clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::time::{Instants, TimeFloor, UnixTime};

/// How often the floor is moved, in milliseconds: checks between two moves share one reading.
const ADVANCE_EVERY_MS: u64 = 50;

/// When a check takes place: by the time floor, and by the monotonic clock that freshness is measured with.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The time of this process ([`TimeFloor`]).
    pub now: UnixTime,
    /// CLOCK_MONOTONIC, in milliseconds.
    pub monotonic_ms: u64,
}

/// Turns readings of the two clocks into [`Moment`]s.
#[derive(Debug)]
pub struct Clock {
    floor: Mutex<TimeFloor>,
    seconds: AtomicU64,
    advanced_ms: AtomicU64,
    /// Held while entries are dropped by the time read at the beginning.
    sweeping: Mutex<()>,
}

impl Clock {
    /// Starts at what the clocks read now.
    pub fn new(now: Instants) -> Self {
        let floor = TimeFloor::new(now);
        Self {
            seconds: AtomicU64::new(floor.seconds().0),
            advanced_ms: AtomicU64::new(now.monotonic_ms),
            floor: Mutex::new(floor),
            sweeping: Mutex::new(()),
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

    /// Takes another machine's time and returns how often the floor has gone back ([`TimeFloor::confirm`]). Before it does,
    /// `before_lowering` is called: nothing may be judged good from then on until the log has been read again.
    pub fn confirm(&self, other: UnixTime, now: Instants, before_lowering: impl FnOnce()) -> u64 {
        let mut floor = self.floor();
        if floor.would_lower(other, now) {
            drop(floor);
            let _no_sweep_by_the_old_time = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
            before_lowering();
            floor = self.floor();
            let lowered = floor.confirm(other, now);
            self.seconds.store(floor.seconds().0, Ordering::Release);
            return lowered;
        }
        let lowered = floor.confirm(other, now);
        self.seconds.fetch_max(floor.seconds().0, Ordering::AcqRel);
        lowered
    }

    /// Does something only if the floor has gone back just so often, and does not go back meanwhile.
    pub fn while_lowered(&self, lowered: u64, act: impl FnOnce()) {
        let floor = self.floor();
        if floor.lowered() == lowered {
            act();
        }
    }

    /// Does something while the floor does not go back.
    pub fn sweep(&self, act: impl FnOnce()) {
        let _sweeping = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        act();
    }

    fn floor(&self) -> MutexGuard<'_, TimeFloor> {
        self.floor.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn time_moves_with_both_clocks() {
        let at = |wall_ms, monotonic_ms| Instants { wall_ms, monotonic_ms };
        let clock = Clock::new(at(1_000_000, 10));
        assert_eq!(clock.moment(10, || unreachable!("the floor is new")).now, UnixTime(1_000));
        assert_eq!(clock.moment(3_010, || at(1_003_000, 3_010)).now, UnixTime(1_003));
        let back = clock.moment(4_010, || at(900_000, 4_010));
        assert_eq!(back.now, UnixTime(1_003));
        assert_eq!(back.monotonic_ms, 4_010);
        assert_eq!(clock.confirm(UnixTime(4_600), at(4_601_000, 4_020), || unreachable!("it is raised")), 0);
        assert_eq!(clock.moment(4_030, || unreachable!("not yet")).now, UnixTime(4_600), "both clocks say so");
        let mut stopped = false;
        assert_eq!(clock.confirm(UnixTime(1_004), at(1_004_500, 4_040), || stopped = true), 1);
        assert!(stopped, "judging was stopped first");
        assert_eq!(clock.moment(4_045, || unreachable!("not yet")).now, UnixTime(1_004), "both say that it was ahead");
        clock.while_lowered(0, || unreachable!("read before the time went back"));
    }
}
