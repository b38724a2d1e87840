//! The list of revocations that the issuer's own protected routes judge by: kept by the same follower as a verifier's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sidegate_common::index::Applied;
use sidegate_common::revocation::Revocation;
use sidegate_common::sync::Push;
use sidegate_common::time::{Instants, TimeFloor, UnixTime};
use sidegate_common::verdict::Judge;
use sidegate_runtime::clock::instants;
use sidegate_runtime::feed::driver::{Pace, follow};
use sidegate_runtime::feed::redis::RedisSource;
use sidegate_runtime::feed::status::Status;
use sidegate_runtime::feed::{Sink, Source};
use tokio::sync::watch;

use super::local::LocalSource;

/// How often entries are dropped whose tokens have all expired.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);

/// How long a log is waited for in which issuers still put back what a failover took away: as a verifier's `REPLAY_WAIT`.
const REPLAY_WAIT: Duration = Duration::from_secs(5);

/// Where the issuer follows its log.
pub enum OwnSource {
    /// In this process.
    Local(LocalSource),
    /// In Redis.
    Redis(Box<RedisSource>),
}

/// Hears of each revocation that was not known before.
pub type Heard = Box<dyn Fn(u16, &Revocation) + Send + Sync>;

/// The list, and who else hears of what the feed brings.
pub struct OwnList {
    /// Who judges by it.
    pub judge: Arc<Judge>,
    /// Called before anything is called proven.
    pub heard: Heard,
    /// The time that tokens are judged by.
    pub floor: Arc<Mutex<TimeFloor>>,
}

impl Sink for OwnList {
    fn apply(&self, partition: u16, revocation: &Revocation) -> bool {
        let new = self.judge.index().apply(partition, revocation) == Applied::New;
        if new {
            (self.heard)(partition, revocation);
        }
        new
    }

    fn since(&self, partition: u16, moment: UnixTime) {
        self.judge.index().raise_since(partition, moment);
    }

    fn push(&self, partition: u16, push: &Push) -> bool {
        let new = self.judge.index().apply_unconfirmed(partition, push) == Applied::New;
        if new {
            (self.heard)(partition, &push.1);
        }
        new
    }

    fn confirm(&self, partition: u16, pushes: &[Push]) {
        self.judge.index().confirm(partition, pushes);
    }

    fn keep(&self, partition: u16, pushes: &[Push]) {
        self.judge.index().keep(partition, pushes);
    }

    fn drop_pushes(&self, partition: u16, pushes: &[Push]) {
        self.judge.index().drop_unconfirmed(partition, pushes);
    }

    fn time(&self, store: UnixTime, now: Instants) -> u64 {
        let mut floor = self.floor.lock().unwrap_or_else(PoisonError::into_inner);
        if floor.would_lower(store, now) {
            self.judge.freshness().forget();
        }
        floor.confirm(store, now)
    }

    fn fresh(&self, partition: u16, as_of: Instants, lowered: u64) {
        let floor = self.floor.lock().unwrap_or_else(PoisonError::into_inner);
        if floor.lowered() == lowered {
            self.judge.freshness().proven(partition, as_of.monotonic_ms);
        }
    }
}

/// Keeps the list until `stop`, and says in `status` how that goes.
pub async fn keep(
    source: OwnSource,
    list: OwnList,
    probe_interval: Duration,
    status: Arc<Status>,
    stop: watch::Receiver<bool>,
) {
    let (expiring, floor) = (Arc::clone(&list.judge), Arc::clone(&list.floor));
    let expire = async move {
        loop {
            tokio::time::sleep(EXPIRE_EVERY).await;
            // Under the lock: what is dropped is dropped by a time that does not go back meanwhile.
            let mut floor = floor.lock().unwrap_or_else(PoisonError::into_inner);
            expiring.index().expire(floor.advance(instants()));
        }
    };
    let following = async {
        match source {
            OwnSource::Local(source) => keep_from(source, list, probe_interval, status, stop).await,
            OwnSource::Redis(source) => keep_from(*source, list, probe_interval, status, stop).await,
        }
    };
    tokio::select! {
        () = expire => {}
        () = following => {}
    }
}

async fn keep_from<S: Source>(
    source: S,
    list: OwnList,
    probe_interval: Duration,
    status: Arc<Status>,
    stop: watch::Receiver<bool>,
) {
    let partitions = list.judge.index().partitions();
    let staleness_max = Duration::from_millis(list.judge.staleness().max_ms);
    let pace = Pace::every(probe_interval).waiting_for_replay(REPLAY_WAIT, staleness_max);
    follow(Arc::new(source), partitions, Vec::new(), Arc::new(list), pace, status, stop).await;
}
