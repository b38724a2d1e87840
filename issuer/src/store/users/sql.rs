//! Statements on the application's table: its names are settings, so they are validated and quoted
//! here.

/// How an email is matched if no row has exactly this spelling.
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
    id: String,
    email: String,
    password: String,
    active: Option<String>,
    scope: Option<String>,
    pub(super) email_match: EmailMatch,
}

/// A name that is not a plain identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name of letters, digits and underscores (for a table also schema.table)")]
pub struct BadIdentifier(pub String);

/// The database, with the types of its columns.
pub(super) enum Dialect {
    Postgres(PostgresTypes),
    /// Ids are compared as text: the column has no type that would convert the value.
    Sqlite {
        id_untyped: bool,
    },
}

/// What the statements need to know of a Postgres table.
pub(super) struct PostgresTypes {
    /// The id's type, as it is written in SQL.
    pub(super) id: String,
    /// The email's type, if it is case-insensitive (citext).
    pub(super) citext: Option<String>,
    /// Whether the password is bytes.
    pub(super) password_is_bytea: bool,
    pub(super) active: ActiveType,
    /// Whether the scope is an array of words.
    pub(super) scope_is_array: bool,
}

/// The kind of type that `USERS_ACTIVE_COLUMN` has in Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ActiveType {
    Boolean,
    Number,
    Text,
}

/// A query of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Email,
    EmailIgnoringCase,
    Id,
}

impl Question {
    /// The query's name in the `asked` column.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::EmailIgnoringCase => "email ignoring case",
            Self::Id => "id",
        }
    }
}

/// Statements on one table. Each query returns at least one row, with `asked`: the query's name, a
/// colon and the value. `found` says whether `id`, `email`, `password_hash`, `active` and `scope`
/// are valid.
pub(super) struct Statements {
    by_email: String,
    by_email_ignoring_case: String,
    by_id: String,
    /// Replaces a hash: the id, the old hash, the new one.
    pub(super) rehash: String,
    /// The parameters of all kinds of hashes in the table, as `hash`.
    pub(super) hash_parameters: String,
    /// True if [`Question::Email`] ignores case already (citext).
    pub(super) ignores_case_natively: bool,
}

impl Statements {
    pub(super) fn of(&self, question: Question) -> &str {
        match question {
            Question::Email => &self.by_email,
            Question::EmailIgnoringCase => &self.by_email_ignoring_case,
            Question::Id => &self.by_id,
        }
    }
}

/// Texts and numbers that mean yes, for a column that is not boolean.
const YES: &str = "IN ('1', 't', 'true', 'y', 'yes', 'on')";

/// The definitions of a table's indexes.
pub(super) const POSTGRES_INDEXES: &str =
    "SELECT pg_get_indexdef(indexrelid) AS definition FROM pg_index WHERE indrelid = to_regclass($1)";
/// `(column collation)` of the first column of each index of a table.
pub(super) const SQLITE_INDEXES: &str = "SELECT '(' || coalesce(x.name, '') || ' ' || x.coll || ')' AS definition \
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
    /// A name is not a plain identifier.
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

    /// Sets the column that says whether a user may log in.
    ///
    /// # Errors
    /// As [`Table::new`].
    pub fn active_column(self, name: Option<&str>) -> Result<Self, BadIdentifier> {
        Ok(Self { active: name.map(checked).transpose()?, ..self })
    }

    /// Sets the column that holds a user's scope.
    ///
    /// # Errors
    /// As [`Table::new`].
    pub fn scope_column(self, name: Option<&str>) -> Result<Self, BadIdentifier> {
        Ok(Self { scope: name.map(checked).transpose()?, ..self })
    }

    /// Each configured column, with the setting that names it.
    pub(super) fn columns(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let required = [
            ("USERS_ID_COLUMN", Some(&self.id)),
            ("USERS_EMAIL_COLUMN", Some(&self.email)),
            ("USERS_PASSWORD_COLUMN", Some(&self.password)),
            ("USERS_ACTIVE_COLUMN", self.active.as_ref()),
            ("USERS_SCOPE_COLUMN", self.scope.as_ref()),
        ];
        required.into_iter().filter_map(|(setting, name)| name.map(|name| (setting, name.as_str())))
    }

    /// The table's name as configured.
    pub(super) fn plain_name(&self) -> &str {
        &self.table
    }

    /// The table's name, quoted.
    pub(super) fn name(&self) -> String {
        let quoted: Vec<_> = self.table.split('.').map(|part| format!("\"{part}\"")).collect();
        quoted.join(".")
    }

    /// The schema, if configured, and the table's name, without quotes.
    pub(super) fn parts(&self) -> (Option<&str>, &str) {
        self.table.split_once('.').map_or((None, self.table.as_str()), |(schema, table)| (Some(schema), table))
    }

    /// The statements. Every column is qualified with the table's alias: SQLite reads a quoted
    /// unknown name as a text, but not a qualified one.
    pub(super) fn statements(&self, dialect: &Dialect) -> Statements {
        let table = self.name();
        let column = |name: &str| format!("t.\"{name}\"");
        let (id, email, password) = (column(&self.id), column(&self.email), column(&self.password));
        let active = self.active.as_deref().map(column);
        let scope = self.scope.as_deref().map(column);
        let (by_email, ignoring_case, by_id, native) = self.conditions(dialect);
        let (hash, active, scope) = match dialect {
            Dialect::Postgres(types) => (
                if types.password_is_bytea {
                    format!("encode({password}, 'escape')")
                } else {
                    format!("CAST({password} AS TEXT)")
                },
                active.map(|active| match types.active {
                    ActiveType::Boolean => active,
                    ActiveType::Number => format!("{active} <> 0"),
                    ActiveType::Text => format!("lower(CAST({active} AS TEXT)) {YES}"),
                }),
                scope.map(|scope| if types.scope_is_array { format!("array_to_string({scope}, ' ')") } else { scope }),
            ),
            // SQLite does not enforce types: a text "false" must not count as true.
            Dialect::Sqlite { .. } => (
                format!("CAST({password} AS TEXT)"),
                active.map(|active| format!("lower(CAST({active} AS TEXT)) {YES}")),
                scope,
            ),
        };
        let (active, scope) = (active.unwrap_or_else(|| "TRUE".into()), scope.unwrap_or_else(|| "NULL".into()));
        let select = |question: Question, condition: &str, limit: u32| {
            format!(
                "SELECT a.asked, f.* FROM (SELECT '{}:' || $1 AS asked) AS a LEFT JOIN (SELECT TRUE AS found, \
                 CAST({id} AS TEXT) AS id, CAST({email} AS TEXT) AS email, {hash} AS password_hash, \
                 COALESCE({active}, FALSE) AS active, CAST({scope} AS TEXT) AS scope FROM {table} AS t WHERE {condition} \
                 LIMIT {limit}) AS f ON TRUE",
                question.word()
            )
        };
        let (new, position) = match dialect {
            Dialect::Postgres(types) if types.password_is_bytea => ("convert_to($3, 'UTF8')", "strpos"),
            Dialect::Postgres(_) => ("$3", "strpos"),
            Dialect::Sqlite { .. } => ("$3", "instr"),
        };
        // `$2b$12$` of bcrypt, `$m=65536,t=3,p=4` of Argon2.
        let memory = format!("substr(hash, {position}(hash, '$m=') + 1)");
        let hash_parameters = format!(
            "SELECT DISTINCT CASE WHEN {position}(hash, '$argon2id$') > 0 AND {position}(hash, '$m=') > 0 \
             THEN '$' || substr({memory}, 1, {position}({memory}, '$')) ELSE substr(hash, {position}(hash, '$2'), 7) END AS hash \
             FROM (SELECT {hash} AS hash FROM {table} AS t) AS h WHERE hash LIKE '%$2_$__$%' OR hash LIKE '%$argon2id$%' LIMIT 1000"
        );
        Statements {
            // Rows that differ only in case may come before the exact match.
            by_email: select(Question::Email, &by_email, 8),
            by_email_ignoring_case: select(Question::EmailIgnoringCase, &ignoring_case, 2),
            by_id: select(Question::Id, &by_id, 8),
            rehash: format!("UPDATE {table} AS t SET \"{}\" = {new} WHERE {} AND {hash} = $2", self.password, by_id),
            hash_parameters,
            ignores_case_natively: native,
        }
    }

    /// The conditions of the three queries, and whether the first is case-insensitive already.
    /// Comparisons use the column's own type, so that its index serves.
    fn conditions(&self, dialect: &Dialect) -> (String, String, String, bool) {
        let (id, email) = (format!("t.\"{}\"", self.id), format!("t.\"{}\"", self.email));
        match dialect {
            Dialect::Postgres(types) => {
                let by_id = format!("{id} = CAST($1 AS {})", types.id);
                match &types.citext {
                    Some(citext) => {
                        let ignoring_case = format!("{email} = CAST($1 AS {citext})");
                        (ignoring_case.clone(), ignoring_case, by_id, true)
                    }
                    None => {
                        (format!("{email} = $1"), format!("lower(CAST({email} AS TEXT)) = lower($1)"), by_id, false)
                    }
                }
            }
            Dialect::Sqlite { id_untyped } => {
                let by_id = if *id_untyped { format!("CAST({id} AS TEXT) = $1") } else { format!("{id} = $1") };
                (format!("{email} = $1"), format!("{email} = $1 COLLATE NOCASE"), by_id, false)
            }
        }
    }

    /// A description of the missing index, given the definitions of the existing ones.
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
            (false, _) => Some(format!("no index on {table}.{email}: every login reads the whole table; add one")),
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
    fn names_are_validated_and_quoted() {
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
        let statements = table.statements(&Dialect::Sqlite { id_untyped: false });
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
