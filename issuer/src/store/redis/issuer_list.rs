//! The list of issuers: this one's name, and which of the others have stopped without taking themselves off it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most that counts as time passed between two heartbeats: an issuer that was itself suspended has seen nothing of
/// the others meanwhile.
const STEP_MAX: Duration = Duration::from_secs(3);

/// A name in the list, and its row.
pub(super) type Row = (String, String);

/// What is known of the list.
pub(super) struct IssuerList {
    /// This issuer's name: one process, one name.
    name: String,
    beats: AtomicU64,
    observed: Mutex<HashMap<u16, Observed>>,
}

#[derive(Default)]
struct Observed {
    at: Option<Instant>,
    rows: HashMap<String, Unmoved>,
}

/// Another issuer's row, and for how long it has not moved.
struct Unmoved {
    row: String,
    lasts: Duration,
}

impl IssuerList {
    pub(super) fn new(name: String) -> Self {
        Self { name, beats: AtomicU64::new(0), observed: Mutex::default() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The number of the next heartbeat.
    pub(super) fn next_beat(&self) -> u64 {
        self.beats.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes the list as a heartbeat saw it at `at`. Another log starts the watch over the others again.
    pub(super) fn observe(&self, partition: u16, rows: Vec<Row>, other_log: bool, at: Instant) {
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let observed = observed.entry(partition).or_default();
        let step = observed.at.map_or(Duration::ZERO, |before| at.saturating_duration_since(before).min(STEP_MAX));
        observed.at = Some(at);
        let mut before = std::mem::take(&mut observed.rows);
        for (name, row) in rows {
            if name == self.name {
                continue;
            }
            let same = before.remove(&name).filter(|unmoved| !other_log && unmoved.row == row);
            let lasts = same.map_or(Duration::ZERO, |unmoved| unmoved.lasts + step);
            observed.rows.insert(name, Unmoved { row, lasts });
        }
    }

    /// The rows that have not moved for `limit`: those issuers are gone.
    pub(super) fn stopped(&self, partition: u16, limit: Duration) -> Vec<Row> {
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = observed.get(&partition).into_iter().flat_map(|observed| &observed.rows);
        rows.filter(|(_, unmoved)| unmoved.lasts >= limit)
            .map(|(name, unmoved)| (name.clone(), unmoved.row.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn row(name: &str, row: &str) -> Row {
        (name.to_owned(), row.to_owned())
    }

    #[test]
    fn only_a_row_that_has_not_moved_for_a_minute_of_heartbeats_is_gone() {
        let (list, start) = (IssuerList::new("me".into()), Instant::now());
        for second in 0..=60 {
            assert_eq!(list.stopped(0, LIMIT), []);
            let alive = row("alive", &format!("r {second}"));
            let at = start + Duration::from_secs(second);
            list.observe(0, vec![row("me", "r 1"), row("gone", "r 7"), alive], false, at);
        }
        assert_eq!(list.stopped(0, LIMIT), [row("gone", "r 7")]);
        assert_eq!(list.stopped(1, LIMIT), [], "in another partition");
    }

    #[test]
    fn neither_a_suspension_of_its_own_nor_another_log_counts() {
        let (list, start) = (IssuerList::new("me".into()), Instant::now());
        list.observe(0, vec![row("other", "r 7")], false, start);
        list.observe(0, vec![row("other", "r 7")], false, start + Duration::from_secs(600));
        assert_eq!(list.stopped(0, LIMIT), [], "it was this issuer that stood still");
        assert_eq!(list.stopped(0, STEP_MAX).len(), 1);
        list.observe(0, vec![row("other", "r 7")], true, start + Duration::from_secs(601));
        assert_eq!(list.stopped(0, STEP_MAX), [], "a failover may have taken its beats away");
    }
}
