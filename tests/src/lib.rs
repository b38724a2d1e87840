//! The test harness: real programs, a real Redis, a real Postgres, each started on a free port and
//! stopped by its process id.
//!
//! # Map
//! - [`program`]: a child process with captured output, killed when dropped.
//! - [`scratch`]: a new folder for each test.
//! - [`wait`]: waiting for a condition, with a generous limit.
//! - [`random`]: numbers from a seed.
//! - [`fault_proxy`]: a TCP proxy that can cut, redirect, or silently stop forwarding.
//! - [`http`]: requests over TCP, [`tls`] and Unix sockets, through hyper and raw. [`talk`]: over a kept connection.
//! - [`client`]: the Rust client beside a real daemon.
//! - [`daemon`]: a verifier in the test's own process, whose list the test fills by hand.
//! - [`grpc_check`]: Envoy's gRPC request.
//! - [`proxies`]: real proxies with our shipped configurations; [`envoy_file`] changes Envoy's.
//! - [`hostile_clients`]: connections without credentials that cost memory.
//! - [`redis`], [`postgres`], [`pgbouncer`]: real servers.
//! - [`redis_kinds`]: Redis behind Sentinels, as a Cluster, over TLS.
//! - [`jwks_server`]: serves a JWK set and counts requests.
//! - [`users`]: the application's own table.
//! - [`stack`]: issuer and verifiers together. [`scenario`]: the main job on them.
//! - [`bench`]: the benchmark rows.
#![forbid(unsafe_code)]

pub mod bench;
pub mod client;
pub mod daemon;
pub mod envoy_file;
pub mod fault_proxy;
pub mod grpc_check;
pub mod hostile_clients;
pub mod http;
pub mod jwks_server;
pub mod path_corpus;
pub mod pgbouncer;
pub mod postgres;
pub mod program;
pub mod proxies;
pub mod random;
pub mod redis;
pub mod redis_kinds;
pub mod scenario;
pub mod scratch;
pub mod stack;
pub mod talk;
pub mod ticks;
pub mod tls;
pub mod users;
pub mod wait;
