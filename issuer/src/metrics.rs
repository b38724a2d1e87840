//! Every metric of the issuer, by name.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use sidegate_runtime::feed::status::Status;

use crate::password::PasswordCounts;
use crate::store::counts::StoreCounts;

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

// Known label values start at zero, so that Prometheus sees the first event of each.
const LOGINS: [&str; 13] = [
    "ok",
    "invalid",
    "unknown_user",
    "several_users",
    "disabled",
    "no_password",
    "malformed_hash",
    "unsupported_hash",
    "unfit_password",
    "wrong_password",
    "overloaded",
    "unavailable",
    "unmintable",
];
const REFRESHES: [&str; 11] = [
    "ok",
    "invalid",
    "retried",
    "not_authentic",
    "gone",
    "expired",
    "revoked",
    "user_gone",
    "reused",
    "unavailable",
    "unmintable",
];
const LOGOUTS: [&str; 4] = ["ok", "refused", "reused", "unavailable"];
const SCOPES: [&str; 3] = ["local", "others", "global"];
const KINDS: [&str; 6] = ["token", "session", "user", "key", "all", "claim"];
const STATUSES: [u16; 11] = [200, 204, 400, 401, 403, 404, 405, 413, 415, 500, 503];

/// The issuer's counters.
pub struct Metrics {
    registry: Registry,
    logins: Family<ByResult, Counter>,
    refreshes: Family<ByResult, Counter>,
    logouts: Family<ByScope, Counter>,
    revocations: Family<ByKind, Counter>,
    answers: Family<ByStatus, Counter>,
    ready: Gauge,
    bcrypt_rounds: Counter,
    bcrypt_waiting: Gauge,
    passwords: Arc<PasswordCounts>,
}

impl Metrics {
    /// Metrics at zero, with the counters of the password pool, the store and the issuer's own
    /// feed.
    pub fn new(passwords: Arc<PasswordCounts>, wrong_rows: Counter, store: &StoreCounts, feed: Arc<Status>) -> Self {
        // Only these metrics have the program's prefix: the feed's metrics are the same in every
        // program.
        let mut all = Registry::default();
        all.register_collector(Box::new(feed));
        let registry = all.sub_registry_with_prefix("sidegate_issuer");
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Build information", version);
        let (logins, refreshes) = (Family::default(), Family::default());
        let (logouts, revocations, answers) = (Family::default(), Family::default(), Family::default());
        let (ready, bcrypt_rounds, bcrypt_waiting) = (Gauge::default(), Counter::default(), Gauge::default());
        registry.register("ready", "1 if logins, refreshes and logouts work", ready.clone());
        registry.register("logins", "Logins, by result", logins.clone());
        registry.register("refreshes", "Refreshes, by result; reused is theft or a broken client", refreshes.clone());
        registry.register("logouts", "Logouts, by scope and result", logouts.clone());
        registry.register("revocations", "Revocations stored, by kind", revocations.clone());
        registry.register("answers", "HTTP answers, by status", answers.clone());
        registry.register("bcrypt_rounds", "Bcrypt rounds", bcrypt_rounds.clone());
        registry.register("bcrypt_queue", "Passwords waiting to be checked", bcrypt_waiting.clone());
        registry.register(
            "argon2_kibibytes",
            "KiB of memory filled by Argon2id, counted in each pass",
            passwords.argon2_kib.clone(),
        );
        registry.register(
            "users_wrong_rows",
            "Rows of the users database that answer another query (503): check the pooler",
            wrong_rows,
        );
        store.register(registry);
        begin_at_zero(&logins, LOGINS.map(|result| ByResult { result }));
        begin_at_zero(&refreshes, REFRESHES.map(|result| ByResult { result }));
        let logout_labels = SCOPES.map(|scope| LOGOUTS.map(|result| ByScope { scope, result }));
        begin_at_zero(&logouts, logout_labels.into_iter().flatten());
        begin_at_zero(&logouts, [ByScope { scope: "unknown", result: "invalid" }]);
        begin_at_zero(&revocations, KINDS.map(|kind| ByKind { kind }));
        begin_at_zero(&answers, STATUSES.map(|status| ByStatus { status }));
        Self {
            registry: all,
            logins,
            refreshes,
            logouts,
            revocations,
            answers,
            ready,
            bcrypt_rounds,
            bcrypt_waiting,
            passwords,
        }
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

    /// All metrics in Prometheus' text format, with the current readiness; `None` if encoding
    /// fails.
    pub fn render(&self, ready: bool) -> Option<String> {
        self.ready.set(i64::from(ready));
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.bcrypt_rounds.inner().store(self.passwords.rounds.load(Ordering::Relaxed), Ordering::Relaxed);
        self.bcrypt_waiting.set(number(self.passwords.waiting.load(Ordering::Relaxed)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).ok()?;
        Some(text)
    }
}

fn begin_at_zero<L>(family: &Family<L, Counter>, labels: impl IntoIterator<Item = L>)
where
    L: Clone + std::hash::Hash + Eq + EncodeLabelSet,
{
    labels.into_iter().for_each(|labels| drop(family.get_or_create(&labels)));
}
