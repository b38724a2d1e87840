//! A watched token in Python: watched until it is stopped or dropped.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use sidegate_client::WatchGuard;

/// A token that calls back when it ends.
#[pyclass(frozen, module = "sidegate._native")]
pub struct WatchedToken(Mutex<Option<WatchGuard>>);

impl WatchedToken {
    pub(crate) fn new(guard: WatchGuard) -> Self {
        Self(Mutex::new(Some(guard)))
    }
}

#[pymethods]
impl WatchedToken {
    /// Stops watching. `on_end` may have been called meanwhile.
    fn stop(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
