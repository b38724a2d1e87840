//! The user of the quickstart, in a database that Sidegate created and marked.

use std::process::ExitCode;
use std::str::FromStr as _;

use sidegate_runtime::settings::ConfigError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, query};

use super::{Source, password_from_stdin};

/// The mark of a database that this command created (`PRAGMA application_id`: "Sdgu"). The command
/// never writes to any other.
const APPLICATION_ID: i64 = 0x5364_6775;
const TABLE: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE COLLATE NOCASE, \
    password_hash TEXT, active BOOLEAN NOT NULL DEFAULT 1, scope TEXT)";

/// Creates or replaces a user.
///
/// # Errors
/// `DATABASE_URL` or `BCRYPT_COST` is wrong.
pub fn demo_user(source: &Source, email: &str, scope: &str) -> Result<ExitCode, ConfigError> {
    let settings = source.settings()?;
    let url = settings.required("DATABASE_URL")?.to_owned();
    let cost = settings.number("BCRYPT_COST", 4..=14)? as u32;
    if !url.starts_with("sqlite:") {
        return Err(ConfigError::new("DATABASE_URL", "is not a sqlite:// URL: demo users are created in SQLite only"));
    }
    let Some(password) = password_from_stdin() else { return Ok(ExitCode::FAILURE) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let made = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        let hash = bcrypt::hash(password.expose(), cost).map_err(|error| error.to_string())?;
        runtime.block_on(make(&url, email, &hash, scope))
    });
    match made {
        Ok(id) => {
            println!("{id}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("creating the user failed: {error}");
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn make(url: &str, email: &str, hash: &str, scope: &str) -> Result<i64, String> {
    let options = SqliteConnectOptions::from_str(url).map_err(|error| error.to_string())?.create_if_missing(true);
    let mut connection = options.connect().await.map_err(|error| error.to_string())?;
    if !own(&mut connection).await.map_err(|error| error.to_string())? {
        return Err(
            "this database was not created by Sidegate; an application's own database is never written to".to_owned()
        );
    }
    let upsert = "INSERT INTO users (email, password_hash, scope) VALUES (?, ?, nullif(?, '')) ON CONFLICT (email) \
        DO UPDATE SET password_hash = excluded.password_hash, scope = excluded.scope, active = 1 RETURNING id";
    let row = query(upsert).bind(email).bind(hash).bind(scope).fetch_one(&mut connection).await;
    let id = row.and_then(|row| row.try_get(0)).map_err(|error| error.to_string())?;
    connection.close().await.map_err(|error| error.to_string())?;
    Ok(id)
}

/// True if the database is ours: already marked, or empty and marked now.
async fn own(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let id: i64 = query("PRAGMA application_id").fetch_one(&mut *connection).await?.try_get(0)?;
    let objects: i64 = query("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await?.try_get(0)?;
    if id == 0 && objects == 0 {
        sqlx::raw_sql("PRAGMA application_id = 1399089013").execute(&mut *connection).await?;
        query(TABLE).execute(&mut *connection).await?;
        return Ok(true);
    }
    Ok(id == APPLICATION_ID)
}
