//! The language that issuer and verifier share: tokens, keys, revocations, the proof that the list of them is complete.
//!
//! A leaf crate: no sockets, no tokio, no Redis, no SQL, no HTTP, and no clock (time is always an argument), so that
//! model checking, fuzzing and mutation tests build it in seconds.
//!
//! # Map
//! - [`time`]: moments and durations, and the floor under the wall clock. [`clock`]: the same for many threads.
//! - [`text`]: which strings may become a claim, a header value, a scope.
//! - [`secret`]: bytes that never reach a log.
//! - [`bearer`]: the one token of an `Authorization` header.
//! - [`claims`], [`token`], [`key`], [`jwks`]: the access token, its strict verification and its signing.
//! - [`revocation`]: what a revocation is, and its bytes in the log.
//! - [`wire`]: key names and messages, the contract between issuer and verifier.
//! - [`index`]: the revocations held. [`revocation_state`]: where they are taken in, with the proof that they are complete.
//! - `sync`: the pure state machine that proves the index complete.
//! - [`token_checker`]: signature, revocation and freshness put together; the only maker of
//!   [`GoodToken`](token_checker::GoodToken). [`issuer`]: whose tokens are taken.
//! - [`problem`]: the error body of RFC 9457 and the table of stable codes.
#![forbid(unsafe_code)]

pub mod bearer;
pub mod claims;
pub mod clock;
pub mod index;
pub mod issuer;
mod json;
pub mod jwks;
pub mod key;
pub mod problem;
pub mod revocation;
pub mod revocation_state;
pub mod secret;
pub mod sync;
pub mod text;
pub mod time;
pub mod token;
pub mod token_checker;
mod weak_secrets;
pub mod wire;
