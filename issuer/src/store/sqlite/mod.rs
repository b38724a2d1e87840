//! Sessions and the revocation log in one SQLite file, for one issuer process on one machine.
//!
//! All changes go through one task ([`writer`]), which commits whatever has queued up in one transaction and only then
//! answers, so that no answer is ahead of the disk and a caller that goes away undoes nothing. New entries reach the
//! feed ([`feed`]) in the order of the log, after their commit.

pub mod feed;
mod rows;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use sidegate_common::revocation::{Id, Revocation};
use sidegate_common::time::UnixTime;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::{mpsc, oneshot};

use crate::domain::ports::{Store, Unavailable};
use crate::domain::session::{Ended, Ending, NewSession, Rotated, Rotation, Session, Terms};
use crate::store::until_valid;
use feed::Feed;
use writer::{Command, Job, Reply, Writer};

/// The store's name in error messages.
const NAME: &str = "the session store";
/// How many changes may wait for the writer.
const QUEUE_MAX: usize = 1024;
/// How long an answer may take, before the caller hears that the store is down.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A clock that the store reads, in milliseconds since 1970; tests move it.
pub type ClockMs = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another issuer has it.
    #[error("another issuer has {0} open: the embedded store serves one issuer process; use Redis for several")]
    InUse(PathBuf),
    /// Its lock file cannot be made.
    #[error("cannot lock {0}: {1}")]
    Lock(PathBuf, std::io::Error),
    /// The file is not ours, or of a version this build does not know.
    #[error("{0} is not a store of this version of Sidegate")]
    Foreign(PathBuf),
    /// SQLite refuses.
    #[error("cannot open the embedded store: {0}")]
    Sqlite(#[from] sqlx::Error),
    /// Anything else.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The embedded store.
#[derive(Clone)]
pub struct EmbeddedStore {
    jobs: mpsc::Sender<Job>,
    readers: SqlitePool,
    feed: Arc<Feed>,
    clock: ClockMs,
    _lock: Arc<File>,
}

impl EmbeddedStore {
    /// Opens or makes the store at `url` (`sqlite://path`) and starts its writer on the current runtime.
    ///
    /// # Errors
    /// Another process has it, it is not ours, or SQLite refuses.
    pub async fn open(url: &str, terms: Terms, clock: ClockMs) -> Result<Self, OpenError> {
        let options = SqliteConnectOptions::from_str(url)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A revocation that was acknowledged must survive a power cut.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(2))
            .disable_statement_logging();
        let path = options.get_filename().to_path_buf();
        let lock = take_lock(&path)?;
        let mut connection = options.connect().await?;
        let meta = rows::prepare(&mut connection, clock().saturating_sub(1000) / 1000)
            .await?
            .ok_or_else(|| OpenError::Foreign(path))?;
        let first = rows::first_position(&mut connection).await?;
        let readers = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
        let feed = Arc::new(Feed::new(meta.head(first), readers.clone()));
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let writer = Writer::new(connection, meta, terms, Arc::clone(&clock), Arc::clone(&feed));
        tokio::spawn(writer.run(queue));
        Ok(Self { jobs, readers, feed, clock, _lock: Arc::new(lock) })
    }

    /// The log as followers see it.
    pub fn feed(&self) -> Arc<Feed> {
        Arc::clone(&self.feed)
    }

    async fn ask(&self, command: Command) -> Result<Reply, Unavailable> {
        let (answer, reply) = oneshot::channel();
        self.jobs.try_send(Job { command, answer }).map_err(|_| Unavailable::new(NAME, "its queue is full"))?;
        match tokio::time::timeout(TIMEOUT, reply).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(Unavailable::new(NAME, "its writer has stopped")),
            Err(_) => Err(Unavailable::new(NAME, "no answer in time")),
        }
    }

    fn now(&self) -> UnixTime {
        UnixTime((self.clock)() / 1000)
    }

    async fn until_valid(&self, issued: UnixTime) {
        until_valid((issued.0 * 1000).saturating_sub((self.clock)())).await;
    }
}

fn take_lock(path: &Path) -> Result<File, OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let open = File::options().create(true).append(true).open(&lock_path);
    let file = open.map_err(|error| OpenError::Lock(lock_path.clone(), error))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse(path.to_path_buf())),
        Err(error) => Err(OpenError::Lock(lock_path, error.into())),
    }
}

fn unavailable(error: sqlx::Error) -> Unavailable {
    Unavailable::new(NAME, error)
}

fn ahead() -> Unavailable {
    Unavailable::new(NAME, "the last dead moment lies in the future: the clock was wrong once")
}

fn mismatch() -> Unavailable {
    Unavailable::new(NAME, "its writer answered another question")
}

impl Store for EmbeddedStore {
    async fn create(&self, new: &NewSession) -> Result<UnixTime, Unavailable> {
        match self.ask(Command::Create(new.clone())).await? {
            Reply::Moment(issued) => {
                self.until_valid(issued).await;
                Ok(issued)
            }
            Reply::Ahead => Err(ahead()),
            _ => Err(mismatch()),
        }
    }

    async fn read(&self, _partition: u16, sid: &Id) -> Result<Option<Session>, Unavailable> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        rows::session(&mut connection, sid).await.map_err(unavailable)
    }

    async fn rotate(&self, rotation: &Rotation) -> Result<Rotated, Unavailable> {
        match self.ask(Command::Rotate(rotation.clone())).await? {
            Reply::Rotated(rotated) => {
                if let Rotated::Traded { issued, .. } = &rotated {
                    self.until_valid(*issued).await;
                }
                Ok(rotated)
            }
            Reply::Ahead => Err(ahead()),
            _ => Err(mismatch()),
        }
    }

    async fn end(&self, ending: &Ending) -> Result<Ended, Unavailable> {
        match self.ask(Command::End(ending.clone())).await? {
            Reply::Ended(ended) => Ok(ended),
            _ => Err(mismatch()),
        }
    }

    async fn revoke_subject(&self, sub: &str) -> Result<UnixTime, Unavailable> {
        match self.ask(Command::RevokeSubject(sub.to_owned())).await? {
            Reply::Moment(threshold) => Ok(threshold),
            _ => Err(mismatch()),
        }
    }

    async fn revoke_all(&self, _partition: u16) -> Result<UnixTime, Unavailable> {
        match self.ask(Command::RevokeAll).await? {
            Reply::Moment(threshold) => Ok(threshold),
            _ => Err(mismatch()),
        }
    }

    async fn append(&self, _partition: u16, revocation: &Revocation) -> Result<(), Unavailable> {
        self.ask(Command::Append(revocation.clone())).await.map(|_| ())
    }

    async fn sessions(&self, sub: &str) -> Result<Vec<Session>, Unavailable> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        let all_dead = self.feed.all_dead();
        let mut sessions = rows::sessions_of(&mut connection, sub, all_dead, self.now()).await.map_err(unavailable)?;
        sessions.sort_by_key(|session| std::cmp::Reverse(session.created));
        Ok(sessions)
    }

    fn partitions(&self) -> u16 {
        1
    }

    async fn probe(&self) -> Result<(), Unavailable> {
        self.ask(Command::Probe).await.map(|_| ())
    }
}

/// Closes the connection of the writer in order; used when its queue ends.
async fn close(connection: sqlx::SqliteConnection) {
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "the embedded store was not closed in order");
    }
}
