//! Follows the log in Redis: how to connect, subscribe, probe and read (docs/protocol.md, "Redis").
//!
//! The client library's automatic reconnection is off: it hides lost messages. One RESP3 connection
//! carries the subscription, the probes and the reads, so everything on it arrives in the order in
//! which the server sent it.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, RedisError, ServerErrorKind, Value, cmd};
use sidegate_common::log_protocol::RedisKeys;

use super::{FeedError, Source};
use crate::redis_cluster::{Members, nodes};
use crate::redis_url::{Nodes, RedisUrl, host_of, redirected, said_by};

mod link;
mod probe;
mod reply;

pub use link::RedisLink;
pub use probe::{LIBRARY, call_function, is_missing};

/// The timeout of one set-up command.
pub(super) const SETUP_TIMEOUT: Duration = Duration::from_secs(1);
/// The connection's name in CLIENT LIST.
const CLIENT_NAME: &str = "sidegate-feed";

/// The log in Redis. Clones share the URL, so that the follower gets a rotated password.
#[derive(Clone, Debug)]
pub struct RedisSource {
    url: Arc<RwLock<RedisUrl>>,
    prefix: String,
    members: Arc<Members>,
}

/// A connection to a partition's master, which has answered.
struct Opened {
    connection: MultiplexedConnection,
    pushes: link::Pushes,
    /// `epoch` and `partitions` of the partition's `meta`.
    meta: Value,
    host: String,
}

impl RedisSource {
    /// The log under `prefix` in the Redis at `url` (its forms: [`crate::redis_url`]).
    ///
    /// # Errors
    /// The URL has no known form.
    pub fn new(url: &str, prefix: &str) -> Result<Self, RedisError> {
        Ok(Self::at(RedisUrl::parse(url)?, prefix))
    }

    /// The log under `prefix` in the Redis at `url`.
    pub fn at(url: RedisUrl, prefix: &str) -> Self {
        Self { url: Arc::new(RwLock::new(url)), prefix: prefix.to_owned(), members: Arc::default() }
    }

    /// Replaces the URL by another source's; the next connection uses it.
    pub fn renew(&self, with: &Self) {
        let url = with.url();
        *self.url.write().unwrap_or_else(PoisonError::into_inner) = url;
    }

    fn url(&self) -> RedisUrl {
        self.url.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keys(&self, partition: u16) -> RedisKeys {
        RedisKeys::new(&self.prefix, partition)
    }

    /// Connects to the partition's master. The first command must be one that no other node of a
    /// Cluster answers: a replica would confirm subscriptions, and then redirect every probe.
    async fn open(&self, partition: u16) -> Result<Opened, FeedError> {
        let first = cmd("HMGET").arg(self.keys(partition).meta()).arg("epoch").arg("partitions").take();
        let url = self.url();
        if let RedisUrl::Cluster(cluster) = &url {
            return self.open_in_cluster(cluster, partition, &first).await;
        }
        let candidates = url.candidates().await.map_err(|error| feed_error(&error))?;
        let Some(info) = candidates.first() else { return Err(FeedError::Unreachable("no address".to_owned())) };
        open_at(info, &first).await.map_err(|error| feed_error(&named(info, &error)))
    }

    async fn open_in_cluster(&self, cluster: &Nodes, partition: u16, first: &Cmd) -> Result<Opened, FeedError> {
        let mut to_ask = VecDeque::from(self.members.to_ask(partition, &cluster.hosts));
        let mut asked = HashSet::new();
        let mut last_error = FeedError::Unreachable("no address".to_owned());
        while let Some((host, port)) = to_ask.pop_front() {
            if !asked.insert((host.clone(), port)) {
                continue;
            }
            let info = cluster.server(&host, port).map_err(|error| feed_error(&error))?;
            match open_at(&info, first).await {
                Ok(mut opened) => {
                    self.members.set_owner(partition, (host.clone(), port));
                    // An ACL may forbid this; then only the URL's nodes are tried.
                    if let Ok(answer) = call(&mut opened.connection, cmd("CLUSTER").arg("SLOTS")).await {
                        self.members.set_nodes(nodes(&answer, &host));
                    }
                    return Ok(opened);
                }
                Err(error) => {
                    if let Some(to) = error.redirect_node().and_then(|(to, _)| redirected(&host, to)) {
                        to_ask.push_front(to);
                    }
                    last_error = feed_error(&named(&info, &error));
                }
            }
        }
        Err(last_error)
    }
}

impl Source for RedisSource {
    type Link = RedisLink;

    async fn partitions(&self) -> Result<u16, FeedError> {
        reply::partitions(&self.open(0).await?.meta)
    }

    fn groups(&self, partitions: u16) -> Vec<Vec<u16>> {
        match self.url() {
            RedisUrl::Cluster(_) => (0..partitions).map(|partition| vec![partition]).collect(),
            RedisUrl::Single(_) | RedisUrl::Sentinel(_) => vec![(0..partitions).collect()],
        }
    }

    async fn connect(&self, partitions: &[u16]) -> Result<RedisLink, FeedError> {
        let keys: Vec<_> = partitions.iter().map(|partition| (*partition, self.keys(*partition))).collect();
        let Some((first, _)) = keys.first() else {
            return Err(FeedError::Refused("no partition to follow".to_owned()));
        };
        let Opened { mut connection, pushes, host, .. } = self.open(*first).await?;
        for (_, keys) in &keys {
            let confirmation = call(&mut connection, &subscribe(keys)).await.map_err(|error| feed_error(&error))?;
            reply::confirmed(&confirmation)?;
        }
        let moves = link::Moves { members: Arc::clone(&self.members), host };
        Ok(RedisLink::new(connection, pushes, keys, moves))
    }
}

fn subscribe(keys: &RedisKeys) -> Cmd {
    cmd("SSUBSCRIBE").arg(keys.channel()).take()
}

async fn open_at(info: &ConnectionInfo, first: &Cmd) -> Result<Opened, RedisError> {
    let (sender, pushes) = link::channel();
    // Names are resolved here, again for each connection. The machines have the response timeouts,
    // not the library.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(SETUP_TIMEOUT))
        .set_response_timeout(None)
        .set_push_sender(sender);
    let client = Client::open(info.clone())?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    // Both are optional, and an ACL may forbid either.
    for courtesy in [cmd("CLIENT").arg("NO-EVICT").arg("on"), cmd("CLIENT").arg("SETNAME").arg(CLIENT_NAME)] {
        if let Err(error) = call(&mut connection, courtesy).await
            && !matches!(error.kind(), ErrorKind::Server(_))
        {
            return Err(error);
        }
    }
    let meta = call(&mut connection, first).await?;
    let host = host_of(info).map(|(host, _)| host).unwrap_or_default();
    Ok(Opened { connection, pushes, meta, host })
}

/// An error with its server.
fn named(info: &ConnectionInfo, error: &RedisError) -> RedisError {
    match host_of(info) {
        Some((host, port)) => said_by("Redis", &host, port, error),
        None => error.clone(),
    }
}

async fn call(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, RedisError> {
    let answer = tokio::time::timeout(SETUP_TIMEOUT, connection.send_packed_command(command)).await;
    let in_time = answer.map_err(|_| RedisError::from((ErrorKind::Io, "no answer in time")))?;
    in_time?.extract_error()
}

async fn ask(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, RedisError> {
    connection.send_packed_command(command).await?.extract_error()
}

fn unreachable(error: &RedisError) -> FeedError {
    FeedError::Unreachable(error.to_string())
}

/// Maps an error of the client library.
fn feed_error(error: &RedisError) -> FeedError {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::ClusterDown) => {
            FeedError::Closed(error.to_string())
        }
        ErrorKind::Server(_) | ErrorKind::AuthenticationFailed => FeedError::Refused(error.to_string()),
        _ => unreachable(error),
    }
}
