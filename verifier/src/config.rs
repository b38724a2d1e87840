//! Every setting of the verifier with its default and description, in one table.

mod checks;
mod issuers;

pub use checks::warnings;
pub use issuers::{ConfiguredIssuer, IssuersConfig};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sidegate_common::key::VerifyingKey;
use sidegate_common::revocation_state::{OnStale, Staleness};
use sidegate_common::secret::Secret;
use sidegate_common::time::LEEWAY_MAX_SECONDS;
use sidegate_common::token::Policy;
use sidegate_runtime::connection_budget::{connection_memory, read_connection_memory};
use sidegate_runtime::feed::grpc::{AddressError, GrpcSource};
use sidegate_runtime::feed::redis::RedisSource;
use sidegate_runtime::redis_url::{RedisUrl, SENTINEL_SETTINGS};
use sidegate_runtime::settings::{ConfigError, Setting, Settings, secret, secret_url, setting};
use sidegate_runtime::{logging, socket, trace};

/// The value that disables a socket or listener.
const OFF: &str = "off";

/// The table of settings.
pub static SETTINGS: &[Setting] = &[
    setting("VERIFIER_SOCKET", "/run/sidegate/verifier.sock", "Unix socket for checks, HTTP and gRPC; off: none"),
    setting("VERIFIER_SOCKET_MODE", "0660", "mode of the Unix sockets"),
    setting("VERIFIER_SOCKET_GROUP", "", "group of the Unix sockets, a name or a number; unset: the process's own"),
    setting("VERIFIER_LISTEN", "", "TCP address for checks, HTTP and gRPC, such as 127.0.0.1:8081; unset: none"),
    setting("VERIFIER_ADMIN_LISTEN", "127.0.0.1:9081", "TCP address of /livez, /readyz and /metrics; off: none"),
    secret_url(
        "REDIS_URL",
        "Redis with the revocation log: redis://, rediss://, redis+sentinel://, redis+cluster://; unset: ISSUER_FEED_URL is followed",
    )
    .reloaded(),
    SENTINEL_SETTINGS[0],
    SENTINEL_SETTINGS[1],
    setting("REDIS_PREFIX", "sidegate", "prefix of all keys in Redis; the same for every issuer and verifier"),
    setting(
        "ISSUER_FEED_URL",
        "http://127.0.0.1:8082",
        "revocation feed of an issuer with the embedded store, followed if REDIS_URL is unset",
    )
    .reloaded(),
    secret("FEED_TOKEN", "bearer token for the issuer's feed").reloaded(),
    setting(
        "REPLAY_WAIT",
        "5s",
        "after a failover or loss of data in Redis, how long issuers may take to put back what was lost",
    ),
    setting("PROBE_INTERVAL", "250ms", "interval at which the list is compared with the log's head, which bounds the effect of a lost message"),
    setting("MAX_STALENESS", "30s", "maximum age of the last proof that the list of revocations is complete"),
    setting("ON_STALE", "deny", "what checks do beyond MAX_STALENESS: deny (503), or allow (use the list held, with X-Auth-Stale)"),
    setting("SNAPSHOT_FILE", "", "file that keeps the list across a restart; unset: none"),
    secret("JWT_SECRET_KEY", "HS256 secret shared by issuers and verifiers, at least 32 bytes").reloaded(),
    secret("JWT_SECRET_KEY_PREVIOUS", "previous HS256 secret, which still verifies").reloaded(),
    setting(
        "JWKS_URL",
        "",
        "URL of the issuer's JWKS, such as http://issuer:8080/.well-known/jwks.json; HTTP_PROXY is not used",
    ),
    setting("JWKS_FILE", "", "file with the issuer's JWKS, instead of JWKS_URL"),
    setting("JWKS_REFRESH", "5m", "interval of JWKS fetches"),
    setting("JWT_ISSUER", "sidegate", "accepted iss claim"),
    setting("JWT_AUDIENCE", "sidegate", "accepted audiences, comma separated; a token must have one of them in aud"),
    setting("LEEWAY", "5s", "accepted clock difference to the issuer, at most 60s"),
    setting("MAX_TOKEN_LIFETIME", "24h", "maximum lifetime (exp - iat) of accepted tokens"),
    secret(
        "INTROSPECT_TOKEN",
        "credential for /introspect over TCP; unset: only on the Unix socket",
    )
    .reloaded(),
    setting("TOKEN_COOKIE", "", "cookie that may contain the token instead of Authorization; unset: none"),
    setting(
        "ROUTES_FILE",
        "",
        "TOML file with the rules for public and scoped routes; unset: every request needs a token",
    ),
    setting(
        "ISSUERS_FILE",
        "",
        "TOML file with other issuers, whose tokens are accepted and revoked; deploy/issuers.toml explains it",
    )
    .reloaded(),
    setting("TOKEN_CACHE_ENTRIES", "16384", "number of verified tokens to cache; 0: verify every time"),
    setting(
        "ATTACH_SOCKET",
        "/run/sidegate/attach.sock",
        "Unix socket that hands out the shared-memory segment; off: none",
    ),
    setting(
        "ATTACH_ALLOW_UIDS",
        "",
        "user ids that may attach, comma separated; unset: the socket's mode decides",
    ),
    setting("ATTACH_ALLOW_GIDS", "", "group ids that may attach, comma separated"),
    connection_memory("24"),
    setting("SHUTDOWN_GRACE", "10s", "time for requests in flight after SIGTERM"),
    setting(
        "WORKER_THREADS",
        "",
        "threads that serve requests; unset: half the cores, at least one",
    ),
    logging::SETTINGS[0],
    logging::SETTINGS[1],
    trace::SETTINGS[0],
    trace::SETTINGS[1],
    trace::SETTINGS[2],
    trace::SETTINGS[3],
    trace::SETTINGS[4],
];

/// The source of public keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksSource {
    /// Fetched over HTTP or HTTPS.
    Url(http::Uri),
    /// Read from a file.
    File(PathBuf),
    /// Named by the metadata of this issuer, an issuer of `ISSUERS_FILE`.
    Metadata(String),
}

/// Keys: secrets, and the source of public keys.
#[derive(Clone, Debug)]
pub struct KeyConfig {
    /// From `JWT_SECRET_KEY` and `JWT_SECRET_KEY_PREVIOUS`.
    pub secrets: Vec<VerifyingKey>,
    /// From `JWKS_URL` or `JWKS_FILE`.
    pub jwks: Option<JwksSource>,
    /// `JWKS_REFRESH`.
    pub refresh: Duration,
}

impl KeyConfig {
    /// True if keys of a home issuer are configured.
    pub const fn is_given(&self) -> bool {
        !self.secrets.is_empty() || self.jwks.is_some()
    }
}

/// Sockets and listeners.
#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// `VERIFIER_SOCKET`.
    pub socket: Option<PathBuf>,
    /// `VERIFIER_SOCKET_MODE`.
    pub socket_mode: u32,
    /// `VERIFIER_SOCKET_GROUP`.
    pub socket_group: Option<u32>,
    /// `VERIFIER_LISTEN`.
    pub tcp: Option<SocketAddr>,
    /// `VERIFIER_ADMIN_LISTEN`.
    pub admin: Option<SocketAddr>,
    /// `CONNECTION_MEMORY`, in bytes.
    pub connection_memory: usize,
    /// `SHUTDOWN_GRACE`.
    pub grace: Duration,
}

impl ListenConfig {
    /// Reads the settings for listeners only.
    ///
    /// # Errors
    /// The first invalid setting.
    pub fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let address = "an address and port such as 127.0.0.1:8081";
        let admin = match settings.text("VERIFIER_ADMIN_LISTEN") {
            Some(OFF) => None,
            _ => Some(settings.parse("VERIFIER_ADMIN_LISTEN", address)?),
        };
        let mode = settings.required("VERIFIER_SOCKET_MODE")?;
        let socket_mode =
            socket::parse_mode(mode).ok_or_else(|| settings.unfit("VERIFIER_SOCKET_MODE", "a mode such as 0660"))?;
        let group = |text| {
            socket::parse_group(text)
                .ok_or_else(|| settings.unfit("VERIFIER_SOCKET_GROUP", "a group of this machine or a number"))
        };
        Ok(Self {
            socket: path_or_off(settings, "VERIFIER_SOCKET")?,
            socket_mode,
            socket_group: settings.text("VERIFIER_SOCKET_GROUP").map(group).transpose()?,
            tcp: settings.parse_optional("VERIFIER_LISTEN", address)?,
            admin,
            connection_memory: read_connection_memory(settings)?,
            grace: settings.duration("SHUTDOWN_GRACE")?,
        })
    }
}

/// The source of revocations.
#[derive(Clone, Debug)]
pub struct FeedConfig {
    /// `REDIS_URL`, `ISSUER_FEED_URL` and related settings.
    pub source: FeedSource,
    /// `PROBE_INTERVAL`.
    pub probe_interval: Duration,
    /// `REPLAY_WAIT`.
    pub replay_wait: Duration,
    /// `SNAPSHOT_FILE`.
    pub snapshot_file: Option<PathBuf>,
}

/// Redis, or the issuer's own feed.
#[derive(Clone, Debug)]
pub enum FeedSource {
    /// `REDIS_URL` and `REDIS_PREFIX`.
    Redis(Box<RedisSource>),
    /// `ISSUER_FEED_URL` and `FEED_TOKEN`.
    Issuer(Box<GrpcSource>),
}

impl FeedSource {
    /// Applies what may change while the feed is followed: address and credentials. False if `with`
    /// is another kind of source, which needs a restart.
    pub fn renew(&self, with: &Self) -> bool {
        match (self, with) {
            (Self::Redis(ours), Self::Redis(new)) => ours.renew(new),
            (Self::Issuer(ours), Self::Issuer(new)) => ours.renew(new),
            _ => return false,
        }
        true
    }
}

/// Who may attach to the shared-memory segment.
#[derive(Clone, Debug)]
pub struct AttachConfig {
    /// `ATTACH_SOCKET`.
    pub socket: Option<PathBuf>,
    /// `ATTACH_ALLOW_UIDS`.
    pub uids: Vec<u32>,
    /// `ATTACH_ALLOW_GIDS`.
    pub gids: Vec<u32>,
}

/// The effective configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Sockets and listeners.
    pub listen: ListenConfig,
    /// The source of revocations.
    pub feed: FeedConfig,
    /// Keys.
    pub keys: KeyConfig,
    /// What tokens must contain.
    pub policy: Policy,
    /// `ISSUERS_FILE`.
    pub issuers: Option<IssuersConfig>,
    /// How old the proof of completeness may be, and what to do then.
    pub staleness: Staleness,
    /// Who may attach to the shared-memory segment.
    pub attach: AttachConfig,
    /// `INTROSPECT_TOKEN`.
    pub introspect_token: Option<Secret>,
    /// `TOKEN_COOKIE`.
    pub token_cookie: Option<String>,
    /// `ROUTES_FILE`.
    pub routes_file: Option<PathBuf>,
    /// `TOKEN_CACHE_ENTRIES`.
    pub token_cache_entries: usize,
    /// `WORKER_THREADS`.
    pub worker_threads: usize,
}

impl Config {
    /// Reads every setting.
    ///
    /// # Errors
    /// The first invalid setting.
    pub fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match settings.text("WORKER_THREADS") {
            Some(_) => settings.number("WORKER_THREADS", 1..=1024)? as usize,
            None => (cores / 2).max(1),
        };
        let (keys, policy) = (keys(settings)?, policy(settings)?);
        let config = Self {
            listen: ListenConfig::read(settings)?,
            feed: feed(settings)?,
            issuers: issuers::read(settings, &keys, &policy)?,
            keys,
            policy,
            staleness: staleness(settings)?,
            attach: AttachConfig {
                socket: path_or_off(settings, "ATTACH_SOCKET")?,
                uids: ids(settings, "ATTACH_ALLOW_UIDS")?,
                gids: ids(settings, "ATTACH_ALLOW_GIDS")?,
            },
            introspect_token: introspect_token(settings)?,
            token_cookie: token_cookie(settings)?,
            routes_file: settings.text("ROUTES_FILE").map(PathBuf::from),
            token_cache_entries: settings.number("TOKEN_CACHE_ENTRIES", 0..=16_777_216)? as usize,
            worker_threads: threads,
        };
        if config.listen.socket.is_none() && config.listen.tcp.is_none() {
            return Err(ConfigError::new(
                "VERIFIER_SOCKET",
                "is off and VERIFIER_LISTEN is not set; set one of them, as checks need a listener",
            ));
        }
        checks::check(settings, &config)?;
        Ok(config)
    }
}

fn path_or_off(settings: &Settings, name: &'static str) -> Result<Option<PathBuf>, ConfigError> {
    match settings.required(name)? {
        OFF => Ok(None),
        // The kernel's limit for a Unix socket's path, with its final zero.
        path if path.len() > 107 => {
            Err(ConfigError::new(name, "is longer than the 107 bytes a socket's path may have"))
        }
        path => {
            checks::socket_path(settings, name, path)?;
            Ok(Some(PathBuf::from(path)))
        }
    }
}

fn ids(settings: &Settings, name: &'static str) -> Result<Vec<u32>, ConfigError> {
    let ids = settings.list(name).into_iter().map(str::parse);
    ids.collect::<Result<_, _>>().map_err(|_| settings.unfit(name, "a list of numbers such as 1000,1001"))
}

fn feed(settings: &Settings) -> Result<FeedConfig, ConfigError> {
    let source = match RedisUrl::read(settings)? {
        Some(url) => FeedSource::Redis(Box::new(RedisSource::at(url, settings.required("REDIS_PREFIX")?))),
        None => {
            let token = settings.secret("FEED_TOKEN");
            let source = GrpcSource::new(settings.required("ISSUER_FEED_URL")?, token.as_ref());
            FeedSource::Issuer(Box::new(source.map_err(|error| match error {
                AddressError::Url => settings.unfit("ISSUER_FEED_URL", "a URL such as http://127.0.0.1:8082"),
                AddressError::Token => settings.unfit("FEED_TOKEN", "made of visible ASCII only"),
            })?))
        }
    };
    let probe_interval = settings.duration("PROBE_INTERVAL")?;
    if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(&probe_interval) {
        return Err(settings.unfit("PROBE_INTERVAL", "from 10ms to 60s"));
    }
    let replay_wait = settings.duration("REPLAY_WAIT")?;
    if replay_wait > Duration::from_secs(60) {
        return Err(settings.unfit("REPLAY_WAIT", "at most 60s"));
    }
    let snapshot_file = settings.text("SNAPSHOT_FILE").map(PathBuf::from);
    Ok(FeedConfig { source, probe_interval, replay_wait, snapshot_file })
}

fn keys(settings: &Settings) -> Result<KeyConfig, ConfigError> {
    let mut secrets: Vec<VerifyingKey> = Vec::new();
    for name in ["JWT_SECRET_KEY", "JWT_SECRET_KEY_PREVIOUS"] {
        if let Some(secret) = settings.secret(name) {
            let key = VerifyingKey::hs256(&secret).map_err(|error| ConfigError::new(name, error.to_string()))?;
            if secrets.iter().any(|known| known.kid() == key.kid()) {
                return Err(ConfigError::new(name, "is the same as JWT_SECRET_KEY"));
            }
            secrets.push(key);
        }
    }
    let jwks = match (settings.text("JWKS_URL"), settings.text("JWKS_FILE")) {
        (Some(_), Some(_)) => return Err(ConfigError::new("JWKS_FILE", "is set beside JWKS_URL; set one of them")),
        (Some(_), None) => Some(JwksSource::Url(jwks_url(settings)?)),
        (None, Some(path)) => Some(JwksSource::File(PathBuf::from(path))),
        (None, None) => None,
    };
    if secrets.is_empty() && jwks.is_none() && settings.text("ISSUERS_FILE").is_none() {
        let problem =
            "is not set, and neither is JWKS_URL, JWKS_FILE or ISSUERS_FILE: there is no key to verify tokens with";
        return Err(ConfigError::new("JWT_SECRET_KEY", problem));
    }
    let refresh = settings.duration("JWKS_REFRESH")?;
    if refresh < Duration::from_secs(1) {
        return Err(settings.unfit("JWKS_REFRESH", "1s or more"));
    }
    Ok(KeyConfig { secrets, jwks, refresh })
}

fn jwks_url(settings: &Settings) -> Result<http::Uri, ConfigError> {
    let url: http::Uri = settings.parse("JWKS_URL", "an http:// or https:// URL")?;
    let fits = matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some_and(|host| !host.is_empty());
    if fits { Ok(url) } else { Err(settings.unfit("JWKS_URL", "an http:// or https:// URL")) }
}

fn policy(settings: &Settings) -> Result<Policy, ConfigError> {
    let audiences: Vec<String> = settings.list("JWT_AUDIENCE").into_iter().map(str::to_owned).collect();
    if audiences.is_empty() {
        return Err(settings.unfit("JWT_AUDIENCE", "a comma separated list of audiences"));
    }
    let leeway_seconds = settings.duration("LEEWAY")?.as_secs();
    if leeway_seconds > LEEWAY_MAX_SECONDS {
        return Err(settings.unfit("LEEWAY", "at most 60s"));
    }
    let lifetime_max_seconds = settings.duration("MAX_TOKEN_LIFETIME")?.as_secs();
    if lifetime_max_seconds == 0 {
        return Err(settings.unfit("MAX_TOKEN_LIFETIME", "at least 1s"));
    }
    let issuer = settings.required("JWT_ISSUER")?.to_owned();
    Ok(Policy { issuer, audiences, leeway_seconds, lifetime_max_seconds })
}

fn staleness(settings: &Settings) -> Result<Staleness, ConfigError> {
    let max = settings.duration("MAX_STALENESS")?;
    if !(Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60)).contains(&max) {
        return Err(settings.unfit("MAX_STALENESS", "from 1s to 24h"));
    }
    let policy = match settings.one_of("ON_STALE", &["deny", "allow"])? {
        "allow" => OnStale::Allow,
        _ => OnStale::Deny,
    };
    Ok(Staleness { max_ms: u64::try_from(max.as_millis()).unwrap_or(u64::MAX), policy })
}

/// A short token could be guessed, since the rate of attempts is not limited.
fn introspect_token(settings: &Settings) -> Result<Option<Secret>, ConfigError> {
    match settings.secret("INTROSPECT_TOKEN") {
        Some(token) if token.expose().len() < 16 => {
            Err(ConfigError::new("INTROSPECT_TOKEN", "is shorter than 16 bytes; use 32 random ones"))
        }
        token => Ok(token),
    }
}

/// RFC 6265 §4.1.1: a cookie's name is a token (RFC 9110 §5.6.2).
fn token_cookie(settings: &Settings) -> Result<Option<String>, ConfigError> {
    let Some(name) = settings.text("TOKEN_COOKIE") else { return Ok(None) };
    let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if fits {
        Ok(Some(name.to_owned()))
    } else {
        Err(settings.unfit("TOKEN_COOKIE", "a cookie name: letters, digits and !#$%&'*+-.^_`|~"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const KEY: (&str, &str) = ("JWT_SECRET_KEY", "a-test-secret-of-thirty-two-bytes-or-more");

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let environment: BTreeMap<String, String> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::read(&Settings::load(SETTINGS, &environment, None)?)
    }

    fn refused(name: &str, value: &str) -> ConfigError {
        let pairs: Vec<_> = if name == KEY.0 { vec![(name, value)] } else { vec![KEY, (name, value)] };
        read(&pairs).err().unwrap_or_else(|| panic!("{name}={value} is taken"))
    }

    #[test]
    fn one_secret_is_enough() {
        let config = read(&[KEY]).unwrap();
        assert_eq!(config.listen.socket_mode, 0o660);
        assert_eq!(config.listen.tcp, None);
        assert_eq!(config.staleness, Staleness { max_ms: 30_000, policy: OnStale::Deny });
        assert_eq!(config.policy.leeway_seconds, 5);
        assert!(matches!(config.feed.source, FeedSource::Issuer(_)));
        assert!(config.worker_threads >= 1);
    }

    #[test]
    fn every_bad_value_names_its_setting() {
        for (name, value) in [
            ("VERIFIER_SOCKET_MODE", "rw"),
            ("VERIFIER_SOCKET_GROUP", "no-such-group"),
            ("VERIFIER_SOCKET", "off"),
            ("VERIFIER_LISTEN", "8081"),
            ("VERIFIER_ADMIN_LISTEN", "here"),
            ("ISSUER_FEED_URL", "127.0.0.1:8082"),
            ("PROBE_INTERVAL", "1ms"),
            ("REPLAY_WAIT", "2m"),
            ("MAX_STALENESS", "0"),
            ("MAX_STALENESS", "soon"),
            ("ON_STALE", "maybe"),
            ("JWT_SECRET_KEY", "short"),
            ("JWT_SECRET_KEY_PREVIOUS", KEY.1),
            ("JWKS_URL", "ftp://host/keys"),
            ("JWKS_REFRESH", "0"),
            ("JWT_AUDIENCE", " , "),
            ("LEEWAY", "61s"),
            ("MAX_TOKEN_LIFETIME", "0"),
            ("INTROSPECT_TOKEN", "short"),
            ("TOKEN_COOKIE", "a b"),
            ("TOKEN_CACHE_ENTRIES", "-1"),
            ("ATTACH_ALLOW_UIDS", "root"),
            ("WORKER_THREADS", "0"),
            ("SHUTDOWN_GRACE", "x"),
        ] {
            let error = refused(name, value);
            assert_eq!(error.setting, name, "{value}: {error}");
        }
        assert_eq!(read(&[]).unwrap_err().setting, "JWT_SECRET_KEY");
        let both = [KEY, ("JWKS_URL", "http://h/"), ("JWKS_FILE", "/f")];
        assert_eq!(read(&both).unwrap_err().setting, "JWKS_FILE");
    }

    #[test]
    fn redis_takes_precedence_over_the_issuers_feed() {
        let config = read(&[KEY, ("REDIS_URL", "redis://127.0.0.1/")]).unwrap();
        assert!(matches!(config.feed.source, FeedSource::Redis(_)));
    }
}
