//! The embedded store's log for followers: its head, its pages, and each entry as it is appended.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sidegate_common::log_protocol::Position;
use sidegate_common::time::UnixTime;
use sqlx::sqlite::SqlitePool;
use tokio::sync::broadcast;

use super::log::{EmbeddedHead, LogEntry};
use super::{rows, unavailable};
use crate::domain::traits::DependencyUnavailable;

/// How many entries a follower may lag behind before it is disconnected and must catch up from the
/// log.
const BACKLOG: usize = 4096;
/// The longest page, in entries.
pub const PAGE_MAX: u32 = 1000;

/// An entry that was just appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The data set.
    pub epoch: String,
    /// The position of the previous entry.
    pub previous: Position,
    /// The entry.
    pub entry: LogEntry,
}

/// The log, for followers.
pub struct Feed {
    /// Changed and pushed under one lock, so that every entry up to a head was pushed before.
    head: Mutex<EmbeddedHead>,
    pushes: broadcast::Sender<Pushed>,
    readers: SqlitePool,
}

impl Feed {
    pub(super) fn new(head: EmbeddedHead, readers: SqlitePool) -> Self {
        Self { head: Mutex::new(head), pushes: broadcast::channel(BACKLOG).0, readers }
    }

    /// Subscribes: every entry appended after this call is received, in order.
    pub fn follow(&self) -> broadcast::Receiver<Pushed> {
        self.pushes.subscribe()
    }

    /// The state of the log. Every entry up to `last` was pushed before this returns.
    pub fn head(&self) -> EmbeddedHead {
        self.locked().clone()
    }

    /// At most `limit` entries after `after`, and whether these are the last.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn page(&self, after: Position, limit: u32) -> Result<(Vec<LogEntry>, bool), DependencyUnavailable> {
        let limit = limit.clamp(1, PAGE_MAX);
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        let entries = rows::entries(&mut connection, after, limit).await.map_err(unavailable)?;
        let complete = entries.len() < limit as usize;
        Ok((entries, complete))
    }

    pub(super) fn all_dead(&self) -> UnixTime {
        self.locked().all_dead
    }

    pub(super) fn publish(&self, head: EmbeddedHead, pushed: Vec<Pushed>) {
        let mut locked = self.locked();
        for one in pushed {
            // Sending fails without followers, which is fine.
            let _no_followers = self.pushes.send(one);
        }
        *locked = head;
    }

    fn locked(&self) -> MutexGuard<'_, EmbeddedHead> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
