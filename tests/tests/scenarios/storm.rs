//! A login storm: excess logins get 503 with Retry-After, and other requests succeed.

use std::time::Duration;

use serde_json::json;
use sidegate_tests::http::Reply;
use sidegate_tests::stack::{EMAIL, Stack, Store, metric, tokens};
use sidegate_tests::wait::eventually;

const CLIENTS: usize = 50;
/// bcrypt runs at the lowest priority: on a busy machine it may be delayed for long.
const STORM_LIMIT: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn excess_logins_are_shed_and_nothing_else_fails() {
    let settings = [("BCRYPT_COST", "12"), ("BCRYPT_THREADS", "2"), ("BCRYPT_QUEUE_MAX", "4")];
    let stack = Stack::with(Store::Redis, 1, &settings, &[]).await;
    let pair = stack.issuer.login(EMAIL).await;
    let body = json!({"email": EMAIL, "password": "wrong"});
    let login = stack.issuer.at.post("/auth/login").json(&body).within(STORM_LIMIT);
    let storm: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(login.clone().send())).collect();

    // Other requests continue for as long as the storm lasts.
    let mut refresh = pair.refresh.clone();
    let mut rounds = 0;
    while rounds < 10 || storm.iter().any(|client| !client.is_finished()) {
        let next = tokens(&stack.issuer.refresh(&refresh).await);
        refresh = next.refresh;
        let me = stack.issuer.at.get("/auth/me").bearer(&next.access).send().await;
        let keys = stack.issuer.at.get("/.well-known/jwks.json").send().await;
        let live = stack.issuer.admin.get("/livez").send().await;
        let ready = stack.issuer.admin.get("/readyz").send().await;
        let check = stack.verifiers[0].check(&next.access).await;
        let statuses = [&me, &keys, &live, &ready, &check].map(|reply: &Reply| reply.status.as_u16());
        assert_eq!(statuses, [200; 5], "me, keys, live, ready, check");
        rounds += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (mut refused, mut shed) = (0, 0);
    for client in storm {
        let reply = client.await.expect("an answer");
        match (reply.status.as_u16(), reply.code().as_str()) {
            (401, "invalid_credentials") => refused += 1,
            (503, "temporarily_unavailable") => {
                let after = reply.header("retry-after").and_then(|value| value.parse::<u32>().ok());
                assert!(after.is_some_and(|seconds| seconds > 0), "{:?}", reply.headers);
                shed += 1;
            }
            other => panic!("neither refused nor shed: {other:?}"),
        }
    }
    assert!(refused >= 4 && shed >= CLIENTS / 2, "{refused} refused, {shed} shed");
    let overloaded = "sidegate_issuer_logins_total{result=\"overloaded\"}";
    assert_eq!(metric(&stack.issuer.admin, overloaded).await, shed as u64);
    let next = stack.issuer.login(EMAIL).await;
    assert_eq!(stack.issuer.logout(&next.access).await.status, 204, "after the storm everything works again");
}

/// A shed login costs nothing: the application's database gets no query. (When the database was
/// queried first, a storm of shed logins made it the bottleneck of every refresh.)
#[tokio::test(flavor = "multi_thread")]
async fn shed_logins_never_reach_the_database() {
    let settings = [("BCRYPT_COST", "14"), ("BCRYPT_THREADS", "1"), ("BCRYPT_QUEUE_MAX", "1")];
    let stack = Stack::with(Store::Redis, 0, &settings, &[]).await;
    let pair = stack.issuer.login(EMAIL).await;
    let body = json!({"email": EMAIL, "password": "wrong"});
    let login = stack.issuer.at.post("/auth/login").json(&body).within(STORM_LIMIT);
    let storm: Vec<_> = (0..4).map(|_| tokio::spawn(login.clone().send())).collect();
    eventually("the queue to be full", || async {
        (metric(&stack.issuer.admin, "sidegate_issuer_bcrypt_queue").await == 1).then_some(())
    })
    .await;
    let database = sqlx::SqlitePool::connect(&stack.issuer.settings["DATABASE_URL"]).await.expect("the database");
    let mut locked = database.acquire().await.expect("a connection");
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut *locked).await.expect("locked");
    let reply = login.clone().send().await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (503, "temporarily_unavailable"));
    // Before any login that was already admitted gives up waiting for the database.
    let results =
        ["overloaded", "unavailable"].map(|result| format!("sidegate_issuer_logins_total{{result=\"{result}\"}}"));
    let [overloaded, unavailable] = results.each_ref();
    assert!(metric(&stack.issuer.admin, overloaded).await > 0);
    assert_eq!(metric(&stack.issuer.admin, unavailable).await, 0, "shed, not refused by the database");
    assert_eq!(stack.issuer.refresh(&pair.refresh).await.status, 503, "the database is locked");
    sqlx::query("ROLLBACK").execute(&mut *locked).await.expect("unlocked");
    for client in storm {
        client.await.expect("an answer");
    }
}
