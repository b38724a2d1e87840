//! What [`super`] is without the feature `otel`: nothing, and a warning to whoever asks for traces.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::sync::watch;

use super::{Parent, TraceId, endpoint};
use crate::settings::Settings;

/// What is exported: nothing.
#[derive(Debug)]
pub struct Traces;

/// Warns if traces are asked for, for they cannot be had.
pub fn start(settings: &Settings, _program: &'static str, _stop: watch::Receiver<bool>) -> Traces {
    if let Some((setting, _)) = endpoint(settings) {
        tracing::warn!("{setting} is set, but this program was built without the feature otel: no traces are exported");
    }
    Traces
}

impl Traces {
    /// Nothing waits to be exported.
    pub async fn finish(self, _grace: Duration) {}
}

/// No spans are made.
pub const fn is_on() -> bool {
    false
}

/// A span that is not made.
#[derive(Debug)]
pub struct Span;

impl Span {
    /// For an HTTP request.
    pub const fn request(_method: &Method, _route: Option<&str>, _parent: Option<Parent<'_>>) -> Self {
        Self
    }

    /// For a gRPC call.
    pub const fn call(_service: &'static str, _method: &'static str, _parent: Option<Parent<'_>>) -> Self {
        Self
    }

    /// Of which trace: none.
    pub const fn trace_id(&self) -> Option<TraceId> {
        None
    }

    /// Does the work.
    pub fn around<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        work
    }

    /// Does the work.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        work()
    }

    /// Ends it.
    pub const fn answered(self, _status: StatusCode) {}
}

/// Tells nobody.
pub const fn outcome(_outcome: &'static str) {}

/// Does the work.
pub fn child_span<F, T, E>(_name: &'static str, work: F) -> impl Future<Output = Result<T, E>>
where
    F: Future<Output = Result<T, E>>,
{
    work
}
