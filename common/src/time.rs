//! Points in time, durations, their spelling in settings, and the floor under a verifier's clock.

use std::time::Duration;

/// A time in whole seconds since 1970-01-01T00:00:00Z (RFC 7519 §2, NumericDate without fractions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// This time plus `seconds`, saturating.
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// This time minus `seconds`, not before 1970.
    pub const fn minus(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }
}

/// One reading of both clocks of a machine, in milliseconds. The runtime makes these; the domain
/// only compares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClockReading {
    /// Milliseconds since 1970 by the wall clock.
    pub wall_ms: u64,
    /// Milliseconds by a clock that never goes back (CLOCK_MONOTONIC), from an arbitrary origin.
    pub monotonic_ms: u64,
}

/// The largest leeway a verifier may have, in seconds; log entries outlive their tokens by it.
pub const LEEWAY_MAX_SECONDS: u64 = 60;
/// How far two machines' clocks may differ, in seconds (`CLOCK_SKEW`).
pub const CLOCK_SKEW_SECONDS: u64 = 5;
/// How much longer than its tokens a revocation is kept: the largest leeway and the skew of both machines.
pub const REVOCATION_MARGIN_SECONDS: u64 = LEEWAY_MAX_SECONDS + 2 * CLOCK_SKEW_SECONDS;
/// How long the wall clock must run ahead of the floor before the floor follows, in milliseconds.
const STEP_ACCEPTED_AFTER_MS: u64 = 10 * 60 * 1000;
/// Differences between the two clocks below this are drift, not a step, in milliseconds.
const DRIFT_MS: u64 = 500;
/// For how long another machine's time stops the floor from following the wall clock alone, in
/// milliseconds.
const CONFIRMED_MS: u64 = 60 * 1000;

/// A verifier's time. It advances with the slower of the wall clock and the monotonic clock.
///
/// A clock stepped back does not revive expired tokens: the floor holds. A clock stepped forward
/// for a while does not expire valid ones: the monotonic clock limits the floor. Another machine's
/// time decides what this one cannot know: the floor rises at once to the earlier of the two times,
/// and goes back only if both agree that it is ahead. Without another machine the floor follows a
/// forward step after ten minutes: the first reading was wrong, or the machine was suspended.
#[derive(Clone, Debug)]
pub struct TimeFloor {
    floor_ms: u64,
    last: ClockReading,
    ahead_since_ms: Option<u64>,
    /// When another machine's time was last used.
    confirmed_ms: Option<u64>,
    lowered: u64,
}

impl TimeFloor {
    /// A floor that starts at the wall clock's reading.
    pub const fn new(now: ClockReading) -> Self {
        Self { floor_ms: now.wall_ms, last: now, ahead_since_ms: None, confirmed_ms: None, lowered: 0 }
    }

    /// Advances to a reading of both clocks and returns the new floor.
    pub fn advance(&mut self, now: ClockReading) -> UnixTime {
        let by_monotonic = now.monotonic_ms.saturating_sub(self.last.monotonic_ms);
        let room = now.wall_ms.saturating_sub(self.floor_ms);
        self.floor_ms += room.min(by_monotonic);
        if now.monotonic_ms > self.last.monotonic_ms {
            self.last = now;
        }
        self.follow_lasting_step(now);
        self.seconds()
    }

    /// Adjusts the floor by another machine's time: it is at least the earlier of the two. If both
    /// machines agree, within the permitted skew, that the floor is ahead, it goes back to the
    /// earlier time; entries dropped as expired must then be read again before any check passes.
    /// Returns how often the floor has gone back ([`TimeFloor::lowered`]).
    pub fn confirm(&mut self, other: UnixTime, now: ClockReading) -> u64 {
        self.confirmed_ms = Some(now.monotonic_ms);
        self.advance(now);
        let other_ms = other.0.saturating_mul(1000);
        let earlier = now.wall_ms.min(other_ms);
        self.floor_ms = self.floor_ms.max(earlier);
        if self.would_lower(other, now) {
            (self.floor_ms, self.last, self.ahead_since_ms) = (earlier, now, None);
            self.lowered += 1;
        }
        self.lowered
    }

    /// True if this time of another machine would lower the floor.
    pub const fn would_lower(&self, other: UnixTime, now: ClockReading) -> bool {
        let other_ms = other.0.saturating_mul(1000);
        let later = if now.wall_ms > other_ms { now.wall_ms } else { other_ms };
        let agree = now.wall_ms.abs_diff(other_ms) <= (2 * CLOCK_SKEW_SECONDS + 1) * 1000;
        agree && self.floor_ms > later + CLOCK_SKEW_SECONDS * 1000
    }

    /// How often the floor has gone back.
    pub const fn lowered(&self) -> u64 {
        self.lowered
    }

    /// The floor.
    pub const fn seconds(&self) -> UnixTime {
        UnixTime(self.floor_ms / 1000)
    }

    fn follow_lasting_step(&mut self, now: ClockReading) {
        let ahead = now.wall_ms.saturating_sub(self.floor_ms);
        if ahead <= DRIFT_MS {
            self.floor_ms += ahead;
            self.ahead_since_ms = None;
            return;
        }
        if self.confirmed_ms.is_some_and(|at| now.monotonic_ms.saturating_sub(at) < CONFIRMED_MS) {
            // The other machine does not confirm the step.
            self.ahead_since_ms = None;
            return;
        }
        let since = *self.ahead_since_ms.get_or_insert(now.monotonic_ms);
        if now.monotonic_ms.saturating_sub(since) >= STEP_ACCEPTED_AFTER_MS {
            self.floor_ms = now.wall_ms;
            self.ahead_since_ms = None;
        }
    }
}

/// Why a duration could not be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a duration such as 30s, 15m, 24h, 30d or a bare number of seconds")]
pub struct DurationError;

/// Parses `250ms`, `30s`, `15m`, `24h`, `30d`, or a bare number of seconds.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| DurationError)?;
    let seconds = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "" | "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(60 * 60),
        "d" => number.checked_mul(24 * 60 * 60),
        _ => None,
    };
    seconds.filter(|s| *s <= u64::from(u32::MAX)).map(Duration::from_secs).ok_or(DurationError)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(wall_ms: u64, monotonic_ms: u64) -> ClockReading {
        ClockReading { wall_ms, monotonic_ms }
    }

    #[test]
    fn durations_parse() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse_duration("30d"), Ok(Duration::from_secs(2_592_000)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        for bad in ["", "s", "-1", "1.5s", "1 s", "1w", "+3s", "99999999999d", "30S", "18446744073709551616"] {
            assert_eq!(parse_duration(bad), Err(DurationError), "{bad}");
        }
    }

    #[test]
    fn floor_follows_clocks_that_agree() {
        let mut floor = TimeFloor::new(at(1_000_000, 50));
        assert_eq!(floor.advance(at(1_005_000, 5_050)), UnixTime(1_005));
    }

    #[test]
    fn floor_holds_when_clock_steps_back() {
        let mut floor = TimeFloor::new(at(10_000_000, 0));
        assert_eq!(floor.advance(at(6_400_000, 1_000)), UnixTime(10_000), "held while the wall clock is behind");
        assert_eq!(
            floor.advance(at(10_002_000, 3_602_000)),
            UnixTime(10_002),
            "and follows it again from where it was"
        );
    }

    #[test]
    fn floor_ignores_short_forward_step() {
        let mut floor = TimeFloor::new(at(10_000_000, 0));
        assert_eq!(floor.advance(at(13_601_000, 1_000)), UnixTime(10_001));
        assert_eq!(floor.advance(at(13_900_000, 300_000)), UnixTime(10_300));
        assert_eq!(floor.advance(at(10_310_000, 310_000)), UnixTime(10_310), "stepped back again: nothing was lost");
    }

    #[test]
    fn floor_follows_lasting_forward_step() {
        let mut floor = TimeFloor::new(at(10_000_000, 0));
        floor.advance(at(13_601_000, 1_000));
        assert_eq!(floor.advance(at(14_200_999, 600_999)), UnixTime(10_600));
        assert_eq!(floor.advance(at(14_201_000, 601_000)), UnixTime(14_201));
    }

    #[test]
    fn floor_follows_confirmed_step_at_once() {
        let mut floor = TimeFloor::new(at(10_000_000, 0));
        let mut confirm = |other, now| (floor.confirm(UnixTime(other), now), floor.seconds().0);
        assert_eq!(confirm(13_600, at(10_001_000, 1_000)), (0, 10_001), "not by the other machine's time alone");
        assert_eq!(confirm(13_601, at(13_602_500, 2_000)), (0, 13_601), "as far as both agree");
        assert_eq!(confirm(10_000, at(13_603_000, 3_000)), (0, 13_602), "not back by the other machine's time alone");
        assert_eq!(floor.advance(at(13_605_500, 4_000)), UnixTime(13_603), "and on from there");
    }

    /// The verifier starts while its clock is 20 minutes ahead; then the clock is corrected.
    #[test]
    fn floor_goes_back_if_both_machines_agree() {
        let mut floor = TimeFloor::new(at(11_200_000, 0));
        assert_eq!(floor.confirm(UnixTime(10_001), at(11_201_000, 1_000)), 0, "the clocks do not agree yet");
        assert_eq!(floor.seconds(), UnixTime(11_201));
        assert_eq!(floor.confirm(UnixTime(10_006), at(10_002_000, 2_000)), 1);
        assert_eq!(floor.seconds(), UnixTime(10_002), "the earlier of the two");
        assert_eq!(floor.confirm(UnixTime(10_003), at(10_003_000, 3_000)), 1, "once");
        assert_eq!(floor.advance(at(10_004_000, 4_000)), UnixTime(10_004));
    }

    /// A difference within the skew must not make a verifier read its log again and again.
    #[test]
    fn floor_ahead_within_skew_waits() {
        let mut floor = TimeFloor::new(at(10_005_000, 0));
        assert_eq!(floor.confirm(UnixTime(10_000), at(10_000_000, 1_000)), 0);
        assert_eq!(floor.confirm(UnixTime(9_991), at(10_001_000, 2_000)), 0);
        assert_eq!(floor.seconds(), UnixTime(10_005), "held until the clocks have caught up");
    }

    /// The floor ignores a forward step that the other machine does not confirm, however long it
    /// lasts.
    #[test]
    fn floor_ignores_unconfirmed_lasting_step() {
        let mut floor = TimeFloor::new(at(10_000_000, 0));
        for second in 1..=700 {
            floor.confirm(UnixTime(10_000 + second), at(13_600_000 + second * 1_000, second * 1_000));
        }
        assert_eq!(floor.seconds(), UnixTime(10_700));
        assert_eq!(floor.advance(at(14_360_000, 760_000)), UnixTime(10_760), "out of reach for a minute");
        assert_eq!(
            floor.advance(at(14_961_000, 1_361_000)),
            UnixTime(14_961),
            "and ten minutes later this clock is all there is"
        );
    }

    #[test]
    fn floor_holds_while_monotonic_clock_stops() {
        let mut floor = TimeFloor::new(at(10_000_000, 7));
        assert_eq!(floor.advance(at(10_030_000, 7)), UnixTime(10_000));
    }
}
