//! Spans, and their export to a collector over OTLP/gRPC.
//!
//! Spans are made by hand, with the attributes named here and no others: a layer that turned log
//! lines into spans would export whatever a log line has. They go to an SDK thread over a queue
//! that drops spans when it is full, so a slow or dead collector never delays a request.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use opentelemetry::trace::{
    FutureExt as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceState, Tracer as _,
    TracerProvider as _,
};
use opentelemetry::{Context, Key, KeyValue};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Parent, SAMPLER, SAMPLER_ARG, SERVICE_NAME, TraceId, endpoint};
use crate::program::stopped;
use crate::settings::Settings;

/// How long the export of the last spans may take: the rest of the grace period, within these
/// bounds.
const FLUSH_MIN: Duration = Duration::from_millis(200);
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Set once traces are exported.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// The exporter.
#[derive(Debug)]
pub struct Traces(Option<Exporting>);

#[derive(Debug)]
struct Exporting {
    provider: SdkTracerProvider,
    /// When the stop was requested.
    stopped: JoinHandle<Instant>,
}

/// Starts the export if the settings name a collector. Must run inside a tokio runtime.
pub fn start(settings: &Settings, program: &'static str, mut stop: watch::Receiver<bool>) -> Traces {
    let Some((setting, endpoint)) = endpoint(settings) else { return Traces(None) };
    let exporter = match opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build() {
        Ok(exporter) => LoggedExporter { exporter, failing: AtomicBool::new(false) },
        Err(error) => {
            tracing::warn!(%error, "the collector of {setting} cannot be used: no traces are exported");
            return Traces(None);
        }
    };
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler(settings))
        .with_resource(resource(settings, program))
        .build();
    // A second start in one process (tests) keeps the first tracer.
    TRACER.get_or_init(|| provider.tracer("sidegate"));
    tracing::info!("traces are exported");
    let stopped = tokio::spawn(async move {
        stopped(&mut stop).await;
        Instant::now()
    });
    Traces(Some(Exporting { provider, stopped }))
}

/// The service name of the spans: the setting, or the program's name.
fn resource(settings: &Settings, program: &'static str) -> Resource {
    let named = Resource::builder().build();
    let elsewhere = named.get(&Key::from_static_str("service.name")).map(|name| name.to_string());
    let known = elsewhere.filter(|name| !name.starts_with("unknown_service"));
    let name = settings.text(SERVICE_NAME).map(str::to_owned).or(known).unwrap_or_else(|| program.to_owned());
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    Resource::builder().with_service_name(name).with_attribute(version).build()
}

fn sampler(settings: &Settings) -> Sampler {
    let ratio = || {
        let ratio = settings.text(SAMPLER_ARG).and_then(|text| text.parse().ok());
        Sampler::TraceIdRatioBased(ratio.filter(|ratio| (0.0..=1.0).contains(ratio)).unwrap_or_else(|| {
            tracing::warn!("{SAMPLER_ARG} is not a number from 0 to 1; tracing every request");
            1.0
        }))
    };
    let name = settings.text(SAMPLER).unwrap_or_default();
    let (root, follows) = name.strip_prefix("parentbased_").map_or((name, false), |root| (root, true));
    let sampler = match root {
        "always_on" => Sampler::AlwaysOn,
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => ratio(),
        _ => {
            tracing::warn!(sampler = name, "unknown sampler in {SAMPLER}; using parentbased_always_on");
            return Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
        }
    };
    if follows { Sampler::ParentBased(Box::new(sampler)) } else { sampler }
}

impl Traces {
    /// Exports the remaining spans, within the rest of the grace period.
    pub async fn finish(self, grace: Duration) {
        let Some(Exporting { provider, stopped }) = self.0 else { return };
        let since_stop = if stopped.is_finished() { stopped.await.ok() } else { None };
        let left = grace.saturating_sub(since_stop.map_or(Duration::ZERO, |at| at.elapsed()));
        let limit = left.clamp(FLUSH_MIN, FLUSH_MAX);
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(limit)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("the last traces were not exported in time");
        }
    }
}

/// An exporter that logs when it begins to fail and when it works again, not for every batch.
#[derive(Debug)]
struct LoggedExporter {
    exporter: opentelemetry_otlp::SpanExporter,
    failing: AtomicBool,
}

impl SpanExporter for LoggedExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let done = self.exporter.export(batch).await;
        match &done {
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(%error, "trace export failed; dropping traces until it works");
            }
            Ok(()) if self.failing.swap(false, Ordering::Relaxed) => tracing::info!("trace export works again"),
            _ => {}
        }
        done
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// True if spans are made.
#[inline]
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// The span of a request; empty if traces are off.
#[derive(Debug)]
pub struct Span(Option<Context>);

impl Span {
    /// For an HTTP request. Only the `route` is exported: a path may contain user data.
    pub fn request(method: &Method, route: Option<&str>, parent: Option<Parent<'_>>) -> Self {
        Self::server(parent, || {
            let method = known_method(method);
            let mut attributes = vec![KeyValue::new("http.request.method", method)];
            attributes.extend(route.map(|route| KeyValue::new("http.route", route.to_owned())));
            let name = match (method, route) {
                (OTHER_METHOD, route) => ["HTTP", route.unwrap_or_default()].join(" "),
                (method, route) => [method, route.unwrap_or_default()].join(" "),
            };
            (name.trim_end().to_owned(), attributes)
        })
    }

    /// For a gRPC call.
    pub fn call(service: &'static str, method: &'static str, parent: Option<Parent<'_>>) -> Self {
        Self::server(parent, || {
            let attributes = vec![
                KeyValue::new("rpc.system", "grpc"),
                KeyValue::new("rpc.service", service),
                KeyValue::new("rpc.method", method),
            ];
            (format!("{service}/{method}"), attributes)
        })
    }

    fn server(parent: Option<Parent<'_>>, describe: impl FnOnce() -> (String, Vec<KeyValue>)) -> Self {
        let Some(tracer) = TRACER.get() else { return Self(None) };
        let (name, attributes) = describe();
        let above = parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(remote(parent)));
        let builder = tracer.span_builder(name).with_kind(SpanKind::Server).with_attributes(attributes);
        Self(Some(above.with_span(builder.start_with_context(tracer, &above))))
    }

    /// The trace id.
    pub fn trace_id(&self) -> Option<TraceId> {
        let trace = self.0.as_ref()?.span().span_context().trace_id();
        Some(TraceId(u128::from_be_bytes(trace.to_bytes())))
    }

    /// Runs the future in the span, so that its child spans are linked.
    pub fn around<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        work.with_context(self.0.clone().unwrap_or_default())
    }

    /// Runs the function in the span.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let _entered = self.0.clone().map(Context::attach);
        work()
    }

    /// Ends the span.
    pub fn answered(self, status: StatusCode) {
        let Some(context) = self.0 else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

/// The standard's word for an unusual method, whose name the client chooses.
const OTHER_METHOD: &str = "_OTHER";

fn known_method(method: &Method) -> &'static str {
    let known = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "CONNECT", "TRACE"];
    known.into_iter().find(|known| method.as_str() == *known).unwrap_or(OTHER_METHOD)
}

fn remote(parent: Parent<'_>) -> SpanContext {
    let state = parent.state().and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let trace = opentelemetry::TraceId::from_bytes(parent.trace.0.to_be_bytes());
    SpanContext::new(trace, SpanId::from_bytes(parent.span.to_be_bytes()), flags, true, state)
}

/// Sets the outcome of the current request in its span.
#[inline]
pub fn outcome(outcome: &'static str) {
    if is_on() {
        Context::current().span().set_attribute(KeyValue::new("sidegate.outcome", outcome));
    }
}

/// Runs a part of the current request that may take long in its own span.
pub async fn child_span<F, T, E>(name: &'static str, work: F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let Some(tracer) = TRACER.get().filter(|_| Context::current().has_active_span()) else { return work.await };
    let context = Context::current_with_span(tracer.start(name));
    let done = work.with_context(context.clone()).await;
    if done.is_err() {
        context.span().set_status(Status::error(""));
    }
    context.span().end();
    done
}
