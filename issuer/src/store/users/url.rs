//! `DATABASE_URL`: the only parser, for `serve`, `check-config` and every other command.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

/// How long to wait for a writer of the application's SQLite file.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
/// Valid values of `sslmode` (libpq, "SSL Mode Descriptions").
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
/// Supported parameters of a `postgres://` URL.
const PARAMETERS: [&str; 17] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];
const ENCODE: &str = "percent-encode what is not a letter or digit in the user and the password (# is %23, / is %2F, ? is \
                      %3F, @ is %40, % is %25)";

/// The database of the application's users. Contains a password, which its `Debug` hides.
#[derive(Clone)]
pub struct DatabaseUrl {
    pub(super) options: Options,
    /// Parameters that were ignored because they have no meaning here.
    pub(super) ignored: Vec<String>,
}

/// Connection options.
#[derive(Clone)]
pub(super) enum Options {
    Postgres(Box<PgConnectOptions>),
    Sqlite(Box<SqliteConnectOptions>),
}

/// What is wrong with a `DATABASE_URL`, and the remedy. Shows nothing of the URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(String);

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self.options, Options::Sqlite(_)) {
            "DatabaseUrl(sqlite)"
        } else {
            "DatabaseUrl(postgres)"
        })
    }
}

impl DatabaseUrl {
    /// Parses `postgres://…` (also `postgresql://` and `postgresql+driver://`) or `sqlite://…`.
    ///
    /// # Errors
    /// The URL is of another kind, or cannot work.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.starts_with("sqlite:") {
            return sqlite(text);
        }
        match text.split_once("://") {
            Some((scheme, rest)) if matches!(scheme.split('+').next(), Some("postgres" | "postgresql")) => {
                postgres(rest)
            }
            _ => Err(UrlError("is not a postgres:// or sqlite:// URL".to_owned())),
        }
    }

    /// The SQLite file, for SQLite.
    pub(super) fn file(&self) -> Option<PathBuf> {
        match &self.options {
            Options::Sqlite(options) => Some(options.get_filename().to_owned()),
            Options::Postgres(_) => None,
        }
    }
}

fn sqlite(text: &str) -> Result<DatabaseUrl, UrlError> {
    let options = SqliteConnectOptions::from_str(text).map_err(|error| UrlError(format!("is not usable: {error}")))?;
    if text.contains(":memory:") || text.contains("mode=memory") || options.get_filename() == Path::new("") {
        return Err(UrlError("must name the application's file: sqlite://path".to_owned()));
    }
    let options = options.create_if_missing(false).busy_timeout(BUSY_TIMEOUT).disable_statement_logging();
    Ok(DatabaseUrl { options: Options::Sqlite(Box::new(options)), ignored: Vec::new() })
}

/// Parses the rest of a `postgres://` URL.
fn postgres(rest: &str) -> Result<DatabaseUrl, UrlError> {
    let fail = |problem: &str| Err(UrlError(format!("{problem}; {ENCODE}")));
    if rest.contains('#') {
        return fail("has a raw #");
    }
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = address.split_once('/').unwrap_or((address, ""));
    // A raw / or ? in the password ends the authority early; the @ before the host then comes after
    // it.
    if path.contains('@') || (!authority.contains('@') && !address.contains('/') && query.contains('@')) {
        return fail("has a raw / or ? before its @");
    }
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if has_raw_percent(user) {
        return fail("has a raw %");
    }
    let (host, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((_, port)) => (&host[..host.len() - port.len()], port.strip_prefix(':')),
        None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
    };
    let (parameters, ignored) = parameters(query)?;
    let several = |host: &str| host.contains(',') || host.contains("%2C") || host.contains("%2c");
    let named = |name: &str| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    if several(host)
        || port.is_some_and(|port| port.contains(','))
        || ["host", "hostaddr"].iter().any(|name| named(name).is_some_and(several))
    {
        return Err(UrlError(
            "names several hosts; give one (the primary's name, or that of a pooler or load balancer before them)"
                .to_owned(),
        ));
    }
    if port.is_some_and(|port| !port.is_empty() && !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return fail("has a port that is not a number from 1 to 65535");
    }
    if let Some(mode) = named("sslmode").or_else(|| named("ssl-mode"))
        && !SSL_MODES.contains(&mode)
    {
        return Err(UrlError(format!("has an unknown sslmode; it must be one of {}", SSL_MODES.join(", "))));
    }
    // libpq reads an empty host as the default one; a URL with a user must have a host.
    let host = if host.is_empty() { "localhost" } else { host };
    let at = if user.is_empty() { String::new() } else { format!("{user}@") };
    let port = port.filter(|port| !port.is_empty()).map(|port| format!(":{port}")).unwrap_or_default();
    let query: Vec<_> = parameters.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let url = format!("postgres://{at}{host}{port}/{path}?{}", query.join("&"));
    let options =
        PgConnectOptions::from_str(&url).map_err(|error| UrlError(format!("is not usable ({error}); {ENCODE}")))?;
    // A URL puts a literal IPv6 address in brackets, which the host itself does not have.
    let literal = options.get_host().strip_prefix('[').and_then(|host| host.strip_suffix(']')).map(str::to_owned);
    let options = match literal {
        Some(address) => options.host(&address),
        None => options,
    };
    // Poolers reject unusual start-up parameters and named statements.
    let options = options.extra_float_digits(None).statement_cache_capacity(0).disable_statement_logging();
    Ok(DatabaseUrl { options: Options::Postgres(Box::new(options)), ignored })
}

/// Names and values.
type Parameters<'a> = Vec<(&'a str, &'a str)>;

/// The known parameters, and the names of the others.
fn parameters(query: &str) -> Result<(Parameters<'_>, Vec<String>), UrlError> {
    let (mut known, mut ignored) = (Vec::new(), Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(UrlError("has a parameter without a value after its ?".to_owned()));
        };
        if PARAMETERS.contains(&key) || key.starts_with("options[") {
            known.push((key, value));
        } else {
            ignored.push(key.to_owned());
        }
    }
    Ok((known, ignored))
}

/// True if a % is not followed by two hexadecimal digits.
fn has_raw_percent(text: &str) -> bool {
    text.split('%').skip(1).any(|after| {
        let digits = after.as_bytes();
        !(digits.len() >= 2 && digits[..2].iter().all(u8::is_ascii_hexdigit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres_options(text: &str) -> PgConnectOptions {
        match DatabaseUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).options {
            Options::Postgres(options) => *options,
            Options::Sqlite(_) => panic!("{text} is of Postgres"),
        }
    }

    #[test]
    fn usual_urls_are_parsed() {
        for (text, host, port) in [
            ("postgres://app:pw@db/app", "db", 5432),
            ("postgresql://app:p%23w%2F@db:6432/app?sslmode=require", "db", 6432),
            ("postgresql+asyncpg://app:pw@db/app", "db", 5432),
            ("postgres+psycopg2://app:pw@db/app", "db", 5432),
            ("postgres://app:pw@[::1]:5433/app", "::1", 5433),
            ("postgres://app:pw@[fe80::1]/app", "fe80::1", 5432),
            ("postgres://app@/app?host=::1", "::1", 5432),
            ("postgres://app:p@w@db/app", "db", 5432),
            ("postgres://db", "db", 5432),
            ("postgres://app:pw@db/app?channel_binding=require&pgbouncer=true&connect_timeout=5", "db", 5432),
        ] {
            let options = postgres_options(text);
            assert_eq!((options.get_host(), options.get_port()), (host, port), "{text}");
        }
        let socket = postgres_options("postgres://app@/app?host=/run/postgresql");
        assert_eq!(socket.get_socket().unwrap(), Path::new("/run/postgresql"));
        let ignored = DatabaseUrl::parse("postgres://db/app?channel_binding=require&sslmode=prefer").unwrap().ignored;
        assert_eq!(ignored, ["channel_binding"]);
        assert_eq!(DatabaseUrl::parse("sqlite:///srv/app.db").unwrap().file().unwrap(), Path::new("/srv/app.db"));
    }

    #[test]
    fn mistakes_are_refused_with_a_remedy() {
        for (text, said) in [
            ("postgres://app:p#w@db/app", "percent-encode"),
            ("postgres://app:p/w@db/app", "percent-encode"),
            ("postgres://app:p?w@db/app", "percent-encode"),
            ("postgres://app:10%@db/app", "%25"),
            ("postgres://app:pw@db:port/app", "percent-encode"),
            ("postgres://app:pw@db:0/app", "port"),
            ("postgres://app:pw@a:5432,b:5432/app", "several hosts"),
            ("postgres://app:pw@a,b/app", "several hosts"),
            ("postgres://app@/app?host=a,b", "several hosts"),
            ("postgres://app:pw@db/app?sslmode=no-verify", "verify-full"),
            ("postgres://app:pw@db/app?sslmode", "without a value"),
            ("postgres://app:pw@[::1/app", "percent-encode"),
            ("postgres://app:pw@db/app?hostaddr=nowhere", "not usable"),
            ("mysql://x", "postgres:// or sqlite://"),
            ("postgresq://x", "postgres:// or sqlite://"),
            ("app.db", "postgres:// or sqlite://"),
            ("sqlite://", "sqlite://path"),
            ("sqlite::memory:", "sqlite://path"),
            ("sqlite://app.db?mode=wrong", "not usable"),
        ] {
            let error = DatabaseUrl::parse(text).err().unwrap_or_else(|| panic!("{text} is taken")).to_string();
            assert!(error.contains(said), "{text}: {error}");
            assert!(!error.contains("p#w") && !error.contains("p/w"), "{error} shows the password");
        }
    }
}
