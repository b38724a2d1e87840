//! A watermark: tokens issued until then are revoked.

use dashmap::DashMap;

use crate::time::UnixTime;

/// The last revoked `iat`, and how long the entry must be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watermark {
    pub(super) threshold: UnixTime,
    pub(super) expires_at: UnixTime,
}

impl Watermark {
    /// Raises it to another; true if more tokens are revoked now.
    pub(super) fn raise(&mut self, other: Self) -> bool {
        let raised = self.threshold < other.threshold;
        self.threshold = self.threshold.max(other.threshold);
        self.expires_at = self.expires_at.max(other.expires_at);
        raised
    }

    /// True if raising it to `other` would change nothing.
    pub(super) fn covers(&self, other: Self) -> bool {
        self.threshold >= other.threshold && self.expires_at >= other.expires_at
    }
}

/// Holds the higher of two watermarks; true if more tokens are revoked now.
pub(super) fn hold_watermark<K: Eq + std::hash::Hash>(held: &DashMap<K, Watermark>, key: K, mark: Watermark) -> bool {
    match held.entry(key) {
        dashmap::Entry::Occupied(mut there) => there.get_mut().raise(mark),
        dashmap::Entry::Vacant(place) => {
            place.insert(mark);
            true
        }
    }
}
