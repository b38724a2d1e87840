//! Failures of a connection: F1–F5, F14, F22.

use sidegate_common::log_protocol::RedisKeys;
use sidegate_tests::daemon::Launched;
use sidegate_tests::fault_proxy::FaultProxy;
use sidegate_tests::redis::Redis;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::wait::eventually;

use super::desk::{AOF, Desk, Seen as _, a_while, issuer, revoke, say, through, token, until_feed, verifier};

#[tokio::test(flavor = "multi_thread")]
async fn f01_lost_message_and_reset_connection_cost_a_delta() {
    let desk = Desk::start(AOF).await;
    desk.revoke("received").await;
    desk.verifier.proven().await;
    let full_reads = desk.full_reads().await;
    desk.revoke_without_push("unpushed").await;
    desk.verifier.proven().await;
    desk.verifier.denies("unpushed").await;
    for round in 0..3 {
        let mut admin = desk.redis.connection().await;
        say(&mut admin, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        let name = format!("meanwhile-{round}");
        desk.revoke(&name).await;
        desk.verifier.proven().await;
        desk.verifier.denies(&name).await;
    }
    assert_eq!(desk.full_reads().await, full_reads, "only the rest was read");
    assert!(desk.verifier.feed("reconnects").await.as_u64() >= Some(3));
    assert!(desk.verifier.metric("sidegate_feed_resyncs_total{partition=\"0\"}").await >= 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f02_subscriber_cut_off_with_a_full_buffer_resyncs() {
    let desk = Desk::start(AOF).await;
    let mut admin = desk.redis.connection().await;
    say(&mut admin, &["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 1mb 60"]).await;
    desk.fault_proxy.swallow();
    let (channel, megabyte) = (RedisKeys::new("sidegate", 0).channel(), "x".repeat(1 << 20));
    eventually("Redis to cut the subscriber off", || async {
        let mut admin = admin.clone();
        say(&mut admin, &["SPUBLISH", &channel, &megabyte]).await;
        let listening: u64 = redis::cmd("PUBSUB")
            .arg("SHARDNUMSUB")
            .arg(&channel)
            .query_async::<(String, u64)>(&mut admin)
            .await
            .ok()?
            .1;
        (listening == 0).then_some(())
    })
    .await;
    desk.revoke("while-deaf").await;
    desk.fault_proxy.carry();
    desk.verifier.proven().await;
    desk.verifier.denies("while-deaf").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_frozen_server_makes_the_verifier_stale_until_it_thaws() {
    let desk = Desk::start(AOF).await;
    assert_eq!(desk.verifier.answer(&token("good")).await.0, 200);
    for silent_by in ["freezing the server", "a black hole"] {
        if silent_by == "a black hole" {
            desk.fault_proxy.swallow()
        } else {
            desk.redis.freeze()
        }
        eventually("the verifier to report itself as stale", || async {
            (desk.verifier.answer(&token("good")).await == (503, "stale".to_owned())).then_some(())
        })
        .await;
        assert_eq!(desk.verifier.admin.get("/readyz").send().await.status, 503, "{silent_by}");
        until_feed(&desk.verifier, "phase", |phase| phase == "disconnected").await;
        desk.fault_proxy.carry();
        desk.redis.thaw();
        let name = format!("after-{}", silent_by.len());
        desk.revoke(&name).await;
        desk.verifier.proven().await;
        desk.verifier.denies(&name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_a_refused_subscription_is_never_ready() {
    let redis = Redis::start().await;
    let issuer = issuer(&redis.url()).await;
    let mut admin = redis.connection().await;
    say(&mut admin, &["ACL", "SETUSER", "deaf", "on", ">secret", "~*", "resetchannels", "+@all"]).await;
    let verifier = verifier(&format!("redis://deaf:secret@127.0.0.1:{}/", redis.port()));
    until_feed(&verifier, "trouble", |why| why.as_str().is_some_and(|why| why.contains("permissions"))).await;
    let ready = verifier.admin.get("/readyz").send().await;
    assert_eq!((ready.status.as_u16(), ready.json()["snapshot"].as_bool()), (503, Some(false)));
    assert_eq!(verifier.answer(&token("x")).await.0, 503);
    say(&mut admin, &["ACL", "SETUSER", "deaf", "&*"]).await;
    verifier.proven().await;
    revoke(&issuer, "x").await;
    eventually("the push", || async { (verifier.answer(&token("x")).await.0 == 401).then_some(()) }).await;
}

async fn restarted(options: &[&str], save: bool) {
    let mut desk = Desk::start(options).await;
    desk.revoke("before").await;
    desk.verifier.proven().await;
    let full_reads = desk.full_reads().await;
    if save {
        say(&mut desk.redis.connection().await, &["SAVE"]).await;
    }
    desk.redis.kill();
    until_feed(&desk.verifier, "phase", |phase| phase == "disconnected").await;
    desk.redis.restart().await;
    desk.revoke("after").await;
    desk.verifier.proven().await;
    desk.verifier.denies("before").await;
    desk.verifier.denies("after").await;
    assert!(desk.full_reads().await > full_reads, "a log with another replication id is read completely");
    let another = verifier(&desk.redis.url());
    another.proven().await;
    another.denies("before").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f05_a_restart_with_aof_and_with_rdb_keeps_everything() {
    restarted(AOF, false).await;
    restarted(&[], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_garbage_on_the_channel_is_counted_and_changes_nothing() {
    let desk = Desk::start(AOF).await;
    desk.revoke("dead").await;
    desk.verifier.proven().await;
    let (channel, meta) = (RedisKeys::new("sidegate", 0).channel(), RedisKeys::new("sidegate", 0).meta());
    let mut admin = desk.redis.connection().await;
    let (epoch, last): (String, String) =
        redis::cmd("HMGET").arg(&meta).arg("epoch").arg("last").query_async(&mut admin).await.expect("the head");
    let entry = super::desk::revocation("dead").to_bytes();
    let ours = |position: &str, entry: &[u8]| [format!("1 {epoch} 0-0 {position} ").as_bytes(), entry].concat();
    let huge = vec![b'1'; 1 << 20];
    let garbage: [&[u8]; 9] = [
        b"",
        b"hello",
        b"1 e 0-0 1-1",
        b"9 e 0-0 1-1 x",
        &huge,
        &ours(&last, &entry),
        &ours("1-1", &entry),
        &ours("99999999999999-0", &entry[..3]),
        &ours("x", &entry),
    ];
    for junk in garbage {
        redis::cmd("SPUBLISH").arg(&channel).arg(junk).exec_async(&mut admin).await.expect("published");
    }
    desk.verifier.proven().await;
    desk.verifier.denies("dead").await;
    assert_eq!(desk.verifier.answer(&token("good")).await.0, 200);
    assert!(desk.verifier.metric("sidegate_feed_foreign_messages_total{partition=\"0\"}").await >= 5.0);
    assert!(desk.verifier.metric("sidegate_feed_duplicates_total{partition=\"0\"}").await >= 1.0);
    assert_eq!(desk.verifier.feed("reconnects").await, 0);
    desk.revoke("dead-too").await;
    desk.verifier.proven().await;
    desk.verifier.denies("dead-too").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_rotated_password_and_moved_server_are_applied() {
    let mut redis = Redis::with(AOF).await;
    let store = issuer(&redis.url()).await;
    let fault_proxy = FaultProxy::to(redis.port()).await;
    let mut admin = redis.connection().await;
    say(&mut admin, &["ACL", "SETUSER", "verifier", "on", ">old", "~*", "&*", "+@all"]).await;
    let folder = Scratch::new();
    let (file, config) = (folder.file("redis-url"), folder.file("verifier.toml"));
    let url = |password: &str| format!("redis://verifier:{password}@localhost:{}/", fault_proxy.port());
    std::fs::write(&file, url("old")).expect("written");
    // SIGHUP reloads the configuration file, and the file of the secret that it names.
    let text =
        format!("REDIS_URL_FILE = \"{}\"\nJWT_SECRET_KEY = \"{}\"\n", file.display(), sidegate_tests::stack::SECRET);
    std::fs::write(&config, text).expect("written");
    let settings = [("PROBE_INTERVAL", "50ms"), ("MAX_STALENESS", "1s")];
    let verifier = Launched::start_with_file(folder, &settings, Some(config));
    verifier.proven().await;

    say(&mut admin, &["ACL", "SETUSER", "verifier", "resetpass", ">new"]).await;
    say(&mut admin, &["CLIENT", "KILL", "USER", "verifier"]).await;
    until_feed(&verifier, "trouble", |why| why.is_string()).await;
    revoke(&store, "meanwhile").await;
    std::fs::write(&file, url("new")).expect("written");
    verifier.reload.send_modify(|count| *count += 1);
    verifier.proven().await;
    verifier.denies("meanwhile").await;

    // From now on the name resolves to another server; each connection resolves it again.
    let moved = Redis::with(AOF).await;
    say(&mut moved.connection().await, &["ACL", "SETUSER", "verifier", "on", ">new", "~*", "&*", "+@all"]).await;
    redis.kill();
    fault_proxy.lead_to(moved.port());
    let store = issuer(&through(&fault_proxy)).await;
    revoke(&store, "on-the-new-one").await;
    verifier.proven().await;
    verifier.denies("meanwhile").await;
    verifier.denies("on-the-new-one").await;
    a_while().await;
}
