//! Conformance tests for every feed: a real Redis, and the issuer's gRPC stream.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a step that fails is a test that fails

mod follower;
mod grpc_feed;
mod redis_feed;
mod redis_server;
mod suite;
