//! The admin listener: is it alive, can it judge, what has it counted.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use sidegate_common::problem::Code;
use sidegate_common::revocation_state::Unavailable;
use sidegate_common::time::Instants;
use sidegate_runtime::clock::instants;
use sidegate_runtime::feed::status::{PartitionStatus, Status};
use sidegate_shm::Stats;

use super::answer::{Answer, json, problem};
use super::http::{Body, not_allowed};
use crate::verifier::Verifier;

/// The media type of the OpenMetrics text format.
const OPENMETRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// What `/readyz` says: whether it can judge, and if not, which part is missing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Readiness {
    /// All of the three below.
    pub ready: bool,
    /// There is a key to verify with.
    pub keys: bool,
    /// A complete list of revocations has come in.
    pub snapshot: bool,
    /// It was proven complete recently enough, or `ON_STALE=allow`.
    pub fresh: bool,
    /// Milliseconds since it was proven complete.
    pub fresh_age_ms: Option<u64>,
    /// How many revocations are held.
    pub revocations: u64,
    /// The same, by kind.
    #[serde(default)]
    pub by_kind: ByKind,
    /// Where each partition of the log stands; empty until their number is known.
    #[serde(default)]
    pub feed: Vec<PartitionReadiness>,
    /// How many keys there are.
    pub key_count: u64,
    /// The shared-memory segment, 0 if there is none.
    pub segment: u64,
    /// What is in it.
    pub shared_memory: Option<SharedMemory>,
    /// Why not ready, in words.
    pub reason: Option<String>,
    /// Which build this is.
    pub version: String,
}

/// How many revocations of each kind are held.
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
}

/// How one partition of the log is followed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PartitionReadiness {
    /// `disconnected`, `probing`, `reading` or `live`.
    pub phase: String,
    /// Up to here every entry of the log is held.
    pub position: String,
    /// Milliseconds since the list was proven complete.
    pub fresh_age_ms: Option<u64>,
    /// What keeps the list from being proven.
    pub alarm: Option<String>,
    /// Why there is no connection.
    pub trouble: Option<String>,
    /// Pushes that showed that one before them was lost.
    pub gaps: u64,
    /// Times the log was read because a proof had failed.
    pub resyncs: u64,
    /// Connections made after the first.
    pub reconnects: u64,
}

impl PartitionReadiness {
    fn of(status: &PartitionStatus, now: Instants) -> Self {
        Self {
            phase: status.phase.name().to_owned(),
            position: status.last.to_string(),
            fresh_age_ms: status.fresh_age_ms(now),
            alarm: Some(status.alarms.iter().map(|alarm| alarm.name()).collect::<Vec<_>>().join(", "))
                .filter(|alarms| !alarms.is_empty()),
            trouble: status.trouble.clone(),
            gaps: status.counters.gaps,
            resyncs: status.counters.resyncs,
            reconnects: status.reconnects,
        }
    }
}

/// The shared-memory segment, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SharedMemory {
    /// Revocations that it stands for.
    pub entries: u64,
    /// Words used, of `slots`: at three quarters it is replaced by a larger one.
    pub used: u64,
    /// Words there are.
    pub slots: u64,
    /// Its size.
    pub bytes: u64,
    /// Users about whom readers always ask, having too many revocations.
    pub crowded_subjects: u64,
    /// Lines about which readers always ask, being full.
    pub saturated_lines: u64,
    /// Readers that are connected to `ATTACH_SOCKET`.
    pub readers: u64,
}

impl SharedMemory {
    fn of((stats, readers): (Stats, usize)) -> Self {
        let Stats { entries, used, slots, bytes, crowded_subjects, saturated_lines, .. } = stats;
        Self { entries, used, slots, bytes, crowded_subjects, saturated_lines, readers: readers as u64 }
    }
}

impl Readiness {
    /// As it stands.
    pub fn of(verifier: &Verifier, feed: &Status) -> Self {
        let (state, ready) = (verifier.state(), verifier.ready());
        let proven = state.proven();
        let keys = verifier.keys().loaded();
        let snapshot = proven.is_some();
        let counts = state.index().counts();
        let now = instants();
        Self {
            ready: ready.is_ok(),
            keys,
            snapshot,
            fresh: snapshot && !matches!(ready, Err(Unavailable::Stale(_))),
            fresh_age_ms: proven.map(|proven| verifier.moment().monotonic_ms.saturating_sub(proven)),
            revocations: counts.total(),
            by_kind: ByKind {
                tokens: counts.tokens,
                sessions: counts.sessions,
                subjects: counts.subjects,
                keys: counts.keys,
            },
            feed: feed.partitions().iter().map(|status| PartitionReadiness::of(status, now)).collect(),
            key_count: verifier.keys().count() as u64,
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
    /// The admin interface of `verifier` and of the `feed` that it lives on.
    pub const fn new(verifier: Arc<Verifier>, feed: Arc<Status>) -> Self {
        Self { verifier, feed }
    }

    fn answer(&self, method: &Method, path: &str) -> Answer {
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

fn readyz(verifier: &Verifier, feed: &Status) -> Answer {
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
