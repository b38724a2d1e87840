//! Requirements for Redis (F10 of docs/protocol.md), and the effect of `REDIS_WAIT_…`, against real
//! Redis.

use std::time::Duration;

use crate::support::eventually;
use crate::support::redis::RedisServer;
use crate::support::store::*;
use sidegate_issuer::domain::traits::Store as _;
use sidegate_issuer::store::redis::{RedisRequirements, RedisStore, ReplicaAckSettings, StoreLink};

#[tokio::test(flavor = "multi_thread")]
async fn evicting_server_is_refused_unless_accepted() {
    let server = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]).await;
    let store = store_at(&server.url());
    let refused = store.check_server(STRICT).await.unwrap_err().to_string();
    for word in ["maxmemory-policy is allkeys-lru", "noeviction", "REDIS_REQUIRE_NOEVICTION"] {
        assert!(refused.contains(word), "{refused}");
    }
    store.check_server(RedisRequirements { noeviction: false, ..STRICT }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn later_change_of_the_eviction_policy_is_reported() {
    let server = RedisServer::start(&[]).await;
    let store = beating(&server.url()).await;
    for policy in ["volatile-lru", "noeviction"] {
        let _ok: String = server.command(&["CONFIG", "SET", "maxmemory-policy", policy]).await;
        let evicts = policy != "noeviction";
        eventually("the change is reported", async || store.counts().is_unfit("evicts") == evicts).await;
        assert!(!store.counts().is_unfit("forgets"));
        store.probe().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_without_waitaof_is_refused_if_required() {
    let server = RedisServer::start(&[]).await;
    let info: String = server.command(&["INFO", "server"]).await;
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap().trim().to_owned();
    let checked = store_at(&server.url()).check_server(RedisRequirements { waitaof: true, ..STRICT }).await;
    if version.starts_with("7.0.") {
        let refused = checked.unwrap_err().to_string();
        assert!(refused.contains("REDIS_WAIT_FSYNC") && refused.contains(&version), "{refused}");
    } else {
        checked.unwrap();
    }
}

const PATIENT: ReplicaAckSettings = ReplicaAckSettings { replicas: 1, timeout: Duration::from_secs(1), fsync: false };

async fn waiting(server: &RedisServer, settings: ReplicaAckSettings) -> RedisStore {
    let store = store_at(&server.url()).waiting(StoreLink::new(&server.url()).unwrap(), settings);
    store.initialise().await.unwrap();
    store
}

async fn follow(replica: &RedisServer, master: &RedisServer) {
    let _ok: String = replica.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).await;
    eventually("the replica follows", async || {
        let info: String = master.command(&["INFO", "replication"]).await;
        info.contains("state=online")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_counts_as_stored_once_a_replica_has_it() {
    let (master, replica) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    follow(&replica, &master).await;
    let store = waiting(&master, PATIENT).await;
    let many = (0..50).map(|number| {
        let (store, replica) = (store.clone(), &replica);
        async move {
            log_in(&store, number).await;
            log_out(&store, number).await.unwrap();
            assert_eq!(replica.times(&session(number)).await, 1, "{number}");
        }
    });
    futures_util::future::join_all(many).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_timeout_is_confirmed_later_without_a_second_entry() {
    let (master, replica) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let store = waiting(&master, ReplicaAckSettings { timeout: Duration::from_millis(50), ..PATIENT }).await;
    tokio::spawn(store.clone().watch(STRICT, || None));
    log_in(&store, 1).await;
    log_in(&store, 2).await;
    let refused = log_out(&store, 1).await.unwrap_err().to_string();
    assert!(refused.contains("fewer than 1 replicas"), "{refused}");
    store.revoke_subject(&user(2)).await.unwrap_err();
    revoke_token(&store, 3).await.unwrap_err();
    assert_eq!(store.counts().outbox.get(), 3);
    follow(&replica, &master).await;
    eventually("they are confirmed", async || store.counts().outbox.get() == 0).await;
    assert_eq!(master.log(0).await.len(), 3, "nothing was appended twice");
    assert_eq!(store.counts().delivered.get(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_replicas_does_not_block_other_calls() {
    let (master, replica) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let store = waiting(&master, ReplicaAckSettings { timeout: Duration::from_secs(120), ..PATIENT }).await;
    log_in(&store, 1).await;
    let ending = store.clone();
    let waits = tokio::spawn(async move { log_out(&ending, 1).await });
    eventually("it waits", async || !master.log(0).await.is_empty()).await;
    for number in 2..=50 {
        log_in(&store, number).await;
    }
    assert!(!waits.is_finished(), "forty-nine logins went through while one logout waited");
    follow(&replica, &master).await;
    waits.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_counts_as_stored_once_on_disk() {
    let disk = ReplicaAckSettings { replicas: 0, timeout: Duration::from_secs(1), fsync: true };
    let Some(server) = RedisServer::start_newer(&[]).await else {
        println!("NOT RUN: no server that knows WAITAOF (tests/run installs one)");
        return;
    };
    let requirements = RedisRequirements { waitaof: true, ..STRICT };
    let store = waiting(&server, disk).await;
    store.check_server(requirements).await.unwrap();
    // A new replica gives the server another replication id, which every issuer must see.
    tokio::spawn(store.clone().watch(requirements, || None));
    log_in(&store, 1).await;
    log_out(&store, 1).await.unwrap();
    assert_eq!((server.log(0).await.len(), store.counts().outbox.get()), (1, 0));
    // And on a replica's disk. A replica reports its disk position once a second: a shorter wait
    // may never succeed.
    let both = waiting(&server, ReplicaAckSettings { replicas: 1, timeout: Duration::from_secs(3), ..disk }).await;
    tokio::spawn(both.clone().watch(requirements, || None));
    log_in(&both, 2).await;
    let refused = log_out(&both, 2).await.unwrap_err().to_string();
    assert!(refused.contains("and 1 replicas"), "{refused}");
    let replica = RedisServer::start_newer(&[]).await.expect("it was there a moment ago");
    follow(&replica, &server).await;
    eventually("it is confirmed", async || both.counts().outbox.get() == 0).await;
    assert_eq!(replica.times(&session(2)).await, 1);
    // Without an append-only file the wait ends at once.
    let _ok: String = server.command(&["CONFIG", "SET", "appendonly", "no"]).await;
    eventually("a login", async || store.create(&new_session(3, 3)).await.is_ok()).await;
    log_out(&store, 3).await.unwrap_err();
}
