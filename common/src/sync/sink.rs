//! Where the revocations of a followed log go.

use super::Push;
use crate::revocation::Revocation;
use crate::time::{ClockReading, UnixTime};

/// Receives the revocations of a feed. Calls must be cheap and must never block.
pub trait Sink: Send + Sync + 'static {
    /// Adds a revocation that was read from the partition's log; true if it is new.
    fn apply(&self, partition: u16, revocation: &Revocation) -> bool;

    /// Adds a pushed revocation to the unconfirmed ones; true if it is new.
    fn push(&self, partition: u16, push: &Push) -> bool;

    /// Makes pushes permanent: the log has them.
    fn confirm(&self, partition: u16, pushes: &[Push]);

    /// Makes pushes permanent: the log can no longer say whether it had them.
    fn keep(&self, partition: u16, pushes: &[Push]);

    /// Drops pushes that never were in the log.
    fn drop_pushes(&self, partition: u16, pushes: &[Push]);

    /// Rejects tokens of the partition with `iat` at or before `moment` from now on: their
    /// revocations may be missing.
    fn since(&self, partition: u16, moment: UnixTime);

    /// The store's clock, as in a probe's answer. Returns how often the time for expiry has gone
    /// back: each time every partition's log must be read from its start.
    fn time(&self, store: UnixTime, now: ClockReading) -> u64;

    /// Everything that was in the partition's log at this instant is held. `lowered` is what
    /// [`Sink::time`] returned before the log was read: if it returns more now, nothing is proven.
    fn fresh(&self, partition: u16, as_of: ClockReading, lowered: u64);
}
