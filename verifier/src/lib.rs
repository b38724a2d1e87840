//! The verifier: one per host or pod; says of every access token whether it is good right now.
//!
//! # Map
//! - [`config`]: every setting. [`app`]: the only place that knows all parts. [`commands`]: what the program can do.
//! - [`verifier`]: from a request to a verdict, for every interface. [`token_cache`], [`rendered`]: tokens verified before, and the wire's answers to them. [`segment`]: the revocations in shared memory. [`feed_task`]: following the feed. [`snapshot`]: the list on disk. [`keys`], [`jwks_http`]: where keys come from. [`metrics`]: what is counted.
//! - [`domain`]: what is decided, without sockets or clocks: what is asked and denied, canonical paths, routes, refusals.
//! - [`wire`]: what is spoken: HTTP, the protocols of the proxies, gRPC, the admin listener.
//! - [`ask`]: a client of this daemon, for its own commands.
#![forbid(unsafe_code)]

pub mod app;
pub mod ask;
pub mod commands;
pub mod config;
pub mod domain;
pub mod feed_task;
pub mod jwks_http;
pub mod keys;
pub mod metrics;
pub mod rendered;
pub mod segment;
pub mod snapshot;
#[cfg(test)]
mod testing;
pub mod token_cache;
pub mod verifier;
pub mod wire;
