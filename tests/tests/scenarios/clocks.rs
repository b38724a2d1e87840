//! Wrong clocks. Two issuers whose clocks differ by three seconds share one Redis: no token escapes
//! a watermark or a logout, and none is revoked from the start, because every relevant time is
//! Redis' own. And a verifier that is an hour behind.

use std::path::PathBuf;

use serde_json::json;
use sidegate_tests::stack::{EMAIL, Issuer, Stack, Store, Tokens, Verifier, metric, tokens};
use sidegate_tests::wait::eventually;

/// libfaketime, where Debian's package puts it.
fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|path| path.exists());
    if found.is_none() {
        println!("skipped: libfaketime is not installed");
    }
    found
}

/// An issuer on the stack's Redis whose wall clock is shifted.
async fn issuer_off_by(stack: &Stack, library: &str, offset: &str) -> Issuer {
    let url = stack.redis.as_ref().expect("on Redis").url();
    let settings = [
        ("REDIS_URL", url.as_str()),
        ("DATABASE_URL", &stack.issuer.settings["DATABASE_URL"]),
        ("LD_PRELOAD", library),
        ("FAKETIME", offset),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    Issuer::start(&stack.folder, "off", &settings).await
}

/// The offset of an issuer's clock in seconds, from the `Date` of its responses.
async fn clock_of(issuer: &Issuer) -> i64 {
    let log = issuer.program.output();
    let line = log.lines().find(|line| line.contains("timestamp")).expect("a log line");
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let moment = line["timestamp"].as_str().expect("a moment").to_owned();
    let logged: i64 = sqlx::query_scalar("SELECT unixepoch($1)")
        .bind(moment)
        .fetch_one(&sqlx::SqlitePool::connect("sqlite::memory:").await.expect("SQLite"))
        .await
        .expect("a moment");
    logged - sidegate_runtime::clock::unix_now().0 as i64
}

async fn good(verifier: &Verifier, issuers: [&Issuer; 2], pair: &Tokens, what: &str) {
    let reply = verifier.check(&pair.access).await;
    assert_eq!(reply.status, 200, "{what}: {}", String::from_utf8_lossy(&reply.body));
    for issuer in issuers {
        let me = issuer.at.get("/auth/me").bearer(&pair.access).send().await;
        assert_eq!(me.status, 200, "{what}, at an issuer: {}", String::from_utf8_lossy(&me.body));
    }
}

async fn clocks_apart(offset: &str) {
    let Some(library) = faketime() else { return };
    // With little leeway: the verifier's clock is Redis' here, and a token by the other clock would
    // be refused.
    let stack = Stack::with(Store::Redis, 1, &[], &[("LEEWAY", "1s")]).await;
    let off = issuer_off_by(&stack, library.to_str().expect("UTF-8"), offset).await;
    let apart = clock_of(&off).await;
    assert!(if offset.starts_with('+') { apart >= 1 } else { apart <= -2 }, "its clock is off by {apart} s");
    let verifier = &stack.verifiers[0];
    let issuers = [&stack.issuer, &off];
    for round in 0..6 {
        let (here, there) = (issuers[round % 2], issuers[(round + 1) % 2]);
        let others = json!({"scope": "global"});
        for kill in ["user", "global", "local", "all"] {
            let what = format!("round {round}, {kill}");
            let old = here.login(EMAIL).await;
            good(verifier, issuers, &old, &format!("{what}: revoked from the start")).await;
            let older = tokens(&here.refresh(&old.refresh).await);
            let reply = match kill {
                "user" => there.revoke(&json!({"user": "1"})).await,
                "all" => there.revoke(&json!({"all": true})).await,
                "global" => there.at.post("/auth/logout").bearer(&older.access).json(&others).send().await,
                _ => there.logout(&older.access).await,
            };
            assert_eq!(reply.status, 204, "{what}");
            // At once, at both: neither revoked nor from the future.
            let new = [here.login(EMAIL).await, there.login(EMAIL).await];
            for pair in &new {
                good(verifier, issuers, pair, &format!("{what}: new, and dead")).await;
                good(verifier, issuers, &tokens(&here.refresh(&pair.refresh).await), &what).await;
            }
            for dead in [&old, &older] {
                assert_eq!(verifier.until_denied(&dead.access).await.code(), "token_revoked", "{what}");
            }
            for issuer in issuers {
                assert_eq!(issuer.refresh(&older.refresh).await.code(), "invalid_grant", "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_issuers_clock_is_ahead() {
    clocks_apart("+3s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_issuers_clock_is_behind() {
    clocks_apart("-3s").await;
}

/// The log has dropped expired entries, which this verifier would consider alive: it reports so,
/// and accepts nothing until its clock is right. Then it is ready without delay.
#[tokio::test(flavor = "multi_thread")]
async fn verifier_with_a_clock_behind_waits_until_it_is_set() {
    let Some(library) = faketime() else { return };
    let stack = Stack::start(Store::Redis, 0).await;
    let (url, offset) = (stack.redis.as_ref().expect("on Redis").url(), stack.folder.file("offset"));
    std::fs::write(&offset, "-1h").expect("written");
    let settings = [
        ("REDIS_URL", url.as_str()),
        ("LD_PRELOAD", library.to_str().expect("UTF-8")),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().expect("UTF-8")),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let mut verifier = Verifier::start_unready(&stack.folder, "behind", &settings);
    let alarm = "sidegate_feed_alarm{partition=\"0\",alarm=\"clock_behind\"}";
    eventually("the alarm", || async {
        let reply = verifier.admin.get("/metrics").try_send().await.ok()?;
        String::from_utf8_lossy(&reply.body).contains(&format!("{alarm} 1\n")).then_some(())
    })
    .await;
    let pair = stack.issuer.login(EMAIL).await;
    assert_eq!(verifier.admin.get("/readyz").send().await.status, 503);
    assert_eq!(verifier.check(&pair.access).await.status, 503);
    std::fs::write(&offset, "+0").expect("written");
    verifier.until_ready().await;
    assert_eq!(metric(&verifier.admin, alarm).await, 0);
    assert_eq!(verifier.check(&pair.access).await.status, 200, "its time is the store's at once, not in ten minutes");
}
