//! What this issuer has seen of each partition's log, so that it notices when it is another one, or older than it was.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sidegate_common::sync::Lineage;
use sidegate_common::time::UnixTime;
use sidegate_common::wire::Position;

/// What issuers replay covers at least this much: a log that ends before what was in it this long ago lacks more.
pub(super) const COVERED: Duration = Duration::from_secs(100);
/// A look at a partition's log, of one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// The data set; none if it is lost.
    pub(super) epoch: Option<String>,
    /// The newest entry in the log.
    pub(super) last: Position,
    /// Since when the log has everything.
    pub(super) since: UnixTime,
    /// The server's clock.
    pub(super) now: UnixTime,
    /// The server's history of writes.
    pub(super) replid: String,
}

impl Look {
    /// Which log it was; none if the data set is lost.
    pub(super) fn lineage(&self) -> Option<Lineage> {
        let epoch = self.epoch.as_deref()?;
        Some(Lineage { epoch: epoch.into(), history: self.replid.as_str().into() })
    }
}

struct Seen {
    look: Look,
    at: Instant,
    /// Where the log ended, from at least [`COVERED`] ago until now, and since when; none: for long.
    ends: VecDeque<(Option<Instant>, Position)>,
}

#[derive(Default)]
pub(super) struct Sightings(Mutex<HashMap<u16, Seen>>);

impl Sightings {
    /// True if the log ends before what was in it long ago, and does not say so: more is missing than issuers replay. At the
    /// first look it cannot be told.
    pub(super) fn is_older(&self, partition: u16, look: &Look) -> bool {
        let seen = self.locked();
        let Some(seen) = seen.get(&partition) else { return false };
        let other = seen.look.epoch != look.epoch || seen.look.replid != look.replid;
        let settled = seen.ends.front().filter(|(since, _)| is_old(*since, seen.at));
        let settled = settled.map_or(Position::START, |(_, end)| *end);
        other && look.last < settled && look.since.0 < settled.ms / 1000
    }

    /// Takes a look for what is there, once what it called for has been done.
    pub(super) fn take(&self, partition: u16, look: Look, at: Instant) {
        let mut all = self.locked();
        let seen = all.entry(partition).or_insert_with(|| Seen { look: look.clone(), at, ends: VecDeque::new() });
        if seen.look.epoch != look.epoch || seen.look.replid != look.replid {
            seen.ends.clear();
        }
        if seen.ends.back().is_none_or(|(_, end)| *end != look.last) {
            seen.ends.push_back((Some(at), look.last));
        }
        // The front is what was there COVERED ago.
        while seen.ends.get(1).is_some_and(|(since, _)| is_old(*since, at)) {
            seen.ends.pop_front();
        }
        (seen.look, seen.at) = (look, at);
    }

    /// Takes what a journal knows of a log for seen long ago.
    pub(super) fn remember(&self, partition: u16, look: Look) {
        let ends = VecDeque::from([(None, look.last)]);
        let seen = Seen { look, at: Instant::now(), ends };
        self.locked().insert(partition, seen);
    }

    /// The last look, and how long ago it was.
    pub(super) fn last(&self, partition: u16) -> Option<(Look, Duration)> {
        self.locked().get(&partition).map(|seen| (seen.look.clone(), seen.at.elapsed()))
    }

    /// The store's clock, as near as it is known from the last look.
    pub(super) fn store_now(&self, partition: u16) -> Option<UnixTime> {
        self.locked().get(&partition).map(|seen| seen.look.now.plus(seen.at.elapsed().as_secs() + 1))
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<u16, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_old(since: Option<Instant>, at: Instant) -> bool {
    since.is_none_or(|since| at.saturating_duration_since(since) >= COVERED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(epoch: &str, replid: &str, last_ms: u64) -> Look {
        let last = Position { ms: last_ms, sequence: 0 };
        Look {
            epoch: Some(epoch.to_owned()),
            last,
            since: UnixTime(1),
            now: UnixTime(last_ms / 1000),
            replid: replid.to_owned(),
        }
    }

    #[test]
    fn a_log_that_lost_more_than_issuers_replay_is_older() {
        let (sightings, start) = (Sightings::default(), Instant::now());
        for second in 0..200_u64 {
            sightings.take(0, look("e", "r", 100_000 + second * 1000), start + Duration::from_secs(second));
        }
        assert!(!sightings.is_older(0, &look("e", "s", 280_000)), "a suffix of seconds is replayed");
        assert!(sightings.is_older(0, &look("e", "s", 150_000)));
        let says_so = Look { since: UnixTime(299), ..look("f", "s", 0) };
        assert!(!sightings.is_older(0, &says_so), "a log made anew that says so is honest");
    }

    #[test]
    fn an_idle_log_that_lost_its_last_entry_is_not_called_old() {
        let (sightings, start) = (Sightings::default(), Instant::now());
        sightings.take(0, look("e", "r", 1000), start);
        sightings.take(0, look("e", "r", 900_000), start + Duration::from_secs(900));
        assert!(!sightings.is_older(0, &look("e", "s", 1000)));
    }
}
