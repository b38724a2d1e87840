//! Logout and revocation through the socket: what each ends, what may be repeated, and which tokens
//! are refused afterwards.

use serde_json::json;
use sidegate_tests::http::Reply;
use sidegate_tests::program::run;
use sidegate_tests::scenario::OTHER;
use sidegate_tests::stack::{ADMIN_TOKEN, EMAIL, Stack, Store, Tokens, Verifier, metric, tokens};
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
async fn each_presented_token_ends_its_own_session() {
    let stack = Stack::start(Store::Embedded, 1).await;
    let (one, two, three) =
        (stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await);
    let other = stack.issuer.login(OTHER).await;
    // Only a refresh token.
    assert_eq!(logout(&stack, None, json!({"refresh_token": one.refresh})).await.status, 204);
    dead(&stack, &one).await;
    // Both, of different sessions.
    assert_eq!(logout(&stack, Some(&two.access), json!({"refresh_token": three.refresh})).await.status, 204);
    dead(&stack, &two).await;
    dead(&stack, &three).await;
    live(&stack, &other).await;
    // Repeated with either or both: a logout is idempotent.
    for _ in 0..2 {
        assert_eq!(logout(&stack, Some(&two.access), json!({})).await.status, 204);
        assert_eq!(logout(&stack, None, json!({"refresh_token": one.refresh})).await.status, 204);
        assert_eq!(logout(&stack, Some(&two.access), json!({"refresh_token": two.refresh})).await.status, 204);
    }
    // Nothing ends unless every presented token is valid for it.
    let bad = logout(&stack, Some(&other.access), json!({"refresh_token": "nonsense"})).await;
    assert_eq!(refusal(&bad), (401, "invalid_grant".into()));
    let bad = logout(&stack, Some("nonsense"), json!({"refresh_token": other.refresh})).await;
    assert_eq!(refusal(&bad), (401, "token_invalid".into()));
    live(&stack, &other).await;
    assert_eq!(refusal(&logout(&stack, None, json!({})).await), (401, "token_missing".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn logout_of_others_keeps_the_own_session_alive() {
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
async fn global_logout_ends_all_sessions_of_the_user() {
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
        // The response may have been lost, so a repetition is 204 again, and ends no newer session.
        for _ in 0..5 {
            assert_eq!(global().await.status, 204);
        }
        live(&stack, &new).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logged_out_tokens_cannot_end_other_sessions() {
    let stack = Stack::start(Store::Embedded, 1).await;
    let (stolen, mine) = (stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await);
    assert_eq!(stack.issuer.logout(&stolen.access).await.status, 204);
    dead(&stack, &stolen).await;
    // The issuer's own list receives the revocation within milliseconds, like any verifier's.
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
async fn session_without_a_record_is_revoked_nevertheless() {
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
async fn user_can_log_in_right_after_repeated_revocations() {
    for store in [Store::Embedded, Store::Redis] {
        let stack = Stack::start(store, 0).await;
        let url = stack.redis.as_ref().map(sidegate_tests::redis::Redis::url);
        let feed = stack.issuer.feed_url();
        let source = url.as_deref().map_or(("ISSUER_FEED_URL", feed.as_str()), |url| ("REDIS_URL", url));
        // With little leeway: a token from a few seconds ahead would be refused.
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
    assert_eq!(command(&["sessions", "list", "1"], ""), listed, "as the argument, too");
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let sid = listed["sessions"][0]["sid"].as_str().expect("one session").to_owned();
    command(&["revoke", "session", &sid], "");
    dead(&stack, &pair).await;
    for (what, printed) in [
        (&["revoke", "user", "1"][..], "revoked; live sessions ended: 1\n"),
        (&["revoke", "user", "--user", "1"], "revoked; live sessions ended: 1\n"),
        (&["revoke", "all"], ""),
    ] {
        let pair = stack.issuer.login(EMAIL).await;
        assert_eq!(command(what, ""), printed, "{what:?}");
        dead(&stack, &pair).await;
    }
    assert_eq!(command(&["revoke", "user", "unknown"], ""), "revoked; live sessions ended: 0\n");
    let pair = stack.issuer.login(EMAIL).await;
    command(&["revoke", "user", "1", "--keep-sessions"], "");
    assert_eq!(stack.verifiers[0].until_denied(&pair.access).await.code(), "token_revoked");
    assert_eq!(stack.issuer.refresh(&pair.refresh).await.status, 200, "the session continues");
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

#[tokio::test(flavor = "multi_thread")]
async fn old_refresh_token_ends_only_its_own_session() {
    for store in [Store::Embedded, Store::Redis] {
        let stack = Stack::start(store, 1).await;
        for scope in ["others", "global"] {
            let (stolen, other) = (stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await);
            let second = tokens(&stack.issuer.refresh(&stolen.refresh).await);
            let third = tokens(&stack.issuer.refresh(&second.refresh).await);
            let reply = logout(&stack, None, json!({"refresh_token": stolen.refresh, "scope": scope})).await;
            assert_eq!(refusal(&reply), (401, "invalid_grant".into()), "{scope}: two generations old");
            dead(&stack, &third).await;
            live(&stack, &other).await;
            assert_eq!(stack.issuer.refresh(&other.refresh).await.status, 200, "{scope}");
            let result = format!("sidegate_issuer_logouts_total{{scope=\"{scope}\",result=\"reused\"}}");
            assert_eq!(metric(&stack.issuer.admin, &result).await, 1);
        }
        // The current token may end other sessions, and so may the previous one in its retry
        // window.
        for back in [0, 1] {
            let (mine, other) = (stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await);
            let next = tokens(&stack.issuer.refresh(&mine.refresh).await);
            let token = [&next.refresh, &mine.refresh][back];
            let others = logout(&stack, None, json!({"refresh_token": token, "scope": "others"})).await;
            assert_eq!(others.status, 204, "{back}");
            dead(&stack, &other).await;
            live(&stack, &next).await;
            for _ in 0..2 {
                let all = logout(&stack, None, json!({"refresh_token": token, "scope": "global"})).await;
                assert_eq!(all.status, 204, "{back}: and again");
            }
            dead(&stack, &next).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_tokens_can_be_revoked_with_the_sessions_kept() {
    for store in [Store::Embedded, Store::Redis] {
        let stack = Stack::start(store, 1).await;
        let (one, two) = (stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await);
        let other = stack.issuer.login(OTHER).await;
        for user in [json!(1), json!("1")] {
            assert_eq!(stack.issuer.revoke(&json!({"user": user, "sessions": "keep"})).await.status, 204);
        }
        for pair in [&one, &two] {
            assert_eq!(stack.verifiers[0].until_denied(&pair.access).await.code(), "token_revoked");
            let next = tokens(&stack.issuer.refresh(&pair.refresh).await);
            live(&stack, &next).await;
        }
        live(&stack, &other).await;
        for bad in
            [json!({"user": 1, "sessions": "maybe"}), json!({"all": true, "sessions": "keep"}), json!({"user": 1.5})]
        {
            assert_eq!(refusal(&stack.issuer.revoke(&bad).await), (400, "invalid_request".into()), "{bad}");
        }
        let asked = |what: &serde_json::Value| {
            let call = stack.issuer.admin.post("/admin/revocations").bearer(ADMIN_TOKEN).json(what);
            call.header("prefer", "respond-async, return=representation").send()
        };
        let kept = asked(&json!({"user": 1, "sessions": "keep"})).await;
        assert_eq!((kept.status.as_u16(), kept.json()), (200, json!({"sessions_ended": 0})));
        for (what, ended) in [
            (json!({"user": 1}), json!(2)),
            (json!({"user": 1}), json!(0)),
            (json!({"user": "unknown"}), json!(0)),
            (json!({"all": true}), json!(null)),
        ] {
            let reply = asked(&what).await;
            assert_eq!((reply.status.as_u16(), reply.json()), (200, json!({"sessions_ended": ended})), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_per_user_are_limited_and_listed_in_pages() {
    for store in [Store::Embedded, Store::Redis] {
        let stack = Stack::with(store, 1, &[("SESSIONS_PER_USER_MAX", "1")], &[]).await;
        let (first, second) = (stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await);
        dead(&stack, &first).await;
        live(&stack, &second).await;
        let log = stack.issuer.program.output();
        assert!(log.contains("too_many_sessions"), "{log}");
    }
    let stack = Stack::start(Store::Redis, 0).await;
    let mut pairs = Vec::new();
    for _ in 0..5 {
        pairs.push(stack.issuer.login(EMAIL).await);
    }
    let at = |path: String| stack.issuer.at.get(&path).bearer(&pairs[0].access).send();
    let (mut path, mut seen) = ("/auth/sessions?limit=2".to_owned(), Vec::new());
    loop {
        let page = at(path).await.json();
        let sessions = page["sessions"].as_array().expect("a list").clone();
        assert!(sessions.len() <= 2);
        seen.extend(sessions.iter().map(|session| session["sid"].as_str().expect("a sid").to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/auth/sessions?limit=2&after={next}");
    }
    assert_eq!(seen.len(), 5);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 5, "each once");
    for bad in ["limit=0", "limit=101", "limit=x", "after=x"] {
        assert_eq!(refusal(&at(format!("/auth/sessions?{bad}")).await), (400, "invalid_request".into()), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_logouts_are_counted_and_audited() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let pair = stack.issuer.login(EMAIL).await;
    let call = || stack.issuer.at.post("/auth/logout").bearer(&pair.access);
    assert_eq!(call().json(&json!({"scope": "everywhere"})).send().await.status, 400);
    assert_eq!(call().json(&json!({"refresh_token": 1})).send().await.status, 400);
    assert_eq!(call().header("content-type", "application/json").body("{".to_owned()).send().await.status, 400);
    let two = stack.issuer.at.post("/auth/logout").header("authorization", "Bearer a b").send().await;
    assert_eq!(two.status, 401);
    let invalid = "sidegate_issuer_logouts_total{scope=\"unknown\",result=\"invalid\"}";
    assert_eq!(metric(&stack.issuer.admin, invalid).await, 4);
    let log = stack.issuer.program.output();
    let audited = log.lines().filter(|line| line.contains("\"event\":\"logout\"") && line.contains("\"invalid\""));
    assert_eq!(audited.count(), 4, "{log}");
    for (path, name) in [("/auth/login", "logins"), ("/auth/refresh", "refreshes")] {
        assert_eq!(stack.issuer.at.post(path).json(&json!([])).send().await.status, 400);
        let counted = format!("sidegate_issuer_{name}_total{{result=\"invalid\"}}");
        assert_eq!(metric(&stack.issuer.admin, &counted).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_old_store_unrevokes_no_token() {
    let mut stack = Stack::start(Store::Embedded, 1).await;
    let url = stack.issuer.settings["STORE_URL"].clone();
    let store = std::path::PathBuf::from(url.trim_start_matches("sqlite://"));
    let copy = stack.folder.file("copy.db");
    let copy_files = |from: &std::path::Path, to: &std::path::Path| {
        for suffix in ["", "-wal", "-shm"] {
            let name = |path: &std::path::Path| std::path::PathBuf::from(format!("{}{suffix}", path.display()));
            let _none = std::fs::remove_file(name(to));
            if name(from).exists() {
                std::fs::copy(name(from), name(to)).expect("copied");
            }
        }
    };
    let (ended, other) = (stack.issuer.login(EMAIL).await, stack.issuer.login(OTHER).await);
    assert!(stack.issuer.program.stop().success());
    copy_files(&store, &copy);
    stack.issuer.restart().await;
    assert_eq!(stack.issuer.logout(&ended.access).await.status, 204);
    dead(&stack, &ended).await;
    assert!(stack.issuer.program.stop().success());
    copy_files(&copy, &store);
    stack.issuer.restart().await;
    let log = stack.issuer.program.output();
    assert!(log.contains("the embedded store is an old copy"), "{log}");
    dead(&stack, &ended).await;
    // A verifier that starts now never received the logout, and must refuse what it cannot know.
    let feed = stack.issuer.feed_url();
    let late = Verifier::start(&stack.folder, "late", &[("ISSUER_FEED_URL", feed.as_str())]).await;
    assert_eq!(late.check(&ended.access).await.code(), "token_revoked");
    assert_eq!(stack.issuer.refresh(&other.refresh).await.code(), "invalid_grant", "all users must log in again");
    let again = stack.issuer.login(OTHER).await;
    assert_eq!(late.check(&again.access).await.status, 200);
    live(&stack, &again).await;
}
