//! Sidegate for Rust applications: is this access token good, and has it not been revoked?
//!
//! ```no_run
//! let sidegate = sidegate_client::Sidegate::connect();
//! match sidegate.check("eyJ...") {
//!     Ok(token) => println!("hello {}", token.subject()),
//!     Err(denied) => println!("{} {}", denied.status(), denied.code()),
//! }
//! ```
//!
//! A check has two levels. A token that this process has seen before is compared with the one kept, and its expiry, its
//! revocation and the freshness of the list are looked up in shared memory: no system call, about a hundred nanoseconds.
//! Anything else is asked of the daemon over its Unix socket, which alone verifies signatures. Where the shared memory is
//! out of reach, every check takes the second way.
//!
//! [`Sidegate::check`] blocks for as long as the daemon takes (tens of microseconds, when it has to be asked at all). In
//! async code call [`Sidegate::try_cached`] first, which never blocks, and `check` on a blocking thread if that knows
//! nothing; the features `axum` and `tower` do so.
//!
//! The map: [`Sidegate`] is the front door; `cache` keeps the tokens seen, `worker` the segment in use, `daemon` the
//! connections; [`Verified`] and [`Denied`] are the two answers.
#![forbid(unsafe_code)]

mod cache;
mod daemon;
mod denied;
#[cfg(any(feature = "axum", feature = "tower"))]
pub mod http;
mod sidegate;
mod subject;
mod thread_cache;
mod verified;
mod worker;

#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "tower")]
pub mod tower;

pub use daemon::DaemonError;
pub use denied::Denied;
pub use sidegate::{Builder, Sidegate};
pub use verified::Verified;
