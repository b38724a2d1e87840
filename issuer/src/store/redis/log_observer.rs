//! What this issuer has seen of each partition's log, so that it notices when it is another one, or older than it was.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sidegate_common::log_protocol::Position;
use sidegate_common::sync::Lineage;
use sidegate_common::time::UnixTime;

/// What issuers replay covers at least this much: a log that ends before what was in it this long ago lacks more.
pub(super) const COVERED: Duration = Duration::from_secs(100);
/// A look at a partition's log, of one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogHead {
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

impl LogHead {
    /// Which log it was; none if the data set is lost.
    pub(super) fn lineage(&self) -> Option<Lineage> {
        let epoch = self.epoch.as_deref()?;
        Some(Lineage { epoch: epoch.into(), replication_id: self.replid.as_str().into() })
    }
}

struct Observed {
    head: LogHead,
    at: Instant,
    /// Where the log ended, from at least [`COVERED`] ago until now, and since when; none: for long.
    ends: VecDeque<(Option<Instant>, Position)>,
}

#[derive(Default)]
pub(super) struct LogObserver(Mutex<HashMap<u16, Observed>>);

impl LogObserver {
    /// True if the log ends before what was in it long ago, and does not say so: more is missing than issuers replay. At the
    /// first look this is unknown.
    pub(super) fn is_older(&self, partition: u16, head: &LogHead) -> bool {
        let seen = self.locked();
        let Some(seen) = seen.get(&partition) else { return false };
        let other = seen.head.epoch != head.epoch || seen.head.replid != head.replid;
        let settled = seen.ends.front().filter(|(since, _)| is_old(*since, seen.at));
        let settled = settled.map_or(Position::START, |(_, end)| *end);
        other && head.last < settled && head.since.0 < settled.ms / 1000
    }

    /// Since when this log really has everything, if it is a copy from before a loss: the log that followed the loss said so.
    pub(super) fn lost_before(&self, partition: u16, head: &LogHead) -> Option<UnixTime> {
        let seen = self.locked();
        let since = seen.get(&partition).map(|seen| seen.head.since);
        since.filter(|since| head.since < *since)
    }

    /// Takes a look for what is there, once what it called for has been done.
    pub(super) fn take(&self, partition: u16, head: LogHead, at: Instant) {
        let mut all = self.locked();
        let seen = all.entry(partition).or_insert_with(|| Observed { head: head.clone(), at, ends: VecDeque::new() });
        if seen.head.epoch != head.epoch || seen.head.replid != head.replid {
            seen.ends.clear();
        }
        if seen.ends.back().is_none_or(|(_, end)| *end != head.last) {
            seen.ends.push_back((Some(at), head.last));
        }
        // The front is what was there COVERED ago.
        while seen.ends.get(1).is_some_and(|(since, _)| is_old(*since, at)) {
            seen.ends.pop_front();
        }
        (seen.head, seen.at) = (head, at);
    }

    /// Takes what a journal knows of a log for seen long ago.
    pub(super) fn remember(&self, partition: u16, head: LogHead) {
        let ends = VecDeque::from([(None, head.last)]);
        let seen = Observed { head, at: Instant::now(), ends };
        self.locked().insert(partition, seen);
    }

    /// The last head, and how long ago it was.
    pub(super) fn last(&self, partition: u16) -> Option<(LogHead, Duration)> {
        self.locked().get(&partition).map(|seen| (seen.head.clone(), seen.at.elapsed()))
    }

    /// The store's clock, as near as it is known from the last head.
    pub(super) fn store_now(&self, partition: u16) -> Option<UnixTime> {
        self.locked().get(&partition).map(|seen| seen.head.now.plus(seen.at.elapsed().as_secs() + 1))
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<u16, Observed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_old(since: Option<Instant>, at: Instant) -> bool {
    since.is_none_or(|since| at.saturating_duration_since(since) >= COVERED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(epoch: &str, replid: &str, last_ms: u64) -> LogHead {
        let last = Position { ms: last_ms, sequence: 0 };
        LogHead {
            epoch: Some(epoch.to_owned()),
            last,
            since: UnixTime(1),
            now: UnixTime(last_ms / 1000),
            replid: replid.to_owned(),
        }
    }

    #[test]
    fn a_log_that_lost_more_than_issuers_replay_is_older() {
        let (log_observer, start) = (LogObserver::default(), Instant::now());
        for second in 0..200_u64 {
            log_observer.take(0, head("e", "r", 100_000 + second * 1000), start + Duration::from_secs(second));
        }
        assert!(!log_observer.is_older(0, &head("e", "s", 280_000)), "a suffix of seconds is replayed");
        assert!(log_observer.is_older(0, &head("e", "s", 150_000)));
        let says_so = LogHead { since: UnixTime(299), ..head("f", "s", 0) };
        assert!(!log_observer.is_older(0, &says_so), "a log made anew that says so is honest");
    }

    #[test]
    fn copy_from_before_a_loss_has_everything_since_the_loss_only() {
        let log_observer = LogObserver::default();
        assert_eq!(log_observer.lost_before(0, &head("e", "r", 1000)), None, "at the first look this is unknown");
        log_observer.take(0, LogHead { since: UnixTime(40), ..head("f", "r", 41_000) }, Instant::now());
        assert_eq!(log_observer.lost_before(0, &head("e", "s", 50_000)), Some(UnixTime(40)));
        let later = LogHead { since: UnixTime(45), ..head("g", "s", 0) };
        assert_eq!(log_observer.lost_before(0, &later), None);
    }

    #[test]
    fn an_idle_log_that_lost_its_last_entry_is_not_called_old() {
        let (log_observer, start) = (LogObserver::default(), Instant::now());
        log_observer.take(0, head("e", "r", 1000), start);
        log_observer.take(0, head("e", "r", 900_000), start + Duration::from_secs(900));
        assert!(!log_observer.is_older(0, &head("e", "s", 1000)));
    }
}
