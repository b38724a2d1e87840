//! The statements on the application's table: its names are settings, so they are validated and quoted here.

/// How an email is matched once no row has it exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmailMatch {
    /// Ignoring case (ASCII only on SQLite).
    IgnoreCase,
    /// Not at all.
    Exact,
}

/// The names of the application's table and columns.
#[derive(Clone, Debug)]
pub struct Table {
    table: String,
    pub(super) id: String,
    pub(super) email: String,
    password: String,
    active: Option<String>,
    scope: Option<String>,
    pub(super) email_match: EmailMatch,
}

/// A name that is no plain identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name of letters, digits and underscores (for a table also schema.table)")]
pub struct BadIdentifier(pub String);

/// Which database, and what must be known of its columns.
pub(super) enum Dialect {
    Postgres { id_type: String, email_is_citext: bool },
    Sqlite,
}

/// The statements on one table. Each selects `id`, `email`, `password_hash`, `active`, `scope`.
pub(super) struct Statements {
    pub(super) find: String,
    pub(super) find_ignoring_case: String,
    pub(super) read: String,
    pub(super) rehash: String,
    /// True if `find` ignores case already (citext).
    pub(super) ignores_case_natively: bool,
}

/// The type of a column: binds the table and the column.
pub(super) const POSTGRES_TYPE: &str = "SELECT t.typname::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
    WHERE a.attrelid = CAST($1 AS regclass) AND a.attname = $2 AND NOT a.attisdropped";
/// The definitions of a table's indexes.
pub(super) const POSTGRES_INDEXES: &str =
    "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = CAST($1 AS regclass)";
/// `(column collation)` of the first column of each index of a table.
pub(super) const SQLITE_INDEXES: &str = "SELECT '(' || coalesce(x.name, '') || ' ' || x.coll || ')' \
    FROM pragma_index_list($1) l JOIN pragma_index_xinfo(l.name) x WHERE x.seqno = 0";

fn checked(name: &str) -> Result<String, BadIdentifier> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let starts_well = !name.starts_with(|c: char| c.is_ascii_digit());
    if plain && starts_well && (1..=63).contains(&name.len()) {
        Ok(name.to_owned())
    } else {
        Err(BadIdentifier(name.to_owned()))
    }
}

impl Table {
    /// A table by the names of its columns.
    ///
    /// # Errors
    /// A name that is no plain identifier.
    pub fn new(
        table: &str,
        id: &str,
        email: &str,
        password: &str,
        email_match: EmailMatch,
    ) -> Result<Self, BadIdentifier> {
        let parts = table.split('.').map(checked).collect::<Result<Vec<_>, _>>()?;
        if parts.len() > 2 {
            return Err(BadIdentifier(table.to_owned()));
        }
        Ok(Self {
            table: table.to_owned(),
            id: checked(id)?,
            email: checked(email)?,
            password: checked(password)?,
            active: None,
            scope: None,
            email_match,
        })
    }

    /// With a column that says whether a user may log in.
    ///
    /// # Errors
    /// As [`Table::new`].
    pub fn active_column(self, name: Option<&str>) -> Result<Self, BadIdentifier> {
        Ok(Self { active: name.map(checked).transpose()?, ..self })
    }

    /// With a column that holds a user's scope.
    ///
    /// # Errors
    /// As [`Table::new`].
    pub fn scope_column(self, name: Option<&str>) -> Result<Self, BadIdentifier> {
        Ok(Self { scope: name.map(checked).transpose()?, ..self })
    }

    /// The table's name, quoted.
    pub(super) fn name(&self) -> String {
        let quoted: Vec<_> = self.table.split('.').map(|part| format!("\"{part}\"")).collect();
        quoted.join(".")
    }

    /// The table's name without schema and quotes.
    pub(super) fn bare_name(&self) -> &str {
        self.table.rsplit('.').next().unwrap_or_default()
    }

    pub(super) fn statements(&self, dialect: Dialect) -> Statements {
        let (table, id, email, password) = (self.name(), &self.id, &self.email, &self.password);
        let active = match (&self.active, &dialect) {
            (None, _) => "TRUE".to_owned(),
            (Some(active), Dialect::Postgres { .. }) => format!("COALESCE(CAST(\"{active}\" AS BOOLEAN), FALSE)"),
            // SQLite keeps booleans as it pleases: a text "false" must not count as true.
            (Some(active), Dialect::Sqlite) => {
                format!("COALESCE(lower(CAST(\"{active}\" AS TEXT)) IN ('1', 't', 'true', 'yes', 'on'), FALSE)")
            }
        };
        let scope = self.scope.as_ref().map_or("NULL".to_owned(), |scope| format!("\"{scope}\""));
        let select = format!(
            "SELECT CAST(\"{id}\" AS TEXT) AS id, CAST(\"{email}\" AS TEXT) AS email, \
             CAST(\"{password}\" AS TEXT) AS password_hash, {active} AS active, CAST({scope} AS TEXT) AS scope \
             FROM {table} WHERE"
        );
        let (find, ignoring_case, by_id, native) = match dialect {
            Dialect::Postgres { id_type, email_is_citext } => {
                let ignoring_case = if email_is_citext {
                    format!("\"{email}\" = CAST($1 AS citext)")
                } else {
                    format!("lower(CAST(\"{email}\" AS TEXT)) = lower($1)")
                };
                // The comparison is made in the column's own type, so that its index serves.
                let find = if email_is_citext { ignoring_case.clone() } else { format!("\"{email}\" = $1") };
                (find, ignoring_case, format!("\"{id}\" = CAST($1 AS \"{id_type}\")"), email_is_citext)
            }
            Dialect::Sqlite => {
                let ignoring_case = format!("\"{email}\" = $1 COLLATE NOCASE");
                (format!("\"{email}\" = $1"), ignoring_case, format!("\"{id}\" = $1"), false)
            }
        };
        Statements {
            // Two rows that differ from each other in case only may stand before the exact one.
            find: format!("{select} {find} LIMIT 8"),
            find_ignoring_case: format!("{select} {ignoring_case} LIMIT 2"),
            read: format!("{select} {by_id} LIMIT 1"),
            rehash: format!("UPDATE {table} SET \"{password}\" = $3 WHERE {by_id} AND \"{password}\" = $2"),
            ignores_case_natively: native,
        }
    }

    /// What index is missing, from the definitions of those there are.
    pub(super) fn missing_index(&self, statements: &Statements, indexes: &[String]) -> Option<String> {
        let email = self.email.to_ascii_lowercase();
        let lowered: Vec<_> = indexes.iter().map(|index| index.to_ascii_lowercase().replace('"', "")).collect();
        let plain = lowered.iter().any(|index| {
            index
                .split_once('(')
                .is_some_and(|(_, columns)| columns.split([',', ')', ' ']).next() == Some(email.as_str()))
        });
        let folded = statements.ignores_case_natively
            || self.email_match == EmailMatch::Exact
            || lowered.iter().any(|index| index.contains("lower(") || index.contains("nocase"));
        let (table, email) = (&self.table, &self.email);
        match (plain, folded) {
            (true, true) => None,
            (false, _) => Some(format!("no index on {table}.{email}: every login reads the whole table")),
            (true, false) => Some(format!(
                "no index on {table}.{email} that ignores case: every login reads the whole table; add one, or set \
                 USERS_EMAIL_MATCH=exact"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> Result<Table, BadIdentifier> {
        Table::new(name, "id", "email", "password_hash", EmailMatch::IgnoreCase)
    }

    #[test]
    fn names_are_plain_and_quoted() {
        assert_eq!(table("users").unwrap().name(), "\"users\"");
        assert_eq!(table("app.Users").unwrap().name(), "\"app\".\"Users\"");
        for bad in ["", "a b", "a\"b", "a;b", "a.b.c", ".a", "a.", "1a", "é", "users--", &"x".repeat(64)] {
            assert!(table(bad).is_err(), "{bad}");
        }
        assert!(table("users").unwrap().scope_column(Some("x\"; DROP TABLE users; --")).is_err());
    }

    #[test]
    fn missing_indexes_are_named() {
        let table = table("users").unwrap();
        let statements = table.statements(Dialect::Sqlite);
        let missing = |indexes: &[&str]| {
            let indexes: Vec<_> = indexes.iter().map(|index| (*index).to_owned()).collect();
            table.missing_index(&statements, &indexes)
        };
        assert!(missing(&[]).unwrap().contains("no index on users.email:"));
        assert!(missing(&["(id BINARY)"]).is_some());
        assert!(missing(&["(email BINARY)"]).unwrap().contains("ignores case"));
        assert_eq!(missing(&["(email BINARY)", "(email NOCASE)"]), None);
        let postgres = "CREATE UNIQUE INDEX users_email ON public.users USING btree (email)";
        let lower = "CREATE INDEX l ON public.users USING btree (lower((email)::text))";
        assert!(missing(&[postgres]).is_some());
        assert_eq!(missing(&[postgres, lower]), None);
    }
}
