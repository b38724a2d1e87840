//! After a failover or a loss of data no token is issued before every issuer has replayed its
//! acknowledged entries, and those of others that its feed received (docs/protocol.md,
//! "Replaying"). Against real Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::eventually;
use crate::support::forwarder::Forwarder;
use crate::support::redis::{PREFIX, RedisServer};
use crate::support::store::*;
use sidegate_common::log_protocol::RedisKeys;
use sidegate_common::revocation::{Revocation, SubjectTag, Target};
use sidegate_common::revocation_state::{OnStale, RevocationState, Staleness};
use sidegate_common::sync::Sink as _;
use sidegate_common::time::UnixTime;
use sidegate_issuer::domain::session::{Refusal, Rotated, Rotation};
use sidegate_issuer::domain::traits::Store as _;
use sidegate_issuer::store::redis::{OwnFeed, ReconcilerIntervals, RedisStore};
use sidegate_runtime::clock::reading;
use sidegate_runtime::feed::status::Status;

const FOREVER: UnixTime = UnixTime(4_000_000_000);

async fn meta(server: &RedisServer, field: &str) -> Option<String> {
    server.command(&["HGET", &RedisKeys::new(PREFIX, 0).meta(), field]).await
}

fn issuers() -> String {
    format!("{}:issuers", RedisKeys::new(PREFIX, 0).tag())
}

/// The rows of the list of issuers.
async fn list(server: &RedisServer) -> Vec<String> {
    server.command(&["HVALS", &issuers()]).await
}

async fn replication_id(server: &RedisServer) -> String {
    let info: String = server.command(&["INFO", "replication"]).await;
    info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap().trim().to_owned()
}

/// True if the log is marked as settled for its current replication id.
async fn is_settled(server: &RedisServer) -> bool {
    let epoch = meta(server, "epoch").await;
    let here = format!("{} {}", epoch.unwrap_or_default(), replication_id(server).await);
    meta(server, "settled").await == Some(here)
}

/// A store whose feed has received only the entries of the returned state.
fn with_feed(url: &str) -> (RedisStore, Arc<RevocationState>) {
    let staleness = Staleness { max_ms: 30_000, policy: OnStale::Deny };
    let (store, state) = (store_at(url), Arc::new(RevocationState::new(staleness, reading(), None)));
    state.begin(1);
    store.follow(OwnFeed { state: Arc::clone(&state), status: Arc::new(Status::default()) });
    (store, state)
}

fn beat(store: &RedisStore) -> tokio::task::JoinHandle<()> {
    tokio::spawn(store.clone().watch(STRICT, || None))
}

/// A master, a replica that has everything so far and then loses the link, and an address that
/// leads to the master.
struct Pair {
    master: RedisServer,
    replica: RedisServer,
    address: Forwarder,
}

impl Pair {
    async fn start() -> Self {
        let (master, replica) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
        let _ok: String = replica.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).await;
        eventually("the replica follows", async || {
            let info: String = master.command(&["INFO", "replication"]).await;
            info.contains("state=online")
        })
        .await;
        let address = Forwarder::to(master.port()).await;
        Self { master, replica, address }
    }

    /// Cuts the link: entries acknowledged from here on never reach the replica.
    async fn cut(&self) {
        let offset = async |server: &RedisServer, name: &str| -> u64 {
            let info: String = server.command(&["INFO", "replication"]).await;
            info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
        };
        let written = offset(&self.master, "master_repl_offset:").await;
        eventually("the replica has it", async || offset(&self.replica, "slave_repl_offset:").await >= written).await;
        let _ok: String =
            self.replica.command(&["REPLICAOF", "127.0.0.1", &crate::support::free_port().to_string()]).await;
    }

    async fn fail_over(&mut self) {
        self.master.kill();
        let _ok: String = self.replica.command(&["REPLICAOF", "NO", "ONE"]).await;
        self.address.switch(self.replica.port());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn issuers_register_and_deregister() {
    let server = RedisServer::start(&[]).await;
    let (one, other) = (store_at(&server.url()), store_at(&server.url()));
    one.initialise().await.unwrap();
    other.initialise().await.unwrap();
    let replid = replication_id(&server).await;
    let rows = list(&server).await;
    assert!(rows.len() == 2 && rows.iter().all(|row| row.starts_with(&format!("{replid} "))), "{rows:?}");
    assert!(is_settled(&server).await);
    one.leave().await;
    assert_eq!(list(&server).await.len(), 1);
    other.leave().await;
    assert_eq!(list(&server).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn issuer_registration_is_replicated_before_acknowledgements() {
    let pair = Pair::start().await;
    store_at(&pair.address.url()).initialise().await.unwrap();
    assert_eq!(list(&pair.replica).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn deregistered_issuer_registers_before_acknowledgements() {
    let server = RedisServer::start(&[]).await;
    let store = store_at(&server.url());
    store.initialise().await.unwrap();
    let _gone: i64 = server.command(&["DEL", &issuers()]).await;
    revoke_token(&store, 1).await.unwrap();
    assert_eq!(list(&server).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_data_set_settles_after_the_registration_period() {
    let server = RedisServer::start(&[]).await;
    let pace = ReconcilerIntervals { gathering: Duration::from_millis(1500), ..FAST };
    let store = store_at(&server.url()).pacing(pace);
    store.initialise().await.unwrap();
    beat(&store);
    let made: u64 = meta(&server, "made").await.unwrap().parse().unwrap();
    assert!(!is_settled(&server).await);
    eventually("it is settled", async || is_settled(&server).await).await;
    let now: Vec<u64> = server.command(&["TIME"]).await;
    assert!(now[0] * 1000 + now[1] / 1000 >= made + 1500);
    log_in(&store, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_issued_before_every_issuer_has_replayed() {
    let mut pair = Pair::start().await;
    let (one, other) = (store_at(&pair.address.url()), store_at(&pair.address.url()));
    one.initialise().await.unwrap();
    other.initialise().await.unwrap();
    beat(&one);
    log_in(&one, 1).await;
    log_in(&one, 2).await;
    pair.cut().await;
    let threshold = other.revoke_subject(&user(1)).await.unwrap();
    revoke_token(&one, 9).await.unwrap();
    pair.fail_over().await;

    eventually("logins are refused until the other issuer has replayed", async || {
        one.create(&new_session(3, 1)).await.unwrap_err().to_string().contains("put back")
    })
    .await;
    let rotation = Rotation { sid: sid(1), sub: user(1), presented: 0 };
    one.rotate(&rotation).await.expect_err("and no session is refreshed");
    eventually("one issuer has replayed its own", async || pair.replica.times(&token(9)).await == 1).await;
    assert!(!is_settled(&pair.replica).await);

    beat(&other);
    eventually("it is settled", async || is_settled(&pair.replica).await).await;
    let issued = one.create(&new_session(3, 1)).await.unwrap().issued;
    assert!(issued > threshold, "a token of the user is valid");
    assert_eq!(one.rotate(&rotation).await.unwrap(), Rotated::Refused(Refusal::Gone));
    let rotation = Rotation { sid: sid(2), sub: user(2), presented: 0 };
    assert!(matches!(one.rotate(&rotation).await, Ok(Rotated::Traded { .. })), "another user's session continues");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_issuer_is_removed_and_no_longer_awaited() {
    let mut pair = Pair::start().await;
    let dead = store_at(&pair.address.url());
    dead.initialise().await.unwrap();
    let alive = store_at(&pair.address.url()).pacing(ReconcilerIntervals { stopped: Duration::from_secs(3), ..FAST });
    alive.initialise().await.unwrap();
    pair.cut().await;
    pair.fail_over().await;
    let failed_over = Instant::now();
    beat(&alive);
    alive.create(&new_session(1, 1)).await.expect_err("it is still waited for");
    eventually("it is settled", async || is_settled(&pair.replica).await).await;
    assert!(failed_over.elapsed() >= Duration::from_secs(3));
    assert_eq!(list(&pair.replica).await.len(), 1);
    log_in(&alive, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_a_departed_issuer_are_replayed() {
    let mut pair = Pair::start().await;
    let (leaving, (staying, state)) = (store_at(&pair.address.url()), with_feed(&pair.address.url()));
    // The failover also loses the issuer's departure.
    let staying = staying.pacing(ReconcilerIntervals { stopped: Duration::from_secs(1), ..FAST });
    leaving.initialise().await.unwrap();
    staying.initialise().await.unwrap();
    beat(&staying);
    for number in 1..=4 {
        log_in(&leaving, number).await;
    }
    pair.cut().await;
    log_out(&leaving, 1).await.unwrap();
    revoke_token(&leaving, 2).await.unwrap();
    let threshold = leaving.revoke_subject(&user(3)).await.unwrap();
    let log = pair.master.log(0).await;
    log.iter().for_each(|(_, revocation)| {
        state.apply(0, revocation);
    });
    let expired = Revocation { target: token(7), expires_at: UnixTime(1_000_000_000) };
    state.apply(0, &expired);
    leaving.leave().await;
    pair.fail_over().await;

    eventually("it is settled", async || is_settled(&pair.replica).await).await;
    let back: Vec<Revocation> = pair.replica.log(0).await.into_iter().map(|(_, revocation)| revocation).collect();
    for (_, revocation) in &log {
        assert_eq!(back.iter().filter(|one| *one == revocation).count(), 1, "{revocation:?} in {back:?}");
    }
    // The user's session has its own entry as well.
    assert_eq!(back.len(), log.len() + 1, "and nothing that has expired: {back:?}");
    assert!(!is_there(&staying, 1).await && !is_there(&staying, 3).await, "the sessions have ended again");
    let refused = staying.rotate(&Rotation { sid: sid(3), sub: user(3), presented: 0 }).await.unwrap();
    assert_eq!(refused, Rotated::Refused(Refusal::Gone));
    assert!(staying.create(&new_session(5, 3)).await.unwrap().issued > threshold);
    assert!(is_there(&staying, 4).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn logged_entries_are_not_replayed() {
    let mut pair = Pair::start().await;
    let (store, state) = with_feed(&pair.address.url());
    store.initialise().await.unwrap();
    beat(&store);
    for number in 0..100 {
        revoke_token(&store, number).await.unwrap();
    }
    for (_, revocation) in pair.master.log(0).await {
        state.apply(0, &revocation);
    }
    pair.cut().await;
    revoke_token(&store, 200).await.unwrap();
    pair.fail_over().await;
    eventually("it is settled", async || is_settled(&pair.replica).await).await;
    assert_eq!(pair.replica.log(0).await.len(), 101);
    assert_eq!(store.counts().replayed.get(), 1);
}

/// The watermark of a global revocation is part of the rebuilt data set.
#[tokio::test(flavor = "multi_thread")]
async fn lost_data_set_is_rebuilt_with_entries_of_the_feed() {
    let server = RedisServer::start(&[]).await;
    let (store, state) = with_feed(&server.url());
    store.initialise().await.unwrap();
    let subject = Some(SubjectTag::of(&user(1)));
    let ordered = sidegate_runtime::clock::unix_now();
    let received = [
        Target::Session { sid: sid(1), subject },
        Target::Key { kid: "k1".into() },
        Target::Subject { sub: user(2).into(), threshold: ordered },
    ];
    for target in received.clone() {
        state.apply(0, &Revocation { target, expires_at: FOREVER });
    }
    let _ok: String = server.command(&["FLUSHALL"]).await;
    revoke_token(&store, 9).await.unwrap();
    for target in received {
        assert_eq!(server.times(&target).await, 1, "{target:?}");
    }
    let mark: Option<String> = server.command(&["GET", &RedisKeys::new(PREFIX, 0).watermark(&user(2))]).await;
    assert_eq!(mark, Some(ordered.0.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_failovers_in_quick_succession_lose_nothing() {
    let mut pair = Pair::start().await;
    let store = beating_at(&pair.address.url()).await;
    log_in(&store, 1).await;
    pair.cut().await;
    log_out(&store, 1).await.unwrap();
    revoke_token(&store, 2).await.unwrap();
    pair.fail_over().await;
    // The replayed entries are lost again, and the replication id changes once more.
    let second = RedisServer::start(&[]).await;
    let _ok: String = second.command(&["REPLICAOF", "127.0.0.1", &pair.replica.port().to_string()]).await;
    eventually("the second replica follows", async || {
        let info: String = second.command(&["INFO", "replication"]).await;
        info.contains("master_link_status:up")
    })
    .await;
    let _ok: String = second.command(&["REPLICAOF", "NO", "ONE"]).await;
    let _trimmed: i64 = second.command(&["XTRIM", &RedisKeys::new(PREFIX, 0).log(), "MAXLEN", "0"]).await;
    let _set: i64 = second.command(&["HSET", &RedisKeys::new(PREFIX, 0).meta(), "last", "0-0"]).await;
    pair.replica.kill();
    pair.address.switch(second.port());
    eventually("it is settled", async || is_settled(&second).await).await;
    assert_eq!((second.times(&session(1)).await, second.times(&token(2)).await), (1, 1));
    assert!(!is_there(&store, 1).await);
}

async fn beating_at(url: &str) -> RedisStore {
    let store = store_at(url);
    store.initialise().await.unwrap();
    beat(&store);
    store
}
