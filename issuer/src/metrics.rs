//! Every metric of the issuer, by name.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::password::Counts;
use crate::store::counts::Counts as StoreCounts;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByScope {
    scope: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByStatus {
    status: u16,
}

/// What the issuer counts.
pub struct Metrics {
    registry: Registry,
    logins: Family<ByResult, Counter>,
    refreshes: Family<ByResult, Counter>,
    logouts: Family<ByScope, Counter>,
    revocations: Family<ByKind, Counter>,
    answers: Family<ByStatus, Counter>,
    bcrypt_rounds: Gauge,
    bcrypt_waiting: Gauge,
    passwords: Arc<Counts>,
}

impl Metrics {
    /// Metrics at zero, beside what the password pool and the store count.
    pub fn new(passwords: Arc<Counts>, store: &StoreCounts) -> Self {
        let mut registry = Registry::with_prefix("sidegate_issuer");
        let (logins, refreshes) = (Family::default(), Family::default());
        let (logouts, revocations, answers) = (Family::default(), Family::default(), Family::default());
        let (bcrypt_rounds, bcrypt_waiting) = (Gauge::default(), Gauge::default());
        registry.register("logins", "Logins, by result", logins.clone());
        registry.register("refreshes", "Refreshes, by result; reused is theft or a broken client", refreshes.clone());
        registry.register("logouts", "Logouts, by scope and result", logouts.clone());
        registry.register("revocations", "Revocations asked for and stored, by kind", revocations.clone());
        registry.register("answers", "HTTP answers, by status", answers.clone());
        registry.register("bcrypt_rounds", "Bcrypt rounds spent since the start", bcrypt_rounds.clone());
        registry.register("bcrypt_queue", "Passwords that wait to be checked", bcrypt_waiting.clone());
        store.register(&mut registry);
        Self { registry, logins, refreshes, logouts, revocations, answers, bcrypt_rounds, bcrypt_waiting, passwords }
    }

    pub(crate) fn login(&self, result: &'static str) {
        self.logins.get_or_create(&ByResult { result }).inc();
    }

    pub(crate) fn refresh(&self, result: &'static str) {
        self.refreshes.get_or_create(&ByResult { result }).inc();
    }

    pub(crate) fn logout(&self, scope: &'static str, result: &'static str) {
        self.logouts.get_or_create(&ByScope { scope, result }).inc();
    }

    pub(crate) fn revoked(&self, kind: &'static str) {
        self.revocations.get_or_create(&ByKind { kind }).inc();
    }

    pub(crate) fn answered(&self, status: u16) {
        self.answers.get_or_create(&ByStatus { status }).inc();
    }

    /// All of it in Prometheus' text format; none if that fails.
    pub fn render(&self) -> Option<String> {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.bcrypt_rounds.set(number(self.passwords.rounds.load(Ordering::Relaxed)));
        self.bcrypt_waiting.set(number(self.passwords.waiting.load(Ordering::Relaxed)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).ok()?;
        Some(text)
    }
}
