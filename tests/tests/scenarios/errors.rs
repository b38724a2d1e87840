//! Every row of the issuer's error table, through its socket; and a failed dependency loses
//! nothing.

use http::Method;
use serde_json::json;
use sidegate_tests::http::Reply;
use sidegate_tests::postgres::Postgres;
use sidegate_tests::stack::{EMAIL, Stack, Store, tokens};
use sidegate_tests::users::{self, PASSWORD};
use sidegate_tests::wait::eventually;

/// The common shape of every error.
fn problem(reply: &Reply, status: u16, code: &str) {
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    assert_eq!(reply.status, status, "{text}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{text}");
    let body = reply.json();
    assert_eq!(body["code"], code, "{text}");
    assert_eq!(body["status"], status, "{text}");
    for member in ["type", "title", "detail", "error", "error_description"] {
        assert!(body[member].as_str().is_some_and(|value| !value.is_empty()), "{member} in {text}");
    }
    assert_eq!(reply.header("cache-control"), Some("no-store"), "{text}");
    assert_eq!(reply.header("pragma"), Some("no-cache"), "{text}");
    assert!(reply.header("x-request-id").is_some_and(|id| id.len() == 24), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_name_the_field() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let login = || stack.issuer.at.post("/auth/login");
    for (body, field) in [
        (json!({"password": PASSWORD}), "email"),
        (json!({"email": EMAIL}), "password"),
        (json!({"email": 5, "password": PASSWORD}), "email"),
        (json!({"email": EMAIL, "password": null}), "password"),
        (json!({"email": [EMAIL], "password": PASSWORD}), "email"),
    ] {
        let reply = login().json(&body).send().await;
        problem(&reply, 400, "invalid_request");
        assert!(
            reply.json()["detail"].as_str().is_some_and(|detail| detail.contains(field)),
            "{body}: {:?}",
            reply.json()
        );
    }
    for body in ["", "{", "[]", "null", "\"x\"", "{\"email\":}", "\u{feff}{}"] {
        problem(&login().header("content-type", "application/json").body(body).send().await, 400, "invalid_request");
    }
    let invalid_utf8 =
        login().header("content-type", "application/json").body(&b"{\"email\":\"\xff\",\"password\":\"x\"}"[..]);
    problem(&invalid_utf8.send().await, 400, "invalid_request");
    problem(&login().form("username=a").send().await, 400, "invalid_request");
    let refresh = stack.issuer.at.post("/auth/refresh");
    let reply = refresh.clone().json(&json!({})).send().await;
    problem(&reply, 400, "invalid_request");
    assert!(reply.json()["detail"].as_str().is_some_and(|detail| detail.contains("refresh_token")));
    let access = stack.issuer.login(EMAIL).await.access;
    let reply = stack.issuer.at.post("/auth/logout").bearer(&access).json(&json!({"scope": "everything"})).send().await;
    problem(&reply, 400, "invalid_request");
    assert_eq!(stack.issuer.at.get("/auth/me").bearer(&access).send().await.status, 200, "and nothing was ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_ignored_and_forms_accepted() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let body = json!({"email": EMAIL, "password": PASSWORD, "remember": true, "x": {"y": [1]}});
    assert_eq!(stack.issuer.at.post("/auth/login").json(&body).send().await.status, 200);
    let form =
        "grant_type=password&username=alice%40example.org&password=correct+horse+battery+staple&scope=&client_id=x";
    let reply = stack.issuer.at.post("/auth/login").form(form).send().await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("pragma"), Some("no-cache"));
    let body = reply.json();
    assert_eq!(body["token_type"], "bearer");
    assert_eq!(body["expires_in"], 86_400);
    let refresh = format!("grant_type=refresh_token&refresh_token={}", body["refresh_token"].as_str().unwrap());
    assert_eq!(stack.issuer.at.post("/auth/refresh").form(&refresh).send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_refused_logins_get_the_same_answer() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let database = stack.issuer.settings["DATABASE_URL"].clone();
    let pool = sqlx::SqlitePool::connect(&database).await.unwrap();
    for (email, hash, active) in [
        ("disabled@example.org", Some(users::hash()), false),
        ("nopassword@example.org", None, true),
        ("empty@example.org", Some(String::new()), true),
        ("malformed@example.org", Some("$2b$04$short".to_owned()), true),
        ("costly@example.org", Some(users::hash().replacen("$04$", "$31$", 1)), true),
    ] {
        let insert = "INSERT INTO users (email, password_hash, active) VALUES ($1, $2, $3)";
        sqlx::query(insert).bind(email).bind(hash).bind(active).execute(&pool).await.unwrap();
    }
    let long = "x".repeat(73);
    let mut bodies = Vec::new();
    for (email, password) in [
        ("unknown@example.org", PASSWORD),
        (EMAIL, "wrong"),
        (EMAIL, ""),
        (EMAIL, long.as_str()),
        (EMAIL, "correct horse battery staple\0"),
        (EMAIL, " correct horse battery staple"),
        ("disabled@example.org", PASSWORD),
        ("nopassword@example.org", ""),
        ("empty@example.org", ""),
        ("malformed@example.org", PASSWORD),
        ("costly@example.org", PASSWORD),
        ("", PASSWORD),
        ("alice@example.org\0", PASSWORD),
    ] {
        let reply =
            stack.issuer.at.post("/auth/login").json(&json!({"email": email, "password": password})).send().await;
        problem(&reply, 401, "invalid_credentials");
        let mut body = reply.json();
        body.as_object_mut().unwrap().remove("instance");
        bodies.push(body);
    }
    assert!(bodies.windows(2).all(|two| two[0] == two[1]), "{bodies:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_bad_refresh_tokens_get_the_same_answer() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let pair = stack.issuer.login(EMAIL).await;
    let mut flipped = pair.refresh.clone().into_bytes();
    let middle = flipped.len() / 2;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).unwrap();
    for bad in ["", "x", "....", &pair.access, &flipped, &format!("{}=", pair.refresh), &"A".repeat(9000)] {
        problem(&stack.issuer.refresh(bad).await, 401, "invalid_grant");
    }
    let next = tokens(&stack.issuer.refresh(&pair.refresh).await);
    let after = tokens(&stack.issuer.refresh(&next.refresh).await);
    problem(&stack.issuer.refresh(&pair.refresh).await, 401, "invalid_grant");
    problem(&stack.issuer.refresh(&after.refresh).await, 401, "invalid_grant");
    eventually("reuse to kill the access tokens too", || async {
        let me = stack.issuer.at.get("/auth/me").bearer(&after.access).send().await;
        (me.status == 401 && me.code() == "token_revoked").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn protected_routes() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let me = || stack.issuer.at.get("/auth/me");
    let reply = me().send().await;
    problem(&reply, 401, "token_missing");
    assert_eq!(reply.header("www-authenticate"), Some("Bearer"), "a bare challenge when no token came");
    let reply = me().bearer("junk").send().await;
    problem(&reply, 401, "token_invalid");
    assert!(reply.header("www-authenticate").unwrap().starts_with("Bearer error=\"invalid_token\""));
    let pair = stack.issuer.login(EMAIL).await;
    problem(&me().bearer(&pair.refresh).send().await, 401, "token_invalid");
    problem(&me().bearer(&pair.access).bearer(&pair.access).send().await, 401, "token_invalid");
    problem(&me().bearer(&format!("{},{}", pair.access, pair.access)).send().await, 401, "token_invalid");
    assert_eq!(me().header("authorization", &format!("bEaReR {}", pair.access)).send().await.status, 200);
    assert_eq!(stack.issuer.logout(&pair.access).await.status, 204);
    eventually("the token to be revoked", || async {
        let reply = me().bearer(&pair.access).send().await;
        (reply.status == 401).then(|| problem(&reply, 401, "token_revoked"))
    })
    .await;
    problem(&stack.issuer.at.post("/auth/logout").send().await, 401, "token_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_tokens() {
    let stack =
        Stack::with(Store::Embedded, 1, &[("ACCESS_TOKEN_TTL", "1s"), ("LEEWAY", "0s")], &[("LEEWAY", "0s")]).await;
    let pair = stack.issuer.login(EMAIL).await;
    eventually("the token to expire", || async {
        let reply = stack.issuer.at.get("/auth/me").bearer(&pair.access).send().await;
        (reply.status == 401).then(|| problem(&reply, 401, "token_expired"))
    })
    .await;
    assert_eq!(stack.verifiers[0].until_denied(&pair.access).await.code(), "token_expired");
    assert_eq!(stack.issuer.logout(&pair.access).await.status, 204, "an expired token still ends its session");
    problem(&stack.issuer.refresh(&pair.refresh).await, 401, "invalid_grant");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_paths_methods_sizes_and_types_are_refused() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let at = &stack.issuer.at;
    for path in
        ["/", "/auth", "/auth/login/", "/livez", "/readyz", "/metrics", "/admin/revocations", "/auth/../metrics"]
    {
        assert_eq!(at.get(path).send().await.status, 404, "{path}");
    }
    problem(&at.get("/nothing").send().await, 404, "not_found");
    let reply = at.get("/auth/login").send().await;
    problem(&reply, 405, "method_not_allowed");
    assert_eq!(reply.header("allow"), Some("POST"));
    problem(&at.call(Method::DELETE, "/auth/me").send().await, 405, "method_not_allowed");
    let large = json!({"email": EMAIL, "password": "x".repeat(17 * 1024)});
    problem(&at.post("/auth/login").json(&large).send().await, 413, "payload_too_large");
    let xml = at.post("/auth/login").header("content-type", "text/xml").body("<login/>");
    problem(&xml.send().await, 415, "unsupported_media_type");
    problem(&at.post("/auth/login").body("{}").send().await, 415, "unsupported_media_type");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_store_gives_503_and_loses_nothing() {
    let mut stack = Stack::start(Store::Redis, 1).await;
    let (pair, other) = (stack.issuer.login(EMAIL).await, stack.issuer.login(EMAIL).await);
    stack.redis.as_mut().unwrap().kill();
    let unavailable = |reply: &Reply| {
        problem(reply, 503, "temporarily_unavailable");
        assert!(reply.header("retry-after").is_some());
    };
    unavailable(&stack.issuer.at.post("/auth/login").json(&json!({"email": EMAIL, "password": PASSWORD})).send().await);
    unavailable(&stack.issuer.refresh(&pair.refresh).await);
    unavailable(&stack.issuer.logout(&other.access).await);
    unavailable(&stack.issuer.revoke(&json!({"token": pair.access})).await);
    eventually("the issuer not to be ready", || async {
        (stack.issuer.admin.get("/readyz").send().await.status == 503).then_some(())
    })
    .await;
    assert_eq!(stack.issuer.admin.get("/livez").send().await.status, 200);
    stack.redis.as_mut().unwrap().restart().await;
    let next = eventually("the refresh to work again", || async {
        let reply = stack.issuer.refresh(&pair.refresh).await;
        (reply.status == 200).then(|| tokens(&reply))
    })
    .await;
    eventually("the logout to be retried", || async {
        (stack.issuer.logout(&next.access).await.status == 204).then_some(())
    })
    .await;
    // What was refused is delivered without a retry: the other session's end, and the token's revocation.
    for access in [&pair.access, &other.access] {
        assert_eq!(stack.verifiers[0].until_denied(access).await.code(), "token_revoked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_database_gives_503_and_ends_no_session() {
    let mut postgres = Postgres::start().await;
    users::postgres(&postgres.pool().await, &[EMAIL]).await;
    let url = postgres.url();
    let stack = Stack::with(Store::Embedded, 0, &[("DATABASE_URL", &url)], &[]).await;
    let pair = stack.issuer.login(EMAIL).await;
    postgres.kill();
    let refused = stack.issuer.refresh(&pair.refresh).await;
    problem(&refused, 503, "temporarily_unavailable");
    let login = stack.issuer.at.post("/auth/login").json(&json!({"email": EMAIL, "password": PASSWORD})).send().await;
    problem(&login, 503, "temporarily_unavailable");
    assert_eq!(stack.issuer.at.get("/auth/me").bearer(&pair.access).send().await.status, 200, "needs no database");
    postgres.restart().await;
    eventually("the session to continue", || async {
        (stack.issuer.refresh(&pair.refresh).await.status == 200).then_some(())
    })
    .await;
}
