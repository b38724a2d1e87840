//! The domain that issuer and verifier share: tokens, keys, revocations, and the proof that the
//! list of revocations is complete.
//!
//! A leaf crate: no sockets, no tokio, no Redis, no SQL, no HTTP, and no clock (time is always an argument), so that
//! model checking, fuzzing and mutation tests build it in seconds.
//!
//! # Map
//! - [`time`]: points in time, durations, the floor under the wall clock. [`clock`]: the floor,
//!   shared by threads.
//! - [`text`]: which strings may become a claim, a header value, a scope.
//! - [`secret`]: bytes that never reach a log.
//! - [`bearer`]: the one token of an `Authorization` header.
//! - [`identity_headers`]: the headers that tell an application who the user is. [`path`], [`routes`]: which requests need
//!   what, and paths that two programs could read differently.
//! - [`claims`], [`token`], [`key`], [`jwks`]: the access token, its strict verification and its
//!   signing.
//! - [`revocation`]: what a revocation is, and its bytes in the log.
//! - [`log_protocol`]: key names and messages of the revocation log.
//! - [`index`]: the revocations. [`revocation_state`]: the index with the proof that it is
//!   complete.
//! - `sync`: the pure state machine that proves the index complete.
//! - [`token_checker`]: signature, revocation and freshness together; the only source of
//!   [`GoodToken`](token_checker::GoodToken). [`issuer`]: the home issuer. [`foreign`]: the issuers
//!   of `ISSUERS_FILE`.
//! - [`problem`]: the error body of RFC 9457 and the table of stable codes.
#![forbid(unsafe_code)]

pub mod bearer;
pub mod claims;
pub mod clock;
pub mod foreign;
pub mod identity_headers;
pub mod index;
pub mod issuer;
mod json;
pub mod jwks;
pub mod key;
pub mod log_protocol;
pub mod path;
pub mod problem;
pub mod revocation;
pub mod revocation_state;
pub mod routes;
pub mod secret;
pub mod sync;
pub mod text;
pub mod time;
pub mod token;
pub mod token_checker;
mod weak_secrets;
