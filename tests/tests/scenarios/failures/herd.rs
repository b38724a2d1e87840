//! A small F20 on a real Redis: many followers reconnect at once. (Their spread over time is tested
//! in virtual time, in common/runtime/src/feed/backoff.rs; ten million entries are a benchmark
//! row.)

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sidegate_common::log_protocol::RedisKeys;
use sidegate_common::revocation::Revocation;
use sidegate_common::sync::{Push, Sink};
use sidegate_common::time::{ClockReading, UnixTime};
use sidegate_runtime::clock::monotonic_ms;
use sidegate_runtime::feed::driver::{self, Intervals};
use sidegate_runtime::feed::redis::RedisSource;
use sidegate_runtime::feed::status::Status;
use sidegate_tests::fault_proxy::FaultProxy;
use sidegate_tests::redis::Redis;
use sidegate_tests::wait::eventually;
use tokio::sync::watch;

use super::desk::{AOF, issuer, revocation, revoke, say, through};

const FOLLOWERS: usize = 50;
const ENTRIES: u64 = 5_000;

#[derive(Default)]
struct Count {
    applied: AtomicU64,
    fresh_ms: AtomicU64,
}

impl Sink for Count {
    fn apply(&self, _: u16, _: &Revocation) -> bool {
        self.applied.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn push(&self, partition: u16, push: &Push) -> bool {
        self.apply(partition, &push.1)
    }

    fn confirm(&self, _: u16, _: &[Push]) {}

    fn keep(&self, _: u16, _: &[Push]) {}

    fn drop_pushes(&self, _: u16, _: &[Push]) {}

    fn since(&self, _: u16, _: UnixTime) {}

    fn time(&self, _: UnixTime, _: ClockReading) -> u64 {
        0
    }

    fn fresh(&self, _: u16, as_of: ClockReading, _: u64) {
        self.fresh_ms.store(as_of.monotonic_ms, Ordering::Release);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_reconnecting_followers_read_only_the_rest() {
    let redis = Redis::with(AOF).await;
    let fault_proxy = FaultProxy::to(redis.port()).await;
    let store = issuer(&redis.url()).await;
    let fill = "for n = 1, tonumber(ARGV[2]) do redis.call('XADD', KEYS[2], '*', 'r', ARGV[1]) end \
                local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1) \
                redis.call('HSET', KEYS[1], 'last', last[1][1])";
    let keys = RedisKeys::new("sidegate", 0);
    let mut command = redis::cmd("EVAL");
    command.arg(fill).arg(2).arg(keys.meta()).arg(keys.log()).arg(revocation("old").to_bytes()).arg(ENTRIES);
    command.exec_async(&mut redis.connection().await).await.expect("filled");

    let (_stop, stopped) = watch::channel(false);
    let followers: Vec<(Arc<Count>, Arc<Status>)> = (0..FOLLOWERS).map(|_| Default::default()).collect();
    for (count, status) in &followers {
        let source = Arc::new(RedisSource::new(&through(&fault_proxy), "sidegate").expect("a URL"));
        let pace = Intervals::every(Duration::from_millis(250));
        tokio::spawn(driver::follow(
            source,
            1,
            Vec::new(),
            Arc::clone(count),
            pace,
            Arc::clone(status),
            stopped.clone(),
        ));
    }
    let all_fresh = async |since: u64| {
        eventually("all followers to be fresh", || async {
            followers.iter().all(|(count, _)| count.fresh_ms.load(Ordering::Acquire) > since).then_some(())
        })
        .await;
    };
    all_fresh(0).await;
    let applied = |follower: &(Arc<Count>, Arc<Status>)| follower.0.applied.load(Ordering::Relaxed);
    // On a busy machine a follower's first read may have been aborted and restarted.
    assert!(followers.iter().all(|follower| applied(follower) >= ENTRIES));
    let full_reads = |follower: &(Arc<Count>, Arc<Status>)| follower.1.partitions()[0].counters.full_reads;
    let before: Vec<_> = followers.iter().map(|follower| (applied(follower), full_reads(follower))).collect();

    say(&mut redis.connection().await, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    revoke(&store, "meanwhile").await;
    all_fresh(monotonic_ms()).await;
    for (follower, (applied_before, full_reads_before)) in followers.iter().zip(before) {
        assert_eq!(full_reads(follower), full_reads_before, "a delta was enough");
        let reconnects = follower.1.partitions()[0].reconnects;
        let read = applied(follower) - applied_before;
        // Each reconnect reads the last known entry once more, to check that the log still contains
        // it.
        assert!(reconnects >= 1 && (1..=1 + 2 * reconnects).contains(&read), "{read} after {reconnects} reconnects");
    }
}
