//! The log in Redis: how to connect, subscribe, probe and read (docs/protocol.md, "Redis").
//!
//! The client library's automatic reconnection is not used: it hides what was lost. One RESP3 connection carries the
//! subscription, the probes and the reads, so that everything on it comes in the order in which the server sent it.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, RedisError, ServerErrorKind, Value, cmd};
use sidegate_common::wire::Keys;

use super::{FeedError, Source};
use crate::redis_url::{RedisUrl, redirected};

mod link;
mod reply;

pub use link::RedisLink;

/// How long one command of the set-up may take.
pub(super) const SETUP_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a Cluster may send us on before we give up.
const REDIRECTIONS_MAX: usize = 4;
/// What connections are called in CLIENT LIST.
const CLIENT_NAME: &str = "sidegate-feed";

/// The log in Redis. Clones share the URL, so that a rotated password reaches the follower.
#[derive(Clone, Debug)]
pub struct RedisSource {
    url: Arc<RwLock<RedisUrl>>,
    prefix: String,
}

impl RedisSource {
    /// The log under `prefix` in the Redis at `url` (its forms: [`crate::redis_url`]).
    ///
    /// # Errors
    /// The URL is of no known form.
    pub fn new(url: &str, prefix: &str) -> Result<Self, RedisError> {
        Ok(Self { url: Arc::new(RwLock::new(RedisUrl::parse(url)?)), prefix: prefix.to_owned() })
    }

    /// Takes over another source's URL; the next connection is made with it.
    pub fn renew(&self, with: &Self) {
        let url = with.url();
        *self.url.write().unwrap_or_else(PoisonError::into_inner) = url;
    }

    fn url(&self) -> RedisUrl {
        self.url.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keys(&self, partition: u16) -> Keys {
        Keys::new(&self.prefix, partition)
    }

    /// Connects to where `first` can be asked, following a Cluster's redirections; returns its answer too.
    async fn open(&self, first: &Cmd) -> Result<(MultiplexedConnection, link::Pushes, Value), FeedError> {
        let mut candidates = self.url().candidates().await.map_err(|error| unreachable(&error))?;
        let mut trouble = FeedError::Unreachable("no address".to_owned());
        let mut redirections = 0;
        while !candidates.is_empty() {
            let info = candidates.remove(0);
            match open_at(&info, first).await {
                Ok(opened) => return Ok(opened),
                Err(error) => {
                    let to = error.redirect_node().and_then(|(address, _)| redirected(&info, address));
                    match to.filter(|_| redirections < REDIRECTIONS_MAX) {
                        Some(to) => {
                            redirections += 1;
                            candidates.insert(0, to);
                        }
                        None => trouble = feed_error(&error),
                    }
                }
            }
        }
        Err(trouble)
    }
}

impl Source for RedisSource {
    type Link = RedisLink;

    async fn partitions(&self) -> Result<u16, FeedError> {
        let ask = cmd("HMGET").arg(self.keys(0).meta()).arg("epoch").arg("partitions").take();
        let (_, _, answer) = self.open(&ask).await?;
        reply::partitions(&answer)
    }

    fn groups(&self, partitions: u16) -> Vec<Vec<u16>> {
        match self.url() {
            RedisUrl::Cluster(_) => (0..partitions).map(|partition| vec![partition]).collect(),
            RedisUrl::Single(_) | RedisUrl::Sentinel(_) => vec![(0..partitions).collect()],
        }
    }

    async fn connect(&self, partitions: &[u16]) -> Result<RedisLink, FeedError> {
        let keys: Vec<_> = partitions.iter().map(|partition| (*partition, self.keys(*partition))).collect();
        let Some(((_, first), rest)) = keys.split_first() else {
            return Err(FeedError::Refused("no partition to follow".to_owned()));
        };
        let (mut connection, pushes, confirmation) = self.open(&subscribe(first)).await?;
        reply::confirmed(&confirmation)?;
        for (_, keys) in rest {
            let confirmation = call(&mut connection, &subscribe(keys)).await.map_err(|error| feed_error(&error))?;
            reply::confirmed(&confirmation)?;
        }
        let replicas_needed = replicas_needed(&mut connection).await;
        Ok(RedisLink::new(connection, pushes, keys, replicas_needed))
    }
}

fn subscribe(keys: &Keys) -> Cmd {
    cmd("SSUBSCRIBE").arg(keys.channel()).take()
}

async fn open_at(
    info: &ConnectionInfo,
    first: &Cmd,
) -> Result<(MultiplexedConnection, link::Pushes, Value), RedisError> {
    let (sender, pushes) = link::channel();
    // Names are resolved here, anew for each connection. Answers are waited for by the machines, not by the library.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(SETUP_TIMEOUT))
        .set_response_timeout(None)
        .set_push_sender(sender);
    let client = Client::open(info.clone())?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    // Neither is needed to be right, and either may be forbidden by an ACL.
    for courtesy in [cmd("CLIENT").arg("NO-EVICT").arg("on"), cmd("CLIENT").arg("SETNAME").arg(CLIENT_NAME)] {
        if let Err(error) = call(&mut connection, courtesy).await
            && !matches!(error.kind(), ErrorKind::Server(_))
        {
            return Err(error);
        }
    }
    let answer = call(&mut connection, first).await?;
    Ok((connection, pushes, answer))
}

/// `min-replicas-to-write`, where this user may read it; else 1, which is what it is at least while the server counts.
async fn replicas_needed(connection: &mut MultiplexedConnection) -> u64 {
    let ask = cmd("CONFIG").arg("GET").arg("min-replicas-to-write").take();
    let answer = call(connection, &ask).await;
    answer.ok().and_then(|answer| reply::setting(&answer)).unwrap_or(1).max(1)
}

async fn call(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, RedisError> {
    let answer = tokio::time::timeout(SETUP_TIMEOUT, connection.send_packed_command(command)).await;
    let in_time = answer.map_err(|_| RedisError::from((ErrorKind::Io, "no answer in time")))?;
    in_time?.extract_error()
}

fn unreachable(error: &RedisError) -> FeedError {
    FeedError::Unreachable(error.to_string())
}

/// What an error of the client library means to a follower.
fn feed_error(error: &RedisError) -> FeedError {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::ClusterDown) => {
            FeedError::Closed(error.to_string())
        }
        ErrorKind::Server(_) | ErrorKind::AuthenticationFailed => FeedError::Refused(error.to_string()),
        _ => unreachable(error),
    }
}
