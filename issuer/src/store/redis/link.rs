//! A connection to Redis that is made again when it breaks, and fails fast meanwhile.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use sidegate_runtime::redis_url::{Nodes, RedisUrl, machine_roots, tcp_settings};
use tokio::sync::Mutex;
use tokio::time::Instant;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// After a failed attempt, how long callers are refused at once before the next attempt.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How to reach Redis.
enum Target {
    /// One server, or the master that the Sentinels name, asked anew for each connection.
    Direct(Box<RedisUrl>),
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
    /// Shared with its siblings, and replaced on SIGHUP.
    target: Arc<RwLock<Arc<Target>>>,
    answer_timeout: Duration,
    slot: Mutex<Slot>,
}

impl Link {
    /// A link to `url`; connects when first used.
    ///
    /// # Errors
    /// The URL is of no known form ([`sidegate_runtime::redis_url`]).
    pub fn new(url: &str) -> Result<Self, RedisError> {
        let target = match RedisUrl::parse(url)? {
            RedisUrl::Cluster(nodes) => Target::Cluster(Box::new(cluster(&nodes)?)),
            direct => Target::Direct(Box::new(direct)),
        };
        Ok(Self::to(Arc::new(RwLock::new(Arc::new(target)))))
    }

    fn to(target: Arc<RwLock<Arc<Target>>>) -> Self {
        let slot = Mutex::new(Slot { connection: None, generation: 0, not_before: None });
        Self { target, answer_timeout: ANSWER_TIMEOUT, slot }
    }

    /// Another connection to the same place, wherever that is at the time.
    pub fn sibling(&self) -> Self {
        Self::to(Arc::clone(&self.target))
    }

    /// Connects as `url` says from now on, its siblings with their next connection, if that works.
    ///
    /// # Errors
    /// The URL is of no known form, or Redis cannot be reached or refuses the login: then nothing is changed.
    pub async fn renew(&self, url: &str) -> Result<(), RedisError> {
        let new = Self::new(url)?;
        new.connection().await?;
        *self.target.write().unwrap_or_else(PoisonError::into_inner) = new.target();
        self.slot.lock().await.connection = None;
        Ok(())
    }

    fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The same, for commands that may take so much longer than others.
    pub fn patient(self, longer: Duration) -> Self {
        Self { answer_timeout: ANSWER_TIMEOUT + longer, ..self }
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
        self.drop_if_broken(generation, answer.as_ref().err()).await;
        answer
    }

    /// Sends several commands, which the server gets one after the other on one connection. Not on a Cluster.
    ///
    /// # Errors
    /// As [`Link::call`], also if only one of them fails.
    pub async fn together(&self, commands: &Pipeline, count: usize) -> Result<Vec<Value>, RedisError> {
        let (generation, connection) = self.connection().await?;
        let Connection::Direct(mut direct) = connection else {
            return Err(RedisError::from((ErrorKind::InvalidClientConfig, "not on a Cluster")));
        };
        let answers = direct.send_packed_commands(commands, 0, count).await;
        let answers = answers.and_then(|answers| answers.into_iter().map(Value::extract_error).collect());
        self.drop_if_broken(generation, answers.as_ref().err()).await;
        answers
    }

    async fn drop_if_broken(&self, generation: u64, error: Option<&RedisError>) {
        if error.is_some_and(is_fatal) {
            let mut slot = self.slot.lock().await;
            if slot.connection.as_ref().is_some_and(|(current, _)| *current == generation) {
                slot.connection = None;
            }
        }
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
            .set_response_timeout(Some(self.answer_timeout));
        match &*self.target() {
            Target::Direct(url) => {
                let candidates = url.candidates().await?;
                let info = candidates.into_iter().next().ok_or((ErrorKind::Io, "nowhere to connect to"))?;
                let client = Client::open(info)?;
                client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::Direct)
            }
            Target::Cluster(client) => client.get_async_connection().await.map(Connection::Cluster),
        }
    }
}

/// True if the connection is of no more use: broken, silent, or to a server that no longer takes writes.
pub(super) fn is_fatal(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown))
        // A master that lost its replicas may have been replaced: ask the Sentinels again.
        || error.code() == Some("NOREPLICAS")
}

fn cluster(nodes: &Nodes) -> Result<ClusterClient, RedisError> {
    let scheme = if nodes.tls { "rediss" } else { "redis" };
    let urls: Vec<_> =
        nodes.hosts.iter().map(|(host, port)| format!("{scheme}://{}:{port}", bracketed(host))).collect();
    let mut builder = ClusterClientBuilder::new(urls)
        .connection_timeout(CONNECT_TIMEOUT)
        .response_timeout(ANSWER_TIMEOUT)
        .overall_response_timeout(Some(2 * ANSWER_TIMEOUT))
        .retries(2)
        .tcp_settings(tcp_settings());
    if let Some(username) = &nodes.username {
        builder = builder.username(username);
    }
    if let Some(password) = &nodes.password {
        builder = builder.password(password);
    }
    if let Some(roots) = machine_roots().filter(|_| nodes.tls) {
        builder = builder.certs(roots.clone());
    }
    builder.build()
}

/// A host as it stands in a URL.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}
