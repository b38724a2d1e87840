//! A connection to Redis that is made again when it breaks, and fails fast meanwhile.
//!
//! `REDIS_URL` is `redis://` or `rediss://` (TLS) for one server, `redis+sentinel://[user:password@]host[:port],…/service[/db]`
//! for the master that Sentinels name, `redis+cluster://[user:password@]host[:port],…` for a Cluster; with `rediss+` the
//! last two speak TLS.

use std::time::Duration;

use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, RedisError,
    ServerErrorKind, TlsMode, Value,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// After a failed attempt, how long callers are refused at once before the next attempt.
const RETRY_AFTER: Duration = Duration::from_millis(100);
const SENTINEL_PORT: u16 = 26379;
const REDIS_PORT: u16 = 6379;

/// How to reach Redis.
enum Target {
    Single(Box<Client>),
    Sentinel(Box<Mutex<SentinelClient>>),
    Cluster(Box<ClusterClient>),
}

#[derive(Clone)]
enum Connection {
    Direct(MultiplexedConnection),
    Cluster(ClusterConnection),
}

struct Slot {
    connection: Option<(u64, Connection)>,
    generation: u64,
    not_before: Option<Instant>,
}

/// A connection that heals.
pub struct Link {
    target: Target,
    slot: Mutex<Slot>,
}

impl Link {
    /// A link to `url`; connects when first used.
    ///
    /// # Errors
    /// The URL is none of the forms above.
    pub fn new(url: &str) -> Result<Self, RedisError> {
        let target = match Parts::of(url) {
            Some(parts) if parts.sentinel => Target::Sentinel(Box::new(Mutex::new(sentinel(&parts)?))),
            Some(parts) => Target::Cluster(Box::new(cluster(&parts)?)),
            None => {
                let info = url.into_connection_info()?.set_tcp_settings(tcp_settings());
                Target::Single(Box::new(Client::open(info)?))
            }
        };
        Ok(Self { target, slot: Mutex::new(Slot { connection: None, generation: 0, not_before: None }) })
    }

    /// Sends a command. A connection that proves broken, or leads to a server that has ceased to be the master, is
    /// dropped, and the next command makes a new one.
    ///
    /// # Errors
    /// Redis says so, or does not answer in time.
    pub async fn call(&self, command: &Cmd) -> Result<Value, RedisError> {
        let (generation, connection) = self.connection().await?;
        let answer = match connection {
            Connection::Direct(mut direct) => direct.send_packed_command(command).await,
            Connection::Cluster(mut cluster) => cluster.req_packed_command(command).await,
        };
        let answer = answer.and_then(Value::extract_error);
        if let Err(error) = &answer
            && is_fatal(error)
        {
            let mut slot = self.slot.lock().await;
            if slot.connection.as_ref().is_some_and(|(current, _)| *current == generation) {
                slot.connection = None;
            }
        }
        answer
    }

    async fn connection(&self) -> Result<(u64, Connection), RedisError> {
        let mut slot = self.slot.lock().await;
        if let Some(connection) = &slot.connection {
            return Ok(connection.clone());
        }
        if slot.not_before.is_some_and(|moment| Instant::now() < moment) {
            return Err(RedisError::from((ErrorKind::Io, "Redis could not be reached a moment ago")));
        }
        let made = match tokio::time::timeout(2 * CONNECT_TIMEOUT, self.connect()).await {
            Ok(made) => made,
            Err(_) => Err(RedisError::from((ErrorKind::Io, "no connection in time"))),
        };
        match made {
            Ok(connection) => {
                slot.generation += 1;
                slot.not_before = None;
                slot.connection = Some((slot.generation, connection.clone()));
                Ok((slot.generation, connection))
            }
            Err(error) => {
                slot.not_before = Some(Instant::now() + RETRY_AFTER);
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<Connection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT));
        match &self.target {
            Target::Single(client) => {
                client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::Direct)
            }
            Target::Sentinel(client) => {
                let mut client = client.lock().await;
                client.get_async_connection_with_config(&config).await.map(Connection::Direct)
            }
            Target::Cluster(client) => client.get_async_connection().await.map(Connection::Cluster),
        }
    }
}

/// True if the connection is of no more use: broken, silent, or to a server that no longer takes writes.
fn is_fatal(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown))
}

fn tcp_settings() -> TcpSettings {
    let keepalive = redis::io::tcp::socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(2));
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(Duration::from_secs(5))
}

/// A URL with several hosts, taken apart.
struct Parts {
    sentinel: bool,
    tls: bool,
    username: Option<String>,
    password: Option<String>,
    hosts: Vec<(String, u16)>,
    path: Vec<String>,
}

impl Parts {
    fn of(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (tls, sentinel) = match scheme {
            "redis+sentinel" => (false, true),
            "rediss+sentinel" => (true, true),
            "redis+cluster" => (false, false),
            "rediss+cluster" => (true, false),
            _ => return None,
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = authority.rsplit_once('@').map_or((None, authority), |(c, h)| (Some(c), h));
        let (username, password) = match credentials.map(|c| c.split_once(':').unwrap_or(("", c))) {
            None => (None, None),
            Some((user, password)) => ((!user.is_empty()).then(|| unescape(user)), Some(unescape(password))),
        };
        let default_port = if sentinel { SENTINEL_PORT } else { REDIS_PORT };
        let hosts = hosts.split(',').map(|host| host_and_port(host, default_port)).collect::<Option<Vec<_>>>()?;
        let path = path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        Some(Self { sentinel, tls, username, password, hosts, path })
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
        let escaped = (first == b'%').then(|| after.get(..2)).flatten();
        match escaped.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
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

fn sentinel(parts: &Parts) -> Result<SentinelClient, RedisError> {
    let service = parts.path.first().ok_or((ErrorKind::InvalidClientConfig, "the Sentinel URL names no service"))?;
    let hosts = parts.hosts.iter().map(|(host, port)| ConnectionAddr::Tcp(host.clone(), *port));
    let mut builder = SentinelClientBuilder::new(hosts, service.clone(), SentinelServerType::Master)?
        .set_client_to_redis_tcp_settings(tcp_settings())
        .set_client_to_sentinel_tcp_settings(tcp_settings());
    if parts.tls {
        builder =
            builder.set_client_to_redis_tls_mode(TlsMode::Secure).set_client_to_sentinel_tls_mode(TlsMode::Secure);
    }
    if let Some(username) = &parts.username {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = &parts.password {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(db) = parts.path.get(1) {
        let db = db.parse().map_err(|_| (ErrorKind::InvalidClientConfig, "the database is not a number"))?;
        builder = builder.set_client_to_redis_db(db);
    }
    builder.build()
}

fn cluster(parts: &Parts) -> Result<ClusterClient, RedisError> {
    let scheme = if parts.tls { "rediss" } else { "redis" };
    let urls: Vec<_> = parts.hosts.iter().map(|(host, port)| format!("{scheme}://{host}:{port}")).collect();
    let mut builder = ClusterClientBuilder::new(urls)
        .connection_timeout(CONNECT_TIMEOUT)
        .response_timeout(ANSWER_TIMEOUT)
        .overall_response_timeout(Some(2 * ANSWER_TIMEOUT))
        .retries(2)
        .tcp_settings(tcp_settings());
    if let Some(username) = &parts.username {
        builder = builder.username(username);
    }
    if let Some(password) = &parts.password {
        builder = builder.password(password);
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_with_several_hosts() {
        let parts = Parts::of("redis+sentinel://app:p%40ss@a,b:1,[::1]:2/main/3").unwrap();
        assert!(parts.sentinel && !parts.tls);
        assert_eq!((parts.username.as_deref(), parts.password.as_deref()), (Some("app"), Some("p@ss")));
        let hosts: Vec<_> = parts.hosts.iter().map(|(host, port)| format!("{host} {port}")).collect();
        assert_eq!(hosts, ["a 26379", "b 1", "::1 2"]);
        assert_eq!(parts.path, ["main", "3"]);
        assert!(Parts::of("rediss+cluster://a:7000").is_some_and(|parts| parts.tls && !parts.sentinel));
        assert!(Parts::of("redis+cluster://a:port").is_none());
    }

    #[test]
    fn urls_that_are_none_are_refused() {
        for bad in ["", "redis+sentinel://a", "http://a", "redis+other://a"] {
            assert!(Link::new(bad).is_err(), "{bad}");
        }
    }
}
