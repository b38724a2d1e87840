//! The application's own table of users, in Postgres or SQLite. Only read, but for rehashing.

mod sql;

use std::str::FromStr as _;
use std::time::Duration;

use sidegate_runtime::trace::hop;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _, query};
use tokio::sync::OnceCell;

use crate::domain::ports::{Account, Lookup, Unavailable, Users};
pub use sql::{BadIdentifier, EmailMatch, Table};
use sql::{Dialect, Statements};

/// The table's name in error messages.
const NAME: &str = "the users database";
/// How long a connection may take to be had.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a statement may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: u32 = 16;

enum Pool {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

/// The users of an application.
pub struct SqlUsers {
    pool: Pool,
    table: Table,
    statements: OnceCell<Statements>,
}

/// A `DATABASE_URL` that is none.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// Of no kind that is known.
    #[error("not a postgres:// or sqlite:// URL")]
    Scheme,
    /// Of a known kind, but malformed.
    #[error("{0}")]
    Malformed(String),
}

impl SqlUsers {
    /// Users in `table` of the database at `url`; connects when first used. `writable` allows rehashing.
    ///
    /// # Errors
    /// The URL is neither of Postgres nor of SQLite, or malformed.
    pub fn new(url: &str, table: Table, writable: bool) -> Result<Self, UrlError> {
        let malformed = |error: sqlx::Error| UrlError::Malformed(error.to_string());
        let pool = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let options = PgConnectOptions::from_str(url).map_err(malformed)?.disable_statement_logging();
            let pool = PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(ACQUIRE_TIMEOUT);
            Pool::Postgres(pool.connect_lazy_with(options))
        } else if url.starts_with("sqlite:") {
            let options = SqliteConnectOptions::from_str(url)
                .map_err(malformed)?
                .create_if_missing(false)
                .read_only(!writable)
                .busy_timeout(Duration::from_secs(2))
                .disable_statement_logging();
            let pool = SqlitePoolOptions::new().max_connections(4).acquire_timeout(ACQUIRE_TIMEOUT);
            Pool::Sqlite(pool.connect_lazy_with(options))
        } else {
            return Err(UrlError::Scheme);
        };
        Ok(Self { pool, table, statements: OnceCell::new() })
    }

    /// Why logins may be slow: the email column has no index that serves the way it is matched.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn missing_index(&self) -> Result<Option<String>, Unavailable> {
        within_time("users.indexes", async {
            let indexes = match &self.pool {
                Pool::Postgres(pool) => {
                    let rows = query(sql::POSTGRES_INDEXES).bind(self.table.name()).fetch_all(pool).await?;
                    rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?
                }
                Pool::Sqlite(pool) => {
                    let rows = query(sql::SQLITE_INDEXES).bind(self.table.bare_name()).fetch_all(pool).await?;
                    rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?
                }
            };
            let statements = self.statements().await?;
            Ok(self.table.missing_index(statements, &indexes))
        })
        .await
    }

    async fn statements(&self) -> Result<&Statements, sqlx::Error> {
        self.statements
            .get_or_try_init(|| async {
                let dialect = match &self.pool {
                    Pool::Sqlite(_) => Dialect::Sqlite,
                    Pool::Postgres(pool) => {
                        let mut types = [String::new(), String::new()];
                        for (found, column) in types.iter_mut().zip([&self.table.id, &self.table.email]) {
                            let row = query(sql::POSTGRES_TYPE).bind(self.table.name()).bind(column);
                            let row = row.fetch_optional(pool).await?;
                            *found = row.ok_or_else(|| sqlx::Error::ColumnNotFound(column.clone()))?.try_get(0)?;
                        }
                        let [id_type, email_type] = types;
                        Dialect::Postgres { id_type, email_is_citext: email_type == "citext" }
                    }
                };
                Ok(self.table.statements(dialect))
            })
            .await
    }

    /// Runs a statement that selects accounts.
    async fn select(&self, statement: &str, value: &str) -> Result<Vec<(Account, String)>, sqlx::Error> {
        macro_rules! run {
            ($pool:ident) => {{
                let rows = query(AssertSqlSafe(statement)).bind(value).fetch_all($pool).await?;
                rows.iter()
                    .map(|row| {
                        let scope: Option<String> = row.try_get("scope")?;
                        let account = Account {
                            id: row.try_get("id")?,
                            password_hash: row.try_get("password_hash")?,
                            active: row.try_get("active")?,
                            scope: scope.filter(|scope| !scope.is_empty()),
                        };
                        Ok((account, row.try_get("email")?))
                    })
                    .collect()
            }};
        }
        match &self.pool {
            Pool::Postgres(pool) => run!(pool),
            Pool::Sqlite(pool) => run!(pool),
        }
    }

    async fn find(&self, email: &str) -> Result<Lookup, sqlx::Error> {
        let statements = self.statements().await?;
        let (mut exact, others): (Vec<_>, Vec<_>) =
            self.select(&statements.find, email).await?.into_iter().partition(|(_, found)| found == email);
        // The second question is asked of everybody, so that its time does not tell a user from nobody.
        let folded = match (self.table.email_match, statements.ignores_case_natively) {
            (EmailMatch::Exact, _) => Vec::new(),
            (EmailMatch::IgnoreCase, true) => others,
            (EmailMatch::IgnoreCase, false) => self.select(&statements.find_ignoring_case, email).await?,
        };
        if exact.is_empty() {
            exact = folded;
        }
        let mut found = exact.into_iter();
        Ok(match (found.next(), found.next()) {
            (None, _) => Lookup::Nobody,
            (Some((account, _)), None) => Lookup::One(account),
            (Some(_), Some(_)) => Lookup::Several,
        })
    }

    async fn update(&self, id: &str, old: &str, new: &str) -> Result<(), sqlx::Error> {
        let statement = AssertSqlSafe(self.statements().await?.rehash.as_str());
        match &self.pool {
            Pool::Postgres(pool) => query(statement).bind(id).bind(old).bind(new).execute(pool).await.map(|_| ()),
            Pool::Sqlite(pool) => query(statement).bind(id).bind(old).bind(new).execute(pool).await.map(|_| ()),
        }
    }
}

/// True if the database refuses a value as unfit for the column's type: no row can have it.
fn is_unfit_value(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
    code.is_some_and(|code| matches!(code.as_str(), "22P02" | "22003" | "22021"))
}

/// Does `what`, as traces name it, unless it takes too long.
async fn within_time<T>(
    what: &'static str,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Unavailable> {
    let timed = async {
        match tokio::time::timeout(STATEMENT_TIMEOUT, work).await {
            Ok(done) => done.map_err(|error| Unavailable::new(NAME, error)),
            Err(_) => Err(Unavailable::new(NAME, "no answer in time")),
        }
    };
    hop(what, timed).await
}

impl Users for SqlUsers {
    async fn find_by_email(&self, email: &str) -> Result<Lookup, Unavailable> {
        // Postgres has no NUL in text: no row can match.
        if email.contains('\0') {
            return Ok(Lookup::Nobody);
        }
        within_time("users.find_by_email", async {
            match self.find(email).await {
                Err(error) if is_unfit_value(&error) => Ok(Lookup::Nobody),
                found => found,
            }
        })
        .await
    }

    async fn read(&self, id: &str) -> Result<Option<Account>, Unavailable> {
        within_time("users.read", async {
            let statements = self.statements().await?;
            match self.select(&statements.read, id).await {
                Err(error) if is_unfit_value(&error) => Ok(None),
                found => Ok(found?.into_iter().next().map(|(account, _)| account)),
            }
        })
        .await
    }

    async fn rehash(&self, id: &str, old: &str, new: &str) -> Result<(), Unavailable> {
        within_time("users.rehash", self.update(id, old, new)).await
    }

    async fn probe(&self) -> Result<(), Unavailable> {
        within_time("users.probe", async {
            let statements = self.statements().await?;
            self.select(&statements.find, "").await.map(|_| ())
        })
        .await
    }
}
