//! Compares the application's table with the settings that name it.

use super::pool::{Connection, Row};
use super::sql::{ActiveType, Dialect, PostgresTypes, Question, Statements, Table};

/// A setting that does not fit the database; only a change of the setting or of the database helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct SchemaError {
    /// The wrong setting.
    pub setting: &'static str,
    /// The error, and the remedy.
    pub problem: String,
}

/// Why the table could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LearnError {
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

const POSTGRES_COLUMNS: &str = "SELECT a.attname::text AS name, format_type(a.atttypid, -1) AS type, \
    t.typcategory::text AS category, t.typname::text AS bare_type FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
    WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
/// Postgres tables of that name, in any case and any schema.
const POSTGRES_ALIKE: &str = "SELECT n.nspname || '.' || c.relname AS name FROM pg_class c \
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE lower(c.relname) = lower($1) AND c.relkind IN ('r', 'v', 'm', 'p', 'f') \
    AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1 LIMIT 3";
/// Generated columns and columns of views count; the hidden ones of virtual tables (1) do not.
const SQLITE_COLUMNS: &str = "SELECT name, type FROM pragma_table_xinfo($1) WHERE hidden <> 1";
const SQLITE_COLUMNS_IN_SCHEMA: &str = "SELECT name, type FROM pragma_table_xinfo($1, $2) WHERE hidden <> 1";
/// SQLite's names for the row number, valid where the table has no column of that name.
const ROW_NUMBER: [&str; 3] = ["rowid", "oid", "_rowid_"];
/// How many columns an error message names.
const SHOWN_MAX: usize = 20;

struct Column {
    name: String,
    /// The type as written in SQL.
    kind: String,
    /// Postgres' category: B boolean, N number, S text, E enum, A array, U other.
    category: String,
    /// The type's name alone.
    bare: String,
}

/// Compares every configured name with the table, and tries the statements made for it.
pub(super) async fn learn(connection: &mut Connection, table: &Table, rehash: bool) -> Result<Statements, LearnError> {
    let columns = columns(connection, table).await?;
    let sqlite = matches!(connection, Connection::Sqlite(_));
    if columns.is_empty() {
        return Err(no_table(connection, table).await?.into());
    }
    for (setting, name) in table.columns() {
        if sqlite && ROW_NUMBER.iter().any(|word| name.eq_ignore_ascii_case(word)) {
            let problem = format!(
                "in SQLite {name} is the number of the row where the table has no such column; use another column"
            );
            return Err(SchemaError { setting, problem }.into());
        }
        find(&columns, name, sqlite).ok_or_else(|| no_column(table, setting, name, &columns))?;
    }
    let dialect =
        if sqlite { sqlite_dialect(&columns, table) } else { Dialect::Postgres(postgres_types(&columns, table)?) };
    let statements = table.statements(&dialect);
    for question in [Question::Email, Question::EmailIgnoringCase, Question::Id] {
        connection
            .rows(statements.of(question), &[None])
            .await
            .map_err(|error| refused(error, table, "USERS_TABLE"))?;
    }
    if rehash {
        let explain = format!("EXPLAIN {}", statements.rehash);
        connection.rows(&explain, &[None, None, None]).await.map_err(|error| refused(error, table, "USERS_REHASH"))?;
    }
    Ok(statements)
}

async fn columns(connection: &mut Connection, table: &Table) -> Result<Vec<Column>, LearnError> {
    let rows = match connection {
        Connection::Postgres(_) => connection.rows(POSTGRES_COLUMNS, &[Some(&table.name())]).await,
        Connection::Sqlite(_) => match table.parts() {
            (None, name) => connection.rows(SQLITE_COLUMNS, &[Some(name)]).await,
            (schema, name) => connection.rows(SQLITE_COLUMNS_IN_SCHEMA, &[Some(name), schema]).await,
        },
    };
    let rows = rows.map_err(|error| refused(error, table, "USERS_TABLE"))?;
    let postgres = matches!(connection, Connection::Postgres(_));
    let read = |row: &Row| {
        let text = |column| row.text(column).map(Option::unwrap_or_default);
        Ok(Column {
            name: text("name")?,
            kind: text("type")?,
            category: if postgres { text("category")? } else { String::new() },
            bare: if postgres { text("bare_type")? } else { String::new() },
        })
    };
    Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
}

/// SQLite's names are case-insensitive.
fn find<'a>(columns: &'a [Column], name: &str, any_case: bool) -> Option<&'a Column> {
    columns.iter().find(|column| column.name == name || (any_case && column.name.eq_ignore_ascii_case(name)))
}

fn no_column(table: &Table, setting: &'static str, name: &str, columns: &[Column]) -> SchemaError {
    let shown: Vec<_> = columns.iter().take(SHOWN_MAX).map(|column| column.name.as_str()).collect();
    let more = if columns.len() > SHOWN_MAX { ", …" } else { "" };
    let hint = match find(columns, name, true) {
        Some(column) => format!("; write it {} (case matters)", column.name),
        None => String::new(),
    };
    let problem = format!("{} has no column {name:?}; it has {}{more}{hint}", table.plain_name(), shown.join(", "));
    SchemaError { setting, problem }
}

async fn no_table(connection: &mut Connection, table: &Table) -> Result<SchemaError, sqlx::Error> {
    let mut alike = Vec::new();
    if matches!(connection, Connection::Postgres(_)) {
        for row in connection.rows(POSTGRES_ALIKE, &[Some(table.parts().1)]).await? {
            alike.extend(row.text("name")?);
        }
    }
    let hint = if alike.is_empty() { String::new() } else { format!("; there is {}", alike.join(", ")) };
    let problem = format!("there is no table or view {:?} in this database{hint}", table.plain_name());
    Ok(SchemaError { setting: "USERS_TABLE", problem })
}

fn sqlite_dialect(columns: &[Column], table: &Table) -> Dialect {
    // https://www.sqlite.org/datatype3.html §3.1: no type, or one with BLOB in it, converts
    // nothing.
    let id = table.columns().next().and_then(|(_, name)| find(columns, name, true));
    Dialect::Sqlite {
        id_untyped: id.is_none_or(|id| id.kind.is_empty() || id.kind.to_ascii_uppercase().contains("BLOB")),
    }
}

fn postgres_types(columns: &[Column], table: &Table) -> Result<PostgresTypes, SchemaError> {
    let mut types = PostgresTypes {
        id: String::new(),
        citext: None,
        password_is_bytea: false,
        active: ActiveType::Boolean,
        scope_is_array: false,
    };
    for (setting, name) in table.columns() {
        let Some(column) = find(columns, name, false) else { continue };
        let category = column.category.as_str();
        let unfit = |expected: &str| {
            let problem = format!("{}.{name} is of type {}; it must be {expected}", table.plain_name(), column.kind);
            Err(SchemaError { setting, problem })
        };
        match (setting, category) {
            ("USERS_ID_COLUMN", "A" | "C" | "P" | "R") => return unfit("an integer, a uuid or text"),
            ("USERS_ID_COLUMN", _) => types.id.clone_from(&column.kind),
            ("USERS_EMAIL_COLUMN", "S") => {
                types.citext = (column.bare == "citext").then(|| column.kind.clone());
            }
            ("USERS_EMAIL_COLUMN", _) => return unfit("text"),
            ("USERS_PASSWORD_COLUMN", "S") => {}
            ("USERS_PASSWORD_COLUMN", _) if column.bare == "bytea" => types.password_is_bytea = true,
            ("USERS_PASSWORD_COLUMN", _) => return unfit("text or bytea"),
            ("USERS_ACTIVE_COLUMN", "B") => types.active = ActiveType::Boolean,
            ("USERS_ACTIVE_COLUMN", "N") => types.active = ActiveType::Number,
            ("USERS_ACTIVE_COLUMN", "S" | "E") => types.active = ActiveType::Text,
            ("USERS_ACTIVE_COLUMN", _) => return unfit("a boolean"),
            ("USERS_SCOPE_COLUMN", "S" | "E") => {}
            ("USERS_SCOPE_COLUMN", "A") => types.scope_is_array = true,
            _ => return unfit("text or an array of text"),
        }
    }
    Ok(types)
}

/// An error of a statement built for this table: attributed to a setting, if a change of settings
/// or rights is the remedy.
fn refused(error: sqlx::Error, table: &Table, setting: &'static str) -> LearnError {
    let Some(database) = error.as_database_error() else { return error.into() };
    let code = database.code().map(|code| code.into_owned()).unwrap_or_default();
    let name = table.plain_name();
    let columns: Vec<_> = table.columns().map(|(_, column)| format!("\"{column}\"")).collect();
    let problem = match code.as_str() {
        "42501" if setting == "USERS_REHASH" => {
            let password =
                table.columns().find(|(setting, _)| *setting == "USERS_PASSWORD_COLUMN").map_or("", |(_, name)| name);
            format!(
                "the database role may not change hashes: GRANT UPDATE (\"{password}\") ON {name}; or set it to false"
            )
        }
        "42501" => format!("the database role may not read {name}: GRANT SELECT ({}) ON {name}", columns.join(", ")),
        // Syntax errors and access rule violations, feature not supported, wrong object state; SQLite's generic error.
        code if code.starts_with("42") || matches!(code, "0A000" | "55000" | "3F000" | "1") => {
            format!("{name} cannot be used: {}", database.message())
        }
        _ => return error.into(),
    };
    SchemaError { setting, problem }.into()
}
