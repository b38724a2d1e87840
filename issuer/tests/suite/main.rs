//! The stores against real servers: one module per subject, in one binary so that common code is
//! built once.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests may fail loudly")]
#![allow(dead_code, missing_docs, reason = "test code")]

mod behind;
mod conformance;
mod redis_guards;
mod redis_journal;
mod redis_losses;
mod redis_refusals;
mod redis_settling;
mod store_file;
mod stores;
mod support;
