//! What the revocations of a followed log go into.

use super::Push;
use crate::revocation::Revocation;
use crate::time::{Instants, UnixTime};

/// What takes the revocations that a feed brings. Calls are cheap and never wait.
pub trait Sink: Send + Sync + 'static {
    /// Holds a revocation of the partition that was read; true if it was not held before.
    fn apply(&self, partition: u16, revocation: &Revocation) -> bool;

    /// Holds one that was pushed, apart from the others until it is confirmed or dropped; true if it was not held before.
    fn push(&self, partition: u16, push: &Push) -> bool;

    /// Holds for good what was pushed: the log has it.
    fn confirm(&self, partition: u16, pushes: &[Push]);

    /// Holds for good what was pushed: the log can no longer be asked whether it had it.
    fn keep(&self, partition: u16, pushes: &[Push]);

    /// Lets go what was pushed and never was in the log.
    fn drop_pushes(&self, partition: u16, pushes: &[Push]);

    /// Tokens of the partition with `iat` at or before this moment cannot be judged: they are refused from now on.
    fn since(&self, partition: u16, moment: UnixTime);

    /// The store's clock, as a probe was answered with it. Returns how often the time that entries expire by has gone back:
    /// after each time every partition's log has to be read from its start.
    fn time(&self, store: UnixTime, now: Instants) -> u64;

    /// Everything that was in the partition's log at this instant is held. `lowered` is what [`Sink::time`] returned before the
    /// log was read: if it returns more by now, nothing is proven.
    fn fresh(&self, partition: u16, as_of: Instants, lowered: u64);
}
