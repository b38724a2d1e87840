//! What both programs need from the operating system and the network: settings, logs, clocks,
//! listeners, Redis, and the revocation feeds.
//!
//! # Map
//! - [`settings`]: a table of settings read from the environment, a TOML file and defaults; errors
//!   name the setting.
//! - [`clock`]: the only code that reads the clocks.
//! - [`logging`]: JSON or text logs.
//! - [`connection_budget`]: memory for connections, and the choice of the one to close when it runs
//!   short.
//! - [`fault_log`]: logs a lasting fault once, not for every attempt.
//! - [`file_stamp`]: whether a file has changed.
//! - [`program`]: exit codes and signals.
//! - [`socket`]: binding TCP and Unix sockets without stealing a live one.
//! - [`redis_cluster`]: the nodes of a Cluster.
//! - [`redis_url`]: how to reach Redis: one server, Sentinels or a Cluster.
//! - [`feed`]: the revocation feeds: following the log over Redis or gRPC.
//! - [`systemd`]: socket activation and notifications.
//! - [`trace`]: the trace of a request; spans for a collector, with the feature `otel`.
//! - [`serve`]: HTTP/1 and h2c on a listener, with limits and a drain.
#![forbid(unsafe_code)]

pub mod bind_error;
pub mod clock;
pub mod connection_budget;
mod connection_io;
mod connection_timeouts;
pub mod fault_log;
pub mod feed;
pub mod file_stamp;
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
