//! The list of revocations that the issuer's own protected routes judge by: kept by the same follower as a verifier's.

use std::sync::Arc;
use std::time::Duration;

use sidegate_common::index::Applied;
use sidegate_common::revocation::Revocation;
use sidegate_common::time::{Instants, UnixTime};
use sidegate_common::verdict::Judge;
use sidegate_runtime::clock::unix_now;
use sidegate_runtime::feed::driver::{Pace, follow};
use sidegate_runtime::feed::redis::RedisSource;
use sidegate_runtime::feed::status::Status;
use sidegate_runtime::feed::{Sink, Source};
use tokio::sync::watch;

use super::local::LocalSource;

/// How often entries are dropped whose tokens have all expired.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);

/// Where the issuer follows its log.
pub enum OwnSource {
    /// In this process.
    Local(LocalSource),
    /// In Redis.
    Redis(Box<RedisSource>),
}

struct JudgeSink(Arc<Judge>);

impl Sink for JudgeSink {
    fn apply(&self, partition: u16, revocation: &Revocation) -> bool {
        self.0.index().apply(partition, revocation) == Applied::New
    }

    fn since(&self, partition: u16, moment: UnixTime) {
        self.0.index().raise_since(partition, moment);
    }

    fn fresh(&self, partition: u16, as_of: Instants) {
        self.0.freshness().proven(partition, as_of.monotonic_ms);
    }
}

/// Keeps the judge's list until `stop`.
pub async fn keep(source: OwnSource, judge: Arc<Judge>, probe_interval: Duration, stop: watch::Receiver<bool>) {
    let expiring = Arc::clone(&judge);
    let expire = async move {
        loop {
            tokio::time::sleep(EXPIRE_EVERY).await;
            expiring.index().expire(unix_now());
        }
    };
    let following = async {
        match source {
            OwnSource::Local(source) => keep_from(source, judge, probe_interval, stop).await,
            OwnSource::Redis(source) => keep_from(*source, judge, probe_interval, stop).await,
        }
    };
    tokio::select! {
        () = expire => {}
        () = following => {}
    }
}

async fn keep_from<S: Source>(source: S, judge: Arc<Judge>, probe_interval: Duration, stop: watch::Receiver<bool>) {
    let partitions = judge.index().partitions();
    let (pace, status) = (Pace::every(probe_interval), Arc::new(Status::default()));
    follow(Arc::new(source), partitions, Vec::new(), Arc::new(JudgeSink(judge)), pace, status, stop).await;
}
