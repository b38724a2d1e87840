//! The admin listener: is it alive, can it judge, what has it counted.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use sidegate_common::problem::Code;
use sidegate_common::verdict::Unknown;

use super::answer::{Answer, json, problem};
use super::http::{Body, not_allowed};
use crate::gate::Gate;

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
    /// How many keys there are.
    pub key_count: u64,
    /// The shared-memory segment, 0 if there is none.
    pub segment: u64,
    /// Why not ready, in words.
    pub reason: Option<String>,
    /// Which build this is.
    pub version: String,
}

impl Readiness {
    /// As it stands.
    pub fn of(gate: &Gate) -> Self {
        let (judge, ready) = (gate.judge(), gate.ready());
        let proven = judge.freshness().oldest();
        let keys = gate.keys().loaded();
        let snapshot = proven.is_some();
        Self {
            ready: ready.is_ok(),
            keys,
            snapshot,
            fresh: snapshot && !matches!(ready, Err(Unknown::Stale(_))),
            fresh_age_ms: proven.map(|proven| gate.moment().monotonic_ms.saturating_sub(proven)),
            revocations: judge.index().counts().total(),
            key_count: gate.keys().count() as u64,
            segment: gate.segment(),
            reason: ready.err().map(|unknown| unknown.to_string()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// The admin listener's service.
#[derive(Clone, Debug)]
pub struct Admin {
    gate: Arc<Gate>,
}

impl Admin {
    /// The admin interface of `gate`.
    pub const fn new(gate: Arc<Gate>) -> Self {
        Self { gate }
    }

    fn answer(&self, method: &Method, path: &str) -> Answer {
        let known = matches!(path, "/livez" | "/readyz" | "/metrics");
        match path {
            _ if known && !matches!(*method, Method::GET | Method::HEAD) => not_allowed("GET, HEAD"),
            "/livez" => json(&serde_json::json!({"alive": true})),
            "/readyz" => readyz(&self.gate),
            "/metrics" => {
                let mut answer = json(&());
                answer.headers.insert(CONTENT_TYPE, OPENMETRICS);
                answer.body = self.gate.metrics().text().into();
                answer
            }
            _ => problem(Code::NotFound, Code::NotFound.title(), None),
        }
    }
}

fn readyz(gate: &Gate) -> Answer {
    let readiness = Readiness::of(gate);
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
