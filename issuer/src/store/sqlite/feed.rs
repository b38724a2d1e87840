//! The embedded store's log as followers see it: its head, its pages, and each entry as it is appended.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sidegate_common::log_protocol::Position;
use sidegate_common::time::UnixTime;
use sqlx::sqlite::SqlitePool;
use tokio::sync::broadcast;

use super::{rows, unavailable};
use crate::domain::traits::Unavailable;

/// How many entries a follower may lag behind before it is cut off and has to catch up from the log.
const BACKLOG: usize = 4096;
/// The longest page, in entries.
pub const PAGE_MAX: u32 = 1000;

/// Where the log stands, at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The data set.
    pub epoch: String,
    /// The newest entry's position.
    pub last: Position,
    /// Every revocation after this moment is in the log.
    pub since: UnixTime,
    /// The oldest entry that still stands in the log.
    pub first: Option<Position>,
    /// The last `iat` that is dead for everybody.
    pub all_dead: UnixTime,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Where it stands.
    pub position: Position,
    /// The revocation's bytes.
    pub entry: Vec<u8>,
}

/// An entry as it is appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The data set.
    pub epoch: String,
    /// The position of the entry before it.
    pub previous: Position,
    /// The entry.
    pub entry: LogEntry,
}

/// The log, for followers.
pub struct Feed {
    /// Changed and pushed under one lock, so that a head never names an entry that was not pushed before.
    head: Mutex<Head>,
    pushes: broadcast::Sender<Pushed>,
    readers: SqlitePool,
}

impl Feed {
    pub(super) fn new(head: Head, readers: SqlitePool) -> Self {
        Self { head: Mutex::new(head), pushes: broadcast::channel(BACKLOG).0, readers }
    }

    /// Follows the log from now on: every entry appended after this call is received, in order.
    pub fn follow(&self) -> broadcast::Receiver<Pushed> {
        self.pushes.subscribe()
    }

    /// Where the log stands. Every entry up to `last` was pushed before this returns.
    pub fn head(&self) -> Head {
        self.locked().clone()
    }

    /// At most `limit` entries after `after`, and whether there are no more.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn page(&self, after: Position, limit: u32) -> Result<(Vec<LogEntry>, bool), Unavailable> {
        let limit = limit.clamp(1, PAGE_MAX);
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        let entries = rows::entries(&mut connection, after, limit).await.map_err(unavailable)?;
        let complete = entries.len() < limit as usize;
        Ok((entries, complete))
    }

    pub(super) fn all_dead(&self) -> UnixTime {
        self.locked().all_dead
    }

    pub(super) fn publish(&self, head: Head, pushed: Vec<Pushed>) {
        let mut locked = self.locked();
        for one in pushed {
            // Nobody may be following.
            let _nobody = self.pushes.send(one);
        }
        *locked = head;
    }

    fn locked(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
