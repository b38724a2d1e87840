//! The application's own table in many forms: Postgres with citext and plain columns, ids of every
//! type, views and schemas, and SQLite.

mod pooler;
mod postgres_schema;
mod sqlite_schema;

use serde_json::json;
use sidegate_tests::http::Reply;
use sidegate_tests::postgres::Postgres;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{Issuer, Stack, Store, tokens};
use sidegate_tests::users::{self, PASSWORD};
use sidegate_tests::wait::eventually;

async fn login(issuer: &Issuer, email: &str) -> Reply {
    issuer.at.post("/auth/login").json(&json!({"email": email, "password": PASSWORD})).send().await
}

async fn run(pool: &sqlx::PgPool, statements: &str) {
    let statements = statements.replace("HASH", &format!("'{}'", users::hash()));
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(pool).await.expect("made");
}

/// An issuer on the embedded store with its users in `table` of this Postgres.
async fn issuer_over(folder: &Scratch, name: &str, url: &str, settings: &[(&str, &str)]) -> Issuer {
    let store = format!("sqlite://{}", folder.file(&format!("{name}.db")).display());
    let mut all =
        vec![("DATABASE_URL", url), ("STORE_URL", &store), ("USERS_SCOPE_COLUMN", ""), ("USERS_ACTIVE_COLUMN", "")];
    all.extend(settings);
    Issuer::start(folder, name, &all).await
}

/// Logs in with every spelling, and refreshes, which reads the row by its id.
async fn knows(issuer: &Issuer, sub: &str, spellings: &[&str]) {
    for email in spellings {
        let reply = login(issuer, email).await;
        assert_eq!(reply.status, 200, "{email}: {}", String::from_utf8_lossy(&reply.body));
        let pair = tokens(&reply);
        let refreshed = issuer.refresh(&pair.refresh).await;
        assert_eq!(refreshed.status, 200, "{email}: {}", String::from_utf8_lossy(&refreshed.body));
        let me = issuer.at.get("/auth/me").bearer(&tokens(&refreshed).access).send().await;
        assert_eq!(me.json()["sub"], sub, "{email}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_with_every_type_of_id_and_email() {
    let postgres = Postgres::start().await;
    let pool = postgres.pool().await;
    let url = postgres.url();
    run(&pool, "CREATE EXTENSION citext; CREATE SCHEMA app").await;
    let folder = Scratch::new();
    let uuid = "0191d7a0-7c3e-7b1e-9a57-3a6a6f1f0c11";
    for (number, (id_type, id)) in [
        ("bigint", "42"),
        ("integer", "43"),
        ("smallint", "7"),
        ("uuid", uuid),
        ("text", "user-x"),
        ("varchar(40)", "y.z"),
    ]
    .into_iter()
    .enumerate()
    {
        for (email_type, kind) in [("text", "plain"), ("citext", "citext"), ("varchar(200)", "varchar")] {
            let table = format!("app.users_{number}_{kind}");
            run(
                &pool,
                &format!(
                    "CREATE TABLE {table} (key {id_type} PRIMARY KEY, mail {email_type} NOT NULL UNIQUE, pw text);
                     INSERT INTO {table} VALUES ('{id}', 'Alice@Example.org', HASH)"
                ),
            )
            .await;
            let settings = [
                ("USERS_TABLE", table.as_str()),
                ("USERS_ID_COLUMN", "key"),
                ("USERS_EMAIL_COLUMN", "mail"),
                ("USERS_PASSWORD_COLUMN", "pw"),
            ];
            let issuer = issuer_over(&folder, &format!("i{number}{kind}"), &url, &settings).await;
            knows(&issuer, id, &["Alice@Example.org", "alice@example.org", "ALICE@EXAMPLE.ORG"]).await;
            for other in ["alice@example.or", "alice@example.org ", "%", "_lice@example.org", ""] {
                assert_eq!(login(&issuer, other).await.code(), "invalid_credentials", "{table}: {other:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_rows_that_differ_in_case_only() {
    let postgres = Postgres::start().await;
    let pool = postgres.pool().await;
    run(
        &pool,
        "CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, password_hash text);
         INSERT INTO users VALUES (1, 'Bob@example.org', HASH), (2, 'bob@example.org', HASH), (3, 'Z\u{e9}@example.org', HASH)",
    )
    .await;
    let folder = Scratch::new();
    let issuer = issuer_over(&folder, "fold", &postgres.url(), &[]).await;
    knows(&issuer, "1", &["Bob@example.org"]).await;
    knows(&issuer, "2", &["bob@example.org"]).await;
    knows(&issuer, "3", &["z\u{e9}@example.org", "Z\u{c9}@EXAMPLE.ORG"]).await;
    assert_eq!(login(&issuer, "BOB@example.org").await.code(), "invalid_credentials", "which of the two?");
    assert!(issuer.program.output().contains("several_users"), "the operator sees it");
    let exact = issuer_over(&folder, "exact", &postgres.url(), &[("USERS_EMAIL_MATCH", "exact")]).await;
    knows(&exact, "2", &["bob@example.org"]).await;
    assert_eq!(login(&exact, "z\u{e9}@example.org").await.code(), "invalid_credentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn view_with_flags_and_scopes_is_supported() {
    let postgres = Postgres::start().await;
    let pool = postgres.pool().await;
    run(
        &pool,
        "CREATE TABLE people (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email text, hash text, banned boolean, roles text[]);
         INSERT INTO people (email, hash, banned, roles) VALUES ('a@x.org', HASH, false, '{read,write}'),
           ('b@x.org', HASH, true, '{}'), ('c@x.org', HASH, null, null);
         CREATE VIEW logins AS SELECT id, email, hash AS password_hash, NOT banned AS active,
           array_to_string(roles, ' ') AS scope FROM people",
    )
    .await;
    let folder = Scratch::new();
    let settings = [("USERS_TABLE", "logins"), ("USERS_ACTIVE_COLUMN", "active"), ("USERS_SCOPE_COLUMN", "scope")];
    let issuer = issuer_over(&folder, "view", &postgres.url(), &settings).await;
    let pair = tokens(&login(&issuer, "a@x.org").await);
    let me = issuer.at.get("/auth/me").bearer(&pair.access).send().await;
    assert_eq!(me.json()["scope"], "read write");
    for (email, why) in [("b@x.org", "banned"), ("c@x.org", "neither yes nor no is no")] {
        assert_eq!(login(&issuer, email).await.code(), "invalid_credentials", "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_id_or_scope_is_logged() {
    let postgres = Postgres::start().await;
    let pool = postgres.pool().await;
    run(
        &pool,
        "CREATE TABLE users (id text PRIMARY KEY, email text UNIQUE, password_hash text, scope text);
         INSERT INTO users VALUES ('a b', 'id@x.org', HASH, 'read'), ('-', 'dash@x.org', HASH, 'read'),
           ('u\u{e9}', 'accent@x.org', HASH, 'read'), ('4', 'scope@x.org', HASH, E'read\\nwrite'), ('5', 'good@x.org', HASH, '')",
    )
    .await;
    let folder = Scratch::new();
    let issuer = issuer_over(&folder, "unfit", &postgres.url(), &[("USERS_SCOPE_COLUMN", "scope")]).await;
    for email in ["id@x.org", "dash@x.org", "accent@x.org", "scope@x.org"] {
        let reply = login(&issuer, email).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (500, "internal"), "{email}");
        let id = reply.header("x-request-id").expect("a request id").to_owned();
        assert!(issuer.program.output().contains(&id), "the log has the cause under {id}");
    }
    let pair = tokens(&login(&issuer, "good@x.org").await);
    let me = issuer.at.get("/auth/me").bearer(&pair.access).send().await.json();
    assert!(me.get("scope").is_none(), "an empty scope is none: {me}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_index_is_logged_at_start() {
    let postgres = Postgres::start().await;
    let pool = postgres.pool().await;
    run(
        &pool,
        "CREATE TABLE bare (id bigint PRIMARY KEY, email text, password_hash text);
         CREATE TABLE half (id bigint PRIMARY KEY, email text UNIQUE, password_hash text);
         CREATE TABLE whole (id bigint PRIMARY KEY, email text UNIQUE, password_hash text);
         CREATE INDEX ON whole (lower(email));",
    )
    .await;
    let folder = Scratch::new();
    for (table, warning) in [("bare", Some("no index on bare.email:")), ("half", Some("ignores case")), ("whole", None)]
    {
        let issuer = issuer_over(&folder, table, &postgres.url(), &[("USERS_TABLE", table)]).await;
        match warning {
            Some(warning) => {
                eventually("the warning", || async { issuer.program.output().contains(warning).then_some(()) }).await;
            }
            None => {
                // The other two had the index by the time they had answered a login.
                assert_eq!(login(&issuer, "x").await.status, 401);
                assert!(!issuer.program.output().contains("no index"), "{}", issuer.program.output());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_folds_ascii_only() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let pool = sqlx::SqlitePool::connect(&stack.issuer.settings["DATABASE_URL"]).await.expect("the users");
    for email in ["Carol@Example.org", "\u{c9}va@example.org"] {
        let insert = "INSERT INTO users (email, password_hash) VALUES ($1, $2)";
        sqlx::query(insert).bind(email).bind(users::hash()).execute(&pool).await.expect("a user");
    }
    knows(&stack.issuer, "3", &["Carol@Example.org", "carol@example.org", "CAROL@EXAMPLE.ORG"]).await;
    knows(&stack.issuer, "4", &["\u{c9}va@example.org", "\u{c9}VA@EXAMPLE.ORG"]).await;
    assert_eq!(login(&stack.issuer, "\u{e9}va@example.org").await.code(), "invalid_credentials", "ASCII only, as said");
}
