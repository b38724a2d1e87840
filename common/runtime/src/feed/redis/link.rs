//! A subscribed connection to Redis: pushes and answers in the order in which the server sent them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use redis::aio::{AsyncPushSender, MultiplexedConnection, SendError};
use redis::{ErrorKind, PushInfo, PushKind, RedisError, ServerErrorKind, Value, cmd};
use sidegate_common::log_protocol::{Message, RedisKeys};
use sidegate_common::sync::{Event, ProbeAnswer, ReadFrom};
use tokio::sync::{Semaphore, mpsc};

use super::probe::{Missing, probe};
use super::{ask, feed_error, reply};
use crate::feed::{FeedError, Link};
use crate::redis_cluster::Members;
use crate::redis_url::redirected;

/// Entries in a page: large pages would delay Redis' other clients.
const PAGE_ENTRIES: usize = 1000;
/// Pages requested at once: the server buffers them all for this connection, within a limit.
const READS_AT_ONCE: usize = 16;
/// Pushes buffered while the list is being changed; further ones are dropped, and the broken chain
/// shows that.
const PUSHES_HELD_MAX: usize = 100_000;

/// Pushes from the client library.
pub struct Pushes {
    pushes: mpsc::Receiver<PushInfo>,
    ends: mpsc::UnboundedReceiver<PushKind>,
}

/// Accepts pushes from the client library without blocking.
pub struct PushSender {
    pushes: mpsc::Sender<PushInfo>,
    /// Subscription ends are never dropped.
    ends: mpsc::UnboundedSender<PushKind>,
}

pub(super) fn channel() -> (PushSender, Pushes) {
    let (sender, pushes) = mpsc::channel(PUSHES_HELD_MAX);
    let (ends_sender, ends) = mpsc::unbounded_channel();
    (PushSender { pushes: sender, ends: ends_sender }, Pushes { pushes, ends })
}

impl AsyncPushSender for PushSender {
    fn send(&self, info: PushInfo) -> Result<(), SendError> {
        match info.kind {
            PushKind::Disconnection | PushKind::SUnsubscribe => self.ends.send(info.kind).map_err(|_| SendError),
            PushKind::SMessage => match self.pushes.try_send(info) {
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
                Err(mpsc::error::TrySendError::Closed(_)) => Err(SendError),
            },
            _ => Ok(()),
        }
    }
}

type Pending = Pin<Box<dyn Future<Output = Result<(u16, Event), FeedError>> + Send>>;

/// A subscribed connection.
pub struct RedisLink {
    connection: MultiplexedConnection,
    pushes: Pushes,
    answers: FuturesOrdered<Pending>,
    /// An answer that has arrived, and the number of pushes before it.
    held: Option<((u16, Event), usize)>,
    keys: HashMap<u16, RedisKeys>,
    channels: HashMap<Vec<u8>, u16>,
    function_missing: Missing,
    reads: Arc<Semaphore>,
    moves: Moves,
}

/// Where redirections are recorded, and this connection's host: a slot may move while a connection
/// is open.
#[derive(Clone)]
pub(super) struct Moves {
    pub(super) members: Arc<Members>,
    pub(super) host: String,
}

impl Moves {
    /// Maps the error that ended a connection. A redirection in it is recorded, so that the next
    /// connection goes there.
    fn closed(&self, partition: u16, error: RedisError) -> FeedError {
        if let Some(to) = error.redirect_node().and_then(|(to, _)| redirected(&self.host, to)) {
            self.members.set_owner(partition, to);
        }
        FeedError::Closed(error.to_string())
    }
}

impl RedisLink {
    pub(super) fn new(
        connection: MultiplexedConnection,
        pushes: Pushes,
        keys: Vec<(u16, RedisKeys)>,
        moves: Moves,
    ) -> Self {
        let channels = keys.iter().map(|(partition, keys)| (keys.channel().into_bytes(), *partition)).collect();
        Self {
            connection,
            pushes,
            answers: FuturesOrdered::new(),
            held: None,
            keys: keys.into_iter().collect(),
            channels,
            function_missing: Missing::default(),
            reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
            moves,
        }
    }

    fn pushed(&self, push: &PushInfo) -> Option<(u16, Event)> {
        let [Value::BulkString(channel), Value::BulkString(payload)] = &push.data[..] else { return None };
        let partition = *self.channels.get(channel)?;
        Some((partition, Message::parse(payload).map_or(Event::Garbled, Event::Pushed)))
    }
}

impl Link for RedisLink {
    fn probe(&mut self, partition: u16, token: u64) {
        let Some(keys) = self.keys.get(&partition).cloned() else { return };
        let (mut connection, missing) = (self.connection.clone(), self.function_missing.clone());
        let moves = self.moves.clone();
        self.answers.push_back(Box::pin(async move {
            let answer = match probe(&mut connection, &keys, &missing).await {
                Ok(answer) => reply::head(&answer).unwrap_or(ProbeAnswer::Refused),
                Err(error) if is_refusal(&error) => {
                    tracing::debug!(partition, %error, "the probe was refused");
                    ProbeAnswer::Refused
                }
                Err(error) => return Err(moves.closed(partition, error)),
            };
            Ok((partition, Event::Answered { token, answer }))
        }));
    }

    fn read(&mut self, partition: u16, request: u64, from: ReadFrom) {
        let Some(keys) = self.keys.get(&partition) else { return };
        let start = match from {
            ReadFrom::Start => "-".to_owned(),
            ReadFrom::At(position) => position.to_string(),
            ReadFrom::After(position) => format!("({position}"),
        };
        let range = cmd("XRANGE").arg(keys.log()).arg(start).arg("+").arg("COUNT").arg(PAGE_ENTRIES).take();
        let (mut connection, moves) = (self.connection.clone(), self.moves.clone());
        let reads = Arc::clone(&self.reads);
        self.answers.push_back(Box::pin(async move {
            let _turn = reads.acquire().await;
            let answer = ask(&mut connection, &range).await;
            let answer =
                answer.map_err(
                    |error| {
                        if is_refusal(&error) { feed_error(&error) } else { moves.closed(partition, error) }
                    },
                )?;
            let entries = reply::page(answer);
            let entries = entries.ok_or_else(|| FeedError::Refused("malformed XRANGE reply".to_owned()))?;
            let complete = entries.len() < PAGE_ENTRIES;
            Ok((partition, Event::Page { request, entries, complete }))
        }));
    }

    async fn next(&mut self) -> Result<(u16, Event), FeedError> {
        loop {
            if let Some((answer, ahead)) = self.held.take() {
                if ahead == 0 {
                    return Ok(answer);
                }
                let push = self.pushes.pushes.try_recv();
                // The channel has at least as many pushes as were counted; if it is empty, none
                // precedes the answer.
                self.held = Some((answer, push.as_ref().map_or(0, |_| ahead - 1)));
                if let Some(event) = push.ok().and_then(|push| self.pushed(&push)) {
                    return Ok(event);
                }
                continue;
            }
            tokio::select! {
                end = self.pushes.ends.recv() => {
                    let taken = end == Some(PushKind::SUnsubscribe);
                    let what = if taken { "the subscription ended" } else { "the server closed the connection" };
                    return Err(FeedError::Closed(what.to_owned()));
                }
                push = self.pushes.pushes.recv() => match push {
                    None => return Err(FeedError::Closed("the connection's task ended".to_owned())),
                    Some(push) => if let Some(event) = self.pushed(&push) {
                        return Ok(event);
                    },
                },
                Some(answer) = self.answers.next() => {
                    // Everything that the server sent before this answer is in the channel now.
                    self.held = Some((answer?, self.pushes.pushes.len()));
                }
            }
        }
    }
}

/// True if the server rejected the command, and another server would too.
fn is_refusal(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, ClusterDown, Moved};
    match error.kind() {
        ErrorKind::Server(kind) => !matches!(kind, Moved | Ask | ClusterDown),
        _ => false,
    }
}
