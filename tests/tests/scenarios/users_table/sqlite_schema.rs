//! SQLite reads a quoted unknown name as a text: no configured name may ever become data.

use std::path::Path;

use sidegate_tests::program::run;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{Issuer, SECRET, tokens};
use sidegate_tests::users::{self, PASSWORD};
use sidegate_tests::wait::eventually;

use super::{knows, login};

/// Every setting with an unknown column name; most of them would be valid as a value.
pub(super) const MISSPELT: [(&str, &str); 6] = [
    ("USERS_TABLE", "accounts"),
    ("USERS_ID_COLUMN", "user_id"),
    ("USERS_EMAIL_COLUMN", "alice"),
    ("USERS_PASSWORD_COLUMN", "hash"),
    ("USERS_ACTIVE_COLUMN", "t"),
    ("USERS_SCOPE_COLUMN", "admin"),
];

async fn database(path: &Path, statements: &str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.expect("the database");
    let statements = statements.replace("HASH", &format!("'{}'", users::hash()));
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&pool).await.expect("made");
    pool.close().await;
}

fn url(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

async fn issuer_over(folder: &Scratch, name: &str, path: &Path, settings: &[(&str, &str)]) -> Issuer {
    let (store, database) = (url(&folder.file(&format!("{name}-store.db"))), url(path));
    let mut all = vec![
        ("DATABASE_URL", database.as_str()),
        ("STORE_URL", &store),
        ("USERS_SCOPE_COLUMN", ""),
        ("USERS_ACTIVE_COLUMN", ""),
    ];
    all.extend(settings);
    Issuer::start(folder, name, &all).await
}

/// Starts an issuer that must fail to start; returns its exit code and output.
pub(super) fn fails_to_start(folder: &Scratch, database: &str, settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let store = url(&folder.file("never.db"));
    let mut all = vec![
        ("JWT_SECRET_KEY", SECRET),
        ("DATABASE_URL", database),
        ("STORE_URL", store.as_str()),
        ("ISSUER_LISTEN", "127.0.0.1:0"),
        ("ISSUER_ADMIN_LISTEN", "127.0.0.1:0"),
        ("ISSUER_FEED_LISTEN", "127.0.0.1:0"),
    ];
    all.extend(settings);
    let output = run("sidegate-issuer", &[], &all, "");
    assert!(!folder.file("never.db").exists(), "nothing is written before the settings are known to be good");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_column_fails_the_start_and_names_the_setting() {
    let folder = Scratch::new();
    let path = folder.file("app.db");
    users::sqlite(&path, &["alice@example.org"]).await;
    database(&path, "CREATE VIEW people AS SELECT * FROM users").await;
    for table in ["users", "people", "main.users"] {
        for (setting, name) in MISSPELT {
            let (code, text) = fails_to_start(&folder, &url(&path), &[("USERS_TABLE", table), (setting, name)]);
            assert_eq!(code, Some(1), "{table} {setting}: {text}");
            assert!(text.contains(setting) && text.contains(name), "{table} {setting}: {text}");
        }
    }
    for name in ["rowid", "OID", "_rowid_"] {
        let (code, text) = fails_to_start(&folder, &url(&path), &[("USERS_ID_COLUMN", name)]);
        assert!(
            code == Some(1) && text.contains("USERS_ID_COLUMN") && text.contains("number of the row"),
            "{name}: {text}"
        );
    }
    let (code, text) = fails_to_start(&folder, "sqlite:///nonexistent/app.db", &[]);
    assert!(code == Some(1) && text.contains("DATABASE_URL") && text.contains("/nonexistent/app.db"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_another_case_views_and_generated_columns_are_columns() {
    let folder = Scratch::new();
    let path = folder.file("app.db");
    database(
        &path,
        "CREATE TABLE people (key INTEGER PRIMARY KEY, mail TEXT UNIQUE, pw BLOB, banned INTEGER, roles TEXT,
           active BOOLEAN GENERATED ALWAYS AS (NOT banned) VIRTUAL, scope TEXT GENERATED ALWAYS AS (replace(roles, ',', ' ')) STORED);
         INSERT INTO people (mail, pw, banned, roles) VALUES ('a@x.org', CAST(HASH AS BLOB), 0, 'read,write'), ('b@x.org', HASH, 1, '');
         CREATE VIEW logins AS SELECT key + 0 AS id, lower(mail) AS email, pw AS password_hash, active, scope FROM people",
    )
    .await;
    let flags = [("USERS_ACTIVE_COLUMN", "active"), ("USERS_SCOPE_COLUMN", "scope")];
    let mut upper = vec![
        ("USERS_TABLE", "PEOPLE"),
        ("USERS_ID_COLUMN", "Key"),
        ("USERS_EMAIL_COLUMN", "MAIL"),
        ("USERS_PASSWORD_COLUMN", "Pw"),
    ];
    upper.extend(flags);
    let mut view = vec![("USERS_TABLE", "logins")];
    view.extend(flags);
    for (name, settings) in [("upper", upper), ("view", view)] {
        let issuer = issuer_over(&folder, name, &path, &settings).await;
        knows(&issuer, "1", &["a@x.org", "A@X.ORG"]).await;
        let pair = tokens(&login(&issuer, "a@x.org").await);
        let me = issuer.at.get("/auth/me").bearer(&pair.access).send().await;
        assert_eq!(me.json()["scope"], "read write", "{name}");
        assert_eq!(login(&issuer, "b@x.org").await.code(), "invalid_credentials", "{name}: banned");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn column_renamed_at_run_time_is_503_until_it_is_back() {
    let folder = Scratch::new();
    let path = folder.file("app.db");
    users::sqlite(&path, &["alice@example.org", "bob@example.org"]).await;
    let settings = [("USERS_ACTIVE_COLUMN", "active"), ("USERS_SCOPE_COLUMN", "scope")];
    let issuer = issuer_over(&folder, "renamed", &path, &settings).await;
    let mut pair = issuer.login("alice@example.org").await;
    for (setting, column) in [
        ("USERS_ID_COLUMN", "id"),
        ("USERS_EMAIL_COLUMN", "email"),
        ("USERS_PASSWORD_COLUMN", "password_hash"),
        ("USERS_ACTIVE_COLUMN", "active"),
        ("USERS_SCOPE_COLUMN", "scope"),
    ] {
        database(&path, &format!("ALTER TABLE users RENAME COLUMN {column} TO other")).await;
        for reply in [login(&issuer, "bob@example.org").await, issuer.refresh(&pair.refresh).await] {
            assert_eq!((reply.status.as_u16(), reply.code().as_str()), (503, "temporarily_unavailable"), "{column}");
        }
        if column == "id" {
            eventually("the issuer to be not ready", || async {
                (issuer.admin.get("/readyz").send().await.status == 503).then_some(())
            })
            .await;
        }
        assert!(issuer.program.output().contains(&format!("{setting}: users has no column")), "{column}");
        database(&path, &format!("ALTER TABLE users RENAME COLUMN other TO {column}")).await;
        pair = tokens(&issuer.refresh(&pair.refresh).await);
    }
    database(&path, "ALTER TABLE users RENAME TO people").await;
    assert_eq!(login(&issuer, "bob@example.org").await.status, 503);
    assert!(issuer.program.output().contains("USERS_TABLE: there is no table or view"));
}

#[tokio::test(flavor = "multi_thread")]
async fn file_replaced_by_rename_is_used_at_once() {
    let folder = Scratch::new();
    let (path, next) = (folder.file("app.db"), folder.file("next.db"));
    users::sqlite(&path, &["alice@example.org"]).await;
    let issuer = issuer_over(&folder, "replaced", &path, &[]).await;
    assert_eq!(login(&issuer, "alice@example.org").await.status, 200);
    users::sqlite(&next, &["alice@example.org"]).await;
    let other = bcrypt::hash("another password", 4).expect("bcrypt");
    database(&next, &format!("UPDATE users SET password_hash = '{other}'")).await;
    std::fs::rename(&next, &path).expect("renamed");
    assert_eq!(login(&issuer, "alice@example.org").await.code(), "invalid_credentials", "{PASSWORD} was the old one");
    let body = serde_json::json!({"email": "alice@example.org", "password": "another password"});
    assert_eq!(issuer.at.post("/auth/login").json(&body).send().await.status, 200);
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(login(&issuer, "alice@example.org").await.status, 503, "a file that is gone is not an empty table");
    assert!(issuer.program.output().contains("DATABASE_URL: the file"));
}
