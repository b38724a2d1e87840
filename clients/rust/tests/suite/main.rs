//! The client against a daemon, one subject per module.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests may fail loudly")]
#![allow(dead_code, missing_docs, reason = "test code")]

mod check;
mod examples;
mod fake_daemon;
mod hostile;
mod lies;
mod watch;
mod web;
