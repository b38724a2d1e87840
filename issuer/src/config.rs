//! Every setting of the issuer, its default and its reason, in one table.

mod checks;
mod issuers;
mod lifetimes;

pub use checks::warnings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sidegate_common::foreign::file::{CLOCK_SLACK_MAX, IssuerEntry};
use sidegate_common::key::SigningKey;
use sidegate_common::revocation_state::{OnStale, Staleness};
use sidegate_common::secret::Secret;
use sidegate_common::text::is_identifier;
use sidegate_common::token::Policy;
use sidegate_runtime::connection_budget::{connection_memory, read_connection_memory};
use sidegate_runtime::redis_url::{RedisUrl, SENTINEL_SETTINGS};
use sidegate_runtime::settings::{ConfigError, Setting, Settings, secret, secret_url, setting};
use sidegate_runtime::{logging, trace};

use crate::domain::password::{COST_MAX, COST_MIN};
use crate::domain::refresh_token::RefreshKeys;
use crate::domain::session::TokenLifetimes;
use crate::domain::token_signer::Issuing;
use crate::http::origin::{CorsOrigins, Network, TrustedProxies};
use crate::keys::set::{KeySet, KeySetError, Secrets};
use crate::password::PoolSettings;
use crate::store::redis::{JournalSettings, RedisRequirements, ReplicaAckSettings};
use crate::store::users::{DatabaseUrl, EmailMatch, Table, UsersOptions};

/// The table.
pub static SETTINGS: &[Setting] = &[
    setting("ISSUER_LISTEN", "127.0.0.1:8080", "TCP address of the API and the JWKS"),
    setting("ISSUER_ADMIN_LISTEN", "127.0.0.1:9080", "TCP address of probes, metrics and the admin API"),
    setting(
        "ISSUER_FEED_LISTEN",
        "127.0.0.1:8082",
        "TCP address of the revocation feed (embedded store only); any other than loopback requires FEED_TOKEN",
    ),
    secret("FEED_TOKEN", "bearer token that verifiers send to follow the feed").reloaded(),
    secret("ADMIN_TOKEN", "bearer token of POST /admin/revocations and GET /admin/sessions; unset: both are disabled").reloaded(),
    secret_url(
        "DATABASE_URL",
        "the application's database: postgres://user:password@host/name (user and password percent-encoded) or sqlite://path",
    ),
    setting(
        "DATABASE_POOL_MAX",
        "16",
        "maximum number of database connections; fewer where the role or pooler allows fewer (SQLite: at most 4)",
    ),
    setting("USERS_TABLE", "users", "users table, or schema.table"),
    setting("USERS_ID_COLUMN", "id", "column of the id (integer, uuid or text), the token's sub"),
    setting("USERS_EMAIL_COLUMN", "email", "column of the email address"),
    setting("USERS_PASSWORD_COLUMN", "password_hash", "column of the bcrypt hash (see ARGON2_VERIFY), text or bytea"),
    setting("USERS_ACTIVE_COLUMN", "", "boolean column that says whether the user may log in; unset: every user may"),
    setting(
        "USERS_SCOPE_COLUMN",
        "",
        "column of the granted scope: text, space separated, or an array of text; unset: no scope",
    ),
    setting(
        "USERS_EMAIL_MATCH",
        "ignore_case",
        "email lookup: exact, or ignore_case, which looks again ignoring case (ASCII only on SQLite) if no row matches",
    ),
    setting(
        "USERS_REHASH",
        "false",
        "after a login, rehash a stored bcrypt hash whose cost is below BCRYPT_COST",
    ),
    setting("BCRYPT_COST", "12", "cost of new hashes (4 to 14); a refused login takes at least as long as one hash of this cost"),
    setting(
        "BCRYPT_LONG_PASSWORDS",
        "refuse",
        "passwords over 72 bytes, the most that bcrypt reads: refuse, or truncate if the table's hashes were made that way",
    ),
    setting(
        "ARGON2_VERIFY",
        "false",
        "also verify $argon2id$ hashes (up to 256 MiB each); every refused login then also computes one",
    ),
    setting(
        "BCRYPT_THREADS",
        "",
        "threads for password hashing, at the lowest priority; unset: the number of cores",
    ),
    setting("BCRYPT_QUEUE_MAX", "64", "logins that may wait for a thread; more are answered 503 with Retry-After"),
    secret("JWT_SECRET_KEY", "HS256 secret shared by issuers and verifiers, at least 32 bytes").reloaded(),
    secret("JWT_SECRET_KEY_PREVIOUS", "previous HS256 secret, which still verifies").reloaded(),
    setting(
        "JWT_KEYS_DIR",
        "",
        "folder of private keys (see `keys generate`): signs with EdDSA, ES256 or RS256; JWT_SECRET_KEY then only verifies",
    )
    .reloaded(),
    setting("KEY_PREPUBLISH", "10m", "how long a key is published before it signs, so that every verifier has it")
        .reloaded(),
    secret(
        "SESSION_SECRET_KEY",
        "secret of the refresh tokens; unset: derived from JWT_SECRET_KEY; required with JWT_KEYS_DIR",
    )
    .reloaded(),
    secret("SESSION_SECRET_KEY_PREVIOUS", "previous session secret, whose refresh tokens are still accepted").reloaded(),
    setting("JWT_ISSUER", "sidegate", "iss claim of the tokens"),
    setting("JWT_AUDIENCE", "sidegate", "aud claim of the tokens"),
    setting("JWT_CLIENT_ID", "sidegate", "client_id claim of the tokens"),
    setting("ACCESS_TOKEN_TTL", "24h", "lifetime of access tokens, at most MAX_TOKEN_LIFETIME"),
    setting("MAX_TOKEN_LIFETIME", "24h", "maximum token lifetime, for which the log keeps revocations"),
    setting(
        "ISSUERS_FILE",
        "",
        "TOML file with other issuers, whose tokens are accepted and revoked; deploy/issuers.toml explains it",
    )
    .reloaded(),
    setting(
        "FOREIGN_ENTRIES",
        "off",
        "on: revocations of other issuers' users, keys and claims are written; only once every verifier can read them",
    )
    .reloaded(),
    setting("REFRESH_TOKEN_TTL", "30d", "idle lifetime of sessions: one without a refresh for so long ends"),
    setting("SESSION_TTL_MAX", "90d", "absolute lifetime of sessions"),
    setting(
        "SESSIONS_PER_USER_MAX",
        "1000",
        "maximum number of sessions per user (1 to 10000); one more login ends the one that would expire first",
    ),
    setting("REFRESH_RETRY_WINDOW", "30s", "how long a used refresh token may be retried, at most 5m; 0: never"),
    setting("LEEWAY", "5s", "accepted clock difference, at most 60s"),
    secret_url(
        "REDIS_URL",
        "Redis for sessions and the revocation log; unset: the embedded store; SIGHUP changes only the credentials",
    )
    .reloaded(),
    SENTINEL_SETTINGS[0],
    SENTINEL_SETTINGS[1],
    setting("REDIS_PREFIX", "sidegate", "prefix of all keys in Redis; the same for every issuer and verifier"),
    setting("REDIS_REQUIRE_PERSISTENCE", "true", "refuse a Redis without persistence"),
    setting("REDIS_REQUIRE_NOEVICTION", "true", "refuse a Redis whose maxmemory-policy evicts keys"),
    setting(
        "REDIS_WAIT_REPLICAS",
        "0",
        "replicas that must acknowledge a revocation (WAIT) before it counts as stored; otherwise the answer is 503",
    ),
    setting(
        "REDIS_WAIT_TIMEOUT",
        "1s",
        "how long to wait for these acknowledgements, at most 10s; with REDIS_WAIT_FSYNC use 3s, as replicas report once a second",
    ),
    setting(
        "REDIS_WAIT_FSYNC",
        "false",
        "also require fsync on Redis and on REDIS_WAIT_REPLICAS replicas (WAITAOF, Redis 7.2 or newer)",
    ),
    setting(
        "REVOCATION_JOURNAL",
        "",
        "local file, one per issuer, that also keeps revocations, to rebuild the log after Redis lost its data",
    ),
    setting(
        "REVOCATION_JOURNAL_SOLE",
        "false",
        "true if this is the only issuer: its journal then counts as complete, however old it is",
    ),
    setting("REVOCATION_PARTITIONS", "1", "partitions of the log in Redis, fixed at first start; more for a Cluster"),
    setting("STORE_URL", "sqlite://sidegate-store.db", "file of the embedded store, used if REDIS_URL is unset"),
    setting("PROBE_INTERVAL", "250ms", "interval at which the issuer's own list is compared with the log's head"),
    setting("MAX_STALENESS", "30s", "maximum age of the last proof that the issuer's own list of revocations is complete"),
    setting("ON_STALE", "deny", "what the issuer's own protected routes do beyond MAX_STALENESS: deny (503) or allow"),
    setting("CORS_ORIGINS", "", "web origins allowed by CORS, comma separated, or *; unset: none"),
    setting(
        "TRUSTED_PROXIES",
        "",
        "addresses or networks whose X-Forwarded-For or Forwarded is trusted, comma separated",
    ),
    connection_memory("64"),
    setting("SHUTDOWN_GRACE", "10s", "time for requests in flight after SIGTERM"),
    setting("WORKER_THREADS", "", "threads that serve requests; unset: the number of cores"),
    logging::SETTINGS[0],
    logging::SETTINGS[1],
    trace::SETTINGS[0],
    trace::SETTINGS[1],
    trace::SETTINGS[2],
    trace::SETTINGS[3],
    trace::SETTINGS[4],
];

/// Sockets.
#[derive(Clone, Copy, Debug)]
pub struct ListenConfig {
    /// `ISSUER_LISTEN`.
    pub public: SocketAddr,
    /// `ISSUER_ADMIN_LISTEN`.
    pub admin: SocketAddr,
    /// `ISSUER_FEED_LISTEN`.
    pub feed: SocketAddr,
    /// `CONNECTION_MEMORY`, in bytes.
    pub connection_memory: usize,
    /// `SHUTDOWN_GRACE`.
    pub grace: Duration,
}

/// Where sessions and the log are.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// `REDIS_URL` and what belongs to it.
    Redis {
        /// The URL, which may hold a password.
        url: Secret,
        /// The same understood, with `REDIS_SENTINEL_…`.
        server: Box<RedisUrl>,
        /// `REDIS_PREFIX`.
        prefix: String,
        /// `REVOCATION_PARTITIONS`.
        partitions: u16,
        /// `REDIS_REQUIRE_…`.
        requirements: RedisRequirements,
        /// `REDIS_WAIT_…`.
        wait: ReplicaAckSettings,
        /// `REVOCATION_JOURNAL`.
        journal: Option<JournalSettings>,
    },
    /// `STORE_URL`.
    Embedded {
        /// `sqlite://path`.
        url: String,
        /// `FEED_TOKEN`.
        feed_token: Option<Secret>,
    },
}

/// The application's database.
#[derive(Clone, Debug)]
pub struct UsersConfig {
    /// `DATABASE_URL`.
    pub url: DatabaseUrl,
    /// `USERS_…`.
    pub table: Table,
    /// `DATABASE_POOL_MAX` and `USERS_REHASH`.
    pub options: UsersOptions,
}

/// What tokens are made with.
#[derive(Clone, Debug)]
pub struct KeysConfig {
    /// `JWT_KEYS_DIR`.
    pub folder: Option<PathBuf>,
    /// `KEY_PREPUBLISH`.
    pub prepublish: Duration,
    /// `JWT_SECRET_KEY` and `JWT_SECRET_KEY_PREVIOUS`.
    pub jwt: Secrets,
    /// `SESSION_SECRET_KEY`.
    pub session: Option<Secret>,
    /// `SESSION_SECRET_KEY_PREVIOUS`.
    pub session_previous: Option<Secret>,
}

/// The effective configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Sockets.
    pub listen: ListenConfig,
    /// Sessions and the log.
    pub store: StoreConfig,
    /// Users.
    pub users: UsersConfig,
    /// Keys and secrets.
    pub keys: KeysConfig,
    /// What tokens say.
    pub issuing: Issuing,
    /// How long things live.
    pub lifetimes: TokenLifetimes,
    /// `SESSIONS_PER_USER_MAX`.
    pub sessions_max: u32,
    /// What is demanded of claims on the issuer's own routes.
    pub policy: Policy,
    /// How old its own list may be.
    pub staleness: Staleness,
    /// `PROBE_INTERVAL`.
    pub probe_interval: Duration,
    /// Bcrypt.
    pub passwords: PoolSettings,
    /// `CORS_ORIGINS`.
    pub cors: CorsOrigins,
    /// `TRUSTED_PROXIES`.
    pub proxies: TrustedProxies,
    /// `ISSUERS_FILE`.
    pub issuers: Option<Vec<IssuerEntry>>,
    /// `FOREIGN_ENTRIES`.
    pub foreign_entries: bool,
    /// `ADMIN_TOKEN`.
    pub admin_token: Option<Secret>,
    /// `WORKER_THREADS`.
    pub worker_threads: usize,
}

impl Config {
    /// Reads every setting.
    ///
    /// # Errors
    /// The first one that is wrong.
    pub fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let mut lifetimes = lifetimes::read(settings)?;
        let policy = lifetimes::policy(settings, &lifetimes)?;
        let issuers = issuers::read(settings, &policy)?;
        if issuers.is_some() {
            // A watermark of another issuer lies ahead of the store's clock by this much at most.
            lifetimes.lifetime_max += CLOCK_SLACK_MAX;
        }
        let config = Self {
            listen: listen(settings)?,
            store: store(settings)?,
            users: users(settings)?,
            keys: keys(settings)?,
            issuing: issuing(settings, lifetimes.access_ttl)?,
            policy,
            issuers,
            foreign_entries: settings.one_of("FOREIGN_ENTRIES", &["off", "on"])? == "on",
            lifetimes,
            sessions_max: settings.number("SESSIONS_PER_USER_MAX", 1..=10_000)? as u32,
            staleness: staleness(settings)?,
            probe_interval: within(settings, "PROBE_INTERVAL", Duration::from_millis(10), Duration::from_secs(60))?,
            passwords: passwords(settings)?,
            cors: CorsOrigins::parse(settings.list("CORS_ORIGINS"))
                .map_err(|error| ConfigError::new("CORS_ORIGINS", error.to_string()))?,
            proxies: proxies(settings)?,
            admin_token: bearer(settings, "ADMIN_TOKEN")?,
            worker_threads: threads(settings, "WORKER_THREADS")?,
        };
        checks::check(settings, &config)?;
        Ok(config)
    }
}

/// How long public keys may be cached at most, in seconds.
const JWKS_AGE_MAX_SECONDS: u64 = 300;

impl KeysConfig {
    /// Reads the keys as they are now.
    ///
    /// # Errors
    /// See [`KeySetError`].
    pub fn key_set(&self) -> Result<KeySet, KeySetError> {
        // A cached set is gone well before the next key signs.
        let max_age = (self.prepublish.as_secs() / 2).min(JWKS_AGE_MAX_SECONDS);
        KeySet::read(self.folder.as_deref(), &self.jwt, max_age)
    }

    /// The keys of refresh tokens.
    ///
    /// # Errors
    /// No key can be derived.
    pub fn refresh_keys(&self) -> Result<RefreshKeys, ConfigError> {
        let underivable = |_| ConfigError::new("SESSION_SECRET_KEY", "no key can be derived from it");
        // After the session secrets, the JWT secrets: refresh tokens made before there was a session secret of its own.
        let jwt = self.jwt.current.iter().chain(&self.jwt.previous);
        let mut all = self.session.iter().chain(&self.session_previous).chain(jwt).cloned();
        let current = all.next().ok_or_else(|| ConfigError::new("SESSION_SECRET_KEY", "is not set"))?;
        RefreshKeys::new(&current, &all.collect::<Vec<_>>()).map_err(underivable)
    }
}

fn listen(settings: &Settings) -> Result<ListenConfig, ConfigError> {
    let address = |name| settings.parse(name, "an address and port such as 127.0.0.1:8080");
    Ok(ListenConfig {
        public: address("ISSUER_LISTEN")?,
        admin: address("ISSUER_ADMIN_LISTEN")?,
        feed: address("ISSUER_FEED_LISTEN")?,
        connection_memory: read_connection_memory(settings)?,
        grace: settings.duration("SHUTDOWN_GRACE")?,
    })
}

fn store(settings: &Settings) -> Result<StoreConfig, ConfigError> {
    let feed_token = bearer(settings, "FEED_TOKEN")?;
    let partitions = settings.number("REVOCATION_PARTITIONS", 1..=1024)? as u16;
    if let (Some(server), Some(url)) = (RedisUrl::read(settings)?, settings.secret("REDIS_URL")) {
        let wait = wait(settings)?;
        if wait.is_needed() && matches!(server, RedisUrl::Cluster(_)) {
            let name = if wait.replicas > 0 { "REDIS_WAIT_REPLICAS" } else { "REDIS_WAIT_FSYNC" };
            return Err(ConfigError::new(name, "cannot be used with redis+cluster://"));
        }
        return Ok(StoreConfig::Redis {
            url,
            server: Box::new(server),
            prefix: redis_prefix(settings)?,
            partitions,
            requirements: RedisRequirements {
                persistence: settings.flag("REDIS_REQUIRE_PERSISTENCE")?,
                noeviction: settings.flag("REDIS_REQUIRE_NOEVICTION")?,
                waitaof: wait.fsync,
            },
            wait,
            journal: journal(settings)?,
        });
    }
    let url = settings.required("STORE_URL")?.to_owned();
    if !url.starts_with("sqlite://") || url.contains(":memory:") {
        return Err(settings.unfit("STORE_URL", "sqlite://path"));
    }
    if settings.text("REVOCATION_JOURNAL").is_some() {
        let problem = "requires REDIS_URL; unset it: the embedded store (STORE_URL) keeps its log in its own file";
        return Err(ConfigError::new("REVOCATION_JOURNAL", problem));
    }
    if partitions != 1 {
        return Err(ConfigError::new(
            "REVOCATION_PARTITIONS",
            "must be 1 without REDIS_URL: the embedded store has one partition",
        ));
    }
    let feed: SocketAddr = settings.parse("ISSUER_FEED_LISTEN", "an address and port")?;
    if !feed.ip().is_loopback() && feed_token.is_none() {
        let problem = "is not set, and ISSUER_FEED_LISTEN is not a loopback address: set it here and at the verifiers";
        return Err(ConfigError::new("FEED_TOKEN", problem));
    }
    Ok(StoreConfig::Embedded { url, feed_token })
}

fn wait(settings: &Settings) -> Result<ReplicaAckSettings, ConfigError> {
    Ok(ReplicaAckSettings {
        replicas: settings.number("REDIS_WAIT_REPLICAS", 0..=100)?,
        timeout: within(settings, "REDIS_WAIT_TIMEOUT", Duration::from_millis(1), Duration::from_secs(10))?,
        fsync: settings.flag("REDIS_WAIT_FSYNC")?,
    })
}

fn journal(settings: &Settings) -> Result<Option<JournalSettings>, ConfigError> {
    let sole = settings.flag("REVOCATION_JOURNAL_SOLE")?;
    Ok(settings.text("REVOCATION_JOURNAL").map(|path| JournalSettings { path: PathBuf::from(path), sole }))
}

fn redis_prefix(settings: &Settings) -> Result<String, ConfigError> {
    let prefix = settings.required("REDIS_PREFIX")?;
    // Braces would change which part of a key is hashed on a Cluster.
    let plain = prefix.len() <= 64 && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    if plain { Ok(prefix.to_owned()) } else { Err(settings.unfit("REDIS_PREFIX", "up to 64 letters, digits, - _ . :")) }
}

fn users(settings: &Settings) -> Result<UsersConfig, ConfigError> {
    let url = settings.secret("DATABASE_URL");
    let url = url.ok_or_else(|| {
        settings.required("DATABASE_URL").err().unwrap_or_else(|| ConfigError::new("DATABASE_URL", "is not text"))
    })?;
    let url = DatabaseUrl::parse(url.expose_str().unwrap_or_default())
        .map_err(|error| ConfigError::new("DATABASE_URL", error.to_string()))?;
    let named =
        |name: &'static str| move |error: crate::store::users::BadIdentifier| ConfigError::new(name, error.to_string());
    let email_match = match settings.one_of("USERS_EMAIL_MATCH", &["ignore_case", "exact"])? {
        "exact" => EmailMatch::Exact,
        _ => EmailMatch::IgnoreCase,
    };
    let column = |name: &'static str| {
        let value = settings.required(name)?;
        Table::new("users", value, value, value, email_match).map_err(named(name)).map(|_| value)
    };
    let (id, email) = (column("USERS_ID_COLUMN")?, column("USERS_EMAIL_COLUMN")?);
    let password = column("USERS_PASSWORD_COLUMN")?;
    let table = Table::new(settings.required("USERS_TABLE")?, id, email, password, email_match)
        .map_err(named("USERS_TABLE"))?
        .active_column(settings.text("USERS_ACTIVE_COLUMN"))
        .map_err(named("USERS_ACTIVE_COLUMN"))?
        .scope_column(settings.text("USERS_SCOPE_COLUMN"))
        .map_err(named("USERS_SCOPE_COLUMN"))?;
    let options = UsersOptions {
        connections_max: settings.number("DATABASE_POOL_MAX", 1..=1000)? as usize,
        rehash: settings.flag("USERS_REHASH")?,
    };
    Ok(UsersConfig { url, table, options })
}

fn keys(settings: &Settings) -> Result<KeysConfig, ConfigError> {
    let checked = |name: &'static str| match settings.secret(name) {
        None => Ok(None),
        Some(secret) => match SigningKey::hs256(&secret) {
            Ok(_) => Ok(Some(secret)),
            Err(error) => Err(ConfigError::new(name, error.to_string())),
        },
    };
    let two = |name, previous_name| {
        let (current, previous): (Option<Secret>, Option<Secret>) = (checked(name)?, checked(previous_name)?);
        match (&current, &previous) {
            (Some(current), Some(previous)) if current.matches(previous.expose()) => {
                Err(ConfigError::new(previous_name, format!("is the same as {name}")))
            }
            _ => Ok(Secrets { current, previous }),
        }
    };
    let jwt = two("JWT_SECRET_KEY", "JWT_SECRET_KEY_PREVIOUS")?;
    let session = two("SESSION_SECRET_KEY", "SESSION_SECRET_KEY_PREVIOUS")?;
    let folder = settings.text("JWT_KEYS_DIR").map(PathBuf::from);
    if folder.is_none() && jwt.current.is_none() {
        let problem = "is not set, and neither is JWT_KEYS_DIR; it must be at least 32 random bytes";
        return Err(ConfigError::new("JWT_SECRET_KEY", problem));
    }
    // Whoever verifies with the JWT secret could forge refresh tokens: with keys of one's own there is no excuse.
    if folder.is_some() && session.current.is_none() {
        return Err(ConfigError::new("SESSION_SECRET_KEY", "is not set; it is required with JWT_KEYS_DIR"));
    }
    let prepublish =
        within(settings, "KEY_PREPUBLISH", Duration::from_secs(2), Duration::from_secs(30 * 24 * 60 * 60))?;
    let keys = KeysConfig { folder, prepublish, jwt, session: session.current, session_previous: session.previous };
    keys.key_set().map_err(|error| ConfigError::new("JWT_KEYS_DIR", error.to_string()))?;
    Ok(keys)
}

fn issuing(settings: &Settings, access_ttl: u64) -> Result<Issuing, ConfigError> {
    let client_id = settings.required("JWT_CLIENT_ID")?;
    if !is_identifier(client_id) {
        return Err(settings.unfit("JWT_CLIENT_ID", "1 to 255 visible ASCII characters"));
    }
    let audience = settings.required("JWT_AUDIENCE")?;
    if audience.contains(',') {
        return Err(
            settings.unfit("JWT_AUDIENCE", "one audience: an issuer sets one, only a verifier may list several")
        );
    }
    Ok(Issuing {
        issuer: settings.required("JWT_ISSUER")?.to_owned(),
        audience: audience.to_owned(),
        client_id: client_id.to_owned(),
        access_ttl,
    })
}

fn staleness(settings: &Settings) -> Result<Staleness, ConfigError> {
    let max = within(settings, "MAX_STALENESS", Duration::from_secs(1), Duration::from_secs(24 * 60 * 60))?;
    let policy = match settings.one_of("ON_STALE", &["deny", "allow"])? {
        "allow" => OnStale::Allow,
        _ => OnStale::Deny,
    };
    Ok(Staleness { max_ms: u64::try_from(max.as_millis()).unwrap_or(u64::MAX), policy })
}

fn passwords(settings: &Settings) -> Result<PoolSettings, ConfigError> {
    Ok(PoolSettings {
        threads: threads(settings, "BCRYPT_THREADS")?,
        queue_max: settings.number("BCRYPT_QUEUE_MAX", 1..=100_000)? as usize,
        cost: settings.number("BCRYPT_COST", u64::from(COST_MIN)..=u64::from(COST_MAX))? as u32,
        rehash: settings.flag("USERS_REHASH")?,
        truncate: settings.one_of("BCRYPT_LONG_PASSWORDS", &["refuse", "truncate"])? == "truncate",
        argon2: settings.flag("ARGON2_VERIFY")?,
    })
}

fn threads(settings: &Settings, name: &'static str) -> Result<usize, ConfigError> {
    match settings.text(name) {
        Some(_) => Ok(settings.number(name, 1..=1024)? as usize),
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}

fn proxies(settings: &Settings) -> Result<TrustedProxies, ConfigError> {
    let networks = settings.list("TRUSTED_PROXIES").into_iter().map(str::parse::<Network>);
    let networks = networks.collect::<Result<_, _>>();
    let expected = "a list of addresses and networks such as 10.0.0.1,10.0.0.0/8";
    networks.map(TrustedProxies).map_err(|_| settings.unfit("TRUSTED_PROXIES", expected))
}

/// A secret that is sent as a bearer token (RFC 6750 §2.1). Short enough to guess is as good as none, since nothing
/// limits the rate of guesses.
fn bearer(settings: &Settings, name: &'static str) -> Result<Option<Secret>, ConfigError> {
    let Some(token) = settings.secret(name) else { return Ok(None) };
    let plain = token.expose().iter().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(b));
    if plain && token.expose().len() >= 16 {
        Ok(Some(token))
    } else {
        Err(settings.unfit(name, "16 or more letters, digits and -._~+/= (use 32 random ones)"))
    }
}

/// As settings are written: 366d, 24h, 5m, 60s, 10ms.
fn written(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let fits = |(unit, size): &(&str, u128)| millis.is_multiple_of(*size) && (millis / size > 1 || *unit == "s");
    let (unit, size) = units.into_iter().find(fits).unwrap_or(("ms", 1));
    format!("{}{unit}", millis / size)
}

fn within(settings: &Settings, name: &'static str, least: Duration, most: Duration) -> Result<Duration, ConfigError> {
    let duration = settings.duration(name)?;
    if (least..=most).contains(&duration) {
        Ok(duration)
    } else {
        Err(settings.unfit(name, &format!("from {} to {}", written(least), written(most))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const REQUIRED: [(&str, &str); 2] =
        [("JWT_SECRET_KEY", "a-test-secret-of-thirty-two-bytes-or-more"), ("DATABASE_URL", "sqlite://app.db")];

    fn read(changes: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let pairs = REQUIRED.iter().chain(changes);
        let environment: BTreeMap<String, String> =
            pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::read(&Settings::load(SETTINGS, &environment, None)?)
    }

    #[test]
    fn a_secret_and_a_database_are_enough() {
        let config = read(&[]).unwrap();
        assert_eq!(config.listen.public.to_string(), "127.0.0.1:8080");
        assert_eq!(config.lifetimes.access_ttl, 86_400);
        assert_eq!(config.lifetimes.absolute_ttl, 90 * 86_400);
        assert!(matches!(config.store, StoreConfig::Embedded { .. }));
        assert!(config.keys.refresh_keys().is_ok());
    }

    #[test]
    fn every_bad_value_names_its_setting() {
        for (name, value) in [
            ("ISSUER_LISTEN", "8080"),
            ("ISSUER_ADMIN_LISTEN", "x"),
            ("ADMIN_TOKEN", "short"),
            ("ADMIN_TOKEN", "with spaces in it, and long enough"),
            ("DATABASE_URL", "mysql://x"),
            ("DATABASE_URL", "postgres://app:p#w@db/app"),
            ("DATABASE_POOL_MAX", "0"),
            ("BCRYPT_LONG_PASSWORDS", "cut"),
            ("ARGON2_VERIFY", "perhaps"),
            ("USERS_TABLE", "users; DROP TABLE users"),
            ("USERS_ID_COLUMN", "a b"),
            ("USERS_EMAIL_COLUMN", "e\"mail"),
            ("USERS_PASSWORD_COLUMN", "1x"),
            ("USERS_ACTIVE_COLUMN", "a-b"),
            ("USERS_SCOPE_COLUMN", "a'b"),
            ("USERS_EMAIL_MATCH", "fuzzy"),
            ("USERS_REHASH", "perhaps"),
            ("BCRYPT_COST", "3"),
            ("BCRYPT_COST", "15"),
            ("BCRYPT_THREADS", "0"),
            ("BCRYPT_QUEUE_MAX", "0"),
            ("JWT_SECRET_KEY", "short"),
            ("JWT_SECRET_KEY_PREVIOUS", REQUIRED[0].1),
            ("SESSION_SECRET_KEY", "short"),
            ("KEY_PREPUBLISH", "0"),
            ("JWT_AUDIENCE", "a,b"),
            ("JWT_CLIENT_ID", "a b"),
            ("ACCESS_TOKEN_TTL", "25h"),
            ("ACCESS_TOKEN_TTL", "0"),
            ("MAX_TOKEN_LIFETIME", "0"),
            ("REFRESH_TOKEN_TTL", "0"),
            ("SESSION_TTL_MAX", "soon"),
            ("REFRESH_RETRY_WINDOW", "6m"),
            ("LEEWAY", "61s"),
            ("REDIS_URL", "http://x"),
            ("REVOCATION_PARTITIONS", "2"),
            ("REVOCATION_PARTITIONS", "0"),
            ("STORE_URL", "postgres://x"),
            ("STORE_URL", "sqlite://:memory:"),
            ("PROBE_INTERVAL", "0"),
            ("MAX_STALENESS", "0"),
            ("ON_STALE", "maybe"),
            ("TRUSTED_PROXIES", "10.0.0.0/33"),
            ("SHUTDOWN_GRACE", "x"),
            ("WORKER_THREADS", "0"),
        ] {
            let error = read(&[(name, value)]).err().unwrap_or_else(|| panic!("{name}={value} is taken"));
            assert_eq!(error.setting, name, "{value}: {error}");
        }
    }

    #[test]
    fn keys_in_a_folder_need_a_session_secret_of_their_own() {
        let folder = ("JWT_KEYS_DIR", "/nonexistent/keys");
        assert_eq!(read(&[folder]).err().unwrap().setting, "SESSION_SECRET_KEY");
        let session = ("SESSION_SECRET_KEY", "a-session-secret-of-thirty-two-bytes-or-more");
        assert_eq!(read(&[folder, session]).err().unwrap().setting, "JWT_KEYS_DIR");
    }

    #[test]
    fn some_settings_depend_on_others() {
        let open = ("ISSUER_FEED_LISTEN", "0.0.0.0:8082");
        assert_eq!(read(&[open]).err().unwrap().setting, "FEED_TOKEN");
        assert!(read(&[open, ("FEED_TOKEN", "0123456789abcdef")]).is_ok());
        let redis = ("REDIS_URL", "redis://127.0.0.1/");
        assert!(read(&[open, redis]).is_ok(), "there is no feed with Redis");
        assert!(read(&[redis, ("REVOCATION_PARTITIONS", "4")]).is_ok());
        let journal = ("REVOCATION_JOURNAL", "/nonexistent/journal");
        assert_eq!(read(&[journal]).err().unwrap().setting, "REVOCATION_JOURNAL", "the embedded store is one already");
        assert!(read(&[redis, journal]).is_ok());
        for bad in [("REDIS_WAIT_REPLICAS", "-1"), ("REDIS_WAIT_TIMEOUT", "11s"), ("REDIS_WAIT_FSYNC", "maybe")] {
            assert_eq!(read(&[redis, bad]).err().unwrap().setting, bad.0);
        }
        let (cluster, wait) = (("REDIS_URL", "redis+cluster://127.0.0.1"), ("REDIS_WAIT_REPLICAS", "1"));
        assert!(read(&[redis, wait]).is_ok());
        assert_eq!(read(&[cluster, wait]).err().unwrap().setting, "REDIS_WAIT_REPLICAS");
        assert_eq!(read(&[redis, ("REDIS_PREFIX", "a{b}")]).err().unwrap().setting, "REDIS_PREFIX");
    }
}
