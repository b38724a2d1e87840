//! The issuer: login, refresh and logout for an application's own users, and the log of revocations.
//!
//! # Map
//! - [`config`]: every setting. [`commands`]: the program's commands. [`app`]: all parts put
//!   together.
//! - [`http`]: bytes to domain commands and back.
//! - [`domain`]: each operation, independent of sockets, stores and clock.
//! - [`keys`]: the keys of access tokens.
//! - [`password`]: the pool of bcrypt threads.
//! - [`store`]: users in SQL; sessions and the revocation log in Redis or SQLite.
//! - [`feed`]: the embedded store's log for verifiers, and the issuer's own list.
//! - [`metrics`]: every metric's name.
#![forbid(unsafe_code)]

// The stores' conformance suite names this crate; the domain's tests run the suite on their
// in-memory store.
#[cfg(test)]
extern crate self as sidegate_issuer;

pub mod app;
pub mod commands;
pub mod config;
pub mod domain;
pub mod feed;
pub mod http;
pub mod keys;
pub mod metrics;
pub mod password;
pub mod store;
