//! A connection to Redis that is made again when it breaks, and fails fast meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::{ConnectionLike as _, MultiplexedConnection, SendError};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, Slot as HashSlot, SlotAddr};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, PushInfo, PushKind, RedisError, ServerErrorKind, Value,
    cmd,
};
use sidegate_runtime::redis_cluster::{Address, Members, nodes};
use sidegate_runtime::redis_url::{Nodes, RedisUrl, host_of, join, machine_roots, said_by, tcp_settings};
use tokio::sync::Mutex;
use tokio::time::Instant;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// After a failed attempt, how long callers are refused at once before the next attempt.
const RETRY_AFTER: Duration = Duration::from_millis(100);

#[derive(Clone)]
enum Connection {
    /// To one server: the only one, or the master that the Sentinels named. The flag turns true when the server has closed
    /// it, so that the next command is not sent into it.
    Direct(MultiplexedConnection, Arc<AtomicBool>),
    Cluster(ClusterConnection),
}

impl Connection {
    fn is_closed(&self) -> bool {
        match self {
            Self::Direct(_, closed) => closed.load(Ordering::Acquire),
            Self::Cluster(_) => false,
        }
    }
}

struct Slot {
    connection: Option<(u64, Connection)>,
    generation: u64,
    not_before: Option<Instant>,
    last_error: String,
}

/// A connection that heals.
pub struct StoreLink {
    /// Resolved anew for each connection: names, Sentinels, the nodes of a Cluster. Shared with its siblings, and replaced
    /// on SIGHUP.
    url: Arc<RwLock<RedisUrl>>,
    /// The nodes of the Cluster, beyond those of the URL.
    members: Members,
    answer_timeout: Duration,
    slot: Mutex<Slot>,
}

impl StoreLink {
    /// A link to `url`; connects when first used.
    ///
    /// # Errors
    /// The URL is of no known form ([`sidegate_runtime::redis_url`]).
    pub fn new(url: &str) -> Result<Self, RedisError> {
        Ok(Self::to(RedisUrl::parse(url)?))
    }

    /// The same for a URL that has been read.
    pub fn to(url: RedisUrl) -> Self {
        Self::shared(Arc::new(RwLock::new(url)))
    }

    /// Another connection to the same place, wherever that is at the time.
    pub fn sibling(&self) -> Self {
        Self::shared(Arc::clone(&self.url))
    }

    fn shared(url: Arc<RwLock<RedisUrl>>) -> Self {
        let slot = Slot { connection: None, generation: 0, not_before: None, last_error: String::new() };
        Self { url, members: Members::default(), answer_timeout: ANSWER_TIMEOUT, slot: Mutex::new(slot) }
    }

    /// The same, for commands that may take so much longer than others.
    pub fn patient(self, longer: Duration) -> Self {
        Self { answer_timeout: ANSWER_TIMEOUT + longer, ..self }
    }

    /// Connects as `url` says from now on, its siblings with their next connection, if that works.
    ///
    /// # Errors
    /// Redis cannot be reached or refuses the login: then nothing is changed.
    pub async fn renew(&self, url: RedisUrl) -> Result<(), RedisError> {
        let new = Self::to(url.clone());
        new.connection().await?;
        *self.url.write().unwrap_or_else(PoisonError::into_inner) = url;
        self.slot.lock().await.connection = None;
        Ok(())
    }

    /// Sends a command. A connection that proves broken, or leads to a server that has ceased to be the master, is
    /// dropped, and the next command makes a new one.
    ///
    /// # Errors
    /// Redis says so, or does not answer in time.
    pub async fn call(&self, command: &Cmd) -> Result<Value, RedisError> {
        let (generation, connection) = self.connection().await?;
        let answer = match connection {
            Connection::Direct(mut direct, _) => direct.send_packed_command(command).await,
            Connection::Cluster(mut cluster) => cluster.req_packed_command(command).await,
        };
        let answer = answer.and_then(Value::extract_error);
        self.drop_if_broken(generation, answer.as_ref().err()).await;
        answer
    }

    /// Sends a command that names no key to the master that has `key`.
    ///
    /// # Errors
    /// As [`StoreLink::call`].
    pub async fn call_master_of(&self, key: &str, command: &Cmd) -> Result<Value, RedisError> {
        let (generation, connection) = self.connection().await?;
        let answer = match connection {
            Connection::Direct(mut direct, _) => direct.send_packed_command(command).await,
            Connection::Cluster(mut cluster) => {
                let master = Route::with_slot(HashSlot::for_key(key), SlotAddr::Master);
                let route = RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(master));
                cluster.route_command(command.clone(), route).await
            }
        };
        let answer = answer.and_then(Value::extract_error);
        self.drop_if_broken(generation, answer.as_ref().err()).await;
        answer
    }

    /// Sends several commands, which the server gets one after the other on one connection. Not on a Cluster.
    ///
    /// # Errors
    /// As [`StoreLink::call`], also if only one of them fails.
    pub async fn together(&self, commands: &Pipeline, count: usize) -> Result<Vec<Value>, RedisError> {
        let (generation, connection) = self.connection().await?;
        let Connection::Direct(mut direct, _) = connection else {
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
        if let Some(connection) = slot.connection.as_ref().filter(|(_, connection)| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        slot.connection = None;
        if slot.not_before.is_some_and(|moment| Instant::now() < moment) {
            let last = slot.last_error.clone();
            return Err(RedisError::from((ErrorKind::Io, "Redis could not be reached a moment ago", last)));
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
                slot.last_error = error.to_string();
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<Connection, RedisError> {
        let url = self.url.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let RedisUrl::Cluster(cluster) = &url {
            return self.connect_to_cluster(cluster).await.map(Connection::Cluster);
        }
        let closed = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&closed);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(self.answer_timeout))
            .set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    flag.store(true, Ordering::Release);
                }
                Ok::<(), SendError>(())
            });
        let candidates = url.candidates().await?;
        let info = candidates.into_iter().next().ok_or((ErrorKind::Io, "nowhere to connect to"))?;
        let server = host_of(&info);
        let client = Client::open(info)?;
        let connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| server.map_or(error.clone(), |(host, port)| said_by("Redis", &host, port, &error)))?;
        Ok(Connection::Direct(connection, closed))
    }

    async fn connect_to_cluster(&self, cluster: &Nodes) -> Result<ClusterConnection, RedisError> {
        let known = self.members.with_known(&cluster.hosts);
        let mut connection = cluster_client(cluster, &known)?.get_async_connection().await?;
        // May be forbidden by an ACL: then only the nodes of the URL are known.
        let anyone = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
        let slots = connection.route_command(cmd("CLUSTER").arg("SLOTS").take(), anyone).await;
        if let (Ok(slots), Some((first, _))) = (slots, cluster.hosts.first()) {
            self.members.set_nodes(nodes(&slots, first));
        }
        Ok(connection)
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

fn cluster_client(cluster: &Nodes, known: &[Address]) -> Result<ClusterClient, RedisError> {
    let scheme = if cluster.tls { "rediss" } else { "redis" };
    let urls: Vec<_> = known.iter().map(|(host, port)| format!("{scheme}://{}", join(host, *port))).collect();
    let mut builder = ClusterClientBuilder::new(urls)
        .connection_timeout(CONNECT_TIMEOUT)
        .response_timeout(ANSWER_TIMEOUT)
        .overall_response_timeout(Some(2 * ANSWER_TIMEOUT))
        .retries(2)
        .tcp_settings(tcp_settings());
    if let Some(username) = &cluster.username {
        builder = builder.username(username);
    }
    if let Some(password) = &cluster.password {
        builder = builder.password(password);
    }
    if let Some(roots) = machine_roots().filter(|_| cluster.tls) {
        builder = builder.certs(roots.clone());
    }
    builder.build()
}
