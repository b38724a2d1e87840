//! The language that issuer and verifier share: tokens, keys, revocations, the proof that the list of them is complete.
//!
//! A leaf crate: no sockets, no tokio, no Redis, no SQL, no HTTP, and no clock (time is always an argument), so that
//! model checking, fuzzing and mutation tests build it in seconds.
//!
//! # Map
//! - [`time`]: moments and durations, and the floor under a verifier's clock.
//! - [`text`]: which strings may become a claim, a header value, a scope.
//! - [`secret`]: bytes that never reach a log.
//! - [`bearer`]: the one token of an `Authorization` header.
//! - [`claims`], [`token`], [`key`], [`jwks`]: the access token, its strict verification and its signing.
//! - [`revocation`]: what a revocation is, and its bytes in the log.
//! - [`wire`]: key names and messages, the contract between issuer and verifier.
//! - [`index`]: the revocations a verifier holds.
//! - `sync`: the pure state machine that proves the index complete.
//! - [`verdict`]: signature, revocation and freshness put together; the only maker of [`verdict::GoodToken`].
//! - [`problem`]: the error body of RFC 9457 and the table of stable codes.
#![forbid(unsafe_code)]

pub mod bearer;
pub mod claims;
pub mod index;
mod json;
pub mod jwks;
pub mod key;
pub mod problem;
pub mod revocation;
pub mod secret;
pub mod sync;
pub mod text;
pub mod time;
pub mod token;
pub mod verdict;
mod weak_secrets;
pub mod wire;
