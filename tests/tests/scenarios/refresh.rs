//! Refresh tokens through the socket: one child in any race; reuse ends the session everywhere, at
//! once.

use std::collections::HashSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sidegate_tests::http::At;
use sidegate_tests::stack::{ADMIN_TOKEN, EMAIL, Issuer, Stack, Store, Tokens, Verifier, metric, tokens};

/// A second issuer process over the stack's Redis.
async fn second_issuer(stack: &Stack, settings: &[(&str, &str)]) -> Issuer {
    let url = stack.redis.as_ref().expect("on Redis").url();
    let mut all = vec![("REDIS_URL", url.as_str()), ("DATABASE_URL", &stack.issuer.settings["DATABASE_URL"])];
    all.extend(settings);
    Issuer::start(&stack.folder, "issuer2", &all).await
}

/// The number of a user's sessions by the admin API.
async fn sessions_of(issuer: &Issuer, sub: &str) -> usize {
    let reply = issuer.admin.get(&format!("/admin/sessions?user={sub}")).bearer(ADMIN_TOKEN).send().await;
    assert_eq!(reply.status, 200);
    reply.json()["sessions"].as_array().expect("a list").len()
}

/// Sends one refresh token 64 times at once, to the issuers in turn, and returns the pairs.
async fn sixty_four(issuers: &[&At], refresh: &str) -> Vec<Tokens> {
    let body = json!({"refresh_token": refresh});
    let calls = (0..64).map(|number| issuers[number % issuers.len()].post("/auth/refresh").json(&body).send());
    let calls: Vec<_> = calls.map(tokio::spawn).collect();
    let mut pairs = Vec::new();
    for call in calls {
        let reply = call.await.expect("an answer");
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
        pairs.push(tokens(&reply));
    }
    pairs
}

/// A claim with 128 random bits.
fn id_of(access: &str, claim: &str) -> Vec<u8> {
    let payload = URL_SAFE_NO_PAD.decode(access.split('.').nth(1).expect("a payload")).expect("base64url");
    let payload: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
    let id = URL_SAFE_NO_PAD.decode(payload[claim].as_str().expect("text")).expect("base64url");
    assert_eq!(id.len(), 16, "{claim}");
    id
}

/// 64 refreshes of one token: one child, one lineage. Once the child is used, a use of the parent
/// is reuse and ends the session.
async fn one_lineage(issuers: &[&Issuer], verifier: &Verifier) {
    let addresses: Vec<_> = issuers.iter().map(|issuer| &issuer.at).collect();
    let first = issuers[0].login(EMAIL).await;
    let pairs = sixty_four(&addresses, &first.refresh).await;
    let children: HashSet<_> = pairs.iter().map(|pair| pair.refresh.as_str()).collect();
    assert_eq!(children.len(), 1, "every answer has the same child");
    let access: HashSet<_> = pairs.iter().map(|pair| pair.access.as_str()).collect();
    assert_eq!(access.len(), 64, "every answer has an access token of its own");
    let ids: HashSet<_> = pairs.iter().map(|pair| id_of(&pair.access, "jti")).collect();
    assert_eq!(ids.len(), 64);
    assert!(pairs.iter().all(|pair| id_of(&pair.access, "sid") == id_of(&first.access, "sid")));
    assert_eq!(sessions_of(issuers[0], "1").await, 1, "one live session");
    for pair in &pairs {
        assert_eq!(verifier.check(&pair.access).await.status, 200);
    }

    let last = issuers[issuers.len() - 1];
    let grandchild = tokens(&last.refresh(&pairs[0].refresh).await);
    assert_eq!(last.refresh(&first.refresh).await.code(), "invalid_grant", "the child was used: the parent is reuse");
    assert_eq!(sessions_of(issuers[0], "1").await, 0, "the session is gone");
    for dead in pairs.iter().map(|pair| &pair.access).chain([&first.access, &grandchild.access]) {
        assert_eq!(verifier.until_denied(dead).await.code(), "token_revoked");
    }
    for issuer in issuers {
        for dead in [&pairs[0].refresh, &grandchild.refresh] {
            let reply = issuer.refresh(dead).await;
            assert_eq!((reply.status.as_u16(), reply.code().as_str()), (401, "invalid_grant"));
        }
    }
    assert_eq!(metric(&last.admin, "sidegate_issuer_refreshes_total{result=\"reused\"}").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_refreshes_at_once_on_the_embedded_store() {
    let stack = Stack::start(Store::Embedded, 1).await;
    one_lineage(&[&stack.issuer], &stack.verifiers[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_refreshes_at_once_at_two_issuers_on_redis() {
    let stack = Stack::start(Store::Redis, 1).await;
    let second = second_issuer(&stack, &[]).await;
    one_lineage(&[&stack.issuer, &second], &stack.verifiers[0]).await;
}

/// After the retry window a use of the parent is reuse, even if its child was never used.
async fn replay_after_the_window(store: Store) {
    let stack = Stack::with(store, 1, &[("REFRESH_RETRY_WINDOW", "2s")], &[]).await;
    let first = stack.issuer.login(EMAIL).await;
    let child = tokens(&stack.issuer.refresh(&first.refresh).await);
    // Times are whole seconds: three seconds guarantee that two have passed.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let replay = stack.issuer.refresh(&first.refresh).await;
    assert_eq!((replay.status.as_u16(), replay.code().as_str()), (401, "invalid_grant"));
    assert_eq!(sessions_of(&stack.issuer, "1").await, 0);
    assert_eq!(stack.issuer.refresh(&child.refresh).await.status, 401);
    for dead in [&first.access, &child.access] {
        assert_eq!(stack.verifiers[0].until_denied(dead).await.code(), "token_revoked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_after_the_window_on_the_embedded_store() {
    replay_after_the_window(Store::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_after_the_window_on_redis() {
    replay_after_the_window(Store::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_second_use_is_reuse_without_a_retry_window() {
    let stack = Stack::with(Store::Embedded, 0, &[("REFRESH_RETRY_WINDOW", "0")], &[]).await;
    let first = stack.issuer.login(EMAIL).await;
    assert_eq!(stack.issuer.refresh(&first.refresh).await.status, 200);
    assert_eq!(stack.issuer.refresh(&first.refresh).await.code(), "invalid_grant");
    assert_eq!(sessions_of(&stack.issuer, "1").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_reads_the_user_again() {
    let stack = Stack::start(Store::Redis, 1).await;
    let pool = sqlx::SqlitePool::connect(&stack.issuer.settings["DATABASE_URL"]).await.expect("the users");
    let change = async |statement: &'static str| {
        sqlx::query(statement).execute(&pool).await.expect("changed");
    };
    let first = stack.issuer.login(EMAIL).await;
    change("UPDATE users SET scope = 'read' WHERE id = 1").await;
    let narrowed = tokens(&stack.issuer.refresh(&first.refresh).await);
    assert_eq!(stack.verifiers[0].check(&narrowed.access).await.header("x-auth-scope"), Some("read"));
    assert_eq!(stack.verifiers[0].check(&first.access).await.status, 200, "a refresh revokes nothing");

    change("UPDATE users SET active = 0 WHERE id = 1").await;
    let refused = stack.issuer.refresh(&narrowed.refresh).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (401, "invalid_grant"));
    assert_eq!(sessions_of(&stack.issuer, "1").await, 0, "a disabled user loses the session");
    for dead in [&first.access, &narrowed.access] {
        assert_eq!(stack.verifiers[0].until_denied(dead).await.code(), "token_revoked");
    }
    change("UPDATE users SET active = 1 WHERE id = 1").await;
    assert_eq!(stack.issuer.refresh(&narrowed.refresh).await.status, 401, "and does not get it back");

    let gone = stack.issuer.login("bob@example.org").await;
    change("DELETE FROM users WHERE id = 2").await;
    assert_eq!(stack.issuer.refresh(&gone.refresh).await.code(), "invalid_grant");
    assert_eq!(stack.verifiers[0].until_denied(&gone.access).await.code(), "token_revoked");
}

/// If the setting `life` is two seconds, a session cannot be refreshed afterwards.
async fn ends_after(life: &str) {
    let stack = Stack::with(Store::Redis, 0, &[(life, "2s"), ("ACCESS_TOKEN_TTL", "1s")], &[]).await;
    let pair = stack.issuer.login(EMAIL).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let reply = stack.issuer.refresh(&pair.refresh).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (401, "invalid_grant"), "{life}");
    assert_eq!(sessions_of(&stack.issuer, "1").await, 0, "{life}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_by_idling_and_by_age() {
    ends_after("REFRESH_TOKEN_TTL").await;
    ends_after("SESSION_TTL_MAX").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_and_access_tokens_are_not_interchangeable() {
    let stack = Stack::start(Store::Embedded, 1).await;
    let pair = stack.issuer.login(EMAIL).await;
    assert_eq!(stack.issuer.at.get("/auth/me").bearer(&pair.refresh).send().await.code(), "token_invalid");
    assert_eq!(stack.verifiers[0].check(&pair.refresh).await.code(), "token_invalid");
    assert_eq!(stack.issuer.refresh(&pair.access).await.code(), "invalid_grant");
    assert_eq!(sessions_of(&stack.issuer, "1").await, 1, "and nothing was ended by it");
}
