//! Tokens and revocations against vectors, properties and other implementations, one subject a module.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests may fail loudly")]
#![allow(dead_code, missing_docs, reason = "test code")]

mod corpus;
mod differential;
mod properties;
mod protocol;
mod support;
mod vectors;
