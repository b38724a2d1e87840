//! Follows the embedded store's log within the process that owns the store.

use std::collections::VecDeque;
use std::sync::Arc;

use sidegate_common::log_protocol::{Message, Position};
use sidegate_common::revocation::Revocation;
use sidegate_common::sync::{Entry, Event, Head, Lineage, ProbeAnswer, ReadFrom, Role};
use sidegate_runtime::clock::unix_now;
use sidegate_runtime::feed::{FeedError, Link, Source};
use tokio::sync::broadcast;

use crate::store::sqlite::feed::{Feed, PAGE_MAX, Pushed};

/// The store's only partition.
const PARTITION: u16 = 0;

/// The log of an embedded store in this process.
pub struct LocalSource(pub Arc<Feed>);

impl Source for LocalSource {
    type Link = LocalLink;

    async fn partitions(&self) -> Result<u16, FeedError> {
        Ok(1)
    }

    fn groups(&self, _partitions: u16) -> Vec<Vec<u16>> {
        vec![vec![PARTITION]]
    }

    async fn connect(&self, _partitions: &[u16]) -> Result<LocalLink, FeedError> {
        let pushes = self.0.follow();
        Ok(LocalLink { feed: Arc::clone(&self.0), pushes, asked: VecDeque::new(), pending: None })
    }
}

/// A subscription to the log.
pub struct LocalLink {
    feed: Arc<Feed>,
    pushes: broadcast::Receiver<Pushed>,
    asked: VecDeque<Asked>,
    /// A response, and how many pushes precede it.
    pending: Option<(usize, Event)>,
}

#[derive(Clone, Copy)]
enum Asked {
    Probe(u64),
    Read(u64, ReadFrom),
}

impl LocalLink {
    async fn answer(&self, asked: Asked) -> Result<Event, FeedError> {
        match asked {
            Asked::Probe(token) => Ok(Event::Answered { token, answer: ProbeAnswer::Head(self.head()) }),
            Asked::Read(request, from) => {
                let page = match from {
                    ReadFrom::Start => self.feed.page(Position::START, PAGE_MAX).await,
                    ReadFrom::At(position) => self.feed.page(before(position), PAGE_MAX).await,
                    ReadFrom::After(position) => self.feed.page(position, PAGE_MAX).await,
                };
                let (entries, complete) = page.map_err(|error| FeedError::Unreachable(error.to_string()))?;
                let entries = entries
                    .into_iter()
                    .map(|one| Entry { position: one.position, revocation: Revocation::from_bytes(&one.entry) });
                Ok(Event::Page { request, entries: entries.collect(), complete })
            }
        }
    }

    fn head(&self) -> Head {
        let head = self.feed.head();
        Head {
            lineage: Lineage { epoch: head.epoch.into(), replication_id: "".into() },
            last: head.last,
            empty: head.first.is_none(),
            since: head.since,
            now: unix_now(),
            partitions: 1,
            role: Role::ALONE,
            settled: true,
        }
    }
}

/// The position just before another.
fn before(position: Position) -> Position {
    match position.sequence.checked_sub(1) {
        Some(sequence) => Position { sequence, ..position },
        None => Position { ms: position.ms.saturating_sub(1), sequence: u64::MAX },
    }
}

fn pushed(pushed: Pushed) -> Event {
    Event::Pushed(Message {
        epoch: pushed.epoch.into(),
        previous: pushed.previous,
        position: pushed.entry.position,
        revocation: Revocation::from_bytes(&pushed.entry.entry),
    })
}

fn lagged() -> FeedError {
    FeedError::Closed("this follower is too far behind the log, or the store is closed".to_owned())
}

impl Link for LocalLink {
    fn probe(&mut self, _partition: u16, token: u64) {
        self.asked.push_back(Asked::Probe(token));
    }

    fn read(&mut self, _partition: u16, request: u64, from: ReadFrom) {
        self.asked.push_back(Asked::Read(request, from));
    }

    async fn next(&mut self) -> Result<(u16, Event), FeedError> {
        loop {
            if let Some((0, _)) = self.pending
                && let Some((_, answer)) = self.pending.take()
            {
                return Ok((PARTITION, answer));
            }
            if let Some((waiting, _)) = &mut self.pending {
                *waiting -= 1;
                return self.pushes.try_recv().map(|one| (PARTITION, pushed(one))).map_err(|_| lagged());
            }
            let Some(asked) = self.asked.front().copied() else {
                let one = self.pushes.recv().await;
                return one.map(|one| (PARTITION, pushed(one))).map_err(|_| lagged());
            };
            let answer = self.answer(asked).await?;
            self.asked.pop_front();
            // The pushes that precede the response's head come first.
            self.pending = Some((self.pushes.len(), answer));
        }
    }
}
