//! Passwords through the socket: refusals cost the same and look the same; the right password is
//! used unchanged.

mod timing;

use http::HeaderMap;
use serde_json::json;
use sidegate_tests::http::Reply;
use sidegate_tests::postgres::Postgres;
use sidegate_tests::stack::{EMAIL, Stack, Store, metric};
use sidegate_tests::users::PASSWORD;
use sidegate_tests::wait::eventually;

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

/// The headers that could distinguish responses.
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
async fn refusals_cost_the_same_rounds_and_get_the_same_answer() {
    // Like 10 and 12, but four times cheaper: the stored costs are mixed, and the highest
    // determines the cost of all.
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

    assert_eq!(login(&stack, "dear@example.org", PASSWORD).await.status, 200, "the target cost is 10 from now on");
    let (long, nul) = ("x".repeat(73), format!("{PASSWORD}\0"));
    let spaced = format!(" {PASSWORD}");
    let mut first: Option<(serde_json::Value, Vec<(String, String)>)> = None;
    for (class, email, password) in [
        ("unknown", "unknown@example.org", PASSWORD),
        ("unknown, no email", "", PASSWORD),
        ("unknown, NUL in the email", "cheap@example.org\0", PASSWORD),
        ("unknown, 73 bytes", "unknown@example.org", &long),
        ("unknown, NUL", "unknown@example.org", &nul),
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
async fn every_bcrypt_variant_is_accepted() {
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
async fn low_cost_hash_is_replaced_only_if_rehashing_is_on() {
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
    let after = eventually("the new hash", || async { Some(stored().await).filter(|hash| *hash != before) }).await;
    assert!(after.starts_with("$2b$06$"), "{after}");
    assert_eq!(login(&stack, EMAIL, PASSWORD).await.status, 200);
    assert_eq!(stored().await, after, "once is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehash_in_sqlite_is_written() {
    let stack = Stack::with(Store::Embedded, 0, &[("BCRYPT_COST", "5"), ("USERS_REHASH", "true")], &[]).await;
    assert_eq!(login(&stack, EMAIL, PASSWORD).await.status, 200);
    let pool = users(&stack).await;
    until_stored(&pool, "$2b$05$").await;
    assert_eq!(login(&stack, EMAIL, PASSWORD).await.status, 200);
}

/// Waits until the first user's hash starts with `prefix`.
async fn until_stored(pool: &sqlx::SqlitePool, prefix: &str) {
    eventually("the new hash", || async {
        let read = sqlx::query_scalar("SELECT password_hash FROM users WHERE id = 1");
        let stored: String = read.fetch_one(pool).await.expect("the user");
        stored.starts_with(prefix).then_some(())
    })
    .await;
}

/// A writer that holds SQLite's lock once delayed every login by two seconds, and 60 logins by 42.
#[tokio::test(flavor = "multi_thread")]
async fn busy_database_does_not_delay_logins_to_be_rehashed() {
    let stack = Stack::with(Store::Embedded, 0, &[("BCRYPT_COST", "5"), ("USERS_REHASH", "true")], &[]).await;
    let pool = users(&stack).await;
    let mut writer = pool.acquire().await.expect("a connection");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *writer).await.expect("locked");
    let started = std::time::Instant::now();
    for _ in 0..40 {
        assert_eq!(login(&stack, EMAIL, PASSWORD).await.status, 200);
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(60), "each of the 40 waited for the lock");
    sqlx::query("ROLLBACK").execute(&mut *writer).await.expect("unlocked");
    drop(writer);
    assert_eq!(login(&stack, EMAIL, PASSWORD).await.status, 200);
    until_stored(&pool, "$2b$05$").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_refusal_costs_as_much_as_the_costliest_stored_hash() {
    let mut stack = Stack::with(Store::Embedded, 0, &[("ARGON2_VERIFY", "true")], &[]).await;
    let pool = users(&stack).await;
    let dear = format!("{{bcrypt}}{}", bcrypt::hash(PASSWORD, 9).expect("bcrypt"));
    add(&pool, "dear@example.org", Some(&dear), true).await;
    add(&pool, "argon@example.org", Some(ARGON2), true).await;
    add(&pool, "absurd@example.org", Some(&dear.replace("$09$", "$31$")), true).await;
    assert!(stack.issuer.program.stop().success());
    stack.issuer.restart().await;
    for (class, email) in
        [("unknown", "unknown@example.org"), ("stored cost 4", EMAIL), ("Argon2", "argon@example.org")]
    {
        let before = (metric(&stack.issuer.admin, ROUNDS).await, metric(&stack.issuer.admin, ARGON2_KIB).await);
        assert_eq!(login(&stack, email, "wrong").await.status, 401);
        let after = (metric(&stack.issuer.admin, ROUNDS).await, metric(&stack.issuer.admin, ARGON2_KIB).await);
        assert_eq!((after.0 - before.0, after.1 - before.1), (1 << 9, 64 * 2), "{class}");
    }
}

const ARGON2_KIB: &str = "sidegate_issuer_argon2_kibibytes_total";
/// Of [`PASSWORD`], from Python's argon2-cffi: 64 KiB, two passes, two lanes.
const ARGON2: &str = "$argon2id$v=19$m=64,t=2,p=2$YKB/iMTB99s$su1DDYAreQ8QmK02qRRWUvLPJ4oKHn489flWlCca4TE";

#[tokio::test(flavor = "multi_thread")]
async fn hashes_of_other_programs_are_accepted() {
    let hash = bcrypt::hash(PASSWORD, 4).expect("bcrypt");
    let django = "pbkdf2_sha256$720000$salt$bm90aGluZw==";
    let unsupported = "sidegate_issuer_logins_total{result=\"unsupported_hash\"}";
    for argon2 in [false, true] {
        let settings = [("ARGON2_VERIFY", if argon2 { "true" } else { "false" })];
        let stack = Stack::with(Store::Embedded, 0, &settings, &[]).await;
        let pool = users(&stack).await;
        let taken = [
            format!("{{bcrypt}}{hash}"),
            format!("bcrypt${hash}"),
            format!("{{BLF-CRYPT}}{}", hash.replacen("$2b$", "$2y$", 1)),
            format!("{hash}\n"),
            format!(" {hash}  "),
        ];
        let argon = [ARGON2.to_owned(), format!("argon2{ARGON2}"), format!("{{argon2}}{ARGON2} ")];
        for (number, stored) in taken.iter().chain(&argon).enumerate() {
            let email = format!("user{number}@example.org");
            add(&pool, &email, Some(stored), true).await;
            let expected = if argon2 || number < taken.len() { 200 } else { 401 };
            assert_eq!(login(&stack, &email, PASSWORD).await.status, expected, "{stored}");
            assert_eq!(login(&stack, &email, "wrong").await.status, 401, "{stored}");
        }
        let before = metric(&stack.issuer.admin, unsupported).await;
        assert_eq!(before, if argon2 { 0 } else { 6 });
        add(&pool, "django@example.org", Some(django), true).await;
        for _ in 0..3 {
            assert_eq!(login(&stack, "django@example.org", PASSWORD).await.code(), "invalid_credentials");
        }
        assert_eq!(metric(&stack.issuer.admin, unsupported).await, before + 3);
        let output = stack.issuer.program.output();
        let lines =
            output.lines().filter(|line| line.contains("hashes of an unsupported scheme") && line.contains("pbkdf2"));
        assert_eq!(lines.count(), 1, "named once: {output}");
        assert!(output.contains("\"result\":\"unsupported_hash\""), "audited: {output}");
        assert!(!output.contains("bm90aGluZw"), "no hash is logged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_passwords_follow_the_setting() {
    let (long, other) = ("x".repeat(100), format!("{}y", "x".repeat(71)));
    let stored = bcrypt::hash("x".repeat(72), 4).expect("bcrypt");
    for (setting, expected) in [("refuse", 401), ("truncate", 200)] {
        let stack = Stack::with(Store::Embedded, 0, &[("BCRYPT_LONG_PASSWORDS", setting)], &[]).await;
        let pool = users(&stack).await;
        add(&pool, "long@example.org", Some(&stored), true).await;
        assert_eq!(login(&stack, "long@example.org", &long).await.status, expected, "{setting}");
        assert_eq!(login(&stack, "long@example.org", &other).await.status, 401, "{setting}");
        assert_eq!(login(&stack, "long@example.org", "wrong").await.header("www-authenticate"), Some("Bearer"));
    }
}
