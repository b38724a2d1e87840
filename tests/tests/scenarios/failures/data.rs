//! Failures of the data, as verifiers see them: F6, F7, F13. The issuer's side is tested with its
//! store.

use sidegate_common::log_protocol::RedisKeys;
use sidegate_common::time::UnixTime;
use sidegate_runtime::clock::unix_now;
use sidegate_tests::wait::eventually;

use super::desk::{AOF, Desk, Seen as _, a_while, issuer, names, say, token, until_feed, verifier};

#[tokio::test(flavor = "multi_thread")]
async fn f06_lost_data_raises_an_alarm_and_entries_stay_held() {
    for lost_by in ["FLUSHALL", "DEL meta", "DEL log", "a restart with nothing"] {
        let mut desk = Desk::start(&[]).await;
        desk.revoke("dead").await;
        desk.verifier.proven().await;
        let keys = RedisKeys::new("sidegate", 0);
        let mut admin = desk.redis.connection().await;
        let mut alarm = "no_epoch";
        match lost_by {
            "FLUSHALL" => drop(say(&mut admin, &["FLUSHALL"]).await),
            "DEL meta" => drop(say(&mut admin, &["DEL", &keys.meta()]).await),
            "DEL log" => {
                drop(say(&mut admin, &["DEL", &keys.log()]).await);
                alarm = "log_damaged";
            }
            _ => {
                desk.redis.kill();
                desk.redis.restart().await;
            }
        }
        until_feed(&desk.verifier, "alarm", |raised| names(raised, alarm)).await;
        let proven = desk.verifier.core.state().proven();
        a_while().await;
        assert_eq!(desk.verifier.core.state().proven(), proven, "{lost_by}: nothing proves it");
        desk.verifier.denies("dead").await;

        // An issuer without any memory creates the data set again.
        let (old, issued) = (token("issued-before"), unix_now());
        eventually("the log to be made later than the token", || async { (unix_now() > issued.plus(1)).then_some(()) })
            .await;
        let _issuer = issuer(&desk.redis.url()).await;
        desk.verifier.proven().await;
        desk.verifier.denies("dead").await;
        assert_eq!(desk.verifier.answer(&old).await.0, 200, "{lost_by}: it was there all the time");

        // A verifier that was not running cannot know the revocations, and refuses every token
        // older than the log.
        let since: u64 = redis::cmd("HGET")
            .arg(keys.meta())
            .arg("since")
            .query_async(&mut desk.redis.connection().await)
            .await
            .expect("since");
        let late = verifier(&desk.redis.url());
        late.proven().await;
        assert_eq!(late.answer(&old).await, (401, "token_revoked".to_owned()), "{lost_by}");
        assert_eq!(late.core.state().index().marks(0).1, UnixTime(since));
        eventually("tokens issued since then to be good", || async {
            (late.answer(&token("issued-after")).await.0 == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f07_restored_old_snapshot_unrevokes_nothing() {
    // Changes after the SAVE are in memory only: the restart restores an old RDB file.
    let mut desk = Desk::start(&[]).await;
    desk.revoke("in-the-snapshot").await;
    say(&mut desk.redis.connection().await, &["SAVE"]).await;
    desk.revoke("after-the-snapshot").await;
    desk.verifier.proven().await;
    let full_reads = desk.full_reads().await;
    desk.redis.kill();
    desk.redis.restart().await;
    desk.verifier.proven().await;
    assert!(desk.full_reads().await > full_reads, "a log that went back is read completely");
    desk.verifier.denies("in-the-snapshot").await;
    desk.verifier.denies("after-the-snapshot").await;
    let late = verifier(&desk.redis.url());
    late.proven().await;
    late.denies("in-the-snapshot").await;
    assert_eq!(
        late.answer(&token("after-the-snapshot")).await.0,
        200,
        "because only an issuer's replay can restore it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_a_log_trimmed_past_the_last_entry_held_is_read_whole() {
    let desk = Desk::start(AOF).await;
    desk.revoke("first").await;
    desk.verifier.proven().await;
    let full_reads = desk.full_reads().await;
    desk.fault_proxy.pull();
    until_feed(&desk.verifier, "phase", |phase| phase == "disconnected").await;
    desk.revoke("second").await;
    desk.revoke("third").await;
    say(&mut desk.redis.connection().await, &["XTRIM", &RedisKeys::new("sidegate", 0).log(), "MAXLEN", "1"]).await;
    desk.fault_proxy.carry();
    desk.verifier.proven().await;
    assert_eq!(desk.full_reads().await, full_reads + 1.0);
    desk.verifier.denies("first").await;
    desk.verifier.denies("third").await;
}
