//! The main job, end to end: login → protected check → refresh → logout → every verifier denies the
//! access token.

use std::time::Instant;

use serde_json::json;
use sidegate_tests::http::Reply;
use sidegate_tests::postgres::Postgres;
use sidegate_tests::scenario::life_of_a_session;
use sidegate_tests::stack::{EMAIL, Issuer, SECRET, Stack, Store, Verifier};
use sidegate_tests::users;
use sidegate_tests::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn on_embedded_defaults() {
    life_of_a_session(&Stack::start(Store::Embedded, 2).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis() {
    life_of_a_session(&Stack::start(Store::Redis, 2).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_users_in_postgres() {
    let postgres = Postgres::start().await;
    users::postgres(&postgres.pool().await, &[EMAIL, "bob@example.org"]).await;
    let url = postgres.url();
    life_of_a_session(&Stack::with(Store::Redis, 1, &[("DATABASE_URL", &url)], &[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_revocation_reaches_every_verifier() {
    let stack = Stack::start(Store::Redis, 2).await;
    let claim = |reply: &Reply, name: &str| reply.json()[name].as_str().expect("a claim").to_owned();
    for kind in ["token", "jti", "session", "user", "all", "key"] {
        let tokens = stack.issuer.login(EMAIL).await;
        let me = stack.issuer.at.get("/auth/me").bearer(&tokens.access).send().await;
        for verifier in &stack.verifiers {
            assert_eq!(verifier.check(&tokens.access).await.status, 200, "{kind}: good before");
        }
        let key = sidegate_common::key::hs256_kid(&sidegate_common::secret::Secret::new(SECRET)).expect("a kid");
        let what = match kind {
            "token" => json!({"token": tokens.access}),
            "jti" => json!({"token": claim(&me, "jti")}),
            "session" => json!({"session": claim(&me, "sid")}),
            "user" => json!({"user": claim(&me, "sub")}),
            "all" => json!({"all": true}),
            _ => json!({"key": key}),
        };
        let reply = stack.issuer.revoke(&what).await;
        assert_eq!(reply.status, 204, "{kind}: {}", String::from_utf8_lossy(&reply.body));
        for verifier in &stack.verifiers {
            assert_eq!(verifier.until_denied(&tokens.access).await.code(), "token_revoked", "{kind}");
        }
    }
}

/// Waits until the verifier's list is proven complete as of a time after `acknowledged`.
async fn proven_after(verifier: &Verifier, acknowledged: Instant) {
    eventually("the list to be proven", || async {
        let asked = acknowledged.elapsed();
        let ready = verifier.admin.get("/readyz").try_send().await.ok()?;
        let age = ready.json()["fresh_age_ms"].as_u64()?;
        (ready.status == 200 && u128::from(age) < asked.as_millis()).then_some(())
    })
    .await;
}

/// Acknowledged revocations survive the loss of each process; a verifier whose list is proven
/// complete since then never answers otherwise.
async fn killed_in_the_middle(mut stack: Stack) {
    let mut dead = Vec::new();
    let mut alive = Vec::new();
    for round in 0..3 {
        for _ in 0..3 {
            let tokens = stack.issuer.login(EMAIL).await;
            assert_eq!(stack.issuer.logout(&tokens.access).await.status, 204);
            dead.push(tokens.access);
            alive.push(stack.issuer.login(EMAIL).await.access);
        }
        let acknowledged = Instant::now();
        match round {
            0 => {
                stack.verifiers[0].program.kill();
                stack.verifiers[0].restart().await;
            }
            1 => {
                stack.issuer.program.kill();
                stack.issuer.restart().await;
            }
            _ => {
                if let Some(redis) = &mut stack.redis {
                    redis.kill();
                    // Delivered once Redis accepts it.
                    let reply = stack.issuer.logout(&alive.remove(0)).await;
                    assert_eq!(reply.status, 503, "a change that was not stored has no effect");
                    assert!(reply.header("retry-after").is_some());
                    redis.restart().await;
                }
            }
        }
        for verifier in &mut stack.verifiers {
            proven_after(verifier, acknowledged).await;
            for token in &dead {
                let reply = verifier.check(token).await;
                assert_eq!((reply.status.as_u16(), reply.code().as_str()), (401, "token_revoked"), "round {round}");
            }
            for token in &alive {
                assert_eq!(verifier.check(token).await.status, 200, "round {round}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_on_redis_and_postgres() {
    let postgres = Postgres::start().await;
    users::postgres(&postgres.pool().await, &[EMAIL]).await;
    let url = postgres.url();
    killed_in_the_middle(Stack::with(Store::Redis, 2, &[("DATABASE_URL", &url)], &[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_on_embedded_defaults() {
    killed_in_the_middle(Stack::start(Store::Embedded, 2).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verifier_that_was_never_fresh_answers_503() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let access = stack.issuer.login(EMAIL).await.access;
    let nowhere = format!("http://127.0.0.1:{}", sidegate_tests::program::free_port());
    let verifier = Verifier::start_unready(&stack.folder, "lonely", &[("ISSUER_FEED_URL", &nowhere)]);
    let reply = eventually("the verifier to answer", || async {
        verifier.at.get("/check").bearer(&access).try_send().await.ok()
    })
    .await;
    assert_eq!(reply.status, 503);
    assert!(reply.header("retry-after").is_some());
    let detail = reply.json()["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains("list"), "it waits for the list, not for keys: {detail}");
    assert_eq!(verifier.admin.get("/readyz").send().await.status, 503);
    assert_eq!(verifier.admin.get("/livez").send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn staleness_policies() {
    let settings = [("MAX_STALENESS", "1s")];
    let mut stack = Stack::with(Store::Redis, 1, &[], &settings).await;
    stack.add_verifier(&[("MAX_STALENESS", "1s"), ("ON_STALE", "allow")]).await;
    let access = stack.issuer.login(EMAIL).await.access;
    stack.redis.as_mut().expect("on Redis").kill();
    let (deny, allow) = (&stack.verifiers[0], &stack.verifiers[1]);
    eventually("the strict verifier to report itself as stale", || async {
        (deny.check(&access).await.status == 503).then_some(())
    })
    .await;
    assert_eq!(deny.check(&access).await.code(), "stale");
    assert_eq!(deny.admin.get("/readyz").send().await.status, 503);
    eventually("the lenient verifier to report it", || async {
        let reply = allow.check(&access).await;
        assert_eq!(reply.status, 200);
        reply.header("x-auth-stale").map(|_| ())
    })
    .await;
    stack.redis.as_mut().expect("on Redis").restart().await;
    eventually("both to be fresh again", || async {
        let fresh = deny.check(&access).await.status == 200;
        (fresh && allow.check(&access).await.header("x-auth-stale").is_none()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verifier_restarts_from_its_snapshot_while_the_feed_is_down() {
    let folder = sidegate_tests::scratch::Scratch::new();
    let file = folder.file("list.snapshot");
    let snapshot = file.to_str().expect("UTF-8");
    let mut stack = Stack::with(Store::Redis, 0, &[], &[]).await;
    stack.add_verifier(&[("SNAPSHOT_FILE", snapshot), ("ON_STALE", "allow"), ("MAX_STALENESS", "1s")]).await;
    let dead = stack.issuer.login(EMAIL).await.access;
    let good = stack.issuer.login(EMAIL).await.access;
    assert_eq!(stack.issuer.logout(&dead).await.status, 204);
    stack.verifiers[0].until_denied(&dead).await;
    assert!(stack.verifiers[0].program.stop().success(), "a clean stop writes the snapshot");
    stack.redis.as_mut().expect("on Redis").kill();
    let verifier = &mut stack.verifiers[0];
    verifier.restart().await;
    assert_eq!(verifier.check(&dead).await.code(), "token_revoked");
    let reply = verifier.check(&good).await;
    assert_eq!(reply.status, 200);
    assert!(reply.header("x-auth-stale").is_some(), "stale until it has caught up");
    stack.redis.as_mut().expect("on Redis").restart().await;
    eventually("the verifier to be fresh again", || async {
        stack.verifiers[0].check(&good).await.header("x-auth-stale").is_none().then_some(())
    })
    .await;
    assert_eq!(stack.verifiers[0].check(&dead).await.code(), "token_revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn second_issuer_on_an_embedded_store_is_refused() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let mut second = stack.issuer.settings.clone();
    for name in ["ISSUER_LISTEN", "ISSUER_ADMIN_LISTEN", "ISSUER_FEED_LISTEN"] {
        second.insert(name.to_owned(), format!("127.0.0.1:{}", sidegate_tests::program::free_port()));
    }
    let pairs: Vec<_> = second.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let output = sidegate_tests::program::run("sidegate-issuer", &[], &pairs, "");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("store.db"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_issuers_share_one_redis() {
    let stack = Stack::start(Store::Redis, 1).await;
    let url = stack.redis.as_ref().expect("on Redis").url();
    let database = stack.issuer.settings["DATABASE_URL"].clone();
    let settings = [("REDIS_URL", url.as_str()), ("DATABASE_URL", &database)];
    let second = Issuer::start(&stack.folder, "issuer2", &settings).await;
    let tokens = stack.issuer.login(EMAIL).await;
    assert_eq!(second.at.get("/auth/me").bearer(&tokens.access).send().await.status, 200);
    assert_eq!(second.logout(&tokens.access).await.status, 204);
    assert_eq!(stack.verifiers[0].until_denied(&tokens.access).await.code(), "token_revoked");
    assert_eq!(stack.issuer.refresh(&tokens.refresh).await.code(), "invalid_grant");
}
