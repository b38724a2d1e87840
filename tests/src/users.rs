//! The application's own table of users, as an application would create it.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;

/// The password of every user here.
pub const PASSWORD: &str = "correct horse battery staple";

/// Creates a SQLite database with a `users` table that holds these emails.
pub async fn sqlite(path: &Path, emails: &[&str]) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.expect("a SQLite database");
    let table = "CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, password_hash TEXT,
                 active BOOLEAN NOT NULL DEFAULT 1, scope TEXT)";
    sqlx::query(table).execute(&pool).await.expect("a table");
    pool.close().await;
    add(path, emails).await;
}

/// Adds users to such a database.
pub async fn add(path: &Path, emails: &[impl AsRef<str>]) {
    let pool = sqlx::SqlitePool::connect_with(SqliteConnectOptions::new().filename(path)).await.expect("the database");
    let mut all = pool.begin().await.expect("a transaction");
    for email in emails {
        let insert = "INSERT INTO users (email, password_hash, scope) VALUES ($1, $2, 'read write')";
        sqlx::query(insert).bind(email.as_ref()).bind(hash()).execute(&mut *all).await.expect("a user");
    }
    all.commit().await.expect("committed");
    pool.close().await;
}

/// Creates the same table in Postgres.
pub async fn postgres(pool: &sqlx::PgPool, emails: &[&str]) {
    let table = "CREATE TABLE users (id BIGSERIAL PRIMARY KEY, email TEXT NOT NULL UNIQUE, password_hash TEXT,
                 active BOOLEAN NOT NULL DEFAULT TRUE, scope TEXT)";
    sqlx::query(table).execute(pool).await.expect("a table");
    for email in emails {
        let insert = "INSERT INTO users (email, password_hash, scope) VALUES ($1, $2, 'read write')";
        sqlx::query(insert).bind(email).bind(hash()).execute(pool).await.expect("a user");
    }
}

/// A hash of [`PASSWORD`] at the lowest cost, computed once.
pub fn hash() -> String {
    static HASH: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    HASH.get_or_init(|| bcrypt::hash(PASSWORD, 4).expect("bcrypt")).clone()
}
