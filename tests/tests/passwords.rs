//! Passwords through the socket: refusals cost the same and look the same; what is right is taken exactly as it is.

use http::HeaderMap;
use serde_json::json;
use sidegate_tests::http::Reply;
use sidegate_tests::postgres::Postgres;
use sidegate_tests::stack::{EMAIL, Stack, Store, metric};
use sidegate_tests::users::PASSWORD;

const ROUNDS: &str = "sidegate_issuer_bcrypt_rounds_total";

async fn login(stack: &Stack, email: &str, password: &str) -> Reply {
    stack.issuer.at.post("/auth/login").json(&json!({"email": email, "password": password})).send().await
}

async fn users(stack: &Stack) -> sqlx::SqlitePool {
    sqlx::SqlitePool::connect(&stack.issuer.settings["DATABASE_URL"]).await.expect("the users")
}

async fn add(pool: &sqlx::SqlitePool, email: &str, hash: Option<&str>, active: bool) {
    let insert = "INSERT INTO users (email, password_hash, active) VALUES ($1, $2, $3)";
    sqlx::query(insert).bind(email).bind(hash).bind(active).execute(pool).await.expect("a user");
}

/// The headers that could tell answers apart.
fn telling(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut all: Vec<_> = headers
        .iter()
        .filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
        .collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refused_class_costs_the_same_rounds_and_gets_the_same_answer() {
    // As 10 and 12 would be, four times cheaper: the stored costs are mixed, and the dearest sets the mark.
    let stack = Stack::with(Store::Embedded, 0, &[("BCRYPT_COST", "8")], &[]).await;
    let pool = users(&stack).await;
    let hash = |cost| bcrypt::hash(PASSWORD, cost).expect("bcrypt");
    let (cheap, dear) = (hash(8), hash(10));
    add(&pool, "cheap@example.org", Some(&cheap), true).await;
    add(&pool, "dear@example.org", Some(&dear), true).await;
    add(&pool, "disabled8@example.org", Some(&cheap), false).await;
    add(&pool, "disabled10@example.org", Some(&dear), false).await;
    add(&pool, "nopassword@example.org", None, true).await;
    add(&pool, "empty@example.org", Some(""), true).await;
    add(&pool, "malformed@example.org", Some("$2b$10$short"), true).await;
    add(&pool, "absurd@example.org", Some(&dear.replacen("$10$", "$31$", 1)), true).await;
    add(&pool, "other@example.org", Some("$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA"), true).await;
    add(&pool, "Twice@example.org", Some(&cheap), true).await;
    add(&pool, "TWICE@example.org", Some(&cheap), true).await;

    assert_eq!(login(&stack, "dear@example.org", PASSWORD).await.status, 200, "the mark is 10 from now on");
    let (long, nul) = ("x".repeat(73), format!("{PASSWORD}\0"));
    let spaced = format!(" {PASSWORD}");
    let mut first: Option<(serde_json::Value, Vec<(String, String)>)> = None;
    for (class, email, password) in [
        ("unknown", "nobody@example.org", PASSWORD),
        ("unknown, no email", "", PASSWORD),
        ("unknown, NUL in the email", "cheap@example.org\0", PASSWORD),
        ("unknown, 73 bytes", "nobody@example.org", &long),
        ("unknown, NUL", "nobody@example.org", &nul),
        ("wrong, stored cost 4", EMAIL, "wrong"),
        ("wrong, stored cost 8", "cheap@example.org", "wrong"),
        ("wrong, stored cost 10", "dear@example.org", "wrong"),
        ("wrong, empty", "cheap@example.org", ""),
        ("wrong, a space too many", "cheap@example.org", &spaced),
        ("disabled, right, cost 8", "disabled8@example.org", PASSWORD),
        ("disabled, right, cost 10", "disabled10@example.org", PASSWORD),
        ("disabled, wrong", "disabled8@example.org", "wrong"),
        ("no password", "nopassword@example.org", PASSWORD),
        ("an empty hash", "empty@example.org", ""),
        ("malformed hash", "malformed@example.org", PASSWORD),
        ("absurd cost", "absurd@example.org", PASSWORD),
        ("another kind of hash", "other@example.org", PASSWORD),
        ("73 bytes, stored cost 8", "cheap@example.org", &long),
        ("73 bytes, stored cost 10", "dear@example.org", &long),
        ("NUL, stored cost 8", "cheap@example.org", &nul),
        ("NUL, stored cost 10", "dear@example.org", &nul),
        ("several rows match", "twice@example.org", PASSWORD),
    ] {
        let before = metric(&stack.issuer.admin, ROUNDS).await;
        let reply = login(&stack, email, password).await;
        let spent = metric(&stack.issuer.admin, ROUNDS).await - before;
        assert_eq!(spent, 1 << 10, "{class}: rounds");
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (401, "invalid_credentials"), "{class}");
        let mut body = reply.json();
        body.as_object_mut().expect("an object").remove("instance");
        let seen = (body, telling(&reply.headers));
        assert_eq!(first.get_or_insert_with(|| seen.clone()), &seen, "{class}: the answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_used_exactly_as_received() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let pool = users(&stack).await;
    let (long, longest) = ("p".repeat(64), "q".repeat(72));
    let passwords = [" spaces ", "CaSe", "p\u{e4}ssw\u{f6}rd", "pa\u{308}ssword", "\u{1F511}", "\t", &long, &longest];
    for (number, password) in passwords.iter().enumerate() {
        let email = format!("user{number}@example.org");
        add(&pool, &email, Some(&bcrypt::hash(password, 4).expect("bcrypt")), true).await;
        assert_eq!(login(&stack, &email, password).await.status, 200, "{password:?}");
        let mut shorter = (*password).to_owned();
        shorter.pop();
        for other in [password.trim(), &password.to_lowercase(), &format!("{password} "), &shorter] {
            if other != *password {
                assert_eq!(login(&stack, &email, other).await.status, 401, "{other:?} is not {password:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_variant_of_bcrypt_is_taken() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let pool = users(&stack).await;
    let hash = bcrypt::hash(PASSWORD, 4).expect("bcrypt");
    for variant in ["2a", "2b", "2x", "2y"] {
        let email = format!("{variant}@example.org");
        add(&pool, &email, Some(&hash.replacen("$2b$", &format!("${variant}$"), 1)), true).await;
        assert_eq!(login(&stack, &email, PASSWORD).await.status, 200, "{variant}");
        assert_eq!(login(&stack, &email, "wrong").await.status, 401, "{variant}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cheap_hash_is_made_anew_only_where_that_is_wanted() {
    let postgres = Postgres::start().await;
    let pool = postgres.pool().await;
    sidegate_tests::users::postgres(&pool, &[EMAIL]).await;
    let url = postgres.url();
    let stored = async || -> String {
        sqlx::query_scalar("SELECT password_hash FROM users WHERE id = 1").fetch_one(&pool).await.expect("the user")
    };
    let before = stored().await;
    let settings = [("DATABASE_URL", url.as_str()), ("BCRYPT_COST", "6")];
    {
        let stack = Stack::with(Store::Embedded, 0, &settings, &[]).await;
        assert_eq!(login(&stack, EMAIL, PASSWORD).await.status, 200);
        assert_eq!(stored().await, before, "the table is only read");
    }
    let rehash = [settings[0], settings[1], ("USERS_REHASH", "true")];
    let stack = Stack::with(Store::Embedded, 0, &rehash, &[]).await;
    assert_eq!(login(&stack, EMAIL, "wrong").await.status, 401);
    assert_eq!(stored().await, before, "not at a refused login");
    assert_eq!(login(&stack, EMAIL, PASSWORD).await.status, 200);
    let after = stored().await;
    assert!(after.starts_with("$2b$06$"), "{after}");
    assert_eq!(login(&stack, EMAIL, PASSWORD).await.status, 200);
    assert_eq!(stored().await, after, "once is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehash_in_sqlite_is_written() {
    let stack = Stack::with(Store::Embedded, 0, &[("BCRYPT_COST", "5"), ("USERS_REHASH", "true")], &[]).await;
    assert_eq!(login(&stack, EMAIL, PASSWORD).await.status, 200);
    let stored: String = sqlx::query_scalar("SELECT password_hash FROM users WHERE id = 1")
        .fetch_one(&users(&stack).await)
        .await
        .expect("the user");
    assert!(stored.starts_with("$2b$05$"), "{stored}");
    assert_eq!(login(&stack, EMAIL, PASSWORD).await.status, 200);
}
