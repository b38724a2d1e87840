//! Runs one conformance suite on both session stores: real Redis, and SQLite.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::conformance::{Bench, LIFETIMES};
use crate::support::Scratch;
use crate::support::redis::{PREFIX, RedisServer};
use sidegate_common::log_protocol::{Message, Position, RedisKeys};
use sidegate_common::revocation::{Revocation, SubjectTag};
use sidegate_common::time::UnixTime;
use sidegate_issuer::domain::session::NewSession;
use sidegate_issuer::domain::traits::Store as _;
use sidegate_issuer::store::redis::{OpenError, ReconcilerIntervals, RedisRequirements, RedisStore, StoreLink};
use sidegate_issuer::store::sqlite::{self, EmbeddedStore};

struct SqliteBench {
    store: EmbeddedStore,
    ahead_ms: Arc<AtomicU64>,
    folder: Scratch,
}

fn url(folder: &Scratch) -> String {
    format!("sqlite://{}", folder.file("sessions.db").display())
}

impl SqliteBench {
    async fn start() -> Self {
        Self::limited(1000).await
    }

    async fn limited(sessions_max: u32) -> Self {
        let folder = Scratch::new("store");
        let ahead_ms = Arc::new(AtomicU64::new(0));
        let offset = Arc::clone(&ahead_ms);
        let clock = Arc::new(move || sidegate_runtime::clock::wall_ms() + offset.load(Ordering::Relaxed));
        let store = EmbeddedStore::open_limited(&url(&folder), LIFETIMES, sessions_max, clock).await.unwrap();
        Self { store, ahead_ms, folder }
    }
}

impl SqliteBench {
    /// A second connection to the same file.
    async fn other(&self) -> sqlx::SqlitePool {
        sqlx::SqlitePool::connect(&url(&self.folder)).await.unwrap()
    }
}

impl Bench for SqliteBench {
    type Store = EmbeddedStore;

    fn store(&self) -> &EmbeddedStore {
        &self.store
    }

    async fn elapse(&self, seconds: u64) {
        self.ahead_ms.fetch_add(seconds * 1000, Ordering::Relaxed);
    }

    async fn put_back_watermark(&self, sub: &str, threshold: UnixTime) {
        let far = threshold.plus(100_000).0;
        let (sub, dead, kept) = (sub.to_owned(), threshold.0 as i64, far as i64);
        let insert = sqlx::query("INSERT OR REPLACE INTO watermark VALUES (?, ?, ?)").bind(sub).bind(dead).bind(kept);
        insert.execute(&self.other().await).await.unwrap();
    }

    async fn downgrade_record(&self, session: &NewSession) {
        let update = "UPDATE session SET created = 1000 WHERE sid = ?";
        let update = sqlx::query(update).bind(session.sid.to_string());
        assert_eq!(update.execute(&self.other().await).await.unwrap().rows_affected(), 1);
    }

    async fn age(&self, session: &NewSession, seconds: u64) {
        let update = "UPDATE session SET idle_ends = idle_ends - ?1, kept_until = kept_until - ?1 WHERE sid = ?2";
        let update = sqlx::query(update).bind(seconds as i64).bind(session.sid.to_string());
        assert_eq!(update.execute(&self.other().await).await.unwrap().rows_affected(), 1);
    }

    async fn log(&self, _partition: u16) -> Vec<(Position, Revocation)> {
        let (entries, complete) = self.store.feed().page(Position::START, 1000).await.unwrap();
        assert!(complete);
        entries.into_iter().map(|one| (one.position, Revocation::from_bytes(&one.entry).unwrap())).collect()
    }
}

struct RedisBench {
    store: RedisStore,
    server: RedisServer,
}

const STRICT: RedisRequirements = RedisRequirements { persistence: true, noeviction: true, waitaof: false };
const LENIENT: RedisRequirements = RedisRequirements { persistence: false, noeviction: false, waitaof: false };

impl RedisBench {
    async fn start(partitions: u16) -> Self {
        Self::limited(partitions, 1000).await
    }

    async fn limited(partitions: u16, sessions_max: u32) -> Self {
        let server = RedisServer::start(&[]).await;
        let store = redis_store(&server, partitions).limiting(sessions_max);
        store.initialise().await.unwrap();
        Self { store, server }
    }

    fn keys(&self, sub: &str) -> RedisKeys {
        RedisKeys::new(PREFIX, SubjectTag::of(sub).partition(self.store.partitions()))
    }

    async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.server.command(words).await
    }
}

fn redis_store(server: &RedisServer, partitions: u16) -> RedisStore {
    let pace = ReconcilerIntervals { gathering: Duration::ZERO, ..ReconcilerIntervals::default() };
    RedisStore::new(StoreLink::new(&server.url()).unwrap(), PREFIX, partitions, LIFETIMES).pacing(pace)
}

impl Bench for RedisBench {
    type Store = RedisStore;

    fn store(&self) -> &RedisStore {
        &self.store
    }

    /// Redis' clock cannot be moved, so all stored times are made older.
    async fn elapse(&self, seconds: u64) {
        let back = format!("-{seconds}");
        let keys: Vec<String> = self.command(&["KEYS", "*"]).await;
        for key in keys {
            if key.contains(":session:") {
                for field in ["created", "refreshed", "rotated", "issued", "exp_max", "idle", "ends"] {
                    let _: i64 = self.command(&["HINCRBY", &key, field, &back]).await;
                }
            } else if key.contains(":watermark:") {
                let _: i64 = self.command(&["DECRBY", &key, &seconds.to_string()]).await;
            } else if key.ends_with(":meta") {
                for field in ["all", "peak"] {
                    let set: u64 = self.command(&["HGET", &key, field]).await;
                    if set > 0 {
                        let _: i64 = self.command(&["HINCRBY", &key, field, &back]).await;
                    }
                }
            }
        }
    }

    async fn put_back_watermark(&self, sub: &str, threshold: UnixTime) {
        let () = self.command(&["SET", &self.keys(sub).watermark(sub), &threshold.0.to_string()]).await;
    }

    async fn downgrade_record(&self, session: &NewSession) {
        let key = self.keys(&session.sub).session(&session.sid.to_string());
        let _: i64 = self.command(&["HSET", &key, "created", "1000"]).await;
    }

    async fn age(&self, session: &NewSession, seconds: u64) {
        let (keys, sid, back) = (self.keys(&session.sub), session.sid.to_string(), format!("-{seconds}"));
        let _: i64 = self.command(&["HINCRBY", &keys.session(&sid), "idle", &back]).await;
        let _: f64 = self.command(&["ZINCRBY", &keys.user(&session.sub), &back, &sid]).await;
    }

    async fn log(&self, partition: u16) -> Vec<(Position, Revocation)> {
        self.server.log(partition).await
    }
}

macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                crate::conformance::$name(&super::SqliteBench::start().await).await;
            })*
        }
        mod redis_of_one_partition {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                crate::conformance::$name(&super::RedisBench::start(1).await).await;
            })*
        }
        mod redis_of_four_partitions {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                crate::conformance::$name(&super::RedisBench::start(4).await).await;
            })*
        }
    };
}

suite!(
    a_session_is_stored_as_created,
    a_refresh_token_is_traded_once_and_may_be_retried,
    an_old_refresh_token_kills_the_session,
    the_retry_window_does_not_slide,
    a_generation_ahead_of_the_store_is_authentic,
    many_refreshes_of_one_token_have_one_child,
    ending_appends_and_may_be_repeated,
    ending_covers_the_last_token_of_the_session,
    a_user_can_be_logged_out_everywhere,
    every_revocation_within_one_second_counts,
    repeated_revocations_do_not_run_ahead_of_the_clock,
    all_users_can_be_logged_out,
    sessions_end_by_idling_and_by_age,
    entries_are_appended_in_order,
    expired_entries_are_not_appended,
    a_refresh_does_not_make_a_session_younger,
    sessions_can_be_kept,
    a_refresh_token_is_examined_without_being_traded,
    sessions_come_in_pages,
    a_threshold_far_ahead_of_the_clock_is_refused,
);

mod at_most_five_sessions {
    use super::{RedisBench, SqliteBench};

    #[tokio::test(flavor = "multi_thread")]
    async fn in_the_embedded_store() {
        let bench = SqliteBench::limited(5).await;
        crate::conformance::login_over_the_limit_ends_the_first_session_to_expire(&bench).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn in_redis() {
        let bench = RedisBench::limited(1, 5).await;
        crate::conformance::login_over_the_limit_ends_the_first_session_to_expire(&bench).await;
    }
}

#[tokio::test]
async fn the_embedded_store_serves_one_process() {
    let bench = SqliteBench::start().await;
    let again = EmbeddedStore::open(&url(&bench.folder), LIFETIMES, Arc::new(|| 0)).await;
    assert!(matches!(again, Err(sqlite::OpenError::InUse(..))));
}

#[tokio::test]
async fn the_embedded_store_refuses_a_file_that_is_not_its_own() {
    let folder = Scratch::new("foreign");
    let pool = sqlx::SqlitePool::connect(&format!("{}?mode=rwc", url(&folder))).await.unwrap();
    sqlx::raw_sql("CREATE TABLE users (id INTEGER)").execute(&pool).await.unwrap();
    pool.close().await;
    let opened = EmbeddedStore::open(&url(&folder), LIFETIMES, Arc::new(|| 0)).await;
    assert!(matches!(opened, Err(sqlite::OpenError::Foreign(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_keeps_everything_over_a_restart() {
    let bench = SqliteBench::start().await;
    let new = crate::conformance::new_session("1");
    bench.store.create(&new).await.unwrap();
    bench.store.revoke_subject("2").await.unwrap();
    let head = bench.store.feed().head();
    let SqliteBench { store, folder, .. } = bench;
    drop(store);
    let clock: sqlite::ClockMs = Arc::new(sidegate_runtime::clock::wall_ms);
    let mut reopened = None;
    crate::support::eventually("the store is closed", async || {
        reopened = EmbeddedStore::open(&url(&folder), LIFETIMES, Arc::clone(&clock)).await.ok();
        reopened.is_some()
    })
    .await;
    let reopened = reopened.unwrap();
    assert_eq!(reopened.feed().head(), head);
    assert!(reopened.read(0, &new.sid).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_store_pushes_entries_in_order_before_the_head() {
    let bench = SqliteBench::start().await;
    let feed = bench.store.feed();
    let mut pushes = feed.follow();
    let writers: Vec<_> = (0..50)
        .map(|user| {
            let store = bench.store.clone();
            tokio::spawn(async move { store.revoke_subject(&format!("user-{user}")).await.unwrap() })
        })
        .collect();
    let mut last = Position::START;
    while last == Position::START || last < feed.head().last || writers.iter().any(|task| !task.is_finished()) {
        let head = feed.head();
        while let Ok(pushed) = pushes.try_recv() {
            assert_eq!(pushed.previous, last);
            assert!(pushed.entry.position > last);
            last = pushed.entry.position;
        }
        assert!(last >= head.last, "the head was read first, so what it names was pushed");
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.log(0).await.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_pushes_each_entry_with_its_predecessor() {
    let bench = RedisBench::start(1).await;
    let client = redis::Client::open(format!("{}?protocol=resp3", bench.server.url())).unwrap();
    let (sender, mut pushes) = tokio::sync::mpsc::unbounded_channel();
    let config = redis::AsyncConnectionConfig::new().set_push_sender(sender);
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    let channel = RedisKeys::new(PREFIX, 0).channel();
    let () = redis::cmd("SSUBSCRIBE").arg(channel).query_async(&mut connection).await.unwrap();
    for user in ["1", "2", "3"] {
        bench.store.revoke_subject(user).await.unwrap();
    }
    let mut previous = Position::START;
    for (position, revocation) in bench.log(0).await {
        let message = loop {
            let push = pushes.recv().await.unwrap();
            if push.kind == redis::PushKind::SMessage {
                let bytes: Vec<u8> = redis::FromRedisValue::from_redis_value(push.data[1].clone()).unwrap();
                break Message::parse(&bytes).unwrap();
            }
        };
        assert_eq!((message.previous, message.position), (previous, position));
        assert_eq!(message.revocation, Ok(revocation));
        previous = position;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn emptied_redis_gets_a_new_epoch_and_replayed_entries() {
    let bench = RedisBench::start(1).await;
    let meta = RedisKeys::new(PREFIX, 0).meta();
    bench.store.revoke_subject("1").await.unwrap();
    let epoch: String = bench.command(&["HGET", &meta, "epoch"]).await;
    let () = bench.command(&["FLUSHALL"]).await;
    bench.store.revoke_subject("2").await.unwrap();
    let new_epoch: String = bench.command(&["HGET", &meta, "epoch"]).await;
    assert_ne!(new_epoch, epoch);
    assert_eq!(bench.log(0).await.len(), 2, "the entries acknowledged before the loss are in the log again");
    let since: u64 = bench.command(&["HGET", &meta, "since"]).await;
    assert!(since > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn future_watermark_refuses_logins_in_redis() {
    let bench = RedisBench::start(1).await;
    let future = sidegate_runtime::clock::unix_now().0 + 3600;
    let watermark = RedisKeys::new(PREFIX, 0).watermark("1");
    let () = bench.command(&["SET", &watermark, &future.to_string()]).await;
    let new = crate::conformance::new_session("1");
    let refused = bench.store.create(&new).await.unwrap_err();
    assert!(refused.cause.contains("AHEAD"), "{refused}");
    assert!(bench.store.read(0, &new.sid).await.unwrap().is_none(), "nothing was written");
    bench.store.create(&crate::conformance::new_session("2")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn future_watermark_refuses_logins_in_the_embedded_store() {
    let bench = SqliteBench::start().await;
    bench.elapse(3600).await;
    bench.store.revoke_subject("1").await.unwrap();
    bench.ahead_ms.store(0, Ordering::Relaxed);
    let new = crate::conformance::new_session("1");
    assert!(bench.store.create(&new).await.is_err());
    assert!(bench.store.read(0, &new.sid).await.unwrap().is_none(), "nothing was written");
    bench.store.create(&crate::conformance::new_session("2")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_log_is_a_lost_data_set() {
    let bench = RedisBench::start(1).await;
    bench.store.revoke_subject("1").await.unwrap();
    let _: i64 = bench.command(&["DEL", &RedisKeys::new(PREFIX, 0).log()]).await;
    bench.store.revoke_subject("2").await.unwrap();
    assert_eq!(bench.log(0).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_issuer_replays_into_a_new_data_set() {
    let bench = RedisBench::start(1).await;
    let other = redis_store(&bench.server, 1);
    other.initialise().await.unwrap();
    other.revoke_subject("1").await.unwrap();
    tokio::spawn(other.watch(STRICT, || None));
    let () = bench.command(&["FLUSHALL"]).await;
    bench.store.initialise().await.unwrap();
    crate::support::eventually("the other issuer replays", async || bench.log(0).await.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_partitions_is_fixed() {
    let bench = RedisBench::start(1).await;
    let refused = redis_store(&bench.server, 2).initialise().await;
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("the store has 1 partitions and REVOCATION_PARTITIONS is 2"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_redis_is_an_error_and_a_restarted_one_works_again() {
    // With appendfsync everysec a write may be buffered in memory while an earlier fsync runs.
    let server = RedisServer::start(&["--appendfsync", "always"]).await;
    let mut bench = RedisBench { store: redis_store(&server, 1), server };
    bench.store.initialise().await.unwrap();
    tokio::spawn(bench.store.clone().watch(STRICT, || None));
    let new = crate::conformance::new_session("1");
    bench.store.create(&new).await.unwrap();
    bench.server.kill();
    assert!(bench.store.revoke_subject("1").await.is_err());
    assert!(bench.store.probe().await.is_err());
    bench.server.restart().await;
    crate::support::eventually("the store answers again", async || bench.store.probe().await.is_ok()).await;
    assert!(bench.store.read(0, &new.sid).await.unwrap().is_some(), "the append-only file kept the session");
}

#[tokio::test]
async fn server_that_may_lose_data_is_refused() {
    let server = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]).await;
    let refused = redis_store(&server, 1).check_server(STRICT).await;
    assert!(matches!(refused, Err(OpenError::RequirementError(_))));
    let server = RedisServer::start(&["--appendonly", "no"]).await;
    assert!(redis_store(&server, 1).check_server(STRICT).await.is_err());
    redis_store(&server, 1).check_server(LENIENT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn page_of_sessions_reads_only_its_own_records() {
    let bench = RedisBench::start(1).await;
    for _ in 0..300 {
        bench.store.create(&crate::conformance::new_session("1")).await.unwrap();
    }
    let reads = async || {
        let stats: String = bench.command(&["INFO", "commandstats"]).await;
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hmget:calls=")).unwrap();
        line.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    let before = reads().await;
    assert_eq!(bench.store.sessions("1", None, 100).await.unwrap().sessions.len(), 100);
    // Besides the page: meta, and the record that shows that there are more.
    assert!(reads().await - before <= 102, "{} records were read", reads().await - before);
}
