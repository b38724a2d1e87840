//! How to reach Redis: one server, the master that Sentinels name, or a Cluster; resolved again for every connection.
//!
//! `redis://[user:password@]host[:port][/db]` is one server and `rediss://` the same over TLS.
//! `redis+sentinel://[user:password@]host[:port],…/service[/db]` is the master that Sentinels name, and
//! `redis+cluster://[user:password@]host[:port],…` a Cluster; `rediss+sentinel` and `rediss+cluster` speak TLS.
//!
//! With TLS the machine's root certificates are trusted (`SSL_CERT_FILE`, `SSL_CERT_DIR` or the
//! usual places), or Mozilla's if there are none, as in an image from scratch.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, ProtocolVersion,
    RedisConnectionInfo, RedisError, TlsCertificates, cmd,
};

use crate::settings::{ConfigError, Setting, Settings, secret, setting};

/// The settings of the Sentinel login, the same in both programs.
pub const SENTINEL_SETTINGS: [Setting; 2] = [
    setting("REDIS_SENTINEL_USERNAME", "", "user name at the Sentinels of REDIS_URL; unset: their default user")
        .reloaded(),
    secret("REDIS_SENTINEL_PASSWORD", "password at the Sentinels of REDIS_URL; the one in the URL is for Redis itself")
        .reloaded(),
];

const SENTINEL_PORT: u16 = 26379;
const REDIS_PORT: u16 = 6379;
/// A connection is closed if the peer does not acknowledge data for this long.
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a Sentinel, or the server that it names, may take to connect and to answer.
const SENTINEL_TIMEOUT: Duration = Duration::from_millis(500);

/// A parsed Redis URL.
#[derive(Clone, Debug)]
pub enum RedisUrl {
    /// One server.
    Single(ConnectionInfo),
    /// The master of a service, as Sentinels name it.
    Sentinel(Nodes),
    /// The node that owns a slot.
    Cluster(Nodes),
}

/// The hosts of a URL with several.
#[derive(Clone)]
pub struct Nodes {
    /// Whether to speak TLS.
    pub tls: bool,
    /// The user to log in as.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// Host names and ports.
    pub hosts: Vec<(String, u16)>,
    /// The service name at the Sentinels (empty for a Cluster).
    pub service: String,
    /// The number of the database.
    pub db: i64,
    /// The login at the Sentinels (`REDIS_SENTINEL_USERNAME`, `REDIS_SENTINEL_PASSWORD`).
    pub sentinel_login: Login,
}

/// A user and password of Redis.
#[derive(Clone, Default)]
pub struct Login {
    /// The user; `default` if absent.
    pub username: Option<String>,
    /// The password; no login if absent.
    pub password: Option<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Login {
    fn settings(&self) -> RedisConnectionInfo {
        let mut settings = RedisConnectionInfo::default();
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        settings
    }
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nodes").field("hosts", &self.hosts).field("service", &self.service).finish_non_exhaustive()
    }
}

impl RedisUrl {
    /// Reads `REDIS_URL` and the Sentinel login; `None` if there is no URL.
    ///
    /// # Errors
    /// The URL has no known form, or a Sentinel login is set for a URL without Sentinels.
    pub fn read(settings: &Settings) -> Result<Option<Self>, ConfigError> {
        let text = |name| settings.text(name).map(str::to_owned);
        let login = Login { username: text("REDIS_SENTINEL_USERNAME"), password: text("REDIS_SENTINEL_PASSWORD") };
        let forms = "a Redis URL: redis://host:port/db, redis+sentinel://host:port,host:port/service or redis+cluster://host:port,host:port (rediss for TLS; user and password percent-encoded)";
        let url = match settings.text("REDIS_URL") {
            Some(url) => Some(Self::parse(url).map_err(|_| settings.unfit("REDIS_URL", forms))?),
            None => None,
        };
        match (&login.username, &login.password, &url) {
            (None, None, _) | (_, Some(_), Some(Self::Sentinel(_))) => {
                Ok(url.map(|url| url.with_sentinel_login(login)))
            }
            (Some(_), None, Some(Self::Sentinel(_))) => Err(ConfigError::new(
                "REDIS_SENTINEL_PASSWORD",
                "is not set, but REDIS_SENTINEL_USERNAME is; set both or neither",
            )),
            (username, ..) => {
                let name = if username.is_some() { "REDIS_SENTINEL_USERNAME" } else { "REDIS_SENTINEL_PASSWORD" };
                let problem = "needs a REDIS_URL of the form redis+sentinel:// or rediss+sentinel://";
                Err(ConfigError::new(name, problem))
            }
        }
    }

    /// Parses a URL of one of the forms above.
    ///
    /// # Errors
    /// The URL has no known form.
    pub fn parse(url: &str) -> Result<Self, RedisError> {
        let several = url.split_once("://").and_then(|(scheme, rest)| match scheme {
            "redis+sentinel" => Some((false, true, rest)),
            "rediss+sentinel" => Some((true, true, rest)),
            "redis+cluster" => Some((false, false, rest)),
            "rediss+cluster" => Some((true, false, rest)),
            _ => None,
        });
        let Some((tls, sentinel, rest)) = several else {
            return Ok(Self::Single(settled(url.into_connection_info()?)?));
        };
        let default_port = if sentinel { SENTINEL_PORT } else { REDIS_PORT };
        let nodes = Nodes::parse(rest, tls, default_port)
            .ok_or((ErrorKind::InvalidClientConfig, "the Redis URL is not user:password@host:port,host:port/…"))?;
        match (sentinel, nodes.service.is_empty()) {
            (true, true) => {
                Err((ErrorKind::InvalidClientConfig, "the Sentinel URL names no service: …/service").into())
            }
            (true, false) => Ok(Self::Sentinel(nodes)),
            (false, true) => Ok(Self::Cluster(nodes)),
            (false, false) => Err((ErrorKind::InvalidClientConfig, "a Redis Cluster has no databases").into()),
        }
    }

    /// Adds a Sentinel login; no effect without Sentinels.
    #[must_use]
    pub fn with_sentinel_login(mut self, login: Login) -> Self {
        if let Self::Sentinel(nodes) = &mut self {
            nodes.sentinel_login = login;
        }
        self
    }

    /// The servers to try now, best first: the single server, the master that the Sentinels name at
    /// present, or the configured nodes of the Cluster (any of them knows the owner of a slot).
    ///
    /// # Errors
    /// No Sentinel names a master.
    pub async fn candidates(&self) -> Result<Vec<ConnectionInfo>, RedisError> {
        match self {
            Self::Single(info) => Ok(vec![info.clone()]),
            Self::Sentinel(nodes) => Ok(vec![nodes.master().await?]),
            Self::Cluster(nodes) => nodes.hosts.iter().map(|(host, port)| nodes.server(host, *port)).collect(),
        }
    }
}

impl Nodes {
    fn parse(rest: &str, tls: bool, default_port: u16) -> Option<Self> {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = authority.rsplit_once('@').map_or((None, authority), |(c, h)| (Some(c), h));
        let (username, password) = match credentials.map(|c| c.split_once(':').unwrap_or(("", c))) {
            None => (None, None),
            Some((user, password)) => ((!user.is_empty()).then(|| unescape(user)), Some(unescape(password))),
        };
        let hosts = hosts.split(',').map(|host| host_and_port(host, default_port)).collect::<Option<Vec<_>>>()?;
        let mut path = path.split('/').filter(|part| !part.is_empty());
        let service = path.next().unwrap_or_default().to_owned();
        let db = path.next().map_or(Some(0), |db| db.parse().ok())?;
        let sentinel_login = Login::default();
        path.next().is_none().then_some(Self { tls, username, password, hosts, service, db, sentinel_login })
    }

    /// The master that a Sentinel names. A Sentinel may be outdated, so the server itself must
    /// confirm that it is the master; otherwise the next Sentinel is tried.
    async fn master(&self) -> Result<ConnectionInfo, RedisError> {
        let mut last_error = RedisError::from((ErrorKind::EmptySentinelList, "the Redis URL names no Sentinel"));
        for (host, port) in &self.hosts {
            match self.master_by(host, *port).await {
                Ok(master) => return Ok(master),
                Err(error) => last_error = error,
            }
        }
        Err(last_error)
    }

    async fn master_by(&self, host: &str, port: u16) -> Result<ConnectionInfo, RedisError> {
        let from = |error| said_by("Sentinel", host, port, &error);
        let sentinel = address(host, port, self.tls).into_connection_info()?;
        let sentinel = settled(sentinel.set_redis_settings(self.sentinel_login.settings()))?;
        let mut connection = connect(sentinel).await.map_err(from)?;
        let ask = cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service).take();
        let named: Option<(String, u16)> = ask.query_async(&mut connection).await.map_err(from)?;
        let (master_host, master_port) = named.ok_or_else(|| {
            let unknown = format!("unknown service {}", self.service);
            from(RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "wrong service in REDIS_URL", unknown)))
        })?;
        let from = |error| said_by("Redis", &master_host, master_port, &error);
        let master = self.server(&master_host, master_port)?;
        let mut connection = connect(master.clone()).await.map_err(from)?;
        let info: String = cmd("INFO").arg("replication").query_async(&mut connection).await.map_err(from)?;
        if info.lines().any(|line| line.trim_end() == "role:master") {
            return Ok(master);
        }
        let behind = format!("Sentinel {} still names it", join(host, port));
        Err(from(RedisError::from((ErrorKind::Client, "not the master", behind))))
    }

    /// The server at this address, with the URL's login.
    ///
    /// # Errors
    /// The machine's root certificates are unusable.
    pub fn server(&self, host: &str, port: u16) -> Result<ConnectionInfo, RedisError> {
        let login = Login { username: self.username.clone(), password: self.password.clone() };
        let info = address(host, port, self.tls).into_connection_info()?;
        settled(info.set_redis_settings(login.settings().set_db(self.db)))
    }
}

async fn connect(info: ConnectionInfo) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(SENTINEL_TIMEOUT))
        .set_response_timeout(Some(SENTINEL_TIMEOUT));
    Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await
}

/// Adds the server to an error's text. The kind stays the same.
pub fn said_by(what: &str, host: &str, port: u16, error: &RedisError) -> RedisError {
    RedisError::from((error.kind(), "no connection", format!("{what} {}: {error}", join(host, port))))
}

/// `host:port`, with the brackets that an IPv6 address needs.
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Host and port of a connection over TCP.
pub fn host_of(info: &ConnectionInfo) -> Option<(String, u16)> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => Some((host.clone(), *port)),
        _ => None,
    }
}

/// The address (`host:port`) in a Cluster's redirection; `None` if it is malformed. A node that
/// does not know its own name sends an empty host or `?`, which means the host `asked`.
pub fn redirected(asked: &str, to: &str) -> Option<(String, u16)> {
    let (host, port) = to.rsplit_once(':')?;
    let host = if matches!(host, "" | "?") { asked } else { host.trim_start_matches('[').trim_end_matches(']') };
    Some((host.to_owned(), port.parse().ok()?))
}

/// No delay, keepalive and a user timeout, so that a dead peer is detected.
pub fn tcp_settings() -> TcpSettings {
    let keepalive = redis::io::tcp::socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(2));
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(USER_TIMEOUT)
}

fn settled(info: ConnectionInfo) -> Result<ConnectionInfo, RedisError> {
    let resp3 = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let info = info.set_tcp_settings(tcp_settings()).set_redis_settings(resp3);
    match (info.addr(), machine_roots()) {
        (ConnectionAddr::TcpTls { .. }, Some(roots)) => {
            Ok(Client::build_with_tls(info, roots.clone())?.get_connection_info().clone())
        }
        _ => Ok(info),
    }
}

/// The machine's root certificates in the client library's form; `None` if there are none, and the
/// library uses Mozilla's.
pub fn machine_roots() -> Option<&'static TlsCertificates> {
    static ROOTS: LazyLock<Option<TlsCertificates>> = LazyLock::new(|| {
        let mut pem = String::new();
        for certificate in rustls_native_certs::load_native_certs().certs {
            // Unusable certificates are skipped: the library would reject all of them for one.
            if rustls::RootCertStore::empty().add(certificate.clone()).is_ok() {
                let body = STANDARD.encode(&certificate);
                pem.push_str("-----BEGIN CERTIFICATE-----\n");
                for line in body.as_bytes().chunks(64) {
                    pem.push_str(&String::from_utf8_lossy(line));
                    pem.push('\n');
                }
                pem.push_str("-----END CERTIFICATE-----\n");
            }
        }
        (!pem.is_empty()).then(|| TlsCertificates { client_tls: None, root_cert: Some(pem.into_bytes()) })
    });
    ROOTS.as_ref()
}

fn address(host: &str, port: u16, tls: bool) -> ConnectionAddr {
    let host = host.to_owned();
    if tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}

fn host_and_port(text: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (text, default_port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// Percent-decoding (RFC 3986 §2.1); malformed escapes are kept as they are.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = (first == b'%').then(|| after.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_hosts_parse() {
        let RedisUrl::Sentinel(nodes) = RedisUrl::parse("redis+sentinel://app:p%40ss@a,b:1,[::1]:2/main/3").unwrap()
        else {
            panic!("not taken for Sentinels")
        };
        assert_eq!((nodes.username.as_deref(), nodes.password.as_deref()), (Some("app"), Some("p@ss")));
        let hosts: Vec<_> = nodes.hosts.iter().map(|(host, port)| format!("{host} {port}")).collect();
        assert_eq!(hosts, ["a 26379", "b 1", "::1 2"]);
        assert_eq!((nodes.service.as_str(), nodes.db, nodes.tls), ("main", 3, false));
        assert!(!format!("{nodes:?}").contains("p@ss"), "no secret in Debug");
        assert!(matches!(RedisUrl::parse("rediss+cluster://a:7000"), Ok(RedisUrl::Cluster(nodes)) if nodes.tls));
    }

    #[test]
    fn malformed_url_is_an_error() {
        for bad in ["", "http://a", "redis+other://a", "redis+sentinel://a", "redis+sentinel://a/s/x"] {
            assert!(RedisUrl::parse(bad).is_err(), "{bad}");
        }
        for bad in ["redis+sentinel://a/s/1/2", "redis+cluster://a:port", "redis+cluster://a/1", "redis+cluster://,"] {
            assert!(RedisUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn redirection_yields_an_address() {
        for (to, host, port) in [("two:7001", "two", 7001), (":7002", "one", 7002), ("?:7003", "one", 7003)] {
            assert_eq!(redirected("one", to), Some((host.to_owned(), port)), "{to}");
        }
        assert_eq!(redirected("one", "[::1]:7004"), Some(("::1".to_owned(), 7004)));
        assert_eq!(redirected("one", "nonsense"), None);
    }

    #[test]
    fn each_server_gets_the_urls_login_and_database() {
        let url = RedisUrl::parse("redis+sentinel://u:p@one/main/3").unwrap();
        let login = Login { username: None, password: Some("watch".to_owned()) };
        let RedisUrl::Sentinel(nodes) = url.with_sentinel_login(login) else { panic!("not taken for Sentinels") };
        let server = nodes.server("two", 7001).unwrap();
        assert_eq!(host_of(&server), Some(("two".to_owned(), 7001)));
        assert_eq!(server.redis_settings().password(), Some("p"));
        assert_eq!(server.redis_settings().db(), 3);
        assert_eq!(nodes.sentinel_login.password.as_deref(), Some("watch"));
    }
}
