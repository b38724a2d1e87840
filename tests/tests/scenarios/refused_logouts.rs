//! F11 of docs/protocol.md through the public listener: while Redis refuses, a logout is 503 with
//! Retry-After; the issuer then delivers it without a retry, and the token is denied everywhere.

use serde_json::json;
use sidegate_tests::http::Reply;
use sidegate_tests::redis::Redis;
use sidegate_tests::stack::{EMAIL, Stack, Store};
use sidegate_tests::wait::eventually;

async fn config(redis: &Redis, name: &str, value: &str) {
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg(name).arg(value);
    set.query_async::<String>(&mut redis.connection().await).await.expect("set");
}

fn put_off(reply: &Reply) {
    assert_eq!(reply.status, 503, "{}", String::from_utf8_lossy(&reply.body));
    assert_eq!(reply.json()["code"], "temporarily_unavailable");
    assert!(reply.header("retry-after").is_some_and(|after| after.parse::<u32>().is_ok()), "when to try again");
}

/// The value of a metric without labels.
async fn metric(stack: &Stack, name: &str) -> u64 {
    let reply = stack.issuer.admin.get("/metrics").send().await;
    let text = String::from_utf8(reply.body.to_vec()).expect("UTF-8");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_logout_is_delivered_without_a_retry() {
    let mut stack = Stack::start(Store::Redis, 1).await;
    let by_access = stack.issuer.login(EMAIL).await;
    let by_refresh = stack.issuer.login(EMAIL).await;
    let by_operator = stack.issuer.login("bob@example.org").await;
    for tokens in [&by_access, &by_refresh, &by_operator] {
        assert_eq!(stack.verifiers[0].check(&tokens.access).await.status, 200);
    }
    let redis = stack.redis.as_ref().expect("on Redis");
    config(redis, "maxmemory", "1").await;
    put_off(&stack.issuer.logout(&by_access.access).await);
    assert_eq!(metric(&stack, "sidegate_issuer_outbox").await, 1);
    config(redis, "maxmemory", "0").await;
    stack.verifiers[0].until_denied(&by_access.access).await;
    eventually("the outbox is empty", || async { (metric(&stack, "sidegate_issuer_outbox").await == 0).then_some(()) })
        .await;
    assert_eq!(metric(&stack, "sidegate_issuer_outbox_delivered_total").await, 1);

    // Redis is down: even the refresh token's record cannot be read.
    stack.redis.as_mut().expect("on Redis").kill();
    let body = json!({"refresh_token": by_refresh.refresh});
    put_off(&stack.issuer.at.post("/auth/logout").json(&body).send().await);
    put_off(&stack.issuer.revoke(&json!({"user": "2"})).await);
    assert_eq!(metric(&stack, "sidegate_issuer_outbox").await, 2);
    stack.redis.as_mut().expect("on Redis").restart().await;
    stack.verifiers[0].until_denied(&by_refresh.access).await;
    stack.verifiers[0].until_denied(&by_operator.access).await;
    for tokens in [&by_access, &by_refresh, &by_operator] {
        eventually("no new tokens are issued", || async {
            (stack.issuer.refresh(&tokens.refresh).await.status == 401).then_some(())
        })
        .await;
    }
    let again = stack.issuer.login("bob@example.org").await;
    assert_eq!(stack.verifiers[0].check(&again.access).await.status, 200, "a later login is not affected");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_replicas_are_never_a_204() {
    let settings = [("REDIS_WAIT_REPLICAS", "1"), ("REDIS_WAIT_TIMEOUT", "50ms")];
    let stack = Stack::with(Store::Redis, 1, &settings, &[]).await;
    let tokens = stack.issuer.login(EMAIL).await;
    let message = "Redis has fewer replicas than are waited for";
    assert!(stack.issuer.program.output().contains(message), "said at the start");
    put_off(&stack.issuer.logout(&tokens.access).await);
    // The log of the one server has the entry, so it takes effect.
    stack.verifiers[0].until_denied(&tokens.access).await;
    assert_eq!(metric(&stack, "sidegate_issuer_outbox").await, 1);
    let replica = Redis::start().await;
    let mut follow = redis::cmd("REPLICAOF");
    follow.arg("127.0.0.1").arg(stack.redis.as_ref().expect("on Redis").port());
    follow.query_async::<String>(&mut replica.connection().await).await.expect("follows");
    eventually("it is confirmed", || async { (metric(&stack, "sidegate_issuer_outbox").await == 0).then_some(()) })
        .await;
    assert_eq!(stack.issuer.logout(&tokens.access).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn journal_survives_a_restart_of_all_programs() {
    let folder = sidegate_tests::scratch::Scratch::new();
    let journal = folder.file("journal");
    let settings = [("REVOCATION_JOURNAL", journal.to_str().expect("UTF-8")), ("REVOCATION_JOURNAL_SOLE", "true")];
    let mut stack = Stack::with(Store::Redis, 1, &settings, &[]).await;
    let (ended, kept) = (stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await);
    assert_eq!(stack.issuer.logout(&ended.access).await.status, 204);
    let bytes = std::fs::read(&journal).expect("the journal");
    for secret in [&ended.access, &ended.refresh] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "it holds no token");
    }
    // A proof is noted every few seconds.
    eventually("the journal has a proof", || async {
        let bytes = std::fs::read(&journal).expect("the journal");
        let epoch = epoch(&stack).await.expect("a data set");
        bytes.windows(epoch.len()).any(|window| window == epoch.as_bytes()).then_some(())
    })
    .await;
    stack.issuer.program.kill();
    let redis = stack.redis.as_ref().expect("on Redis");
    redis::cmd("FLUSHALL").query_async::<String>(&mut redis.connection().await).await.expect("flushed");
    stack.issuer.restart().await;
    stack.add_verifier(&[]).await;
    assert_eq!(stack.verifiers[1].check(&ended.access).await.status, 401, "a newly started verifier knows it too");
    assert_eq!(stack.verifiers[1].check(&kept.access).await.status, 200, "and need not refuse all other tokens");
}

async fn epoch(stack: &Stack) -> Option<String> {
    let redis = stack.redis.as_ref()?;
    let mut get = redis::cmd("HGET");
    get.arg("{sidegate:0}:meta").arg("epoch");
    get.query_async(&mut redis.connection().await).await.ok()
}
