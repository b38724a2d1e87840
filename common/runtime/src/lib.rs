//! What both programs need of the outside world: settings, logs, clocks, listeners, Redis, and the revocation feeds.
//!
//! # Map
//! - [`settings`]: a table of settings read from the environment, a TOML file and defaults; errors name the setting.
//! - [`clock`]: the only reader of the wall clock.
//! - [`logging`]: JSON or text logs.
//! - [`connection_budget`]: what connections may hold, and which is closed when memory runs short.
//! - [`fault_log`]: a lasting fault is one line, not one for every attempt.
//! - [`program`]: exit codes and the signals a program obeys.
//! - [`socket`]: binding TCP and Unix sockets without stealing a live one.
//! - [`redis_cluster`]: what a Cluster tells of its nodes.
//! - [`redis_url`]: how to reach Redis: one server, Sentinels or a Cluster.
//! - [`feed`]: the revocation feeds: following the log over Redis or gRPC.
//! - [`systemd`]: sockets passed by systemd, and telling it how we are.
//! - [`trace`]: which trace a request belongs to; spans for a collector, with the feature `otel`.
//! - [`serve`]: HTTP/1 and h2c on a listener, with limits and a drain.
#![forbid(unsafe_code)]

pub mod bind_error;
pub mod clock;
pub mod connection_budget;
mod connection_io;
mod connection_timeouts;
pub mod fault_log;
pub mod feed;
pub mod logging;
pub mod program;
pub mod redis_cluster;
pub mod redis_url;
mod request_line;
pub mod serve;
pub mod settings;
pub mod socket;
pub mod systemd;
pub mod trace;
mod unix_authority;
