//! The admin listener: liveness, readiness, metrics.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use sidegate_common::problem::Code;
use sidegate_common::revocation_state::Unavailable;
use sidegate_common::time::ClockReading;
use sidegate_runtime::clock::reading;
use sidegate_runtime::feed::status::{PartitionStatus, Status};
use sidegate_shm::Stats;

use super::answer::{CheckAnswer, json, not_allowed, problem};
use super::body::Body;
use crate::verifier::Verifier;

/// The media type of the OpenMetrics text format.
const OPENMETRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// The body of `/readyz`: whether tokens can be checked, and if not, what is missing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Readiness {
    /// All of the three below are true.
    pub ready: bool,
    /// There is a key to verify with.
    pub keys: bool,
    /// A complete list of revocations has been loaded.
    pub snapshot: bool,
    /// The list was proven complete recently enough, or `ON_STALE=allow`.
    pub fresh: bool,
    /// Milliseconds since the last proof.
    pub fresh_age_ms: Option<u64>,
    /// The number of revocations.
    pub revocations: u64,
    /// The number by kind.
    #[serde(default)]
    pub by_kind: ByKind,
    /// Each partition of the log; empty until their number is known.
    #[serde(default)]
    pub feed: Vec<PartitionReadiness>,
    /// The number of keys.
    pub key_count: u64,
    /// The shared-memory segment; 0 if it is disabled.
    pub segment: u64,
    /// The segment's statistics.
    pub shared_memory: Option<SharedMemory>,
    /// Why not ready.
    pub reason: Option<String>,
    /// The version of this build.
    pub version: String,
}

/// The number of revocations of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ByKind {
    /// Tokens.
    pub tokens: u64,
    /// Sessions.
    pub sessions: u64,
    /// Users with a watermark.
    pub subjects: u64,
    /// Keys.
    pub keys: u64,
    /// Users of other issuers with a watermark.
    #[serde(default)]
    pub foreign_subjects: u64,
    /// Claim values of other issuers' tokens.
    #[serde(default)]
    pub claims: u64,
}

/// The state of one partition of the log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PartitionReadiness {
    /// `disconnected`, `probing`, `reading` or `live`.
    pub phase: String,
    /// Every entry of the log up to here is held.
    pub position: String,
    /// Milliseconds since the list was proven complete.
    pub fresh_age_ms: Option<u64>,
    /// What keeps the list from being proven.
    pub alarm: Option<String>,
    /// Why there is no connection.
    #[serde(rename = "trouble")]
    pub last_error: Option<String>,
    /// Pushes that revealed a lost one before them.
    pub gaps: u64,
    /// Reads of the log because a proof had failed.
    pub resyncs: u64,
    /// Connections made after the first.
    pub reconnects: u64,
}

impl PartitionReadiness {
    fn of(status: &PartitionStatus, now: ClockReading) -> Self {
        Self {
            phase: status.phase.name().to_owned(),
            position: status.last.to_string(),
            fresh_age_ms: status.fresh_age_ms(now),
            alarm: Some(status.alarms.iter().map(|alarm| alarm.name()).collect::<Vec<_>>().join(", "))
                .filter(|alarms| !alarms.is_empty()),
            last_error: status.last_error.clone(),
            gaps: status.counters.gaps,
            resyncs: status.counters.resyncs,
            reconnects: status.reconnects,
        }
    }
}

/// Statistics of the shared-memory segment, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SharedMemory {
    /// The revocations in it.
    pub entries: u64,
    /// Words used, of `slots`; at three quarters a larger segment replaces it.
    pub used: u64,
    /// Words available.
    pub slots: u64,
    /// The segment's size.
    pub bytes: u64,
    /// Users with too many revocations: readers always ask about them.
    pub crowded_subjects: u64,
    /// Full lines: readers always ask about their tokens.
    pub saturated_lines: u64,
    /// Readers connected to `ATTACH_SOCKET`.
    pub readers: u64,
}

impl SharedMemory {
    fn of((stats, readers): (Stats, usize)) -> Self {
        let Stats { entries, used, slots, bytes, crowded_subjects, saturated_lines, .. } = stats;
        Self { entries, used, slots, bytes, crowded_subjects, saturated_lines, readers: readers as u64 }
    }
}

impl Readiness {
    /// The current state.
    pub fn of(verifier: &Verifier, feed: &Status) -> Self {
        let (state, ready) = (verifier.state(), verifier.ready());
        let proven = state.proven();
        let issuer_keys = verifier.issuer_keys();
        let keys = verifier.keys().loaded() || issuer_keys.iter().any(|keys| keys.loaded());
        let snapshot = proven.is_some();
        let counts = state.index().counts();
        let now = reading();
        Self {
            ready: ready.is_ok(),
            keys,
            snapshot,
            fresh: snapshot && !matches!(ready, Err(Unavailable::Stale(_))),
            fresh_age_ms: proven.map(|proven| verifier.check_time().monotonic_ms.saturating_sub(proven)),
            revocations: counts.total(),
            by_kind: ByKind {
                tokens: counts.tokens,
                sessions: counts.sessions,
                subjects: counts.subjects,
                keys: counts.keys,
                foreign_subjects: counts.foreign_subjects,
                claims: counts.claims,
            },
            feed: feed.partitions().iter().map(|status| PartitionReadiness::of(status, now)).collect(),
            key_count: (verifier.keys().count() + issuer_keys.iter().map(|keys| keys.count()).sum::<usize>()) as u64,
            segment: verifier.segment_id(),
            shared_memory: verifier.segment().map(|segment| SharedMemory::of(segment.stats())),
            reason: ready.err().map(|why| why.to_string()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// The admin listener's service.
#[derive(Clone, Debug)]
pub struct Admin {
    verifier: Arc<Verifier>,
    feed: Arc<Status>,
}

impl Admin {
    /// The admin interface of `verifier` and its `feed`.
    pub const fn new(verifier: Arc<Verifier>, feed: Arc<Status>) -> Self {
        Self { verifier, feed }
    }

    fn answer(&self, method: &Method, path: &str) -> CheckAnswer {
        let known = matches!(path, "/livez" | "/readyz" | "/metrics");
        match path {
            _ if known && !matches!(*method, Method::GET | Method::HEAD) => not_allowed("GET, HEAD"),
            "/livez" => json(&serde_json::json!({"alive": true})),
            "/readyz" => readyz(&self.verifier, &self.feed),
            "/metrics" => {
                let mut answer = json(&());
                answer.headers.insert(CONTENT_TYPE, OPENMETRICS);
                self.verifier.metrics().held(self.verifier.state().index().counts());
                answer.body = self.verifier.metrics().text(self.verifier.ready().is_ok()).into();
                answer
            }
            _ => problem(Code::NotFound, Code::NotFound.title(), None),
        }
    }
}

fn readyz(verifier: &Verifier, feed: &Status) -> CheckAnswer {
    let readiness = Readiness::of(verifier, feed);
    let mut answer = json(&readiness);
    if !readiness.ready {
        answer.status = StatusCode::SERVICE_UNAVAILABLE;
    }
    answer
}

impl hyper::service::Service<Request<Incoming>> for Admin {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        ready(Ok(self.answer(request.method(), request.uri().path()).into()))
    }
}
