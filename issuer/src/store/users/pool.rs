//! Connections to the application's database: bounded, and shared fairly when the server allows
//! fewer.
//!
//! sqlx's own pool does not fit: a caller that has begun to open a connection never takes one that
//! another returns. With a role limited to two connections, the third caller would wait in vain
//! until its timeout.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _, query, raw_sql};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::url::Options;

/// Timeout for getting a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an idle connection is kept.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Maximum age of a connection, so that a server whose name has moved is found.
const AGE_MAX: Duration = Duration::from_secs(30 * 60);
/// How long after the server refused a connection as one too many the next attempt is made.
const GROW_EVERY: Duration = Duration::from_secs(30);
/// How long the only caller waits before it retries a full server.
const RETRY_FULL: Duration = Duration::from_millis(50);

/// A connection to either database.
pub(super) enum Connection {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

/// A row of either database.
pub(super) enum Row {
    Postgres(PgRow),
    Sqlite(SqliteRow),
}

impl Connection {
    /// Runs one statement with `values` for `$1`, `$2`, …; none is NULL.
    pub(super) async fn rows(&mut self, statement: &str, values: &[Option<&str>]) -> Result<Vec<Row>, sqlx::Error> {
        match self {
            Self::Postgres(connection) => {
                let rows = raw_sql(AssertSqlSafe(spliced(statement, values))).fetch_all(connection).await?;
                Ok(rows.into_iter().map(Row::Postgres).collect())
            }
            Self::Sqlite(connection) => {
                let mut bound = query(AssertSqlSafe(statement));
                for value in values {
                    bound = bound.bind(*value);
                }
                Ok(bound.fetch_all(connection).await?.into_iter().map(Row::Sqlite).collect())
            }
        }
    }
}

/// The statement with its values spliced in, for one message of the simple query protocol. Behind a
/// pooler in transaction mode nothing else is safe: sqlx parses a statement and binds its values in
/// two steps, and the pooler may send the second to another server connection, where another
/// client's statement has the same name. Each character of a value is written as its code, so that
/// no part can be read as SQL; as a literal the value has no collation of its own, so that the
/// column's index serves.
fn spliced(statement: &str, values: &[Option<&str>]) -> String {
    let mut out = statement.to_owned();
    for (number, value) in values.iter().enumerate() {
        let literal = value.map_or("CAST(NULL AS text)".to_owned(), |value| {
            let escaped: String = value.chars().map(|c| format!("\\U{:08X}", u32::from(c))).collect();
            format!("CAST(E'{escaped}' AS text)")
        });
        out = out.replace(&format!("${}", number + 1), &literal);
    }
    out
}

impl Row {
    /// A column as text.
    pub(super) fn text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
        match self {
            Self::Postgres(row) => row.try_get(column),
            // As bytes, because SQLite allows invalid UTF-8 in a text.
            Self::Sqlite(row) => {
                let bytes: Option<Vec<u8>> = row.try_get(column)?;
                Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
            }
        }
    }

    /// A column as a boolean; NULL is false.
    pub(super) fn flag(&self, column: &str) -> Result<bool, sqlx::Error> {
        let value: Option<bool> = match self {
            Self::Postgres(row) => row.try_get(column)?,
            Self::Sqlite(row) => row.try_get(column)?,
        };
        Ok(value.unwrap_or(false))
    }

    /// A column as a number.
    pub(super) fn number(&self, column: &str) -> Result<i64, sqlx::Error> {
        match self {
            Self::Postgres(row) => row.try_get(column),
            Self::Sqlite(row) => row.try_get(column),
        }
    }
}

struct IdleConnection {
    connection: Connection,
    opened: Instant,
    since: Instant,
}

#[derive(Default)]
struct Idle {
    connections: Vec<IdleConnection>,
    /// Incremented when all older connections are to be dropped.
    generation: u64,
}

/// The current limit of connections, as far as the server has revealed it.
struct Allowed {
    now: usize,
    max: usize,
    changed: Instant,
}

/// The connections: at most as many as permits. A caller with a permit takes an idle connection, or
/// opens one.
pub(super) struct Pool {
    options: Options,
    permits: Semaphore,
    allowed: Mutex<Allowed>,
    idle: Mutex<Idle>,
}

/// A connection in use. Dropping it closes the connection, because its state is unknown after an
/// error or in the middle of a statement.
pub(super) struct Lease<'a> {
    pool: &'a Pool,
    connection: Connection,
    opened: Instant,
    generation: u64,
    /// True if the connection was used before, so that the server may have closed it in the
    /// meantime.
    pub(super) reused: bool,
    _permit: SemaphorePermit<'a>,
}

impl Pool {
    pub(super) fn new(options: Options, max: usize) -> Self {
        let allowed = Allowed { now: max, max, changed: Instant::now() };
        Self { options, permits: Semaphore::new(max), allowed: Mutex::new(allowed), idle: Mutex::default() }
    }

    /// A connection, idle or new.
    pub(super) async fn get(&self) -> Result<Lease<'_>, sqlx::Error> {
        let timed = tokio::time::timeout(ACQUIRE_TIMEOUT, self.idle_or_new());
        timed.await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    async fn idle_or_new(&self) -> Result<Lease<'_>, sqlx::Error> {
        loop {
            self.grow();
            let permit = self.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
            let generation = match self.take_idle() {
                Ok((connection, opened, generation)) => {
                    return Ok(Lease { pool: self, connection, opened, generation, reused: true, _permit: permit });
                }
                Err(generation) => generation,
            };
            match self.connect().await {
                Ok(connection) => {
                    let opened = Instant::now();
                    return Ok(Lease { pool: self, connection, opened, generation, reused: false, _permit: permit });
                }
                Err(error) if is_full(&error) => {
                    if self.shrink() {
                        permit.forget();
                    } else {
                        drop(permit);
                        tokio::time::sleep(RETRY_FULL).await;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn connect(&self) -> Result<Connection, sqlx::Error> {
        match &self.options {
            Options::Postgres(options) => options.connect().await.map(Connection::Postgres),
            Options::Sqlite(options) => options.connect().await.map(Connection::Sqlite),
        }
    }

    /// The most recently used connection, or the generation for a new one.
    fn take_idle(&self) -> Result<(Connection, Instant, u64), u64> {
        let mut idle = locked(&self.idle);
        let generation = idle.generation;
        idle.connections.pop().map(|one| (one.connection, one.opened, generation)).ok_or(generation)
    }

    /// Drops every connection; those in use when they are returned.
    pub(super) fn clear(&self) {
        let mut idle = locked(&self.idle);
        idle.generation += 1;
        idle.connections.clear();
    }

    /// Lowers the limit by one connection; false if none would remain.
    fn shrink(&self) -> bool {
        let mut allowed = locked(&self.allowed);
        let now = Instant::now();
        if allowed.now <= 1 {
            return false;
        }
        if allowed.now == allowed.max {
            tracing::warn!(
                "the users database allows fewer connections than DATABASE_POOL_MAX; sharing those there are"
            );
        }
        allowed.now -= 1;
        allowed.changed = now;
        true
    }

    /// Raises the limit by one from time to time after the server had refused connections.
    fn grow(&self) {
        let mut allowed = locked(&self.allowed);
        if allowed.now < allowed.max && allowed.changed.elapsed() > GROW_EVERY {
            allowed.now += 1;
            allowed.changed = Instant::now();
            self.permits.add_permits(1);
        }
    }
}

impl Lease<'_> {
    /// Returns the connection: its last statement was answered completely.
    pub(super) fn release(self) {
        let mut idle = locked(&self.pool.idle);
        let now = Instant::now();
        idle.connections.retain(|one| now.duration_since(one.since) < IDLE_MAX);
        if idle.generation == self.generation && now.duration_since(self.opened) < AGE_MAX {
            idle.connections.push(IdleConnection { connection: self.connection, opened: self.opened, since: now });
        }
    }
}

impl Deref for Lease<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True if the server, the role or the pooler has reached its limit of connections.
fn is_full(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| {
        error.code().as_deref() == Some("53300") || error.message().contains("no more connections allowed")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_inject_sql() {
        let statement = spliced("SELECT $1, $2", &[Some("';\u{1F511}$2"), None]);
        let escaped = r"\U00000027\U0000003B\U0001F511\U00000024\U00000032";
        assert_eq!(statement, format!("SELECT CAST(E'{escaped}' AS text), CAST(NULL AS text)"));
    }
}
