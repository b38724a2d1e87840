//! The waits between attempts: doubling, jittered, bounded, without end.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Waits that double from `first` to `most`. Each is shortened at random by up to half, so that
/// many followers do not reconnect in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// A back-off that starts with `first`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.most);
        whole / 2 + whole.mul_f64(0.5 * random())
    }

    /// Starts again with the first wait.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A number from 0 up to 1 without 1, good enough for jitter only.
pub fn random() -> f64 {
    (RandomState::new().hash_one(0u8) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_vary() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let waits: Vec<_> = (0..40).map(|_| backoff.wait()).collect();
        for (index, wait) in waits.iter().enumerate() {
            let whole = Duration::from_millis(50) * 2u32.pow(index.min(8) as u32);
            let whole = whole.min(Duration::from_secs(2));
            assert!((whole / 2..=whole).contains(wait), "{index}: {wait:?}");
        }
        assert!(waits[20..].iter().any(|wait| wait != &waits[39]), "jittered");
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_millis(50));
    }

    /// When an attempt first succeeds, in virtual time: the store is down for `lasts`, and an
    /// attempt during that time takes `hangs`.
    fn recovered_after(backoff: &mut Backoff, lasts: Duration, hangs: Duration) -> (Duration, u32) {
        let (mut now, mut attempts) = (backoff.wait(), 1);
        while now < lasts {
            now += hangs + backoff.wait();
            attempts += 1;
        }
        (now - lasts, attempts)
    }

    #[test]
    fn attempt_follows_any_outage_within_two_seconds() {
        let pace = super::super::driver::Intervals::every(Duration::from_millis(250));
        let hanging = super::super::redis::SETUP_TIMEOUT;
        for seconds in [1, 20, 600, 6 * 3_600] {
            for hangs in [Duration::ZERO, hanging] {
                let lasts = Duration::from_secs(seconds);
                let mut backoff = Backoff::new(pace.backoff_first, pace.backoff_most);
                let (after, attempts) = recovered_after(&mut backoff, lasts, hangs);
                assert!(after <= pace.backoff_most + hangs && after <= Duration::from_secs(2), "{lasts:?}: {after:?}");
                let fastest = pace.backoff_most.as_secs_f64() / 2.0;
                assert!(f64::from(attempts) <= seconds as f64 / fastest + 10.0, "no hot loop: {attempts} in {lasts:?}");
            }
        }
    }

    /// A thousand followers whose store is down for a minute do not reconnect in step.
    #[test]
    fn f20_reconnects_are_spread_out() {
        let pace = super::super::driver::Intervals::every(Duration::from_millis(250));
        let back = || {
            let mut backoff = Backoff::new(pace.backoff_first, pace.backoff_most);
            recovered_after(&mut backoff, Duration::from_secs(60), Duration::ZERO).0.as_millis() / 100
        };
        let back: Vec<_> = (0..1_000).map(|_| back()).collect();
        let most = (0..20).map(|tenth| back.iter().filter(|at| **at == tenth).count()).max().unwrap();
        assert!(most <= 300, "{most} of a thousand came back within the same tenth of a second");
    }
}
