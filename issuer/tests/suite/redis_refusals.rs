//! F11 and F12 of docs/protocol.md, against real Redis: a change that Redis refuses is reported as
//! refused, queued, and delivered once Redis accepts it; and a key of the wrong type leaves nothing
//! half-written.

use std::collections::HashSet;
use std::time::Duration;

use crate::support::redis::{PREFIX, RedisServer};
use crate::support::store::*;
use crate::support::{eventually, free_port};
use rustix::process::Signal;
use sidegate_common::log_protocol::RedisKeys;
use sidegate_common::revocation::{Id, Revocation, Target};
use sidegate_common::time::UnixTime;
use sidegate_issuer::domain::session::{Rotated, Rotation};
use sidegate_issuer::domain::traits::Store as _;
use sidegate_issuer::store::redis::RedisStore;

/// Requests one revocation of each kind while Redis refuses.
async fn refused(store: &RedisStore) {
    log_out(store, 1).await.expect_err("a session's end");
    revoke_token(store, 2).await.expect_err("a token's revocation");
    store.revoke_subject(&user(3)).await.expect_err("a user's revocation");
    assert_eq!(store.counts().outbox.get(), 3);
}

/// Two sessions of user 3, one of users 1 and 4 each.
async fn before(store: &RedisStore) {
    for number in [1, 3, 4] {
        log_in(store, number).await;
    }
}

/// Checks that the log has the refused entries, and that their sessions have ended, without another
/// request.
async fn delivered(store: &RedisStore, server: &RedisServer) {
    eventually("the outbox is empty", async || store.counts().outbox.get() == 0).await;
    assert_eq!((store.counts().delivered.get(), store.counts().overflowed.get()), (3, 0));
    assert!(server.times(&session(1)).await > 0 && server.times(&token(2)).await > 0);
    let log = server.log(0).await;
    let thresholds = log.iter().filter_map(|(_, revocation)| match &revocation.target {
        Target::Subject { sub, threshold } if **sub == *user(3) => Some(*threshold),
        _ => None,
    });
    let threshold = thresholds.max().expect("the user's revocation is in the log");
    assert!(!is_there(store, 1).await && !is_there(store, 3).await, "the sessions have ended");
    assert!(is_there(store, 4).await, "another user's has not");
    let rotation = Rotation { sid: sid(4), sub: user(4), presented: 0 };
    assert!(matches!(store.rotate(&rotation).await, Ok(Rotated::Traded { generation: 1, .. })));
    assert!(store.create(&new_session(5, 3)).await.unwrap().issued > threshold, "a new token of the user is valid");
    assert!(is_there(store, 5).await);
}

async fn server_and_store(options: &[&str]) -> (RedisServer, RedisStore) {
    let server = RedisServer::start(&[&["--appendfsync", "always"], options].concat()).await;
    let store = beating(&server.url()).await;
    before(&store).await;
    (server, store)
}

async fn set(server: &RedisServer, name: &str, value: &str) {
    let _ok: String = server.command(&["CONFIG", "SET", name, value]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory_is_delivered_later() {
    let (server, store) = server_and_store(&[]).await;
    set(&server, "maxmemory", "1").await;
    refused(&store).await;
    set(&server, "maxmemory", "0").await;
    delivered(&store, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_replicas_is_delivered_later() {
    let (server, store) = server_and_store(&[]).await;
    set(&server, "min-replicas-to-write", "1").await;
    refused(&store).await;
    set(&server, "min-replicas-to-write", "0").await;
    delivered(&store, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_replica_is_delivered_later() {
    let (server, store) = server_and_store(&[]).await;
    let _ok: String = server.command(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]).await;
    refused(&store).await;
    let _ok: String = server.command(&["REPLICAOF", "NO", "ONE"]).await;
    delivered(&store, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_disk_is_delivered_later() {
    let (server, store) = server_and_store(&[]).await;
    // A directory in the file's place makes the save fail.
    std::fs::create_dir(server.file("dump.rdb")).unwrap();
    set(&server, "save", "3600 1000000").await;
    let _started: String = server.command(&["BGSAVE"]).await;
    saved(&server, "err").await;
    refused(&store).await;
    std::fs::remove_dir(server.file("dump.rdb")).unwrap();
    let _started: String = server.command(&["BGSAVE"]).await;
    saved(&server, "ok").await;
    delivered(&store, &server).await;
}

async fn saved(server: &RedisServer, status: &str) {
    eventually("the save ends", async || {
        let info: String = server.command(&["INFO", "persistence"]).await;
        info.contains("rdb_bgsave_in_progress:0") && info.contains(&format!("rdb_last_bgsave_status:{status}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_script_is_delivered_later() {
    let (server, store) = server_and_store(&["--busy-reply-threshold", "20"]).await;
    let (mut connection, mut killer) = (server.connect().await, server.connect().await);
    let endless = tokio::spawn(async move {
        let _killed: redis::RedisResult<()> =
            redis::cmd("EVAL").arg("while true do end").arg(0).query_async(&mut connection).await;
    });
    eventually("Redis is busy", async || {
        let answer = redis::cmd("PING").query_async::<String>(&mut killer).await;
        answer.is_err_and(|error| error.code() == Some("BUSY"))
    })
    .await;
    refused(&store).await;
    let _killed: redis::RedisResult<String> = redis::cmd("SCRIPT").arg("KILL").query_async(&mut killer).await;
    endless.await.unwrap();
    delivered(&store, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_server_is_delivered_later() {
    let (mut server, store) = server_and_store(&[]).await;
    for batch in 0..50 {
        let fill = format!("for i = 1, 100 do redis.call('SET', 'filler:{batch}:' .. i, string.rep('x', 100)) end");
        let _filled: Option<String> = server.command(&["EVAL", &fill, "0"]).await;
    }
    server.kill();
    server.spawn_again(&["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"]);
    refused(&store).await;
    server.wait().await;
    delivered(&store, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_server_is_delivered_later() {
    let (mut server, store) = server_and_store(&[]).await;
    server.kill();
    refused(&store).await;
    server.restart().await;
    delivered(&store, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_server_is_delivered_later() {
    let (server, store) = server_and_store(&[]).await;
    server.signal(Signal::STOP);
    refused(&store).await;
    server.signal(Signal::CONT);
    delivered(&store, &server).await;
}

/// An issuer that may run no scripts refuses an order that ends user 3, or everyone; another one goes on. `meanwhile` says
/// what happens before the order is delivered. Gives the highest threshold of its kind in the log.
async fn order_delivered_late(everyone: bool, meanwhile: impl AsyncFnOnce(&RedisServer, &RedisStore)) -> UnixTime {
    let (server, store) = server_and_store(&[]).await;
    let _ok: String = server.command(&["ACL", "SETUSER", "late", "on", ">secret", "~*", "&*", "+@all"]).await;
    let late = beating(&server.url().replace("redis://", "redis://late:secret@")).await;
    let _ok: String = server.command(&["ACL", "SETUSER", "late", "-eval", "-evalsha"]).await;
    if everyone {
        late.revoke_all(0).await.expect_err("no scripts");
    } else {
        late.revoke_subject(&user(3)).await.expect_err("no scripts");
    }
    // Tokens issued from now on have an `iat` above the order's threshold.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    meanwhile(&server, &store).await;
    let _ok: String = server.command(&["ACL", "SETUSER", "late", "+eval", "+evalsha"]).await;
    eventually("the order is delivered", async || late.counts().delivered.get() == 1).await;
    let log = server.log(0).await;
    let thresholds = log.iter().filter_map(|(_, revocation)| match &revocation.target {
        Target::Subject { sub, threshold } if **sub == *user(3) && !everyone => Some(*threshold),
        Target::All { threshold } if everyone => Some(*threshold),
        _ => None,
    });
    let threshold = thresholds.max().expect("the order is in the log");
    // 503 until this store has seen that the data set is another; each try is a session of its own.
    let (login, mut sessions) = (std::sync::OnceLock::new(), 9..);
    eventually("a login", async || {
        let session = new_session(sessions.next().expect("endless"), 3);
        store.create(&session).await.is_ok_and(|new| login.set(new.issued).is_ok())
    })
    .await;
    assert!(login.get().is_some_and(|issued| *issued > threshold), "a later login is not born dead");
    threshold
}

/// First seen by the simulation, at seed 502,592: the data set that had the session was lost before the order came.
#[tokio::test(flavor = "multi_thread")]
async fn late_order_kills_tokens_of_sessions_that_redis_lost() {
    for everyone in [false, true] {
        let issued = std::sync::OnceLock::new();
        let threshold = order_delivered_late(everyone, async |server, store| {
            let rotation = Rotation { sid: sid(3), sub: user(3), presented: 0 };
            let Ok(Rotated::Traded { issued: at, .. }) = store.rotate(&rotation).await else {
                panic!("the session lives")
            };
            issued.set(at).expect("once");
            let _ok: String = server.command(&["FLUSHALL"]).await;
        })
        .await;
        assert!(threshold >= *issued.get().expect("it was refreshed"), "{everyone}: {threshold:?}, {issued:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_order_spares_tokens_of_later_logins() {
    let issued = std::sync::OnceLock::new();
    let threshold = order_delivered_late(false, async |_, store| {
        issued.set(store.create(&new_session(5, 3)).await.unwrap().issued).expect("once");
    })
    .await;
    assert!(threshold < *issued.get().expect("there was a login"), "{threshold:?}, {issued:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flushed_scripts_are_loaded_again() {
    let (server, store) = server_and_store(&[]).await;
    let _ok: String = server.command(&["SCRIPT", "FLUSH"]).await;
    log_out(&store, 1).await.unwrap();
    assert_eq!((server.times(&session(1)).await, store.counts().outbox.get()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn retried_revocation_is_not_delivered_again() {
    let server = RedisServer::start(&[]).await;
    let store = store_at(&server.url());
    store.initialise().await.unwrap();
    before(&store).await;
    set(&server, "maxmemory", "1").await;
    refused(&store).await;
    set(&server, "maxmemory", "0").await;
    log_out(&store, 1).await.unwrap();
    revoke_token(&store, 2).await.unwrap();
    store.revoke_subject(&user(3)).await.unwrap();
    log_in(&store, 3).await;
    assert_eq!(store.counts().outbox.get(), 0);
    tokio::spawn(store.clone().watch(STRICT, || None));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(is_there(&store, 3).await, "the login after the logout stands");
    assert_eq!(server.log(0).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_issuer_delivers_first() {
    let server = RedisServer::start(&[]).await;
    let store = store_at(&server.url());
    store.initialise().await.unwrap();
    before(&store).await;
    set(&server, "maxmemory", "1").await;
    refused(&store).await;
    store.leave().await;
    assert_eq!(store.counts().outbox.get(), 3, "in vain");
    set(&server, "maxmemory", "0").await;
    store.leave().await;
    delivered(&store, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn login_after_a_refused_logout_survives_its_delivery() {
    let server = RedisServer::start(&[]).await;
    let store = store_at(&server.url());
    store.initialise().await.unwrap();
    before(&store).await;
    set(&server, "maxmemory", "1").await;
    refused(&store).await;
    set(&server, "maxmemory", "0").await;
    // Whole seconds: the estimate of the store's clock is rounded up.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    log_in(&store, 5).await;
    store.create(&new_session(6, 3)).await.unwrap();
    tokio::spawn(store.clone().watch(STRICT, || None));
    eventually("the outbox is empty", async || store.counts().outbox.get() == 0).await;
    assert!(!is_there(&store, 3).await && is_there(&store, 6).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_wrong_type_changes_nothing() {
    let server = RedisServer::start(&[]).await;
    let store = store_at(&server.url());
    let keys = RedisKeys::new(PREFIX, 0);
    for key in
        [keys.session(&sid(1).to_string()), keys.user(&user(1)), keys.watermark(&user(1)), keys.log(), keys.meta()]
    {
        let _ok: String = server.command(&["FLUSHALL"]).await;
        store.initialise().await.unwrap();
        log_in(&store, 1).await;
        log_in(&store, 2).await;
        let _old: i64 = server.command(&["DEL", &key]).await;
        let _new: i64 = server.command(&["LPUSH", &key, "x"]).await;
        let whole = server.contents().await;
        let mut taken = vec![];
        let rotation = Rotation { sid: sid(1), sub: user(1), presented: 0 };
        taken.push(store.rotate(&rotation).await.is_ok());
        taken.push(store.create(&new_session(1, 1)).await.is_ok());
        if key != keys.watermark(&user(1)) {
            taken.push(log_out(&store, 1).await.is_ok());
        }
        if key != keys.session(&sid(1).to_string()) {
            taken.push(store.revoke_subject(&user(1)).await.is_ok());
        }
        assert!(taken.iter().all(|taken| !taken), "{key}: {taken:?}");
        assert!(server.contents().await == whole, "{key}: something was written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn record_of_the_wrong_type_does_not_block_deliveries() {
    let server = RedisServer::start(&[]).await;
    let store = store_at(&server.url());
    store.initialise().await.unwrap();
    before(&store).await;
    set(&server, "maxmemory", "1").await;
    refused(&store).await;
    set(&server, "maxmemory", "0").await;
    let keys = RedisKeys::new(PREFIX, 0);
    for key in [keys.session(&sid(1).to_string()), keys.watermark(&user(3))] {
        let _old: i64 = server.command(&["DEL", &key]).await;
        let _new: i64 = server.command(&["LPUSH", &key, "x"]).await;
    }
    tokio::spawn(store.clone().watch(STRICT, || None));
    eventually("the outbox is empty", async || store.counts().outbox.get() == 0).await;
    assert_eq!(server.times(&session(1)).await, 1, "the entry is what matters");
    assert!(server.log(0).await.iter().all(|(_, revocation)| revocation.expires_at > UnixTime(0)));
    // The three, and the end of the session that the late revocation of its user ends.
    assert_eq!(server.log(0).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_under_load_and_changing_faults() {
    let (server, store) = server_and_store(&[]).await;
    let target = |number: u16| {
        let mut id = [7; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        Target::Token { jti: Id::Packed(id), subject: None }
    };
    let faults = async {
        let mut connection = server.connect().await;
        for round in 0..40 {
            let (name, bad, good) =
                if round % 2 == 0 { ("maxmemory", "1", "0") } else { ("min-replicas-to-write", "1", "0") };
            for value in [bad, good] {
                let mut set = redis::cmd("CONFIG");
                let _ok: String = set.arg("SET").arg(name).arg(value).query_async(&mut connection).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let mut kill = redis::cmd("CLIENT");
            let _killed: i64 = kill
                .arg("KILL")
                .arg("TYPE")
                .arg("normal")
                .arg("SKIPME")
                .arg("yes")
                .query_async(&mut connection)
                .await
                .unwrap();
        }
    };
    let revoking = (0..8).map(|worker| {
        let store = store.clone();
        async move {
            let mut refused = 0;
            for number in (worker * 250)..(worker * 250 + 250) {
                let revocation = Revocation { target: target(number), expires_at: UnixTime(0) };
                refused += u64::from(store.append(0, &revocation).await.is_err());
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            refused
        }
    });
    let ((), refused) = tokio::join!(faults, futures_util::future::join_all(revoking));
    let refused: u64 = refused.iter().sum();
    assert!((1..2000).contains(&refused), "{refused} refused: the faults should meet some of them");
    eventually("the outbox is empty", async || store.counts().outbox.get() == 0).await;
    assert_eq!(store.counts().overflowed.get(), 0);
    let all = async || {
        let log = server.log(0).await;
        let dead: HashSet<_> = log.into_iter().map(|(_, revocation)| key(revocation.target)).collect();
        (0..2000).all(|number| dead.contains(&key(target(number))))
    };
    assert!(all().await, "every revocation is in the log, acknowledged or refused");
    let _ok: String = server.command(&["FLUSHALL"]).await;
    eventually("and again after its loss", all).await;
}

fn key(target: Target) -> Vec<u8> {
    Revocation { target, expires_at: UnixTime(0) }.to_bytes()
}
