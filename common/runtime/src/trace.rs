//! Traces: the trace id of a request, for the log; with the feature `otel`, spans for a collector.
//!
//! Without the feature only `traceparent` is read, for log lines.

#[cfg(feature = "otel")]
mod export;
#[cfg(not(feature = "otel"))]
mod noop;
mod parent;

#[cfg(feature = "otel")]
pub use export::{Span, Traces, child_span, is_on, outcome, start};
#[cfg(not(feature = "otel"))]
pub use noop::{Span, Traces, child_span, is_on, outcome, start};
pub use parent::{Parent, TraceId};

use crate::settings::{Setting, Settings, setting};

/// The settings of this module: the standard's names and meanings. Invalid values are logged and
/// ignored, as the standard asks: traces must not keep a program from starting.
pub const SETTINGS: [Setting; 5] = [
    setting(
        ENDPOINT,
        "",
        "collector for traces over OTLP/gRPC, such as http://127.0.0.1:4317; unset: none; requires a build with the feature otel",
    ),
    setting(TRACES_ENDPOINT, "", "collector for traces, which takes precedence over OTEL_EXPORTER_OTLP_ENDPOINT"),
    setting(SERVICE_NAME, "", "service name in traces; unset: the program's name"),
    setting(
        SAMPLER,
        "parentbased_always_on",
        "sampler: always_on, always_off, traceidratio, or parentbased_ and one of these",
    ),
    setting(SAMPLER_ARG, "1", "ratio for traceidratio, from 0 to 1"),
];

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

/// The setting that enables traces, and the collector's address.
fn endpoint(settings: &Settings) -> Option<(&'static str, &str)> {
    [TRACES_ENDPOINT, ENDPOINT].into_iter().find_map(|name| Some((name, settings.text(name)?)))
}
