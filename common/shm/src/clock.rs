//! The two coarse clocks that limit a segment's validity.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds in a second.
pub const NANOS: u64 = 1_000_000_000;

/// One reading of both clocks, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_MONOTONIC`: stops during suspend, is never stepped.
    pub monotonic_ns: u64,
    /// `CLOCK_REALTIME`: continues during suspend, may be stepped; nanoseconds since 1970.
    pub realtime_ns: u64,
}

/// A reader's source of time.
pub trait SegmentClock {
    /// Reads both clocks.
    fn now(&self) -> Now;
}

/// The kernel's coarse clocks: a few nanoseconds per reading, no system call, at most a tick (10
/// ms) behind.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoarseClock;

impl SegmentClock for CoarseClock {
    #[inline]
    fn now(&self) -> Now {
        Now { monotonic_ns: nanoseconds(ClockId::MonotonicCoarse), realtime_ns: nanoseconds(ClockId::RealtimeCoarse) }
    }
}

#[inline]
fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // A wall clock before 1970 reads as 0: every promise then looks unexpired, and the monotonic
    // clock decides.
    (time.tv_sec.max(0) as u64).saturating_mul(NANOS).saturating_add(time.tv_nsec.max(0) as u64)
}
