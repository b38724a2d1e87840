//! Logs a lasting fault once when it begins and then once a minute, not for every failed request or
//! attempt.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The interval between log lines of a lasting fault.
const REMIND_EVERY: Duration = Duration::from_secs(60);
/// How many different faults are tracked at once.
const FAULTS_MAX: usize = 16;

/// The recently logged faults of one place.
#[derive(Debug, Default)]
pub struct FaultLog {
    faults: Mutex<BTreeMap<String, Fault>>,
}

#[derive(Debug)]
struct Fault {
    logged: Instant,
    /// Repetitions since the last line.
    repeated: u64,
}

impl FaultLog {
    /// No fault yet.
    pub const fn new() -> Self {
        Self { faults: Mutex::new(BTreeMap::new()) }
    }

    /// `Some` if `fault` should be logged now: it is new, or its last line is a minute old. The
    /// value is how often it happened since that line.
    pub fn happened(&self, fault: &str) -> Option<u64> {
        self.happened_at(fault, Instant::now())
    }

    fn happened_at(&self, fault: &str, now: Instant) -> Option<u64> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = faults.get_mut(fault) {
            if now.duration_since(known.logged) < REMIND_EVERY {
                known.repeated += 1;
                return None;
            }
            known.logged = now;
            return Some(std::mem::take(&mut known.repeated));
        }
        faults.retain(|_, known| now.duration_since(known.logged) < REMIND_EVERY);
        if faults.len() >= FAULTS_MAX {
            return None;
        }
        faults.insert(fault.to_owned(), Fault { logged: now, repeated: 0 });
        Some(0)
    }

    /// All faults are over; true if there was one.
    pub fn ended(&self) -> bool {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        !std::mem::take(&mut *faults).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lasting_fault_is_logged_once_a_minute_with_its_count() {
        let (log, start) = (FaultLog::new(), Instant::now());
        assert_eq!(log.happened_at("a", start), Some(0));
        for n in 1..=50 {
            assert_eq!(log.happened_at("a", start + Duration::from_secs(n)), None);
        }
        assert_eq!(log.happened_at("b", start), Some(0), "another fault has a line of its own");
        assert_eq!(log.happened_at("a", start + REMIND_EVERY), Some(50));
        assert!(log.ended() && !log.ended());
        assert_eq!(log.happened_at("a", start + REMIND_EVERY), Some(0), "a new beginning");
    }

    #[test]
    fn number_of_faults_is_bounded() {
        let (log, start) = (FaultLog::new(), Instant::now());
        let logged = (0..100).filter(|n| log.happened_at(&n.to_string(), start).is_some()).count();
        assert_eq!(logged, FAULTS_MAX);
        assert_eq!(log.happened_at("later", start + REMIND_EVERY), Some(0));
    }
}
