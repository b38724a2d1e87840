//! Sidegate for Rust applications: checks access tokens, including their revocation.
//!
//! ```no_run
//! let sidegate = sidegate_client::Sidegate::connect();
//! match sidegate.check("eyJ...") {
//!     Ok(token) => println!("hello {}", token.subject()),
//!     Err(denied) => println!("{} {}", denied.status(), denied.code()),
//! }
//! ```
//!
//! A check has two levels. For a token that this process has checked before, the cached copy is
//! compared, and expiry, revocation and the freshness of the list are looked up in shared memory:
//! no system call, about a hundred nanoseconds. For any other token the client asks the daemon over
//! its Unix socket; only the daemon verifies signatures. Without shared memory, every check asks
//! the daemon.
//!
//! [`Sidegate::check`] blocks while it waits for the daemon (tens of microseconds, if it asks at
//! all). In async code call [`Sidegate::try_cached`] first, which never blocks, and `check` on a
//! blocking thread if that returns `None`; the features `axum` and `tower` do so.
//!
//! [`Sidegate::watch`] completes when a token ends, for what stays open after its check; [`Verified::still_good`]
//! looks in shared memory alone.
//!
//! The map: [`Sidegate`] is the client; `cache` has the known tokens, `worker` the current segment,
//! `daemon` the connections, `readers` the attached segments; `watch` notifies of a token's end, `watches`
//! holds the watched tokens, and `sweeper` looks them up; [`Verified`] and [`Denied`] are the two results.
#![forbid(unsafe_code)]

mod bearer;
mod cache;
mod daemon;
mod denied;
#[cfg(any(feature = "axum", feature = "tower"))]
pub mod http;
mod inner;
mod readers;
mod sidegate;
mod subject;
mod sweeper;
mod thread_cache;
mod verified;
mod watch;
mod watches;
mod worker;

#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "tower")]
pub mod tower;

pub use bearer::bearer;
pub use denied::{DaemonError, Denied};
pub use sidegate::{Builder, Sidegate};
pub use verified::Verified;
pub use watch::{Watch, WatchGuard};
