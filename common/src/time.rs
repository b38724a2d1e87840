//! Moments, spans, how they are written in settings, and the floor under a verifier's clock.

use std::time::Duration;

/// A moment in whole seconds since 1970-01-01T00:00:00Z (RFC 7519 §2, NumericDate without fractions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// This moment plus a span, saturating.
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// This moment minus a span, not before 1970.
    pub const fn minus(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }
}

/// What both clocks of a machine read at one instant, in milliseconds. The wire and the runtime make these; the domain
/// only compares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instants {
    /// Milliseconds since 1970 by the wall clock.
    pub wall_ms: u64,
    /// Milliseconds by a clock that never goes back (CLOCK_MONOTONIC), from an arbitrary origin.
    pub monotonic_ms: u64,
}

/// The largest leeway any verifier may be set to, in seconds; log entries outlive their tokens by it.
pub const LEEWAY_MAX_SECONDS: u64 = 60;
/// How far two machines' clocks may differ, in seconds (`CLOCK_SKEW`).
pub const CLOCK_SKEW_SECONDS: u64 = 5;
/// How much longer than its tokens a revocation is kept: the largest leeway and the skew of both machines.
pub const REVOCATION_MARGIN_SECONDS: u64 = LEEWAY_MAX_SECONDS + 2 * CLOCK_SKEW_SECONDS;
/// How long the wall clock must run ahead of the floor before the floor believes it, in milliseconds.
const STEP_BELIEVED_AFTER_MS: u64 = 10 * 60 * 1000;
/// Differences between the two clocks below this are drift, not a step, in milliseconds.
const DRIFT_MS: u64 = 500;
/// How long another machine's time keeps the floor from believing the wall clock alone, in milliseconds.
const CONFIRMED_MS: u64 = 60 * 1000;

/// A verifier's time: it is advanced by the slower of the wall clock and the monotonic clock.
///
/// A clock stepped back revives nothing (the floor holds) and one stepped forward for a while condemns nothing (the
/// monotonic clock limits it). Another machine's time settles what this one cannot know: the floor is raised at once to the
/// earlier of the two, and goes back only where both agree that it is ahead. Without another machine a forward step that lasts
/// ten minutes is believed: the first reading was the wrong one, or the machine was suspended.
#[derive(Clone, Debug)]
pub struct TimeFloor {
    floor_ms: u64,
    last: Instants,
    ahead_since_ms: Option<u64>,
    /// When another machine's time was last taken.
    confirmed_ms: Option<u64>,
    lowered: u64,
}

impl TimeFloor {
    /// A floor that starts at what the wall clock says now.
    pub const fn new(now: Instants) -> Self {
        Self { floor_ms: now.wall_ms, last: now, ahead_since_ms: None, confirmed_ms: None, lowered: 0 }
    }

    /// Takes a reading of both clocks and returns the floor after it.
    pub fn advance(&mut self, now: Instants) -> UnixTime {
        let by_monotonic = now.monotonic_ms.saturating_sub(self.last.monotonic_ms);
        let room = now.wall_ms.saturating_sub(self.floor_ms);
        self.floor_ms += room.min(by_monotonic);
        if now.monotonic_ms > self.last.monotonic_ms {
            self.last = now;
        }
        self.believe_a_lasting_step(now);
        self.seconds()
    }

    /// Takes another machine's time: the floor is at least the earlier of the two. If both agree, within what two machines may
    /// differ by, that it is ahead of them, it goes back to the earlier: then what was dropped as expired has to be read again
    /// before anything is judged. Returns how often that has happened ([`TimeFloor::lowered`]).
    pub fn confirm(&mut self, other: UnixTime, now: Instants) -> u64 {
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
    pub const fn would_lower(&self, other: UnixTime, now: Instants) -> bool {
        let other_ms = other.0.saturating_mul(1000);
        let later = if now.wall_ms > other_ms { now.wall_ms } else { other_ms };
        let agree = now.wall_ms.abs_diff(other_ms) <= (2 * CLOCK_SKEW_SECONDS + 1) * 1000;
        agree && self.floor_ms > later + CLOCK_SKEW_SECONDS * 1000
    }

    /// How often the floor has gone back.
    pub const fn lowered(&self) -> u64 {
        self.lowered
    }

    /// The floor as it stands.
    pub const fn seconds(&self) -> UnixTime {
        UnixTime(self.floor_ms / 1000)
    }

    fn believe_a_lasting_step(&mut self, now: Instants) {
        let ahead = now.wall_ms.saturating_sub(self.floor_ms);
        if ahead <= DRIFT_MS {
            self.floor_ms += ahead;
            self.ahead_since_ms = None;
            return;
        }
        if self.confirmed_ms.is_some_and(|at| now.monotonic_ms.saturating_sub(at) < CONFIRMED_MS) {
            // The other machine does not say so.
            self.ahead_since_ms = None;
            return;
        }
        let since = *self.ahead_since_ms.get_or_insert(now.monotonic_ms);
        if now.monotonic_ms.saturating_sub(since) >= STEP_BELIEVED_AFTER_MS {
            self.floor_ms = now.wall_ms;
            self.ahead_since_ms = None;
        }
    }
}

/// Why a span could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a duration such as 30s, 15m, 24h, 30d or a bare number of seconds")]
pub struct NotADuration;

/// Reads `250ms`, `30s`, `15m`, `24h`, `30d`, or a bare number of seconds.
pub fn parse_duration(text: &str) -> Result<Duration, NotADuration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| NotADuration)?;
    let seconds = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "" | "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(60 * 60),
        "d" => number.checked_mul(24 * 60 * 60),
        _ => None,
    };
    seconds.filter(|s| *s <= u64::from(u32::MAX)).map(Duration::from_secs).ok_or(NotADuration)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(wall_ms: u64, monotonic_ms: u64) -> Instants {
        Instants { wall_ms, monotonic_ms }
    }

    #[test]
    fn durations_as_they_are_written() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse_duration("30d"), Ok(Duration::from_secs(2_592_000)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        for bad in ["", "s", "-1", "1.5s", "1 s", "1w", "+3s", "99999999999d", "30S", "18446744073709551616"] {
            assert_eq!(parse_duration(bad), Err(NotADuration), "{bad}");
        }
    }

    #[test]
    fn floor_follows_two_clocks_that_agree() {
        let mut floor = TimeFloor::new(at(1_000_000, 50));
        assert_eq!(floor.advance(at(1_005_000, 5_050)), UnixTime(1_005));
    }

    #[test]
    fn a_clock_stepped_back_revives_nothing() {
        let mut floor = TimeFloor::new(at(10_000_000, 0));
        assert_eq!(floor.advance(at(6_400_000, 1_000)), UnixTime(10_000), "held while the wall clock is behind");
        assert_eq!(
            floor.advance(at(10_002_000, 3_602_000)),
            UnixTime(10_002),
            "and follows it again from where it was"
        );
    }

    #[test]
    fn a_clock_stepped_forward_for_a_while_condemns_nothing() {
        let mut floor = TimeFloor::new(at(10_000_000, 0));
        assert_eq!(floor.advance(at(13_601_000, 1_000)), UnixTime(10_001));
        assert_eq!(floor.advance(at(13_900_000, 300_000)), UnixTime(10_300));
        assert_eq!(floor.advance(at(10_310_000, 310_000)), UnixTime(10_310), "stepped back again: nothing was lost");
    }

    #[test]
    fn a_forward_step_that_lasts_is_believed() {
        let mut floor = TimeFloor::new(at(10_000_000, 0));
        floor.advance(at(13_601_000, 1_000));
        assert_eq!(floor.advance(at(14_200_999, 600_999)), UnixTime(10_600));
        assert_eq!(floor.advance(at(14_201_000, 601_000)), UnixTime(14_201));
    }

    #[test]
    fn a_step_that_another_machine_confirms_is_believed_at_once() {
        let mut floor = TimeFloor::new(at(10_000_000, 0));
        let mut confirm = |other, now| (floor.confirm(UnixTime(other), now), floor.seconds().0);
        assert_eq!(confirm(13_600, at(10_001_000, 1_000)), (0, 10_001), "not by its word alone");
        assert_eq!(confirm(13_601, at(13_602_500, 2_000)), (0, 13_601), "as far as both say");
        assert_eq!(confirm(10_000, at(13_603_000, 3_000)), (0, 13_602), "not back by its word alone");
        assert_eq!(floor.advance(at(13_605_500, 4_000)), UnixTime(13_603), "and on from there");
    }

    /// Started while the clock was 20 minutes ahead, and the clock is then put right.
    #[test]
    fn a_floor_that_two_machines_call_ahead_goes_back() {
        let mut floor = TimeFloor::new(at(11_200_000, 0));
        assert_eq!(floor.confirm(UnixTime(10_001), at(11_201_000, 1_000)), 0, "the clocks do not agree yet");
        assert_eq!(floor.seconds(), UnixTime(11_201));
        assert_eq!(floor.confirm(UnixTime(10_006), at(10_002_000, 2_000)), 1);
        assert_eq!(floor.seconds(), UnixTime(10_002), "the earlier of the two");
        assert_eq!(floor.confirm(UnixTime(10_003), at(10_003_000, 3_000)), 1, "once");
        assert_eq!(floor.advance(at(10_004_000, 4_000)), UnixTime(10_004));
    }

    /// Differences that two machines may have do not make a verifier read its log again and again.
    #[test]
    fn a_floor_that_is_a_little_ahead_waits() {
        let mut floor = TimeFloor::new(at(10_005_000, 0));
        assert_eq!(floor.confirm(UnixTime(10_000), at(10_000_000, 1_000)), 0);
        assert_eq!(floor.confirm(UnixTime(9_991), at(10_001_000, 2_000)), 0);
        assert_eq!(floor.seconds(), UnixTime(10_005), "held until the clocks have caught up");
    }

    /// A step forward that the other machine does not see is not believed, however long it lasts.
    #[test]
    fn a_lasting_step_is_not_believed_against_another_machine() {
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
    fn a_monotonic_clock_that_stands_still_holds_the_floor() {
        let mut floor = TimeFloor::new(at(10_000_000, 7));
        assert_eq!(floor.advance(at(10_030_000, 7)), UnixTime(10_000));
    }
}
