//! The waits between attempts: doubling, jittered, bounded, for ever.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Waits that double from `first` to `most`; each is shortened by up to half, at random, so that many followers do not
/// come back in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts with `first`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.most);
        whole / 2 + whole.mul_f64(0.5 * random())
    }

    /// Begins again with the first wait.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A number from 0 up to 1 that nobody can rely on. Good enough for jitter, for nothing else.
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
}
