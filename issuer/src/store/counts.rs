//! The store's counters, for `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sidegate_runtime::clock::monotonic_ms;

/// Why a Redis server does not meet the requirements.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

/// How long the alarm stays on after the last refusal, in milliseconds: other users' tokens may
/// still be issued.
const CLOCK_ALARM_MS: u64 = 60_000;

/// The alarm `store_clock_behind`.
#[derive(Clone, Debug, Default)]
pub struct ClockAlarm {
    gauge: Gauge,
    refused_ms: Arc<AtomicU64>,
}

impl ClockAlarm {
    /// A token or revocation was refused because the store's clock is behind. Logged once.
    pub fn refused(&self, error: &impl std::fmt::Display) {
        self.refused_ms.store(monotonic_ms(), Ordering::Relaxed);
        if self.gauge.set(1) == 0 {
            tracing::error!(%error, "the store's clock has gone back: no tokens are issued until it has caught up or is set right");
        }
    }

    /// A token was issued.
    pub fn issued(&self) {
        let quiet = monotonic_ms().saturating_sub(self.refused_ms.load(Ordering::Relaxed)) >= CLOCK_ALARM_MS;
        if quiet && self.gauge.get() != 0 {
            self.gauge.set(0);
            tracing::info!("the store's clock has caught up");
        }
    }

    /// True while the alarm is on.
    pub fn is_on(&self) -> bool {
        self.gauge.get() != 0
    }
}

/// Counters of a store; all but `store_clock_behind` stay zero for the embedded one.
#[derive(Clone, Debug, Default)]
pub struct StoreCounts {
    /// Revocations that the store refused and that are queued for delivery.
    pub outbox: Gauge,
    /// Revocations delivered from the outbox.
    pub delivered: Counter,
    /// Revocations that did not fit into the outbox.
    pub overflowed: Counter,
    /// Revocations put back after the store lost them.
    pub replayed: Counter,
    /// Recently acknowledged revocations dropped before their time, for lack of space.
    pub forgotten: Counter,
    /// Partitions into whose log not every issuer has replayed its revocations yet.
    pub unsettled: Gauge,
    /// The journal's length.
    pub journal_bytes: Gauge,
    /// Failed journal writes.
    pub journal_failures: Counter,
    /// 1 while the store's clock is behind issued tokens, so that issuing is refused.
    pub store_clock_behind: ClockAlarm,
    unfit: Family<ByReason, Gauge>,
}

impl StoreCounts {
    /// Sets whether the server fails this requirement.
    pub fn unfit(&self, reason: &'static str, unfit: bool) {
        self.unfit.get_or_create(&ByReason { reason }).set(i64::from(unfit));
    }

    /// True if the server fails this requirement.
    pub fn is_unfit(&self, reason: &'static str) -> bool {
        self.unfit.get_or_create(&ByReason { reason }).get() != 0
    }

    /// Registers the counters.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("outbox", "Revocations refused by Redis, to be delivered", self.outbox.clone());
        registry.register("outbox_delivered", "Revocations delivered from the outbox", self.delivered.clone());
        registry.register(
            "outbox_overflowed",
            "Revocations refused by Redis beyond the outbox: clients must retry",
            self.overflowed.clone(),
        );
        registry.register("replayed", "Revocations put back after Redis lost them", self.replayed.clone());
        registry.register(
            "replay_forgotten",
            "Recently acknowledged revocations that the full replay buffer could not keep",
            self.forgotten.clone(),
        );
        registry.register(
            "unsettled_partitions",
            "Partitions in which issuers have yet to put back lost revocations: logins and refreshes wait",
            self.unsettled.clone(),
        );
        registry.register("journal_bytes", "Size of REVOCATION_JOURNAL", self.journal_bytes.clone());
        registry.register("journal_failures", "Failed journal writes", self.journal_failures.clone());
        registry.register(
            "store_clock_behind",
            "1 while the store's clock is too far behind to issue tokens",
            self.store_clock_behind.gauge.clone(),
        );
        registry.register(
            "redis_unfit",
            "1 while the settings of Redis would lose revocations, by reason",
            self.unfit.clone(),
        );
    }
}
