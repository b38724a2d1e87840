//! The feeds of revocations: how a verifier follows the log, over Redis or over the issuer's gRPC stream.
//!
//! # Map
//! - [`Source`] and [`Link`]: what a feed has to offer; [`Sink`]: what takes the revocations.
//! - [`driver`]: runs one [`Machine`](sidegate_common::sync::Machine) per partition over a source, and reconnects for ever.
//! - [`redis`]: the log in Redis. [`grpc`]: the log of an issuer with the embedded store.
//! - [`status`]: where each partition stands, for people and for `/metrics`.
//! - [`backoff`]: the waits between attempts.

use std::future::Future;

use sidegate_common::revocation::Revocation;
use sidegate_common::sync::{Event, Push, ReadFrom};
use sidegate_common::time::{Instants, UnixTime};

pub mod backoff;
pub mod driver;
pub mod grpc;
pub mod redis;
pub mod status;

/// Why a feed cannot be followed just now. The driver logs it, waits, and tries again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// No connection could be made, or no answer came in time.
    #[error("cannot reach the log: {0}")]
    Unreachable(String),
    /// The server refuses: rights, version, state.
    #[error("the log's server refuses: {0}")]
    Refused(String),
    /// The connection ended.
    #[error("connection to the log lost: {0}")]
    Closed(String),
    /// The store holds no data set: no issuer has made one yet.
    #[error("the store holds no revocation log yet: no issuer has made one")]
    NoEpoch,
}

/// A log that can be followed.
pub trait Source: Send + Sync + 'static {
    /// One connection to it.
    type Link: Link;

    /// How many partitions the data set has.
    fn partitions(&self) -> impl Future<Output = Result<u16, FeedError>> + Send;

    /// Which partitions share a connection.
    fn groups(&self, partitions: u16) -> Vec<Vec<u16>>;

    /// Connects and subscribes to these partitions; returns once the subscriptions are confirmed.
    fn connect(&self, partitions: &[u16]) -> impl Future<Output = Result<Self::Link, FeedError>> + Send;
}

/// A connection that is subscribed.
pub trait Link: Send {
    /// Asks for the head of a partition's log.
    fn probe(&mut self, partition: u16, token: u64);

    /// Asks for one page of a partition's log.
    fn read(&mut self, partition: u16, request: u64, from: ReadFrom);

    /// What comes next, with its partition: a push, or an answer; every push that the server sent before an answer
    /// comes before it. May be dropped and called again without loss.
    fn next(&mut self) -> impl Future<Output = Result<(u16, Event), FeedError>> + Send;
}

/// What takes the revocations: the verifier's list, and whatever shows it to others. Calls are cheap and never wait.
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
