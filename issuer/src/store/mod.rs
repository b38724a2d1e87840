//! Stores: users in the application's database, sessions and the revocation log in Redis or in
//! SQLite.
//!
//! - [`users`]: the application's own table, in Postgres or SQLite.
//! - [`redis`]: sessions and log in Redis, one Lua script per change.
//! - [`sqlite`]: the same in a file on one machine.
//! - [`backend`]: dispatches to the configured one of the two.
//! - [`counts`]: their counters.

pub mod backend;
pub mod counts;
pub mod redis;
pub mod sqlite;
pub mod users;

use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::traits::DependencyUnavailable;

/// A fresh identifier for a data set: 128 random bits, base64url.
fn new_epoch() -> Result<String, DependencyUnavailable> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| DependencyUnavailable::new("the random number generator", "no randomness"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Waits until a token is valid: one issued right after a global logout of its user is ahead of the
/// clock.
async fn until_valid(ahead_ms: u64) {
    if ahead_ms > 0 {
        tokio::time::sleep(Duration::from_millis(ahead_ms)).await;
    }
}
