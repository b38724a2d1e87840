//! Errors of a Postgres table are reported at start, by setting; and types may change under a
//! running issuer.

use sidegate_tests::postgres::Postgres;
use sidegate_tests::program::run as run_program;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{SECRET, tokens};

use super::sqlite_schema::{MISSPELT, fails_to_start};
use super::{issuer_over, knows, login, run};

#[tokio::test(flavor = "multi_thread")]
async fn mismatched_columns_fail_the_start_and_name_the_setting() {
    let postgres = Postgres::start().await;
    let pool = postgres.pool().await;
    run(
        &pool,
        "CREATE TABLE users (id bigint PRIMARY KEY, email text UNIQUE, password_hash text, \"Active\" boolean, born date,
           roles jsonb, flags bytea[]);
         CREATE ROLE stranger LOGIN; CREATE ROLE reader LOGIN; GRANT SELECT ON users TO reader;
         CREATE VIEW logins AS SELECT id, max(email) AS email, max(password_hash) AS password_hash FROM users GROUP BY id;
         CREATE SCHEMA app; CREATE TABLE app.members (id bigint)",
    )
    .await;
    let folder = Scratch::new();
    let url = postgres.url();
    let (stranger, reader) = (postgres.url_as("stranger"), postgres.url_as("reader"));
    let nowhere = url.replace("/postgres", "/nowhere").replace("//nowhere", "//postgres");
    let misspelt = MISSPELT.iter().map(|(setting, name)| (url.as_str(), vec![(*setting, *name)], *setting, *name));
    let mut cases: Vec<_> = misspelt.collect();
    cases.extend([
        (url.as_str(), vec![("USERS_ACTIVE_COLUMN", "active")], "USERS_ACTIVE_COLUMN", "write it Active"),
        (&url, vec![("USERS_TABLE", "members")], "USERS_TABLE", "there is app.members"),
        (&url, vec![("USERS_TABLE", "nowhere.users")], "USERS_TABLE", "no table"),
        (&url, vec![("USERS_ID_COLUMN", "ctid")], "USERS_ID_COLUMN", "no column"),
        (&url, vec![("USERS_EMAIL_COLUMN", "born")], "USERS_EMAIL_COLUMN", "of type date"),
        (&url, vec![("USERS_PASSWORD_COLUMN", "born")], "USERS_PASSWORD_COLUMN", "text or bytea"),
        (&url, vec![("USERS_ACTIVE_COLUMN", "born")], "USERS_ACTIVE_COLUMN", "boolean"),
        (&url, vec![("USERS_SCOPE_COLUMN", "roles")], "USERS_SCOPE_COLUMN", "array of text"),
        (&url, vec![("USERS_TABLE", "logins"), ("USERS_REHASH", "true")], "USERS_REHASH", "logins"),
        (&reader, vec![("USERS_REHASH", "true")], "USERS_REHASH", "GRANT UPDATE"),
        (&stranger, vec![], "USERS_TABLE", "GRANT SELECT"),
        (&nowhere, vec![], "DATABASE_URL", "no such database"),
    ]);
    for (url, settings, setting, said) in cases {
        let (code, text) = fails_to_start(&folder, url, &settings);
        assert_eq!(code, Some(1), "{settings:?}: {text}");
        assert!(text.contains(&format!("{setting}: ")) && text.contains(said), "{settings:?} {said}: {text}");
    }
    run(&pool, "INSERT INTO users VALUES (1, 'a@x.org', HASH)").await;
    let issuer = issuer_over(&folder, "reader", &reader, &[]).await;
    knows(&issuer, "1", &["a@x.org", "A@x.org"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arrays_numbers_and_bytes_are_supported() {
    let postgres = Postgres::start().await;
    let pool = postgres.pool().await;
    run(
        &pool,
        "CREATE TABLE users (id integer, email text UNIQUE, password_hash bytea, active smallint, scope text[]);
         INSERT INTO users VALUES (1, 'a@x.org', convert_to(HASH, 'UTF8'), 1, '{read,write}'),
           (2, 'off@x.org', convert_to(HASH, 'UTF8'), 0, '{}'), (NULL, 'null@x.org', convert_to(HASH, 'UTF8'), 1, '{}'),
           (4, 'odd@x.org', '\\xff00', 1, NULL)",
    )
    .await;
    let folder = Scratch::new();
    let settings = [
        ("USERS_ACTIVE_COLUMN", "active"),
        ("USERS_SCOPE_COLUMN", "scope"),
        ("USERS_REHASH", "true"),
        ("BCRYPT_COST", "5"),
    ];
    let issuer = issuer_over(&folder, "kinds", &postgres.url(), &settings).await;
    let pair = tokens(&login(&issuer, "a@x.org").await);
    assert_eq!(issuer.at.get("/auth/me").bearer(&pair.access).send().await.json()["scope"], "read write");
    for email in ["off@x.org", "odd@x.org"] {
        assert_eq!(login(&issuer, email).await.code(), "invalid_credentials", "{email}");
    }
    assert_eq!(login(&issuer, "null@x.org").await.code(), "internal", "an id that no token can carry");
    sidegate_tests::wait::eventually("the new hash", || async {
        let count = "SELECT count(*) FROM users WHERE encode(password_hash, 'escape') LIKE '$2b$05$%'";
        let made: i64 = sqlx::query_scalar(count).fetch_one(&pool).await.expect("counted");
        (made == 1).then_some(())
    })
    .await;
    assert_eq!(login(&issuer, "a@x.org").await.status, 200, "and the new hash is bytes as the old one was");
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_changes_under_a_running_issuer() {
    let postgres = Postgres::start().await;
    let pool = postgres.pool().await;
    run(
        &pool,
        "CREATE TABLE users (id bigint PRIMARY KEY, email text UNIQUE, password_hash text, scope text);
         INSERT INTO users VALUES (1, 'a@x.org', HASH, 'read')",
    )
    .await;
    let folder = Scratch::new();
    let issuer = issuer_over(&folder, "types", &postgres.url(), &[("USERS_SCOPE_COLUMN", "scope")]).await;
    let mut pair = issuer.login("a@x.org").await;
    run(&pool, "ALTER TABLE users ALTER id TYPE text").await;
    pair = tokens(&issuer.refresh(&pair.refresh).await);
    run(&pool, "ALTER TABLE users ALTER id TYPE bigint USING id::bigint, ALTER scope TYPE text[] USING ARRAY[scope]")
        .await;
    pair = tokens(&issuer.refresh(&pair.refresh).await);
    run(&pool, "ALTER TABLE users RENAME id TO other; ALTER TABLE users RENAME email TO id; ALTER TABLE users RENAME other TO email").await;
    // Types that no longer fit are an error of the settings, not of the user.
    assert_eq!(issuer.refresh(&pair.refresh).await.status, 503);
    assert!(issuer.program.output().contains("USERS_EMAIL_COLUMN: users.email is of type bigint"));
    run(&pool, "ALTER TABLE users RENAME id TO other; ALTER TABLE users RENAME email TO id; ALTER TABLE users RENAME other TO email").await;
    pair = tokens(&issuer.refresh(&pair.refresh).await);
    run(&pool, "ALTER TABLE users RENAME scope TO roles").await;
    assert_eq!(issuer.refresh(&pair.refresh).await.status, 503);
    assert_eq!(login(&issuer, "a@x.org").await.status, 503);
    assert!(issuer.program.output().contains("USERS_SCOPE_COLUMN: users has no column"));
    run(&pool, "ALTER TABLE users RENAME roles TO scope").await;
    knows(&issuer, "1", &["a@x.org"]).await;
}

#[test]
fn check_config_refuses_every_url_that_serve_refuses() {
    let folder = Scratch::new();
    let store = format!("sqlite://{}", folder.file("never.db").display());
    for (url, said) in [
        ("postgres://app:p#w@db/app", "percent-encode"),
        ("postgres://app:p/w@db/app", "percent-encode"),
        ("postgres://app:pw@a:5432,b:5432/app", "several hosts"),
        ("postgres://app:pw@db/app?sslmode=no-verify", "verify-full"),
        ("postgres://app:pw@db:port/app", "percent-encode"),
        ("sqlite::memory:", "sqlite://path"),
    ] {
        for command in [&["check-config"][..], &[]] {
            let settings = [("JWT_SECRET_KEY", SECRET), ("DATABASE_URL", url), ("STORE_URL", store.as_str())];
            let output = run_program("sidegate-issuer", command, &settings, "");
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(64), "{url} {command:?}: {text}");
            assert!(text.contains("DATABASE_URL") && text.contains(said), "{url}: {text}");
        }
    }
    assert!(!folder.file("never.db").exists(), "nothing is written");
}
