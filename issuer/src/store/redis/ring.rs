//! What this issuer acknowledged lately: replayed when Redis lost its data, or another server took over.
//!
//! Replication is asynchronous: a failover may lose the last acknowledged writes. For as long as the ring remembers them,
//! the issuer that acknowledged them puts them back.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sidegate_common::revocation::{Revocation, Target};
use sidegate_common::time::{REVOCATION_MARGIN_SECONDS, UnixTime};

use crate::domain::session::Terms;

/// How long an acknowledged entry is remembered.
const REMEMBERED: Duration = Duration::from_secs(120);
/// The most entries remembered: beyond it the oldest go first.
const ENTRIES_MAX: usize = 500_000;

#[derive(Default)]
pub(super) struct Ring {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: VecDeque<(Instant, u16, Vec<u8>)>,
    seen: HashMap<u16, (String, String)>,
}

impl Ring {
    /// Remembers an entry that the log has taken.
    pub(super) fn acknowledged(&self, partition: u16, target: Target, terms: &Terms) {
        // A replayed entry may live longer than the first one did, never shorter.
        let longest = sidegate_runtime::clock::unix_now().plus(terms.lifetime_max + REVOCATION_MARGIN_SECONDS);
        let threshold = match &target {
            Target::Subject { threshold, .. } | Target::All { threshold } => *threshold,
            _ => UnixTime(0),
        };
        let expires_at = longest.max(threshold.plus(terms.lifetime_max + REVOCATION_MARGIN_SECONDS));
        let entry = Revocation { target, expires_at }.to_bytes();
        let now = Instant::now();
        let mut state = self.locked();
        state.entries.push_back((now, partition, entry));
        while state.entries.len() > ENTRIES_MAX
            || state.entries.front().is_some_and(|(at, ..)| now.duration_since(*at) > REMEMBERED)
        {
            state.entries.pop_front();
        }
    }

    /// The entries of a partition that are remembered.
    pub(super) fn lately(&self, partition: u16) -> Vec<Vec<u8>> {
        let now = Instant::now();
        let state = self.locked();
        let recent =
            state.entries.iter().filter(|(at, of, _)| *of == partition && now.duration_since(*at) <= REMEMBERED);
        recent.map(|(_, _, entry)| entry.clone()).collect()
    }

    /// Notes which data set and server a partition has; true if either is another than before.
    pub(super) fn remember(&self, partition: u16, epoch: &str, replid: &str) -> bool {
        let now = (epoch.to_owned(), replid.to_owned());
        let before = self.locked().seen.insert(partition, now.clone());
        before.is_some_and(|before| before != now)
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_by_partition_and_notices_change() {
        let terms = Terms { access_ttl: 1, idle_ttl: 1, absolute_ttl: 1, retry_window: 0, lifetime_max: 60 };
        let ring = Ring::default();
        ring.acknowledged(1, Target::Key { kid: "k".into() }, &terms);
        assert_eq!(ring.lately(0).len(), 0);
        assert_eq!(ring.lately(1).len(), 1);
        assert!(!ring.remember(0, "e", "r"), "the first sight is no change");
        assert!(!ring.remember(0, "e", "r"));
        assert!(ring.remember(0, "e", "s"));
        assert!(ring.remember(0, "f", "s"));
    }
}
