//! The revocation feeds: how a verifier follows the log, over Redis or over the issuer's gRPC
//! stream.
//!
//! # Map
//! - [`Source`] and [`Link`]: what a feed must provide; [`Sink`](sidegate_common::sync::Sink): the
//!   receiver of the revocations.
//! - [`driver`]: runs one [`Machine`](sidegate_common::sync::Machine) per partition over a source,
//!   and reconnects for ever.
//! - [`redis`]: the log in Redis. [`grpc`]: the log of an issuer with the embedded store.
//! - [`status`]: the state of each partition, for people and for `/metrics`.
//! - [`backoff`]: the waits between attempts.

use std::future::Future;

use sidegate_common::sync::{Event, ReadFrom};

pub mod backoff;
pub mod driver;
pub mod grpc;
pub mod redis;
pub mod status;

/// Why a feed cannot be followed now. The driver logs it, waits, and tries again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// Connecting failed, or no answer came in time.
    #[error("cannot reach the revocation log: {0}")]
    Unreachable(String),
    /// The server rejects the command: permissions, version, state.
    #[error("the server of the revocation log refuses: {0}")]
    Refused(String),
    /// The connection ended.
    #[error("connection to the revocation log lost: {0}")]
    Closed(String),
    /// The store has no data set: no issuer has created one yet.
    #[error("the store has no revocation log yet; start an issuer")]
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

/// A subscribed connection.
pub trait Link: Send {
    /// Requests the head of a partition's log.
    fn probe(&mut self, partition: u16, token: u64);

    /// Requests one page of a partition's log.
    fn read(&mut self, partition: u16, request: u64, from: ReadFrom);

    /// The next message with its partition: a push, or an answer. A push that the server sent
    /// before an answer is returned before it. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<(u16, Event), FeedError>> + Send;
}
