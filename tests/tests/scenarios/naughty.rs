//! Injection and naughty strings in every place where a client can put text, on SQLite and
//! Postgres.

use std::path::PathBuf;

use futures_like::each_at_once;
use serde_json::json;
use sidegate_tests::http::Call;
use sidegate_tests::postgres::Postgres;
use sidegate_tests::stack::{EMAIL, Stack, Store};
use sidegate_tests::users::{self, PASSWORD};

/// A user whose email is itself an injection.
const HOSTILE_EMAIL: &str = "' OR '1'='1";

/// The strings of the external lists; `None`, with a message, if they are missing.
fn strings() -> Option<Vec<String>> {
    let folder = std::env::var("SIDEGATE_VECTORS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors").to_owned());
    let folder = PathBuf::from(folder);
    if !folder.is_dir() {
        println!("skipped: no test vectors; set SIDEGATE_VECTORS to their folder");
        return None;
    }
    let blns = std::fs::read(folder.join("blns/blns.json")).expect("the naughty strings");
    let mut all: Vec<String> = serde_json::from_slice(&blns).expect("a list of strings");
    assert!(all.len() > 500, "{} naughty strings", all.len());
    let before = all.len();
    for file in std::fs::read_dir(folder.join("sqli")).expect("the injections").flatten() {
        if file.path().extension().is_some_and(|extension| extension == "txt") {
            let text = std::fs::read(file.path()).expect("a list");
            all.extend(String::from_utf8_lossy(&text).lines().map(str::to_owned));
        }
    }
    assert!(all.len() > before + 800, "{} injections", all.len() - before);
    all.push(HOSTILE_EMAIL.to_owned());
    Some(all)
}

/// Sends every call, a few at once, and returns each status with the text sent.
mod futures_like {
    use super::Call;

    pub async fn each_at_once(calls: Vec<(String, Call)>, mut judge: impl FnMut(&str, u16)) {
        for chunk in calls.chunks(16) {
            let sent: Vec<_> = chunk.iter().map(|(_, call)| tokio::spawn(call.clone().send())).collect();
            for ((text, _), reply) in chunk.iter().zip(sent) {
                judge(text, reply.await.expect("an answer").status.as_u16());
            }
        }
    }
}

/// All strings in all places: a client error, never a server error, and only the right password
/// logs in.
async fn never_a_fault(stack: &Stack, strings: &[String]) {
    let post = |path: &str| stack.issuer.at.post(path);
    let login = |email: &str, password: &str| post("/auth/login").json(&json!({"email": email, "password": password}));
    let pairs = |make: &dyn Fn(&str) -> Call| -> Vec<(String, Call)> {
        strings.iter().map(|text| (text.clone(), make(text))).collect()
    };
    each_at_once(pairs(&|text| login(text, PASSWORD)), |text, status| {
        // The lists contain it in other spellings as well, and an email's case is ignored.
        let expected = if text.eq_ignore_ascii_case(HOSTILE_EMAIL) { 200 } else { 401 };
        assert_eq!(status, expected, "as email: {text:?}");
    })
    .await;
    each_at_once(pairs(&|text| login(EMAIL, text)), |text, status| {
        assert_eq!(status, 401, "as password: {text:?}");
    })
    .await;
    let form = |email: &str, password: &str| {
        let body = serde_urlencoded::to_string([("username", email), ("password", password)]).expect("a form");
        post("/auth/login").form(&body)
    };
    each_at_once(pairs(&|text| form(text, text)), |text, status| {
        assert_eq!(status, 401, "as a form: {text:?}");
    })
    .await;
    each_at_once(pairs(&|text| post("/auth/refresh").json(&json!({"refresh_token": text}))), |text, status| {
        assert_eq!(status, 401, "as refresh token: {text:?}");
    })
    .await;
    each_at_once(
        pairs(&|text| post("/auth/logout").json(&json!({"refresh_token": text, "scope": text}))),
        |text, status| {
            assert!([400, 401].contains(&status), "in a logout: {status} for {text:?}");
        },
    )
    .await;
    let access = stack.issuer.login(EMAIL).await.access;
    let encoded = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    let delete = |text: &str| {
        let path = format!("/auth/sessions/{}", encoded(text));
        stack.issuer.at.call(http::Method::DELETE, &path).bearer(&access)
    };
    each_at_once(pairs(&delete), |text, status| {
        assert!([404, 405, 414].contains(&status), "as a session: {status} for {text:?}");
    })
    .await;
    for what in ["token", "session", "user", "key"] {
        let revoke = |text: &str| {
            let admin = stack.issuer.admin.post("/admin/revocations").bearer(sidegate_tests::stack::ADMIN_TOKEN);
            admin.json(&json!({what: text}))
        };
        each_at_once(pairs(&revoke), |text, status| {
            assert!([204, 400].contains(&status), "to revoke a {what}: {status} for {text:?}");
        })
        .await;
    }
    let after = stack.issuer.login(EMAIL).await;
    assert_eq!(stack.issuer.logout(&after.access).await.status, 204, "the issuer still works");
    let faults = stack.issuer.program.output().matches("panicked").count();
    assert_eq!(faults, 0, "no handler panicked");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite() {
    let Some(strings) = strings() else { return };
    let stack = Stack::start(Store::Embedded, 0).await;
    let pool = sqlx::SqlitePool::connect(&stack.issuer.settings["DATABASE_URL"]).await.expect("the users");
    let insert = "INSERT INTO users (email, password_hash) VALUES ($1, $2)";
    sqlx::query(insert).bind(HOSTILE_EMAIL).bind(users::hash()).execute(&pool).await.expect("a user");
    let dump = async || -> String {
        let rows = "SELECT group_concat(quote(id) || quote(email) || quote(password_hash) || quote(active) || \
                    quote(scope), x'0a') || (SELECT group_concat(sql) FROM sqlite_schema) FROM users";
        sqlx::query_scalar(rows).fetch_one(&pool).await.expect("the table is there")
    };
    let before = dump().await;
    never_a_fault(&stack, &strings).await;
    assert_eq!(dump().await, before, "the table and the schema are unchanged");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres() {
    let Some(strings) = strings() else { return };
    let postgres = Postgres::start().await;
    let pool = postgres.pool().await;
    users::postgres(&pool, &[EMAIL, HOSTILE_EMAIL]).await;
    let url = postgres.url();
    let stack = Stack::with(Store::Redis, 0, &[("DATABASE_URL", &url)], &[]).await;
    let dump = async || -> String {
        let rows = "SELECT string_agg(users::text, E'\\n' ORDER BY id) || (SELECT string_agg(tablename, ',' ORDER BY \
                    tablename) FROM pg_tables WHERE schemaname = 'public') FROM users";
        sqlx::query_scalar(rows).fetch_one(&pool).await.expect("the table is there")
    };
    let before = dump().await;
    never_a_fault(&stack, &strings).await;
    assert_eq!(dump().await, before, "the table and the schema are unchanged");
}
