//! What every feed must do, run over each: a real Redis here, the issuer's gRPC stream there.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a step that fails is a test that fails

mod follower;
mod grpc_feed;
mod redis_feed;
mod redis_server;
mod suite;
