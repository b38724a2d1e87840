//! How to reach Redis: one server, the master that Sentinels name, or a Cluster; resolved anew for every connection.
//!
//! `redis://[user:password@]host[:port][/db]` is one server and `rediss://` the same over TLS.
//! `redis+sentinel://[user:password@]host[:port],…/service[/db]` is the master that Sentinels name, and
//! `redis+cluster://[user:password@]host[:port],…` a Cluster; `rediss+sentinel` and `rediss+cluster` speak TLS.
//!
//! With TLS the machine's own roots are trusted (`SSL_CERT_FILE`, `SSL_CERT_DIR` or the usual places), or Mozilla's where
//! there are none, as in an image from scratch.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo,
    RedisError, TlsCertificates, TlsMode,
};

const SENTINEL_PORT: u16 = 26379;
const REDIS_PORT: u16 = 6379;
/// A peer that does not acknowledge what was sent is given up after this long.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// A Redis URL, understood.
#[derive(Clone, Debug)]
pub enum RedisUrl {
    /// One server.
    Single(ConnectionInfo),
    /// The master of a service, as the Sentinels name it.
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
    /// The service the Sentinels know (empty for a Cluster).
    pub service: String,
    /// The number of the database.
    pub db: i64,
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nodes").field("hosts", &self.hosts).field("service", &self.service).finish_non_exhaustive()
    }
}

impl RedisUrl {
    /// Reads a URL of one of the forms above.
    ///
    /// # Errors
    /// It has none of them.
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

    /// Where to connect now, best first: the one server, the master that the Sentinels name at this moment, or the nodes
    /// of the Cluster that were given (any of them knows the owner of a slot).
    ///
    /// # Errors
    /// No Sentinel names a master.
    pub async fn candidates(&self) -> Result<Vec<ConnectionInfo>, RedisError> {
        match self {
            Self::Single(info) => Ok(vec![info.clone()]),
            Self::Sentinel(nodes) => {
                let client = nodes.sentinel_client()?.async_get_client().await?;
                Ok(vec![settled(client.get_connection_info().clone())?])
            }
            Self::Cluster(nodes) => nodes.hosts.iter().map(|(host, port)| nodes.cluster_node(host, *port)).collect(),
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
        path.next().is_none().then_some(Self { tls, username, password, hosts, service, db })
    }

    fn sentinel_client(&self) -> Result<SentinelClient, RedisError> {
        let hosts = self.hosts.iter().map(|(host, port)| ConnectionAddr::Tcp(host.clone(), *port));
        let mut builder = SentinelClientBuilder::new(hosts, self.service.clone(), SentinelServerType::Master)?
            .set_client_to_redis_tcp_settings(tcp_settings())
            .set_client_to_sentinel_tcp_settings(tcp_settings())
            .set_client_to_redis_db(self.db);
        if self.tls {
            builder =
                builder.set_client_to_redis_tls_mode(TlsMode::Secure).set_client_to_sentinel_tls_mode(TlsMode::Secure);
            if let Some(roots) = machine_roots() {
                builder = builder
                    .set_client_to_redis_certificates(roots.clone())
                    .set_client_to_sentinel_certificates(roots.clone());
            }
        }
        if let Some(username) = &self.username {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = &self.password {
            builder = builder.set_client_to_redis_password(password);
        }
        builder.build()
    }

    fn cluster_node(&self, host: &str, port: u16) -> Result<ConnectionInfo, RedisError> {
        let mut login = RedisConnectionInfo::default();
        if let Some(username) = &self.username {
            login = login.set_username(username);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        let info = address(host, port, self.tls).into_connection_info()?;
        settled(info.set_redis_settings(login))
    }
}

/// The same login at another address, as a Cluster's redirection (`host:port`) gives it; none if that is no address. A
/// node that does not know its own name gives an empty host, which means the one that was asked.
pub fn redirected(from: &ConnectionInfo, to: &str) -> Option<ConnectionInfo> {
    let (host, port) = to.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let (asked, tls) = match from.addr() {
        ConnectionAddr::Tcp(asked, _) => (asked, false),
        ConnectionAddr::TcpTls { host: asked, .. } => (asked, true),
        _ => return None,
    };
    let host = if host.is_empty() { asked } else { host.trim_start_matches('[').trim_end_matches(']') };
    settled(from.clone().set_addr(address(host, port, tls))).ok()
}

/// No delay, keepalive and a user timeout: a peer that is gone is noticed.
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

/// The machine's own roots, in the form that the client library takes; none where there are none, and it uses Mozilla's.
pub fn machine_roots() -> Option<&'static TlsCertificates> {
    static ROOTS: LazyLock<Option<TlsCertificates>> = LazyLock::new(|| {
        let mut pem = String::new();
        for certificate in rustls_native_certs::load_native_certs().certs {
            // One that cannot be a root is left out: the library would refuse them all for its sake.
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

/// Percent-decoding (RFC 3986 §2.1); what is no escape is taken as it is.
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
    fn several_hosts() {
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
    fn what_is_no_redis_url_is_refused() {
        for bad in ["", "http://a", "redis+other://a", "redis+sentinel://a", "redis+sentinel://a/s/x"] {
            assert!(RedisUrl::parse(bad).is_err(), "{bad}");
        }
        for bad in ["redis+sentinel://a/s/1/2", "redis+cluster://a:port", "redis+cluster://a/1", "redis+cluster://,"] {
            assert!(RedisUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn redirections_keep_the_login() {
        let RedisUrl::Single(from) = RedisUrl::parse("redis://u:p@one:7000").unwrap() else { panic!("one server") };
        let to = redirected(&from, "two:7001").unwrap();
        assert_eq!(to.addr(), &ConnectionAddr::Tcp("two".into(), 7001));
        assert_eq!(to.redis_settings().password(), Some("p"));
        let same = redirected(&from, ":7002").unwrap();
        assert_eq!(same.addr(), &ConnectionAddr::Tcp("one".into(), 7002));
        assert!(redirected(&from, "nonsense").is_none());
    }
}
