//! Every metric of the verifier.

use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use sidegate_common::index::IndexCounts;
use sidegate_common::problem::Code;

use crate::domain::refusals::REASONS;

/// The interfaces with their own counters.
pub const INTERFACES: [&str; 8] = ["check", "envoy", "nginx", "forward", "haproxy", "grpc", "introspect", "verify"];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CheckLabels {
    interface: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReadLabels {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct IssuerLabels {
    issuer: String,
    result: &'static str,
}

/// The kinds with their own counters; the watermark for all users is one number, not an entry.
const KINDS: [&str; 6] = ["token", "session", "subject", "key", "foreign_subject", "claim"];

/// The counters, and their registry.
#[derive(Debug)]
pub struct Metrics {
    /// All counters exist from the start, so that counting takes no lock; the most frequent come
    /// first.
    checks: Vec<(&'static str, Vec<(&'static str, Counter)>)>,
    jwks_reads: [Counter; 2],
    refusals: [Counter; REASONS.len()],
    held: [Gauge; KINDS.len()],
    issuer_tokens: Family<IssuerLabels, Counter>,
    issuer_jwks_reads: Family<IssuerLabels, Counter>,
    issuers_file_refused: Gauge,
    unlisted_claim: Gauge,
    ready: Gauge,
    registry: Mutex<Registry>,
}

impl Metrics {
    /// All counters at zero.
    pub fn new() -> Self {
        // Only these metrics have the program's prefix: the feed's are the same in every program.
        let mut all = Registry::default();
        let registry = all.sub_registry_with_prefix("sidegate_verifier");
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Build information", version);
        let ready = Gauge::default();
        registry.register("ready", "1 if ready to check tokens", ready.clone());
        let family = Family::<CheckLabels, Counter>::default();
        registry.register("checks", "Checks answered, by interface and outcome", family.clone());
        let counters = |interface| {
            let outcomes = ["allowed", "public"].into_iter().chain(Code::ALL.map(Code::name));
            let counter = |outcome| (outcome, family.get_or_create(&CheckLabels { interface, outcome }).clone());
            (interface, outcomes.map(counter).collect())
        };
        let checks = INTERFACES.map(counters).into();
        let reads = Family::<ReadLabels, Counter>::default();
        registry.register("jwks_reads", "JWKS fetches", reads.clone());
        let jwks_reads = ["failed", "ok"].map(|result| reads.get_or_create(&ReadLabels { result }).clone());
        let refusals = Family::<ReasonLabels, Counter>::default();
        registry.register("refusals", "Tokens refused, by reason", refusals.clone());
        let refusals = REASONS.map(|reason| refusals.get_or_create(&ReasonLabels { reason }).clone());
        let kinds = Family::<KindLabels, Gauge>::default();
        registry.register("revocations", "Revocations held, by kind", kinds.clone());
        let held = KINDS.map(|kind| kinds.get_or_create(&KindLabels { kind }).clone());
        let issuer_tokens = Family::<IssuerLabels, Counter>::default();
        registry.register(
            "issuer_tokens",
            "Checks of tokens of the issuers of ISSUERS_FILE, by issuer and result",
            issuer_tokens.clone(),
        );
        let issuer_jwks_reads = Family::<IssuerLabels, Counter>::default();
        registry.register("issuer_jwks_reads", "JWKS fetches, by issuer of ISSUERS_FILE", issuer_jwks_reads.clone());
        let issuers_file_refused = Gauge::default();
        registry.register(
            "issuers_file_refused",
            "1 if ISSUERS_FILE could not be reloaded and the previous issuers stay in use",
            issuers_file_refused.clone(),
        );
        let unlisted_claim = Gauge::default();
        registry.register(
            "unlisted_claim",
            "1 if the list revokes tokens by a claim that ISSUERS_FILE does not list, so that no token passes",
            unlisted_claim.clone(),
        );
        Self {
            checks,
            jwks_reads,
            refusals,
            held,
            issuer_tokens,
            issuer_jwks_reads,
            issuers_file_refused,
            unlisted_claim,
            ready,
            registry: Mutex::new(all),
        }
    }

    /// Starts the counters of another issuer at zero.
    pub fn issuer_known(&self, issuer: &str) {
        for (family, results) in
            [(&self.issuer_tokens, ["good", "refused"]), (&self.issuer_jwks_reads, ["ok", "failed"])]
        {
            for result in results {
                drop(family.get_or_create(&IssuerLabels { issuer: issuer.to_owned(), result }));
            }
        }
    }

    /// Counts a check of a token of another issuer.
    pub fn issuer_token(&self, issuer: &str, good: bool) {
        let result = if good { "good" } else { "refused" };
        self.issuer_tokens.get_or_create(&IssuerLabels { issuer: issuer.to_owned(), result }).inc();
    }

    /// Counts a fetch of another issuer's JWK set.
    pub fn issuer_jwks_read(&self, issuer: &str, ok: bool) {
        let result = if ok { "ok" } else { "failed" };
        self.issuer_jwks_reads.get_or_create(&IssuerLabels { issuer: issuer.to_owned(), result }).inc();
    }

    /// Sets whether the last reload of `ISSUERS_FILE` was refused.
    pub fn issuers_file_refused(&self, refused: bool) {
        self.issuers_file_refused.set(i64::from(refused));
    }

    /// Sets whether the list has an entry that no look-up finds.
    pub fn unlisted_claim(&self, unlisted: bool) {
        self.unlisted_claim.set(i64::from(unlisted));
    }

    /// Counts a check.
    pub fn count(&self, interface: &'static str, outcome: &'static str) {
        // Comparing a few short strings costs less than hashing them.
        let counters = self.checks.iter().find(|(name, _)| *name == interface);
        if let Some((_, counter)) = counters.and_then(|(_, held)| held.iter().find(|(name, _)| *name == outcome)) {
            counter.inc();
        }
    }

    /// Counts a rejected token.
    pub fn refused(&self, reason: &'static str) {
        if let Some(at) = REASONS.iter().position(|known| *known == reason) {
            self.refusals[at].inc();
        }
    }

    /// The number of checks with a good token.
    pub fn good(&self) -> u64 {
        let allowed = self.checks.iter().flat_map(|(_, held)| held.iter().filter(|(outcome, _)| *outcome == "allowed"));
        allowed.map(|(_, counter)| counter.get()).sum()
    }

    /// Counts a fetch of the JWK set.
    pub fn jwks_read(&self, ok: bool) {
        self.jwks_reads[usize::from(ok)].inc();
    }

    /// Sets the number of revocations of each kind; call before [`Metrics::text`].
    pub fn held(&self, counts: IndexCounts) {
        let IndexCounts { tokens, sessions, subjects, keys, foreign_subjects, claims } = counts;
        let counts = [tokens, sessions, subjects, keys, foreign_subjects, claims];
        for (gauge, count) in self.held.iter().zip(counts) {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Lets another part of the program register its metrics under its own prefix.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All metrics in the OpenMetrics text format, and whether tokens can be checked now.
    pub fn text(&self, ready: bool) -> String {
        self.ready.set(i64::from(ready));
        let mut out = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let _writing_to_a_string_cannot_fail = prometheus_client::encoding::text::encode(&mut out, &registry);
        out
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_of_every_interface_exists_from_the_start() {
        let metrics = Metrics::new();
        metrics.count("check", "token_revoked");
        metrics.count("check", "no such outcome");
        metrics.jwks_read(false);
        let text = metrics.text(true);
        let has = |line: &str| assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        has("sidegate_verifier_checks_total{interface=\"check\",outcome=\"token_revoked\"} 1");
        has("sidegate_verifier_checks_total{interface=\"grpc\",outcome=\"stale\"} 0");
        has("sidegate_verifier_jwks_reads_total{result=\"failed\"} 1");
        has("sidegate_verifier_refusals_total{reason=\"unknown_key\"} 0");
        metrics.held(IndexCounts { tokens: 3, ..IndexCounts::default() });
        let text = metrics.text(true);
        assert!(text.lines().any(|have| have == "sidegate_verifier_revocations{kind=\"token\"} 3"), "{text}");
        assert!(text.contains("sidegate_verifier_build_info{version=\""));
    }
}
