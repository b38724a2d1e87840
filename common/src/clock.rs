//! The time by which tokens are checked, shared by all threads: a floor under the wall clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::time::{ClockReading, TimeFloor, UnixTime};

/// How often the floor advances, in milliseconds; checks in between share one reading.
const ADVANCE_EVERY_MS: u64 = 50;

/// The time of a check: the time floor for expiry, and the monotonic clock for freshness.
#[derive(Clone, Copy, Debug)]
pub struct CheckTime {
    /// The current time by the [`TimeFloor`].
    pub now: UnixTime,
    /// CLOCK_MONOTONIC, in milliseconds.
    pub monotonic_ms: u64,
}

/// Turns readings of the two clocks into [`CheckTime`]s.
#[derive(Debug)]
pub struct Clock {
    floor: Mutex<TimeFloor>,
    seconds: AtomicU64,
    advanced_ms: AtomicU64,
    /// Held while a sweep drops expired entries, so that the floor does not go back meanwhile.
    sweep_lock: Mutex<()>,
}

impl Clock {
    /// Starts at the wall clock's reading.
    pub fn new(now: ClockReading) -> Self {
        let floor = TimeFloor::new(now);
        Self {
            seconds: AtomicU64::new(floor.seconds().0),
            advanced_ms: AtomicU64::new(now.monotonic_ms),
            floor: Mutex::new(floor),
            sweep_lock: Mutex::new(()),
        }
    }

    /// The time at `monotonic_ms`. `both` reads both clocks; it is called only when the floor has
    /// to advance.
    pub fn check_time(&self, monotonic_ms: u64, both: impl FnOnce() -> ClockReading) -> CheckTime {
        let advanced = self.advanced_ms.load(Ordering::Acquire);
        if monotonic_ms.saturating_sub(advanced) >= ADVANCE_EVERY_MS {
            self.advance(both());
        }
        CheckTime { now: UnixTime(self.seconds.load(Ordering::Acquire)), monotonic_ms }
    }

    /// Adjusts the floor by another machine's time and returns how often the floor has gone back
    /// ([`TimeFloor::confirm`]). `before_lowering` runs before the floor goes back: it must stop
    /// all checks from passing until the log has been read again.
    pub fn confirm(&self, other: UnixTime, now: ClockReading, before_lowering: impl FnOnce()) -> u64 {
        let mut floor = self.floor();
        if floor.would_lower(other, now) {
            drop(floor);
            let _no_sweep_by_the_old_time = self.sweep_lock.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Runs `act` if the floor has gone back exactly `lowered` times; the floor does not go back
    /// meanwhile.
    pub fn while_lowered(&self, lowered: u64, act: impl FnOnce()) {
        let floor = self.floor();
        if floor.lowered() == lowered {
            act();
        }
    }

    /// Runs `act` while the floor cannot go back.
    pub fn sweep(&self, act: impl FnOnce()) {
        let _sweeping = self.sweep_lock.lock().unwrap_or_else(PoisonError::into_inner);
        act();
    }

    fn floor(&self) -> MutexGuard<'_, TimeFloor> {
        self.floor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One thread advances the floor; the others use the previous value meanwhile.
    fn advance(&self, now: ClockReading) {
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
        let at = |wall_ms, monotonic_ms| ClockReading { wall_ms, monotonic_ms };
        let clock = Clock::new(at(1_000_000, 10));
        assert_eq!(clock.check_time(10, || unreachable!("the floor is new")).now, UnixTime(1_000));
        assert_eq!(clock.check_time(3_010, || at(1_003_000, 3_010)).now, UnixTime(1_003));
        let back = clock.check_time(4_010, || at(900_000, 4_010));
        assert_eq!(back.now, UnixTime(1_003));
        assert_eq!(back.monotonic_ms, 4_010);
        assert_eq!(clock.confirm(UnixTime(4_600), at(4_601_000, 4_020), || unreachable!("the floor rises")), 0);
        assert_eq!(clock.check_time(4_030, || unreachable!("not yet")).now, UnixTime(4_600), "both clocks agree");
        let mut stopped = false;
        assert_eq!(clock.confirm(UnixTime(1_004), at(1_004_500, 4_040), || stopped = true), 1);
        assert!(stopped, "checks were stopped first");
        assert_eq!(
            clock.check_time(4_045, || unreachable!("not yet")).now,
            UnixTime(1_004),
            "both clocks agree that the floor was ahead"
        );
        clock.while_lowered(0, || unreachable!("read before the time went back"));
    }
}
