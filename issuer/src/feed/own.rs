//! Follows the log in the issuer itself: its protected routes apply the same revocations as a
//! verifier.

use std::sync::Arc;
use std::time::Duration;

use sidegate_common::revocation_state::RevocationState;
use sidegate_runtime::clock::{monotonic_ms, reading};
use sidegate_runtime::feed::Source;
use sidegate_runtime::feed::driver::{Intervals, follow};
use sidegate_runtime::feed::redis::RedisSource;
use sidegate_runtime::feed::status::Status;
use tokio::sync::watch;

use super::local::LocalSource;

/// How often entries are dropped whose tokens have all expired.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);

/// How long to wait, after a failover, for issuers to replay what the log lost: as a verifier's
/// `REPLAY_WAIT`.
const REPLAY_WAIT: Duration = Duration::from_secs(5);

/// The source of the issuer's log.
pub enum OwnSource {
    /// In this process.
    Local(LocalSource),
    /// In Redis.
    Redis(Box<RedisSource>),
}

/// Keeps `state` current until `stop`, and reports in `status`.
pub async fn keep(
    source: OwnSource,
    state: Arc<RevocationState>,
    probe_interval: Duration,
    status: Arc<Status>,
    stop: watch::Receiver<bool>,
) {
    let expiring = Arc::clone(&state);
    let expire = async move {
        loop {
            tokio::time::sleep(EXPIRE_EVERY).await;
            let clock = expiring.clock();
            clock.sweep(|| drop(expiring.index().expire(clock.check_time(monotonic_ms(), reading).now)));
        }
    };
    let following = async {
        match source {
            OwnSource::Local(source) => keep_from(source, state, probe_interval, status, stop).await,
            OwnSource::Redis(source) => keep_from(*source, state, probe_interval, status, stop).await,
        }
    };
    tokio::select! {
        () = expire => {}
        () = following => {}
    }
}

async fn keep_from<S: Source>(
    source: S,
    state: Arc<RevocationState>,
    probe_interval: Duration,
    status: Arc<Status>,
    stop: watch::Receiver<bool>,
) {
    let partitions = state.index().partitions();
    let staleness_max = Duration::from_millis(state.staleness().max_ms);
    let pace = Intervals::every(probe_interval).waiting_for_replay(REPLAY_WAIT, staleness_max);
    follow(Arc::new(source), partitions, Vec::new(), state, pace, status, stop).await;
}
