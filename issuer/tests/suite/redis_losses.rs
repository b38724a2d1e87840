//! F6, F7 and F8 of docs/protocol.md from the issuer's side, against real Redis: acknowledged
//! entries return to the log, and ended sessions stay ended, as long as the issuer runs.

use crate::support::eventually;
use crate::support::forwarder::Forwarder;
use crate::support::redis::{PREFIX, RedisServer};
use crate::support::store::*;
use sidegate_common::log_protocol::RedisKeys;
use sidegate_common::revocation::{Revocation, Target};
use sidegate_common::time::UnixTime;
use sidegate_issuer::domain::session::{Rotated, Rotation};
use sidegate_issuer::domain::traits::Store as _;
use sidegate_issuer::store::redis::{ReconcilerIntervals, RedisStore};
use sidegate_runtime::clock::monotonic_ms;

/// Sessions 1 to 4, of which the first three were ended: by logout, by reuse of a refresh token, by
/// revoking the user.
async fn acknowledged(store: &RedisStore) -> UnixTime {
    for number in 1..=4 {
        log_in(store, number).await;
    }
    end_three(store).await
}

async fn end_three(store: &RedisStore) -> UnixTime {
    log_out(store, 1).await.unwrap();
    for presented in [0, 1] {
        store.rotate(&Rotation { sid: sid(2), sub: user(2), presented }).await.unwrap();
    }
    let reused = store.rotate(&Rotation { sid: sid(2), sub: user(2), presented: 0 }).await.unwrap();
    assert!(matches!(reused, Rotated::Reused(_)));
    revoke_token(store, 9).await.unwrap();
    store.append(0, &Revocation { target: key(), expires_at: UnixTime(0) }).await.unwrap();
    store.revoke_subject(&user(3)).await.unwrap()
}

fn key() -> Target {
    Target::Key { kid: "k1".into() }
}

/// Waits until the log has all of it, without any request.
async fn in_the_log(server: &RedisServer, threshold: UnixTime) {
    let subject = Target::Subject { sub: user(3).into(), threshold };
    eventually("the log has everything again", async || {
        let Ok(whole) =
            server.try_command::<Option<String>>(&["HGET", &RedisKeys::new(PREFIX, 0).meta(), "epoch"]).await
        else {
            return false;
        };
        let mut missing = 0;
        for target in [session(1), session(2), token(9), key(), subject.clone()] {
            missing += usize::from(server.times(&target).await == 0);
        }
        whole.is_some() && missing == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_entries_are_replayed() {
    let keys = RedisKeys::new(PREFIX, 0);
    let newest = format!(
        "local n = redis.call('XREVRANGE', '{0}', '+', '-', 'COUNT', 1)[1][1] redis.call('XDEL', '{0}', n)",
        keys.log()
    );
    for deletion in [
        &["FLUSHALL"][..],
        &["DEL", &keys.meta()],
        &["DEL", &keys.log()],
        &["DEL", &keys.log(), &keys.meta()],
        &["HDEL", &keys.meta(), "epoch"],
        &["EVAL", &newest, "0"],
    ] {
        let server = RedisServer::start(&[]).await;
        let store = beating(&server.url()).await;
        let threshold = acknowledged(&store).await;
        let _done: redis::Value = server.command(deletion).await;
        in_the_log(&server, threshold).await;
        assert!(store.probe().await.is_ok(), "{deletion:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_cluster_too() {
    let server = RedisServer::start(&["--cluster-enabled", "yes"]).await;
    let _ok: String = server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    eventually("the cluster is whole", async || {
        server.command::<String>(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok")
    })
    .await;
    let store = beating(&format!("redis+cluster://127.0.0.1:{}", server.port())).await;
    let threshold = acknowledged(&store).await;
    let _ok: String = server.command(&["FLUSHALL"]).await;
    in_the_log(&server, threshold).await;
    let _ok: String = server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    log_out(&store, 4).await.unwrap_err();
    let _ok: String = server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    eventually("the outbox is empty", async || store.counts().outbox.get() == 0).await;
    assert_eq!(server.times(&session(4)).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn intact_log_gets_no_second_entries() {
    let mut server = RedisServer::start(&["--appendfsync", "always"]).await;
    let store = beating(&server.url()).await;
    acknowledged(&store).await;
    let before = server.log(0).await;
    server.kill();
    server.restart().await;
    eventually("the store answers again", async || store.probe().await.is_ok()).await;
    log_in(&store, 7).await;
    log_out(&store, 7).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(server.log(0).await[..before.len()], before);
    assert_eq!(server.log(0).await.len(), before.len() + 1, "a restart with all its data loses nothing");
    assert_eq!(store.counts().replayed.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_restart_is_replayed() {
    let mut server = RedisServer::start(&["--appendonly", "no"]).await;
    let store = beating(&server.url()).await;
    let threshold = acknowledged(&store).await;
    server.kill();
    server.restart().await;
    in_the_log(&server, threshold).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_backup_is_replayed() {
    let mut server = RedisServer::start(&["--appendonly", "no"]).await;
    let store = beating(&server.url()).await;
    for number in 1..=4 {
        log_in(&store, number).await;
    }
    let _ok: String = server.command(&["SAVE"]).await;
    let threshold = end_three(&store).await;
    server.kill();
    server.restart().await;
    in_the_log(&server, threshold).await;
    stay_ended(&store, &server).await;
}

async fn since_of(server: &RedisServer) -> u64 {
    let since: Option<u64> = server.command(&["HGET", &RedisKeys::new(PREFIX, 0).meta(), "since"]).await;
    since.unwrap_or(0)
}

/// First seen by the simulation, at seed 184,912: the issuer that acknowledged the ends is gone, its successor has seen the
/// data set that followed the loss, and then a copy from before the loss comes back.
#[tokio::test(flavor = "multi_thread")]
async fn copy_from_before_a_loss_brings_no_session_back() {
    let mut server = RedisServer::start(&["--appendonly", "no"]).await;
    {
        let store = store_at(&server.url());
        store.initialise().await.unwrap();
        let watch = tokio::spawn(store.clone().watch(STRICT, || Some(monotonic_ms())));
        log_in(&store, 1).await;
        let _ok: String = server.command(&["SAVE"]).await;
        log_out(&store, 1).await.unwrap();
        watch.abort();
    }
    std::fs::copy(server.file("dump.rdb"), server.file("copy.rdb")).unwrap();
    // Whole seconds: the session is older than the new data set.
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    let _ok: String = server.command(&["FLUSHALL"]).await;
    // The copy lists the issuer that is gone: it is given up soon.
    let store =
        store_at(&server.url()).pacing(ReconcilerIntervals { stopped: std::time::Duration::from_secs(1), ..FAST });
    store.initialise().await.unwrap();
    tokio::spawn(store.clone().watch(STRICT, || Some(monotonic_ms())));
    log_in(&store, 2).await;
    let since = since_of(&server).await;
    server.kill();
    std::fs::copy(server.file("copy.rdb"), server.file("dump.rdb")).unwrap();
    server.restart().await;
    eventually("the log says what it lacks", async || since_of(&server).await >= since).await;
    let rotation = Rotation { sid: sid(1), sub: user(1), presented: 0 };
    eventually("the session has ended", async || matches!(store.rotate(&rotation).await, Ok(Rotated::Refused(_))))
        .await;
}

/// The ended sessions that came back with the old data have ended again; the session that was never
/// ended has not.
async fn stay_ended(store: &RedisStore, server: &RedisServer) {
    for number in 1..=3 {
        eventually("the session has ended again", async || !is_there(store, number).await).await;
        assert_eq!(store.sessions(&user(number), None, 10).await.unwrap().sessions, []);
        let rotation = Rotation { sid: sid(number), sub: user(number), presented: 0 };
        assert!(matches!(store.rotate(&rotation).await, Ok(Rotated::Refused(_))), "{number}");
    }
    assert!(is_there(store, 4).await);
    let members: Vec<String> = server.command(&["ZRANGE", &RedisKeys::new(PREFIX, 0).user(&user(1)), "0", "-1"]).await;
    assert_eq!(members, [""; 0]);
}

/// A master and a replica that has everything so far; then their link is cut.
async fn pair() -> (RedisServer, RedisServer) {
    let (master, replica) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let _ok: String = replica.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).await;
    (master, replica)
}

async fn in_step(master: &RedisServer, replica: &RedisServer) {
    eventually("the replica is in step", async || {
        let linked: String = replica.command(&["INFO", "replication"]).await;
        linked.contains("master_link_status:up") && replica.contents().await == master.contents().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_that_lost_a_suffix_is_replayed() {
    let (mut master, replica) = pair().await;
    let forwarder = Forwarder::to(master.port()).await;
    let store = beating(&forwarder.url()).await;
    for number in 1..=4 {
        log_in(&store, number).await;
    }
    in_step(&master, &replica).await;
    // The link is cut: entries acknowledged from here on never reach the replica.
    let _ok: String = replica.command(&["REPLICAOF", "127.0.0.1", &crate::support::free_port().to_string()]).await;
    let threshold = end_three(&store).await;
    master.kill();
    let _ok: String = replica.command(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(replica.log(0).await, [], "the failover lost it all");
    forwarder.switch(replica.port());
    in_the_log(&replica, threshold).await;
    stay_ended(&store, &replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn isolated_master_refuses_and_the_new_master_gets_the_entry() {
    let (master, replica) = pair().await;
    for (name, value) in [("min-replicas-to-write", "1"), ("min-replicas-max-lag", "1")] {
        let _ok: String = master.command(&["CONFIG", "SET", name, value]).await;
    }
    let forwarder = Forwarder::to(master.port()).await;
    let store = store_at(&forwarder.url());
    eventually("the replica counts", async || store.initialise().await.is_ok()).await;
    tokio::spawn(store.clone().watch(STRICT, || None));
    log_in(&store, 1).await;
    in_step(&master, &replica).await;
    let _ok: String = replica.command(&["REPLICAOF", "NO", "ONE"]).await;
    eventually("the old master takes no more writes", async || store.probe().await.is_err()).await;
    log_out(&store, 1).await.expect_err("it may have been replaced");
    assert_eq!(master.log(0).await, []);
    forwarder.switch(replica.port());
    eventually("the new master has it", async || replica.times(&session(1)).await > 0).await;
    eventually("the outbox is empty", async || store.counts().outbox.get() == 0).await;
    assert!(!is_there(&store, 1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_issuer_replays_its_own_entries() {
    let server = RedisServer::start(&[]).await;
    let (one, other) = (beating(&server.url()).await, beating(&server.url()).await);
    for number in 1..=40 {
        let store = if number % 2 == 0 { &one } else { &other };
        log_in(store, number).await;
        log_out(store, number).await.unwrap();
    }
    let _ok: String = server.command(&["FLUSHALL"]).await;
    eventually("the log has everything again", async || {
        let log = server.log(0).await;
        (1..=40).all(|number| log.iter().any(|(_, revocation)| revocation.target == session(number)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn session_created_after_a_global_logout_survives_the_replay() {
    let server = RedisServer::start(&[]).await;
    let store = beating(&server.url()).await;
    log_in(&store, 1).await;
    store.revoke_subject(&user(1)).await.unwrap();
    log_in(&store, 1).await;
    let _gone: i64 = server.command(&["DEL", &RedisKeys::new(PREFIX, 0).meta()]).await;
    eventually("the data set exists again", async || store.probe().await.is_ok()).await;
    assert!(is_there(&store, 1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_cost_is_independent_of_the_replay_buffer() {
    let server = RedisServer::start(&[]).await;
    let store = beating(&server.url()).await;
    for number in 0..=255 {
        revoke_token(&store, number).await.unwrap();
    }
    let received = async || -> u64 {
        let info: String = server.command(&["INFO", "stats"]).await;
        info.lines().find_map(|line| line.strip_prefix("total_net_input_bytes:")?.trim().parse().ok()).unwrap()
    };
    let beats = async || -> u64 {
        let info: String = server.command(&["INFO", "commandstats"]).await;
        info.lines()
            .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next()?.parse().ok())
            .unwrap()
    };
    let (bytes_before, beats_before) = (received().await, beats().await);
    tokio::time::sleep(std::time::Duration::from_millis(1000)).await;
    let (bytes, beats) = (received().await - bytes_before, beats().await - beats_before);
    assert!(beats > 0 && bytes < 400 * (beats + 4), "{beats} heartbeats sent {bytes} bytes");
}
