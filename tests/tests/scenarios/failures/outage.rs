//! A real Redis outage of one second and of twenty, under both staleness policies. (Ten minutes and
//! six hours, and the bound on recovery, are tested in virtual time:
//! common/runtime/src/feed/backoff.rs and the simulation.)

use std::time::{Duration, Instant};

use sidegate_tests::daemon::Launched;
use sidegate_tests::fault_proxy::FaultProxy;
use sidegate_tests::redis::Redis;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::wait::eventually;

use super::desk::{AOF, Seen as _, issuer, revoke, through, token, until_feed, verifier};

async fn away(lasts: Duration) {
    let mut redis = Redis::with(AOF).await;
    let fault_proxy = FaultProxy::to(redis.port()).await;
    let url = through(&fault_proxy);
    let store = issuer(&url).await;
    let deny = verifier(&url);
    let settings = [("REDIS_URL", url.as_str()), ("MAX_STALENESS", "1s"), ("ON_STALE", "allow")];
    let allow = Launched::start(Scratch::new(), &settings);
    deny.proven().await;
    allow.proven().await;
    revoke(&store, "dead").await;
    deny.proven().await;
    allow.proven().await;

    let away = Instant::now();
    redis.kill();
    if lasts > Duration::from_secs(2) {
        eventually("the strict verifier to answer 503", || async {
            (deny.answer(&token("good")).await == (503, "stale".to_owned())).then_some(())
        })
        .await;
        eventually("the lenient verifier to report its age", || async {
            let reply = allow.at.get("/check").bearer(&token("good")).send().await;
            assert_eq!(reply.status, 200, "it continues with the held list");
            reply.header("x-auth-stale").map(|_| ())
        })
        .await;
        deny.denies("dead").await;
        allow.denies("dead").await;
    }
    tokio::time::sleep(lasts.saturating_sub(away.elapsed())).await;
    redis.restart().await;
    let back = Instant::now();
    deny.proven().await;
    allow.proven().await;
    println!("away for {lasts:?}: both fresh again {:?} after Redis answered", back.elapsed());
    assert_eq!(deny.answer(&token("good")).await.0, 200);
    let reply = allow.at.get("/check").bearer(&token("good")).send().await;
    assert_eq!((reply.status.as_u16(), reply.header("x-auth-stale")), (200, None));
    deny.denies("dead").await;
    allow.denies("dead").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_away_for_a_second() {
    away(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_away_for_twenty_seconds() {
    away(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn feed_status_and_metrics_show_an_outage() {
    let redis = Redis::with(AOF).await;
    let fault_proxy = FaultProxy::to(redis.port()).await;
    let store = issuer(&redis.url()).await;
    let verifier = verifier(&through(&fault_proxy));
    verifier.proven().await;
    revoke(&store, "dead").await;
    verifier.proven().await;
    fault_proxy.pull();
    revoke(&store, "meanwhile").await;
    fault_proxy.carry();
    verifier.proven().await;
    let first = "{partition=\"0\"}";
    assert!(verifier.metric(&format!("sidegate_feed_fresh_age_seconds{first}")).await < 60.0);
    assert!(verifier.metric(&format!("sidegate_feed_position_seconds{first}")).await > 1.7e9);
    assert!(verifier.metric(&format!("sidegate_feed_reconnects_total{first}")).await >= 1.0);
    assert!(verifier.metric(&format!("sidegate_feed_resyncs_total{first}")).await >= 1.0);
    assert!(verifier.metric(&format!("sidegate_feed_gaps_total{first}")).await >= 0.0);
    assert_eq!(verifier.metric(&format!("sidegate_feed_connected{first}")).await, 1.0);
    assert!(verifier.metric("sidegate_feed_propagation_seconds_count").await >= 1.0);
    assert!(verifier.metric("sidegate_feed_propagation_seconds_bucket{le=\"+Inf\"}").await >= 1.0);
    assert_eq!(verifier.metric("sidegate_verifier_revocations{kind=\"token\"}").await, 2.0);
    for kind in ["session", "subject", "key"] {
        assert_eq!(verifier.metric(&format!("sidegate_verifier_revocations{{kind=\"{kind}\"}}")).await, 0.0);
    }
    let ready = verifier.admin.get("/readyz").send().await.json();
    assert_eq!(ready["by_kind"]["tokens"], 2);
    assert!(ready["feed"][0]["position"].as_str().is_some_and(|position| position.contains('-')));

    until_feed(&verifier, "phase", |phase| phase == "live").await;

    let sidegate_tests::http::At::Tcp(admin) = verifier.admin else { panic!("over TCP") };
    let admin = admin.to_string();
    let ask = move || {
        sidegate_tests::program::run("sidegate-verifier", &["status"], &[("VERIFIER_ADMIN_LISTEN", &admin)], "")
    };
    let status = tokio::task::spawn_blocking(ask).await.expect("it ran");
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    for words in
        ["ms ago", "2 (tokens 2, sessions 0, users 0, keys 0, ", "live at ", "gaps ", "resyncs ", "reconnects "]
    {
        assert!(said.contains(words), "{words} is missing in\n{said}");
    }
}
