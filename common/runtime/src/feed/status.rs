//! The state of each partition for `status`, `/readyz` and `/metrics`. The driver writes it.

use std::fmt::Error;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use sidegate_common::log_protocol::Position;
use sidegate_common::sync::{Alarm, Checkpoint, Counters, Lineage, Machine, Phase};
use sidegate_common::time::ClockReading;

use crate::clock;

/// Upper bounds of the propagation histogram, in seconds.
const PROPAGATION_SECONDS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// The state of one partition.
#[derive(Clone, Debug)]
pub struct PartitionStatus {
    /// The machine's phase.
    pub phase: Phase,
    /// The log that the machine follows.
    pub lineage: Option<Lineage>,
    /// The position up to which every entry of that log is held.
    pub last: Position,
    /// When the list was last proven complete.
    pub fresh_as_of: Option<ClockReading>,
    /// What keeps the list from being proven.
    pub alarm: Option<Alarm>,
    /// Every raised alarm, also those that do not keep the list from being proven.
    pub alarms: Vec<Alarm>,
    /// Why the last connection failed or ended; `None` while connected.
    pub last_error: Option<String>,
    /// The machine's counters.
    pub counters: Counters,
    /// Connections made after the first.
    pub reconnects: u64,
    /// New entries applied.
    pub applied: u64,
    /// The snapshot's checkpoint, as of the last proof.
    pub checkpoint: Option<Checkpoint>,
}

impl PartitionStatus {
    const fn new() -> Self {
        Self {
            phase: Phase::Disconnected,
            lineage: None,
            last: Position::START,
            fresh_as_of: None,
            alarm: None,
            alarms: Vec::new(),
            last_error: None,
            counters: Counters {
                gaps: 0,
                resyncs: 0,
                full_reads: 0,
                duplicates: 0,
                foreign: 0,
                forged: 0,
                unreadable: 0,
                probes_lost: 0,
            },
            reconnects: 0,
            applied: 0,
            checkpoint: None,
        }
    }

    /// Milliseconds since the list was last proven complete; `None` if never.
    pub fn fresh_age_ms(&self, now: ClockReading) -> Option<u64> {
        self.fresh_as_of.map(|at| now.monotonic_ms.saturating_sub(at.monotonic_ms))
    }
}

/// The state of a feed.
#[derive(Debug)]
pub struct Status {
    partitions: OnceLock<Vec<Mutex<PartitionStatus>>>,
    last_error: Mutex<Option<String>>,
    propagation: Histogram,
}

impl Default for Status {
    fn default() -> Self {
        let propagation = Histogram::new(PROPAGATION_SECONDS);
        Self { partitions: OnceLock::new(), last_error: Mutex::new(None), propagation }
    }
}

impl Status {
    /// Why the number of partitions is not known yet.
    pub fn last_error(&self) -> Option<String> {
        locked(&self.last_error).clone()
    }

    /// Every partition; empty until their number is known.
    pub fn partitions(&self) -> Vec<PartitionStatus> {
        self.slots().iter().map(|slot| locked(slot).clone()).collect()
    }

    /// One partition; `None` until their number is known.
    pub fn partition(&self, partition: u16) -> Option<PartitionStatus> {
        self.slots().get(usize::from(partition)).map(|slot| locked(slot).clone())
    }

    /// The checkpoint of every partition, if each has one. Must be taken *before* the list is
    /// written: the list may then have more entries than the checkpoints cover, never fewer.
    pub fn checkpoints(&self) -> Option<Vec<Checkpoint>> {
        let slots = self.slots();
        let all: Option<Vec<_>> = slots.iter().map(|slot| locked(slot).checkpoint.clone()).collect();
        all.filter(|all| !all.is_empty())
    }

    pub(super) fn searching(&self, last_error: Option<String>) {
        *locked(&self.last_error) = last_error;
    }

    pub(super) fn begin(&self, partitions: u16) {
        let slots = || (0..partitions).map(|_| Mutex::new(PartitionStatus::new())).collect();
        self.partitions.get_or_init(slots);
        self.searching(None);
    }

    pub(super) fn connected(&self, partition: u16, first: bool) {
        self.change(partition, |status| {
            status.last_error = None;
            status.reconnects += u64::from(!first);
        });
    }

    pub(super) fn failed(&self, partition: u16, last_error: &str) {
        self.change(partition, |status| {
            status.phase = Phase::Disconnected;
            status.last_error = Some(last_error.to_owned());
        });
    }

    pub(super) fn applied(&self, partition: u16, entries: u64) {
        self.change(partition, |status| status.applied += entries);
    }

    pub(super) fn propagated(&self, milliseconds: u64) {
        self.propagation.observe(milliseconds as f64 / 1000.0);
    }

    /// Copies the machine's state. Expensive parts are copied only after a new proof.
    pub(super) fn moved(&self, partition: u16, machine: &Machine, proven: bool) {
        self.change(partition, |status| {
            status.phase = machine.phase();
            status.last = machine.last();
            status.alarm = machine.alarm();
            status.alarms.clear();
            status.alarms.extend(Alarm::ALL.into_iter().filter(|alarm| machine.raised(*alarm)));
            status.counters = machine.counters();
            status.fresh_as_of = machine.fresh_as_of();
            if status.lineage.as_ref() != machine.lineage() {
                status.lineage = machine.lineage().cloned();
            }
            if proven {
                status.checkpoint = machine.checkpoint();
            }
        });
    }

    fn slots(&self) -> &[Mutex<PartitionStatus>] {
        self.partitions.get().map_or(&[], Vec::as_slice)
    }

    fn change(&self, partition: u16, change: impl FnOnce(&mut PartitionStatus)) {
        if let Some(slot) = self.slots().get(usize::from(partition)) {
            change(&mut locked(slot));
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector for Status {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let partitions = self.partitions();
        let now = clock::reading();
        let propagation = encoder.encode_descriptor(
            "sidegate_feed_propagation_seconds",
            "Time from storing an entry (store's clock) to applying it (this host's clock)",
            None,
            MetricType::Histogram,
        )?;
        self.propagation.encode(propagation)?;
        let ages: Vec<_> = partitions.iter().map(|status| status.fresh_age_ms(now)).collect();
        let ages = ages.iter().map(|age| age.map_or(f64::INFINITY, |ms| ms as f64 / 1000.0));
        gauges(
            &mut encoder,
            "sidegate_feed_fresh_age_seconds",
            "Time since the list was last proven complete; infinite if never",
            ages,
        )?;
        let connected = partitions.iter().map(|status| f64::from(u8::from(status.phase != Phase::Disconnected)));
        gauges(&mut encoder, "sidegate_feed_connected", "1 while subscribed to the log", connected)?;
        gauges(
            &mut encoder,
            "sidegate_feed_position_seconds",
            "Store time of the newest entry held",
            partitions.iter().map(|status| status.last.ms as f64 / 1000.0),
        )?;
        let columns: [Column; 10] = [
            ("gaps", "Pushes without their predecessor", |status| status.counters.gaps),
            ("resyncs", "Log reads after a failed proof", |status| status.counters.resyncs),
            ("full_reads", "Resyncs from the start of the log", |status| status.counters.full_reads),
            ("duplicates", "Pushes of entries already held", |status| status.counters.duplicates),
            ("foreign_messages", "Pushes in an unknown format", |status| status.counters.foreign),
            ("forged_messages", "Pushes dropped: not in the log", |status| status.counters.forged),
            ("unreadable_entries", "Entries of an unsupported format", |status| status.counters.unreadable),
            ("probes_lost", "Probes not answered in time", |status| status.counters.probes_lost),
            ("reconnects", "Connections after the first", |status| status.reconnects),
            ("applied_entries", "New entries applied", |status| status.applied),
        ];
        for (name, help, value) in columns {
            let name = format!("sidegate_feed_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for (partition, status) in partitions.iter().enumerate() {
                let labels = [("partition", partition.to_string())];
                ConstCounter::new(value(status)).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut family =
            encoder.encode_descriptor("sidegate_feed_alarm", "1 while this alarm is on", None, MetricType::Gauge)?;
        for (partition, status) in partitions.iter().enumerate() {
            for alarm in Alarm::ALL {
                let labels = [("partition", partition.to_string()), ("alarm", alarm.name().to_owned())];
                let raised = i64::from(status.alarms.contains(&alarm));
                ConstGauge::new(raised).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

type Column = (&'static str, &'static str, fn(&PartitionStatus) -> u64);

fn gauges(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl Iterator<Item = f64>,
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (partition, value) in values.enumerate() {
        let labels = [("partition", partition.to_string())];
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::registry::Registry;
    use sidegate_common::sync::Timing;
    use std::sync::Arc;

    #[test]
    fn every_metric_exists_from_the_start() {
        let status = Arc::new(Status::default());
        status.begin(2);
        status.moved(1, &Machine::new(Timing::default(), 2), true);
        status.propagated(3);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&status)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "sidegate_feed_gaps_total{partition=\"1\"} 0",
            "sidegate_feed_connected{partition=\"0\"} 0",
            "sidegate_feed_alarm{partition=\"1\",alarm=\"isolated\"} 0",
            "sidegate_feed_propagation_seconds_bucket{le=\"0.005\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(status.checkpoints().is_none(), "nothing was proven");
    }
}
