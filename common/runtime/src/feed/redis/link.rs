//! One connection to Redis that is subscribed: pushes and answers in the order in which the server sent them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::LazyLock;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use redis::aio::{AsyncPushSender, MultiplexedConnection, SendError};
use redis::{Cmd, ErrorKind, PushInfo, PushKind, RedisError, Script, ServerErrorKind, Value, cmd};
use sidegate_common::sync::{Answer, Event, ReadFrom};
use sidegate_common::wire::{Keys, Message};
use tokio::sync::mpsc;

use super::{feed_error, reply};
use crate::feed::{FeedError, Link};

/// Entries in one page: large pages would delay Redis' other clients.
const PAGE_ENTRIES: usize = 1000;
/// Pushes held while the list is being changed; more are dropped, which the chain then shows.
const PUSHES_HELD_MAX: usize = 100_000;

static PROBE: LazyLock<(Script, &str)> = LazyLock::new(|| {
    let text = include_str!("probe.lua");
    (Script::new(text), text)
});

/// Pushes as the client library hands them over.
pub struct Pushes {
    pushes: mpsc::Receiver<PushInfo>,
    ends: mpsc::UnboundedReceiver<PushKind>,
}

/// Takes pushes from the client library without ever waiting.
pub struct PushSender {
    pushes: mpsc::Sender<PushInfo>,
    /// Ends of subscriptions are never dropped.
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

/// A connection that is subscribed.
pub struct RedisLink {
    connection: MultiplexedConnection,
    pushes: Pushes,
    answers: FuturesOrdered<Pending>,
    /// An answer that has come, and how many pushes were ahead of it.
    held: Option<((u16, Event), usize)>,
    keys: HashMap<u16, Keys>,
    channels: HashMap<Vec<u8>, u16>,
    replicas_needed: u64,
}

impl RedisLink {
    pub(super) fn new(
        connection: MultiplexedConnection,
        pushes: Pushes,
        keys: Vec<(u16, Keys)>,
        replicas_needed: u64,
    ) -> Self {
        let channels = keys.iter().map(|(partition, keys)| (keys.channel().into_bytes(), *partition)).collect();
        Self {
            connection,
            pushes,
            answers: FuturesOrdered::new(),
            held: None,
            keys: keys.into_iter().collect(),
            channels,
            replicas_needed,
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
        let Some(keys) = self.keys.get(&partition) else { return };
        let (meta, log) = (keys.meta(), keys.log());
        let mut connection = self.connection.clone();
        let replicas_needed = self.replicas_needed;
        self.answers.push_back(Box::pin(async move {
            let answer = match probe(&mut connection, &meta, &log).await {
                Ok(answer) => reply::head(&answer, replicas_needed).unwrap_or(Answer::Refused),
                Err(error) if is_refusal(&error) => {
                    tracing::debug!(partition, %error, "the probe was refused");
                    Answer::Refused
                }
                Err(error) => return Err(closed(&error)),
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
        let mut connection = self.connection.clone();
        self.answers.push_back(Box::pin(async move {
            let answer = ask(&mut connection, &range).await;
            let answer =
                answer.map_err(|error| if is_refusal(&error) { feed_error(&error) } else { closed(&error) })?;
            let entries = reply::page(answer);
            let entries = entries.ok_or_else(|| FeedError::Refused("an answer to XRANGE that is none".to_owned()))?;
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
                // Fewer than were counted cannot be; none left means that none is ahead.
                self.held = Some((answer, push.as_ref().map_or(0, |_| ahead - 1)));
                if let Some(event) = push.ok().and_then(|push| self.pushed(&push)) {
                    return Ok(event);
                }
                continue;
            }
            tokio::select! {
                end = self.pushes.ends.recv() => {
                    let taken = end == Some(PushKind::SUnsubscribe);
                    let what = if taken { "the subscription was taken away" } else { "the server ended it" };
                    return Err(FeedError::Closed(what.to_owned()));
                }
                push = self.pushes.pushes.recv() => match push {
                    None => return Err(FeedError::Closed("the connection's task ended".to_owned())),
                    Some(push) => if let Some(event) = self.pushed(&push) {
                        return Ok(event);
                    },
                },
                Some(answer) = self.answers.next() => {
                    // What the server sent before this answer is in the channel by now.
                    self.held = Some((answer?, self.pushes.pushes.len()));
                }
            }
        }
    }
}

async fn probe(connection: &mut MultiplexedConnection, meta: &str, log: &str) -> Result<Value, RedisError> {
    let (script, text) = &*PROBE;
    let by_hash = cmd("EVALSHA_RO").arg(script.get_hash()).arg(2).arg(meta).arg(log).take();
    match ask(connection, &by_hash).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            ask(connection, cmd("EVAL_RO").arg(*text).arg(2).arg(meta).arg(log)).await
        }
        answer => answer,
    }
}

async fn ask(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, RedisError> {
    connection.send_packed_command(command).await?.extract_error()
}

/// True where the server answered, and the answer was no, and another server would not have said yes.
fn is_refusal(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, ClusterDown, Moved};
    match error.kind() {
        ErrorKind::Server(kind) => !matches!(kind, Moved | Ask | ClusterDown),
        _ => false,
    }
}

fn closed(error: &RedisError) -> FeedError {
    FeedError::Closed(error.to_string())
}
