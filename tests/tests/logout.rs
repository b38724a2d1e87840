//! Logout and revocation through the socket: how far each reaches, what may be repeated, and who may not ask any more.

use serde_json::json;
use sidegate_tests::http::Reply;
use sidegate_tests::program::run;
use sidegate_tests::scenario::OTHER;
use sidegate_tests::stack::{ADMIN_TOKEN, EMAIL, Stack, Store, Tokens, Verifier, tokens};
use sidegate_tests::wait::eventually;

async fn logout(stack: &Stack, access: Option<&str>, body: serde_json::Value) -> Reply {
    let call = stack.issuer.at.post("/auth/logout").json(&body);
    access.map_or(call.clone(), |access| call.bearer(access)).send().await
}

async fn live(stack: &Stack, pair: &Tokens) {
    assert_eq!(stack.verifiers[0].check(&pair.access).await.status, 200);
    let me = stack.issuer.at.get("/auth/me").bearer(&pair.access).send().await;
    assert_eq!(me.status, 200, "{}", String::from_utf8_lossy(&me.body));
}

async fn dead(stack: &Stack, pair: &Tokens) {
    assert_eq!(stack.verifiers[0].until_denied(&pair.access).await.code(), "token_revoked");
    assert_eq!(stack.issuer.refresh(&pair.refresh).await.code(), "invalid_grant");
}

/// The status and code of an error.
fn refusal(reply: &Reply) -> (u16, String) {
    (reply.status.as_u16(), reply.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_token_given_ends_its_own_session() {
    let stack = Stack::start(Store::Embedded, 1).await;
    let (one, two, three) =
        (stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await);
    let other = stack.issuer.login(OTHER).await;
    // A refresh token alone.
    assert_eq!(logout(&stack, None, json!({"refresh_token": one.refresh})).await.status, 204);
    dead(&stack, &one).await;
    // Both, of different sessions.
    assert_eq!(logout(&stack, Some(&two.access), json!({"refresh_token": three.refresh})).await.status, 204);
    dead(&stack, &two).await;
    dead(&stack, &three).await;
    live(&stack, &other).await;
    // Again, with whatever of it: done is done.
    for _ in 0..2 {
        assert_eq!(logout(&stack, Some(&two.access), json!({})).await.status, 204);
        assert_eq!(logout(&stack, None, json!({"refresh_token": one.refresh})).await.status, 204);
        assert_eq!(logout(&stack, Some(&two.access), json!({"refresh_token": two.refresh})).await.status, 204);
    }
    // Nothing is ended unless every token given is good for it.
    let bad = logout(&stack, Some(&other.access), json!({"refresh_token": "nonsense"})).await;
    assert_eq!(refusal(&bad), (401, "invalid_grant".into()));
    let bad = logout(&stack, Some("nonsense"), json!({"refresh_token": other.refresh})).await;
    assert_eq!(refusal(&bad), (401, "token_invalid".into()));
    live(&stack, &other).await;
    assert_eq!(refusal(&logout(&stack, None, json!({})).await), (401, "token_missing".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_others_end_and_this_one_stays() {
    let stack = Stack::start(Store::Redis, 1).await;
    let (this, one, two) =
        (stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await);
    let stranger = stack.issuer.login(OTHER).await;
    assert_eq!(logout(&stack, Some(&this.access), json!({"scope": "others"})).await.status, 204);
    dead(&stack, &one).await;
    dead(&stack, &two).await;
    live(&stack, &this).await;
    live(&stack, &stranger).await;
    let by_refresh = stack.issuer.login(EMAIL).await;
    assert_eq!(logout(&stack, None, json!({"scope": "others", "refresh_token": by_refresh.refresh})).await.status, 204);
    dead(&stack, &this).await;
    live(&stack, &by_refresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn global_ends_all_of_one_user() {
    for store in [Store::Embedded, Store::Redis] {
        let stack = Stack::start(store, 1).await;
        let (one, two) = (stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await);
        let stranger = stack.issuer.login(OTHER).await;
        let global = || logout(&stack, Some(&one.access), json!({"scope": "global"}));
        assert_eq!(global().await.status, 204);
        dead(&stack, &one).await;
        dead(&stack, &two).await;
        live(&stack, &stranger).await;
        let new = stack.issuer.login(EMAIL).await;
        live(&stack, &new).await;
        // The answer may have been lost, so the same is 204 again; and ends nothing that began since.
        for _ in 0..5 {
            assert_eq!(global().await.status, 204);
        }
        live(&stack, &new).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_logged_out_ends_nobody_elses_session() {
    let stack = Stack::start(Store::Embedded, 1).await;
    let (stolen, mine) = (stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await);
    assert_eq!(stack.issuer.logout(&stolen.access).await.status, 204);
    dead(&stack, &stolen).await;
    // The issuer's own list learns of it within milliseconds, as any verifier's.
    eventually("the issuer to know", || async {
        let me = stack.issuer.at.get("/auth/me").bearer(&stolen.access).send().await;
        (me.status == 401).then_some(())
    })
    .await;
    for scope in ["others", "global"] {
        let reply = logout(&stack, Some(&stolen.access), json!({"scope": scope})).await;
        assert_eq!(refusal(&reply), (401, "token_revoked".into()), "{scope}");
    }
    live(&stack, &mine).await;
    let sessions = stack.issuer.at.get("/auth/sessions").bearer(&stolen.access).send().await;
    assert_eq!(refusal(&sessions), (401, "token_revoked".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_record_was_lost_is_revoked_all_the_same() {
    let stack = Stack::start(Store::Redis, 1).await;
    let (by_access, by_refresh) = (stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await);
    let mut redis = stack.redis.as_ref().expect("on Redis").connection().await;
    let records: Vec<String> = redis::cmd("KEYS").arg("*:session:*").query_async(&mut redis).await.expect("keys");
    assert_eq!(records.len(), 2);
    let () = redis::cmd("DEL").arg(&records).query_async(&mut redis).await.expect("deleted");
    live(&stack, &by_access).await;
    assert_eq!(stack.issuer.logout(&by_access.access).await.status, 204);
    assert_eq!(logout(&stack, None, json!({"refresh_token": by_refresh.refresh})).await.status, 204);
    dead(&stack, &by_access).await;
    dead(&stack, &by_refresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_and_ended_one_by_one() {
    let stack = Stack::start(Store::Redis, 1).await;
    let login = |agent: &'static str| {
        let body = json!({"email": EMAIL, "password": sidegate_tests::users::PASSWORD});
        stack.issuer.at.post("/auth/login").header("user-agent", agent).json(&body).send()
    };
    let (phone, laptop) = (tokens(&login("phone/1").await), tokens(&login("laptop/2").await));
    let stranger = stack.issuer.login(OTHER).await;
    let list = async |pair: &Tokens| {
        let reply = stack.issuer.at.get("/auth/sessions").bearer(&pair.access).send().await;
        assert_eq!(reply.status, 200);
        reply.json()["sessions"].as_array().expect("a list").clone()
    };
    let sessions = list(&laptop).await;
    assert_eq!(sessions.len(), 2);
    let of = |agent: &str| sessions.iter().find(|session| session["agent"] == agent).expect("listed").clone();
    assert_eq!((&of("laptop/2")["current"], &of("phone/1")["current"]), (&json!(true), &json!(false)));
    for session in &sessions {
        assert_eq!(session["address"], "127.0.0.1");
        assert!(session["created"].as_u64() > Some(1_700_000_000) && session["refreshed"].is_u64(), "{session}");
    }
    let end = |sid: &serde_json::Value, by: &Tokens| {
        let path = format!("/auth/sessions/{}", sid.as_str().expect("a sid"));
        stack.issuer.at.call(http::Method::DELETE, &path).bearer(&by.access).send()
    };
    let sid = of("phone/1")["sid"].clone();
    assert_eq!(end(&sid, &stranger).await.code(), "not_found", "not another user's");
    live(&stack, &phone).await;
    assert_eq!(end(&sid, &laptop).await.status, 204);
    dead(&stack, &phone).await;
    assert_eq!(list(&laptop).await.len(), 1);
    assert_eq!(end(&sid, &laptop).await.code(), "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_a_user_can_still_log_in_at_once() {
    for store in [Store::Embedded, Store::Redis] {
        let stack = Stack::start(store, 0).await;
        let url = stack.redis.as_ref().map(sidegate_tests::redis::Redis::url);
        let feed = stack.issuer.feed_url();
        let source = url.as_deref().map_or(("ISSUER_FEED_URL", feed.as_str()), |url| ("REDIS_URL", url));
        // With little leeway: a token of some seconds later would be refused.
        let verifier = Verifier::start(&stack.folder, "v", &[source, ("LEEWAY", "1s")]).await;
        for what in [json!({"user": "1"}), json!({"all": true}), json!({"user": "1"})] {
            for _ in 0..30 {
                assert_eq!(stack.issuer.revoke(&what).await.status, 204);
            }
            let pair = stack.issuer.login(EMAIL).await;
            let reply = verifier.check(&pair.access).await;
            assert_eq!(reply.status, 200, "{what}: {}", String::from_utf8_lossy(&reply.body));
            let next = tokens(&stack.issuer.refresh(&pair.refresh).await);
            assert_eq!(verifier.check(&next.access).await.status, 200, "{what}");
            assert_eq!(stack.issuer.revoke(&what).await.status, 204);
            assert_eq!(verifier.until_denied(&next.access).await.code(), "token_revoked", "{what}");
            assert_eq!(verifier.until_denied(&pair.access).await.code(), "token_revoked", "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_revoke_and_list_through_the_admin_api() {
    let stack = Stack::start(Store::Redis, 1).await;
    let admin = stack.issuer.settings["ISSUER_ADMIN_LISTEN"].clone();
    let settings = [("ISSUER_ADMIN_LISTEN", admin.as_str()), ("ADMIN_TOKEN", ADMIN_TOKEN)];
    let command = |arguments: &[&str], input: &str| {
        let output = run("sidegate-issuer", arguments, &settings, input);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let pair = stack.issuer.login(EMAIL).await;
    let listed = command(&["sessions", "list", "--user", "1"], "");
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let sid = listed["sessions"][0]["sid"].as_str().expect("one session").to_owned();
    command(&["revoke", "session", &sid], "");
    dead(&stack, &pair).await;
    for what in [&["revoke", "user", "1"][..], &["revoke", "all"]] {
        let pair = stack.issuer.login(EMAIL).await;
        command(what, "");
        dead(&stack, &pair).await;
    }
    let pair = stack.issuer.login(EMAIL).await;
    command(&["revoke", "token", "-"], &pair.access);
    assert_eq!(stack.verifiers[0].until_denied(&pair.access).await.code(), "token_revoked");
    assert_eq!(stack.issuer.refresh(&pair.refresh).await.status, 200, "only the token, not its session");
    let pair = stack.issuer.login(EMAIL).await;
    command(&["revoke", "token", &pair.access], "");
    assert_eq!(stack.verifiers[0].until_denied(&pair.access).await.code(), "token_revoked");
    let wrong = [settings[0], ("ADMIN_TOKEN", "not-the-admin-token")];
    let refused = run("sidegate-issuer", &["revoke", "all"], &wrong, "");
    assert_eq!(refused.status.code(), Some(1));
}
