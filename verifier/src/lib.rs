//! The verifier: one per host or pod; decides for every access token whether it is good now.
//!
//! # Map
//! - [`config`]: every setting; [`source`]: where they come from. [`app`]: the composition root. [`commands`]: the program's
//!   commands.
//! - [`verifier`]: from a request to a verdict, for every interface. [`token_cache`], [`rendered`]:
//!   verified tokens and their rendered responses. [`segment`]: the revocations in shared memory.
//!   [`feed_task`]: follows the feed. [`snapshot`]: the list on disk. [`keys`], [`jwks_http`],
//!   [`issuer_metadata`]: the verification keys. [`metrics`]: the counters.
//! - [`domain`]: decisions without sockets or clocks: requests and denials, canonical paths,
//!   routes, refusals.
//! - [`wire`]: the protocols: HTTP, the proxies' conventions, gRPC, the admin listener.
//! - [`ask`]: the client for the program's own commands.
#![forbid(unsafe_code)]

pub mod app;
pub mod ask;
pub mod commands;
pub mod config;
pub mod domain;
pub mod feed_task;
pub mod issuer_metadata;
pub mod jwks_http;
pub mod keys;
pub mod metrics;
pub mod rendered;
pub mod segment;
pub mod snapshot;
pub mod source;
#[cfg(test)]
mod testing;
pub mod token_cache;
pub mod verifier;
pub mod wire;
