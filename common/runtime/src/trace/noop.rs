//! [`super`] without the feature `otel`: no spans, and a warning if traces are configured.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::sync::watch;

use super::{Parent, TraceId, endpoint};
use crate::settings::Settings;

/// The exporter: none.
#[derive(Debug)]
pub struct Traces;

/// Warns if traces are configured, because this build has none.
pub fn start(settings: &Settings, _program: &'static str, _stop: watch::Receiver<bool>) -> Traces {
    if let Some((setting, _)) = endpoint(settings) {
        tracing::warn!("{setting} is set, but this program was built without the feature otel: no traces are exported");
    }
    Traces
}

impl Traces {
    /// Nothing to export.
    pub async fn finish(self, _grace: Duration) {}
}

/// No spans are made.
pub const fn is_on() -> bool {
    false
}

/// An empty span.
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

    /// The trace id: always `None`.
    pub const fn trace_id(&self) -> Option<TraceId> {
        None
    }

    /// Runs the future.
    pub fn around<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        work
    }

    /// Runs the function.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        work()
    }

    /// Ends the span.
    pub const fn answered(self, _status: StatusCode) {}
}

/// No effect.
pub const fn outcome(_outcome: &'static str) {}

/// Runs the future.
pub fn child_span<F, T, E>(_name: &'static str, work: F) -> impl Future<Output = Result<T, E>>
where
    F: Future<Output = Result<T, E>>,
{
    work
}
