//! No secret, token, password or email appears in any log, even at the level trace; and every event
//! is audited.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sidegate_tests::grpc_check;
use sidegate_tests::http::At;
use sidegate_tests::postgres::Postgres;
use sidegate_tests::program::run;
use sidegate_tests::redis::Redis;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{EMAIL, Issuer, Tokens, Verifier, tokens};
use sidegate_tests::users::{self, PASSWORD};
use sidegate_tests::wait::eventually;

const JWT: &str = "canary-of-the-jwt-secret-which-has-forty-bytes";
const JWT_OLD: &str = "canary-of-the-previous-jwt-secret-forty-bytes";
const SESSION: &str = "canary-of-the-session-secret-which-has-forty-b";
const ADMIN: &str = "canary-of-the-admin-token";
const FEED: &str = "canary-of-the-feed-token";
const INTROSPECT: &str = "canary-of-the-introspection-token";
const DATABASE: &str = "canary-of-the-database-password";
const REDIS: &str = "canary-of-the-redis-password";
const WRONG: &str = "canary-of-a-wrong-password";

/// The values that must not be found, by name.
struct Canaries(Vec<(String, String)>);

impl Canaries {
    fn new() -> Self {
        let fixed = [JWT, JWT_OLD, SESSION, ADMIN, FEED, INTROSPECT, DATABASE, REDIS, WRONG, PASSWORD, EMAIL];
        let mut canaries = Self(Vec::new());
        for secret in fixed {
            canaries.add(secret, secret);
        }
        canaries.add("the stored hash", &users::hash());
        canaries
    }

    /// Adds a secret as it is, as base64, and as the list of numbers that Rust prints for bytes.
    fn add(&mut self, name: &str, secret: &str) {
        let numbers: Vec<_> = secret.bytes().take(16).map(|byte| byte.to_string()).collect();
        for form in [secret.to_owned(), STANDARD.encode(&secret.as_bytes()[..15]), numbers.join(", ")] {
            self.0.push((name.to_owned(), form));
        }
    }

    fn pair(&mut self, pair: &Tokens) {
        self.add("a refresh token", &pair.refresh);
        self.add("an access token", &pair.access);
        self.add("an access token's signature", pair.access.rsplit('.').next().expect("a signature"));
        self.add("an access token's payload", pair.access.split('.').nth(1).expect("a payload"));
    }

    fn none_in(&self, what: &str, text: &str) {
        for (name, form) in &self.0 {
            if let Some(at) = text.find(form.as_str()) {
                let line = text[..at].lines().count();
                let around = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
                let around: String = around.chars().take(600).collect();
                panic!("{what} shows {name}: {around}");
            }
        }
    }
}

/// All requests of clients to the issuer, good and bad.
async fn exercise_issuer(issuer: &Issuer, canaries: &mut Canaries) -> Tokens {
    let at = &issuer.at;
    let login =
        |email: &str, password: &str| at.post("/auth/login").json(&json!({"email": email, "password": password}));
    let first = tokens(&login(EMAIL, PASSWORD).send().await);
    canaries.pair(&first);
    for (email, password) in [(EMAIL, WRONG), ("unknown@example.org", WRONG)] {
        assert_eq!(login(email, password).send().await.status, 401);
        assert_eq!(login(email, password).h2().send().await.status, 401);
    }
    let broken = format!("{{\"email\":\"{EMAIL}\",\"password\":\"{WRONG}\"");
    let broken = at.post("/auth/login").header("content-type", "application/json").body(broken);
    assert_eq!(broken.send().await.status, 400);
    let basic = STANDARD.encode(format!("{EMAIL}:{WRONG}"));
    canaries.add("basic credentials", &basic);
    let form = format!("username={}&password={}", EMAIL.replace('@', "%40"), PASSWORD.replace(' ', "+"));
    let reply = at.post("/auth/login").header("authorization", &format!("Basic {basic}")).form(&form).send().await;
    canaries.pair(&tokens(&reply));
    let child = tokens(&issuer.refresh(&first.refresh).await);
    canaries.pair(&child);
    canaries.pair(&tokens(&at.post("/auth/refresh").json(&json!({"refresh_token": child.refresh})).h2().send().await));
    assert_eq!(issuer.refresh(&first.refresh).await.status, 401, "reuse");
    assert_eq!(issuer.refresh(&format!("{}x", &first.refresh[1..])).await.status, 401);
    let other = issuer.login(EMAIL).await;
    canaries.pair(&other);
    assert_eq!(at.get("/auth/me").bearer(&other.access).h2().send().await.status, 200);
    assert_eq!(at.get("/auth/me").bearer(&format!("{}x", other.access)).send().await.status, 401);
    assert_eq!(at.get(&format!("/auth/me?access_token={}", other.access)).send().await.status, 401);
    assert_eq!(at.get("/auth/sessions").bearer(&other.access).send().await.status, 200);
    assert_eq!(issuer.logout(&other.access).await.status, 204);
    let reply = at.post("/auth/logout").json(&json!({"refresh_token": other.refresh})).send().await;
    assert_eq!(reply.status, 204);
    let third = issuer.login(EMAIL).await;
    canaries.pair(&third);
    let revoke =
        |token: &str| issuer.admin.post("/admin/revocations").bearer(token).json(&json!({"token": third.access}));
    assert_eq!(revoke(ADMIN).send().await.status, 204);
    assert_eq!(revoke(WRONG).send().await.status, 401);
    assert_eq!(revoke(ADMIN).body(format!("{{\"user\": \"{WRONG}")).send().await.status, 400);
    let last = issuer.login(EMAIL).await;
    canaries.pair(&last);
    last
}

/// All requests to a verifier.
async fn exercise_verifier(verifier: &Verifier, pair: &Tokens) {
    let token = &pair.access;
    assert_eq!(verifier.check(token).await.status, 200);
    for at in [&verifier.at, &verifier.tcp] {
        assert_eq!(at.get("/check").bearer(token).h2().send().await.status, 200);
        assert_eq!(at.get("/check").bearer(&format!("{token}x")).send().await.status, 401);
        assert_eq!(at.get("/check").bearer(&pair.refresh).send().await.status, 401);
        assert_eq!(at.get("/check").header("cookie", &format!("session={token}")).send().await.status, 200);
        let nginx = at.get("/nginx").bearer(token).header("x-original-uri", &format!("/?t={token}"));
        nginx.header("x-original-method", "GET").send().await;
        let introspect = at.post("/introspect").bearer(INTROSPECT).form(&format!("token={token}")).send().await;
        assert_eq!(introspect.json()["active"], true);
        at.post("/introspect").bearer(WRONG).form(&format!("token={token}")).send().await;
    }
    let verify = verifier.at.post("/verify").body(token.clone()).send().await;
    assert_eq!(verify.status, 200);
    let At::Unix(socket) = &verifier.at else { unreachable!("a Unix socket") };
    let channel = grpc_check::channel(socket).await;
    let bearer = format!("Bearer {token}");
    let http = grpc_check::attributes("GET", "/x", &[("authorization", &bearer)]);
    grpc_check::check(&channel, Some(http), &[]).await;
}

/// Events of the audit log with their results; each must have its user, client and time.
fn audited(log: &str) -> Vec<(String, String)> {
    let mut events = Vec::new();
    for line in log.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        if line["target"] != "audit" {
            continue;
        }
        for member in ["timestamp", "event", "result", "sub", "address"] {
            assert!(line[member].is_string(), "an event without {member}: {line}");
        }
        assert!(line["timestamp"].as_str().is_some_and(|moment| moment.ends_with('Z')), "UTC: {line}");
        let text = |member: &str| line[member].as_str().unwrap_or_default().to_owned();
        if ["ok", "reused", "wrong_password"].contains(&text("result").as_str()) && text("event") != "revocation" {
            assert_eq!(text("sub"), "1", "who: {line}");
            assert_eq!(text("address"), "127.0.0.1", "from where: {line}");
        }
        events.push((text("event"), text("result")));
    }
    events
}

fn settings<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let common = [("JWT_SECRET_KEY", JWT), ("JWT_SECRET_KEY_PREVIOUS", JWT_OLD), ("RUST_LOG", "trace")];
    common.into_iter().chain(more.iter().copied()).collect()
}

fn everything_was_audited(log: &str) {
    let events = audited(log);
    for (event, result) in [
        ("login", "ok"),
        ("login", "wrong_password"),
        ("login", "unknown_user"),
        ("refresh", "ok"),
        ("refresh", "reused"),
        ("refresh", "not_authentic"),
        ("logout", "ok"),
        ("logout", "already_ended"),
        ("revocation", "ok"),
    ] {
        let found = events.iter().any(|(e, r)| (e.as_str(), r.as_str()) == (event, result));
        assert!(found, "no event {event} {result} among {events:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_embedded_defaults() {
    let folder = Scratch::new();
    let database = folder.file("app.db");
    users::sqlite(&database, &[EMAIL]).await;
    let (database, store) =
        (format!("sqlite://{}", database.display()), format!("sqlite://{}", folder.file("store.db").display()));
    let of_issuer = settings(&[
        ("SESSION_SECRET_KEY", SESSION),
        ("ADMIN_TOKEN", ADMIN),
        ("FEED_TOKEN", FEED),
        ("DATABASE_URL", &database),
        ("STORE_URL", &store),
    ]);
    let issuer = Issuer::start(&folder, "issuer", &of_issuer).await;
    let feed = issuer.feed_url();
    let of_verifier = settings(&[
        ("FEED_TOKEN", FEED),
        ("ISSUER_FEED_URL", &feed),
        ("TOKEN_COOKIE", "session"),
        ("INTROSPECT_TOKEN", INTROSPECT),
    ]);
    let verifier = Verifier::start(&folder, "verifier", &of_verifier).await;
    let mut canaries = Canaries::new();
    let pair = exercise_issuer(&issuer, &mut canaries).await;
    exercise_verifier(&verifier, &pair).await;
    let (issuer_log, verifier_log) = (issuer.program.output(), verifier.program.output());
    assert!(issuer_log.contains("\"TRACE\"") && verifier_log.contains("\"TRACE\""), "at the level of trace");
    canaries.none_in("the issuer's log", &issuer_log);
    canaries.none_in("the verifier's log", &verifier_log);
    everything_was_audited(&issuer_log);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_and_postgres_even_while_they_fail() {
    let folder = Scratch::new();
    let mut postgres = Postgres::start().await;
    users::postgres(&postgres.pool().await, &[EMAIL]).await;
    let redis = Redis::with(&["--appendonly", "yes"]).await;
    let mut connection = redis.connection().await;
    let () = redis::cmd("CONFIG").arg(&["SET", "requirepass", REDIS]).query_async(&mut connection).await.expect("set");
    let database = postgres.url().replacen("postgres@", &format!("postgres:{DATABASE}@"), 1);
    let url = format!("redis://:{REDIS}@127.0.0.1:{}/", redis.port());
    let of_issuer = settings(&[
        ("SESSION_SECRET_KEY", SESSION),
        ("ADMIN_TOKEN", ADMIN),
        ("DATABASE_URL", &database),
        ("REDIS_URL", &url),
        ("USERS_REHASH", "true"),
    ]);
    let issuer = Issuer::start(&folder, "issuer", &of_issuer).await;
    let of_verifier = settings(&[("REDIS_URL", &url), ("TOKEN_COOKIE", "session"), ("INTROSPECT_TOKEN", INTROSPECT)]);
    let verifier = Verifier::start(&folder, "verifier", &of_verifier).await;
    let mut canaries = Canaries::new();
    let pair = exercise_issuer(&issuer, &mut canaries).await;
    exercise_verifier(&verifier, &pair).await;

    // Dependencies fail, and log the failure.
    postgres.kill();
    assert_eq!(issuer.refresh(&pair.refresh).await.status, 503);
    drop(redis);
    eventually("logout to be refused", || async { (issuer.logout(&pair.access).await.status == 503).then_some(()) })
        .await;
    assert_eq!(issuer.refresh(&pair.refresh).await.status, 503);
    eventually("the issuer not to be ready", || async {
        (issuer.admin.get("/readyz").send().await.status == 503).then_some(())
    })
    .await;
    canaries.none_in("what readyz says", &String::from_utf8_lossy(&issuer.admin.get("/readyz").send().await.body));
    let (issuer_log, verifier_log) = (issuer.program.output(), verifier.program.output());
    canaries.none_in("the issuer's log", &issuer_log);
    canaries.none_in("the verifier's log", &verifier_log);
    everything_was_audited(&issuer_log);
}

#[test]
fn failing_commands_show_no_secret() {
    let canaries = Canaries::new();
    let redis = format!("redis://:{REDIS}@127.0.0.1:1/");
    let database = format!("postgres://u:{DATABASE}@127.0.0.1:1/x?sslmode=nonsense");
    let good: BTreeMap<&str, &str> = [
        ("JWT_SECRET_KEY", JWT),
        ("JWT_SECRET_KEY_PREVIOUS", JWT_OLD),
        ("SESSION_SECRET_KEY", SESSION),
        ("ADMIN_TOKEN", ADMIN),
        ("FEED_TOKEN", FEED),
        ("INTROSPECT_TOKEN", INTROSPECT),
        ("REDIS_URL", &redis),
        ("DATABASE_URL", &database),
        ("RUST_LOG", "trace"),
    ]
    .into();
    let short = format!("{REDIS}\u{0}");
    for (name, value) in [
        ("BCRYPT_COST", "99"),
        ("LEEWAY", "61s"),
        ("REDIS_URL", &format!("http://:{REDIS}@x/")),
        ("REDIS_URL", &format!("redis://:{REDIS}@127.0.0.1:port/")),
        ("DATABASE_URL", &format!("mysql://u:{DATABASE}@x/")),
        ("DATABASE_URL", &format!("postgres://u:{DATABASE}@127.0.0.1:port/x")),
        ("JWT_SECRET_KEY", &JWT[..20]),
        ("ADMIN_TOKEN", &format!("{ADMIN} with spaces")),
    ] {
        let mut all = good.clone();
        all.insert(name, value);
        let pairs: Vec<_> = all.into_iter().collect();
        for program in ["sidegate-issuer", "sidegate-verifier"] {
            let output = run(program, &["check-config"], &pairs, &short);
            let text = [output.stdout, output.stderr].concat();
            canaries.none_in(&format!("{program} check-config with {name}={value}"), &String::from_utf8_lossy(&text));
        }
    }
}
