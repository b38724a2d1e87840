//! The only code that reads the machine's clocks.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sidegate_common::time::{ClockReading, UnixTime};

/// Reads both clocks. Monotonic milliseconds count from CLOCK_MONOTONIC's own origin, so processes
/// of one host can compare them.
pub fn reading() -> ClockReading {
    ClockReading { wall_ms: wall_ms(), monotonic_ms: monotonic_ms() }
}

/// The wall clock in whole seconds.
pub fn unix_now() -> UnixTime {
    UnixTime(wall_ms() / 1000)
}

/// The wall clock in milliseconds since 1970; 0 before.
#[allow(clippy::disallowed_methods)] // all other code calls this
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Formats a time for people (RFC 9110, section 5.6.7), for logs.
pub fn date(moment: UnixTime) -> String {
    let since_1970 = Duration::from_secs(moment.0);
    UNIX_EPOCH.checked_add(since_1970).map_or_else(|| moment.0.to_string(), httpdate::fmt_http_date)
}

/// CLOCK_MONOTONIC in milliseconds.
pub fn monotonic_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

/// Time since the first call, for uptime figures.
pub fn uptime_seconds() -> u64 {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    STARTED.get_or_init(Instant::now).elapsed().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_formats_a_time() {
        assert_eq!(date(UnixTime(784_111_777)), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
