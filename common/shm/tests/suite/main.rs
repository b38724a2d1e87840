//! The shared-memory segment, one subject a module.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests may fail loudly")]
#![allow(dead_code, missing_docs, reason = "test code")]

mod golden;
mod live;
mod model;
mod race;
mod segment;
