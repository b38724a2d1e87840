//! Panics are caught here, one hook at a time, and counted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;

/// The hooks that run code of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    ConfigNew,
    ConfigDestroy,
    RouteConfigNew,
    RouteConfigDestroy,
    FilterNew,
    RequestHeaders,
    ResponseHeaders,
    Scheduled,
    FilterDestroy,
}

/// Caught panics that no request has counted yet.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Runs a hook; if it panics, `instead` answers.
pub fn guarded<T>(hook: Hook, run: impl FnOnce() -> T, instead: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            note_panic(&format!("{hook:?}: {text}"));
            instead()
        }
    }
}

/// Counts and logs a caught panic.
pub fn note_panic(what: &str) {
    PANICS.fetch_add(1, Ordering::Relaxed);
    tracing::error!("panic in {what}");
}

/// The panics since the last call.
pub fn take_panics() -> u64 {
    if PANICS.load(Ordering::Relaxed) == 0 { 0 } else { PANICS.swap(0, Ordering::Relaxed) }
}

/// Panics if the configuration says so (`panic_in`, for tests).
#[allow(clippy::panic, reason = "tests ask for it")]
pub fn inject(configured: Option<Hook>, at: Hook) {
    if configured == Some(at) {
        panic!("panic_in is {at:?}");
    }
}
