//! The application's own table of users, in Postgres or SQLite. Read only, except for rehashing.

mod pool;
mod schema;
mod sql;
mod url;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use sidegate_runtime::trace::child_span;

use crate::domain::traits::{Account, DependencyUnavailable, Lookup, Users};
use pool::{Connection, Lease, Pool, Row};
use schema::LearnError;
pub use schema::SchemaError;
pub use sql::{BadIdentifier, EmailMatch, Table};
use sql::{Question, Statements};
pub use url::{DatabaseUrl, UrlError};

/// The table's name in error messages.
const NAME: &str = "the users database";
/// Timeout of a query, with everything that belongs to it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of the only scan of all hashes.
const SCAN_TIMEOUT: Duration = Duration::from_secs(20);
/// More connections to a SQLite file do not help.
const SQLITE_CONNECTIONS_MAX: usize = 4;

/// Options of the table's use.
#[derive(Clone, Copy, Debug)]
pub struct UsersOptions {
    /// Limit of connections (`DATABASE_POOL_MAX`).
    pub connections_max: usize,
    /// Whether hashes may be replaced (`USERS_REHASH`).
    pub rehash: bool,
}

/// The users of an application.
pub struct SqlUsers {
    pool: Pool,
    file: Option<PathBuf>,
    table: Table,
    options: UsersOptions,
    known: Mutex<Known>,
    wrong_rows: Counter,
}

/// The known state of the table; valid until the table changes.
#[derive(Default)]
struct Known {
    statements: Option<Arc<Statements>>,
    /// `PRAGMA schema_version` when the statements were built; zero on Postgres.
    version: i64,
    /// Device and inode of the SQLite file.
    file: Option<(u64, u64)>,
}

/// Why a query failed.
#[derive(Debug, thiserror::Error)]
enum QueryError {
    #[error(transparent)]
    Schema(SchemaError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("the answer is a row that is not the one asked for (by {0}); check the connection pooler")]
    WrongRow(&'static str),
    #[error("several rows have this id and differ in the active or scope column")]
    Several,
}

impl From<LearnError> for QueryError {
    fn from(error: LearnError) -> Self {
        match error {
            LearnError::Schema(error) => Self::Schema(error),
            LearnError::Database(error) => Self::Database(error),
        }
    }
}

/// Why the table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Permanent until a setting, a right or the table changes.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The database does not answer now.
    #[error(transparent)]
    Unavailable(#[from] DependencyUnavailable),
}

/// An account and the email of its row.
struct Found {
    account: Account,
    email: String,
}

impl SqlUsers {
    /// Users in `table` of the database at `url`; connects when first used.
    pub fn new(url: &DatabaseUrl, table: Table, options: UsersOptions) -> Self {
        for name in &url.ignored {
            tracing::warn!(parameter = name, "DATABASE_URL has an unsupported parameter, which is ignored");
        }
        let file = url.file();
        let max = if file.is_some() { SQLITE_CONNECTIONS_MAX } else { usize::MAX };
        let connect = match url.options.clone() {
            url::Options::Sqlite(sqlite) => url::Options::Sqlite(Box::new(sqlite.read_only(!options.rehash))),
            postgres @ url::Options::Postgres(_) => postgres,
        };
        Self {
            pool: Pool::new(connect, options.connections_max.clamp(1, max)),
            file,
            table,
            options,
            known: Mutex::default(),
            wrong_rows: Counter::default(),
        }
    }

    /// Counts rows that did not match the query.
    pub fn wrong_rows(&self) -> Counter {
        self.wrong_rows.clone()
    }

    /// Compares the settings with the table, and tries every statement.
    ///
    /// # Errors
    /// See [`CheckError`].
    pub async fn check(&self) -> Result<(), CheckError> {
        let checked = tokio::time::timeout(STATEMENT_TIMEOUT, async {
            let mut lease = self.lease().await?;
            self.statements(&mut lease).await?;
            lease.release();
            Ok(())
        });
        match checked.await {
            Ok(Err(QueryError::Schema(error))) => Err(error.into()),
            Ok(Err(QueryError::Database(error))) => match permanent(&error) {
                Some(problem) => Err(SchemaError { setting: "DATABASE_URL", problem }.into()),
                None => Err(DependencyUnavailable::new(NAME, error).into()),
            },
            Ok(Err(error)) => Err(DependencyUnavailable::new(NAME, error).into()),
            Ok(Ok(())) => Ok(()),
            Err(_) => Err(DependencyUnavailable::new(NAME, "no answer in time").into()),
        }
    }

    /// A warning if logins may be slow: the email column has no index for the configured
    /// comparison.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn missing_index(&self) -> Result<Option<String>, DependencyUnavailable> {
        within_time("users.indexes", STATEMENT_TIMEOUT, async {
            let mut lease = self.lease().await?;
            let statements = self.statements(&mut lease).await?;
            let rows = match &*lease {
                Connection::Postgres(_) => lease.rows(sql::POSTGRES_INDEXES, &[Some(&self.table.name())]).await?,
                Connection::Sqlite(_) => lease.rows(sql::SQLITE_INDEXES, &[Some(self.table.parts().1)]).await?,
            };
            lease.release();
            let indexes = rows.iter().map(|row| Ok(row.text("definition")?.unwrap_or_default()));
            Ok(self.table.missing_index(&statements, &indexes.collect::<Result<Vec<_>, sqlx::Error>>()?))
        })
        .await
    }

    /// The parameters of all kinds of stored hashes: `$2b$12$`, `$m=65536,t=3,p=4$`.
    ///
    /// # Errors
    /// The database does not answer, or the scan of all hashes takes too long.
    pub async fn hash_parameters(&self) -> Result<Vec<String>, DependencyUnavailable> {
        within_time("users.hash_parameters", SCAN_TIMEOUT, async {
            let mut lease = self.lease().await?;
            let statements = self.statements(&mut lease).await?;
            let rows = lease.rows(&statements.hash_parameters, &[]).await?;
            lease.release();
            rows.iter().filter_map(|row| row.text("hash").map_err(QueryError::from).transpose()).collect()
        })
        .await
    }

    /// A connection to the current file. An application that replaces its file by renaming a new
    /// one leaves open connections with the old file.
    async fn lease(&self) -> Result<Lease<'_>, QueryError> {
        if let Some(path) = &self.file {
            let file = tokio::fs::metadata(path).await.map_err(|error| no_file(path, &error))?;
            let identity = Some((file.dev(), file.ino()));
            let mut known = self.known();
            if known.file != identity {
                *known = Known { file: identity, ..Known::default() };
                drop(known);
                self.pool.clear();
            }
        }
        Ok(self.pool.get().await?)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The statements, rebuilt if the table may have changed.
    async fn statements(&self, connection: &mut Connection) -> Result<Arc<Statements>, QueryError> {
        let version = match connection {
            Connection::Postgres(_) => 0,
            Connection::Sqlite(_) => {
                let rows = connection.rows("PRAGMA schema_version", &[]).await?;
                rows.first().map_or(Ok(0), |row| row.number("schema_version"))?
            }
        };
        {
            let known = self.known();
            if let Some(statements) = known.statements.as_ref().filter(|_| known.version == version) {
                return Ok(Arc::clone(statements));
            }
        }
        let statements = Arc::new(schema::learn(connection, &self.table, self.options.rehash).await?);
        let mut known = self.known();
        known.statements = Some(Arc::clone(&statements));
        known.version = version;
        Ok(statements)
    }

    /// Runs a query; retries once if the connection had died, or if the table may have changed.
    async fn ask(&self, question: Question, value: &str) -> Result<Vec<Found>, QueryError> {
        let mut learned_anew = false;
        loop {
            let mut lease = self.lease().await?;
            let asked = async {
                let statements = self.statements(&mut lease).await?;
                lease.rows(statements.of(question), &[Some(value)]).await.map_err(QueryError::from)
            };
            match asked.await {
                Ok(rows) => {
                    lease.release();
                    return self.matching(question, value, &rows);
                }
                Err(QueryError::Database(error)) if lease.reused && is_lost(&error) => self.pool.clear(),
                Err(QueryError::Database(error)) if !learned_anew && is_of_statement(&error) => {
                    learned_anew = true;
                    self.known().statements = None;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The rows, if they answer this query. A pooler, or a connection out of step, may return the
    /// rows of another query: then nothing in them counts, not even that a row is missing.
    fn matching(&self, question: Question, value: &str, rows: &[Row]) -> Result<Vec<Found>, QueryError> {
        let wrong = || {
            self.wrong_rows.inc();
            tracing::error!(
                asked_by = question.word(),
                "the users database answered with a row that is not the one asked for; check the connection pooler"
            );
            QueryError::WrongRow(question.word())
        };
        let asked = format!("{}:{value}", question.word());
        if rows.is_empty() {
            return Err(wrong());
        }
        let mut found = Vec::new();
        for row in rows {
            if row.text("asked")?.as_deref() != Some(&asked) {
                return Err(wrong());
            }
            if !row.flag("found")? {
                continue;
            }
            let one = read_found(row)?;
            let fits = match question {
                Question::Id => one.account.id == value,
                Question::Email | Question::EmailIgnoringCase => self.is_email(&one.email, value),
            };
            if !fits {
                return Err(wrong());
            }
            found.push(one);
        }
        Ok(found)
    }

    /// True if a row with the email `stored` may match `typed`, whatever the column's collation
    /// does.
    fn is_email(&self, stored: &str, typed: &str) -> bool {
        let folded = if self.file.is_some() {
            stored.eq_ignore_ascii_case(typed)
        } else {
            stored.to_lowercase() == typed.to_lowercase() || stored.to_uppercase() == typed.to_uppercase()
        };
        stored == typed || folded
    }

    async fn find(&self, email: &str) -> Result<Lookup, QueryError> {
        let (mut exact, others): (Vec<_>, Vec<_>) =
            self.ask(Question::Email, email).await?.into_iter().partition(|found| found.email == email);
        let native = self.known().statements.as_ref().is_some_and(|statements| statements.ignores_case_natively);
        // The second query runs for every login, so that its time does not reveal whether a user
        // exists.
        let folded = match (self.table.email_match, native) {
            (EmailMatch::Exact, _) => Vec::new(),
            (EmailMatch::IgnoreCase, true) => others,
            (EmailMatch::IgnoreCase, false) => self.ask(Question::EmailIgnoringCase, email).await?,
        };
        if exact.is_empty() {
            exact = folded;
        }
        let mut found = exact.into_iter();
        Ok(match (found.next(), found.next()) {
            (None, _) => Lookup::NotFound,
            (Some(found), None) => Lookup::One(found.account),
            (Some(_), Some(_)) => Lookup::Several,
        })
    }

    async fn update(&self, id: &str, old: &str, new: &str) -> Result<(), QueryError> {
        let mut lease = self.lease().await?;
        let statements = self.statements(&mut lease).await?;
        lease.rows(&statements.rehash, &[Some(id), Some(old), Some(new)]).await?;
        lease.release();
        Ok(())
    }
}

fn read_found(row: &Row) -> Result<Found, sqlx::Error> {
    let account = Account {
        // A missing id becomes empty, which no token can carry.
        id: row.text("id")?.unwrap_or_default(),
        password_hash: row.text("password_hash")?,
        active: row.flag("active")?,
        scope: row.text("scope")?.filter(|scope| !scope.is_empty()),
    };
    Ok(Found { account, email: row.text("email")?.unwrap_or_default() })
}

fn no_file(path: &Path, error: &std::io::Error) -> QueryError {
    let problem = format!("the file {} cannot be opened: {error}", path.display());
    QueryError::Schema(SchemaError { setting: "DATABASE_URL", problem })
}

/// The error's code, if it came from the database itself.
fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()))
}

/// True if the database refuses a value as unfit for the column's type: no row can have it. Columns
/// are read with conversions that cannot fail, so the refused value is the query's.
fn is_unfit_value(error: &QueryError) -> bool {
    let QueryError::Database(error) = error else { return false };
    code(error).is_some_and(|code| matches!(code.as_str(), "22P02" | "22003" | "22021" | "22P05"))
}

/// True if the table may have changed since the statement was built.
fn is_of_statement(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| ["42", "22", "0A", "55"].iter().any(|class| code.starts_with(class)) || code == "1")
}

/// True if the connection is unusable.
fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        _ => code(error)
            .is_some_and(|code| code.starts_with("08") || matches!(code.as_str(), "57P01" | "57P02" | "57P03")),
    }
}

/// The error of `DATABASE_URL`, if waiting does not help.
fn permanent(error: &sqlx::Error) -> Option<String> {
    if let sqlx::Error::Configuration(error) = error {
        return Some(format!("cannot be used: {error}"));
    }
    let code = code(error)?;
    let said = error.as_database_error().map(|error| error.message().to_owned()).unwrap_or_default();
    match code.as_str() {
        "28P01" | "28000" => Some(format!("the server refuses this user and password: {said}")),
        "3D000" => Some(format!("there is no such database: {said}")),
        "14" | "26" => Some(format!("the file cannot be used: {said}")),
        _ => None,
    }
}

/// Runs `work` with a timeout; `what` is the name of its span.
async fn within_time<T>(
    what: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, QueryError>>,
) -> Result<T, DependencyUnavailable> {
    let timed = async {
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done.map_err(|error| DependencyUnavailable::new(NAME, error)),
            Err(_) => Err(DependencyUnavailable::new(NAME, "no answer in time")),
        }
    };
    child_span(what, timed).await
}

impl Users for SqlUsers {
    async fn find_by_email(&self, email: &str) -> Result<Lookup, DependencyUnavailable> {
        // Postgres has no NUL in text, so no row can match.
        if email.contains('\0') {
            return Ok(Lookup::NotFound);
        }
        within_time("users.find_by_email", STATEMENT_TIMEOUT, async {
            match self.find(email).await {
                Err(error) if is_unfit_value(&error) => Ok(Lookup::NotFound),
                found => found,
            }
        })
        .await
    }

    async fn read(&self, id: &str) -> Result<Option<Account>, DependencyUnavailable> {
        within_time("users.read", STATEMENT_TIMEOUT, async {
            let found = match self.ask(Question::Id, id).await {
                Err(error) if is_unfit_value(&error) => return Ok(None),
                found => found?,
            };
            let mut accounts = found.into_iter().map(|found| found.account);
            let first = accounts.next();
            // A view may have a row for each email of a user.
            let same = |other: Account| {
                first.as_ref().is_some_and(|first| (first.active, &first.scope) == (other.active, &other.scope))
            };
            if accounts.all(same) { Ok(first) } else { Err(QueryError::Several) }
        })
        .await
    }

    async fn rehash(&self, id: &str, old: &str, new: &str) -> Result<(), DependencyUnavailable> {
        within_time("users.rehash", STATEMENT_TIMEOUT, self.update(id, old, new)).await
    }

    async fn probe(&self) -> Result<(), DependencyUnavailable> {
        within_time("users.probe", STATEMENT_TIMEOUT, async { self.ask(Question::Email, "").await.map(|_| ()) }).await
    }
}
