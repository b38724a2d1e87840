//! Sessions and the revocation log in one SQLite file, for one issuer process on one machine.
//!
//! All changes go through one task ([`writer`]), which commits all queued changes in one
//! transaction and only then answers. Thus no answer is ahead of the disk, and a caller that goes
//! away undoes nothing. New entries reach the feed ([`feed`]) in log order, after their commit.

pub mod feed;
mod files;
pub mod log;
mod mark;
mod rows;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use sidegate_common::revocation::{Id, Revocation, Target};
use sidegate_common::time::UnixTime;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use crate::domain::session::{
    Created, EndOutcome, EndSession, NewSession, PageCursor, Rotated, Rotation, SESSIONS_PER_USER, Session,
    SessionPage, Standing, SubjectRevoked, TokenLifetimes, UserSessions,
};
use crate::domain::traits::{DependencyUnavailable, Store};
use crate::store::counts::StoreCounts;
use crate::store::{new_epoch, until_valid};
use feed::Feed;
use mark::Mark;
use rows::Meta;
use writer::{Command, Job, Reply, Rules, Writer};

/// The store's name in error messages.
const NAME: &str = "the session store";
/// How many changes may be queued for the writer.
const QUEUE_MAX: usize = 1024;
/// The timeout of a call, after which the caller gets an error.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A clock that the store reads, in milliseconds since 1970; tests move it.
pub type ClockMs = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another issuer has locked the store.
    #[error(
        "another process has locked {1}: the embedded store {0} (STORE_URL) serves one issuer; stop the other one, or use \
         REDIS_URL for several"
    )]
    InUse(PathBuf, PathBuf),
    /// Its file cannot be created or opened.
    #[error("cannot open {0} (STORE_URL): {1}")]
    File(PathBuf, std::io::Error),
    /// Its lock file cannot be created.
    #[error("cannot lock {0}: {1}")]
    Lock(PathBuf, std::io::Error),
    /// The file is not an embedded store, or of a version that this build does not know.
    #[error("{0} is not a store of this version of Sidegate")]
    Foreign(PathBuf),
    /// SQLite refuses.
    #[error("cannot open the embedded store: {0}")]
    Sqlite(#[from] sqlx::Error),
    /// Anything else.
    #[error(transparent)]
    Unavailable(#[from] DependencyUnavailable),
}

/// The embedded store.
#[derive(Clone)]
pub struct EmbeddedStore {
    jobs: mpsc::Sender<Job>,
    readers: SqlitePool,
    feed: Arc<Feed>,
    clock: ClockMs,
    counts: StoreCounts,
    _lock: Arc<File>,
}

impl EmbeddedStore {
    /// Opens or creates the store at `url` (`sqlite://path`) and starts its writer on the current
    /// runtime.
    ///
    /// # Errors
    /// Another process has locked it, it is not an embedded store, or SQLite fails.
    pub async fn open(url: &str, lifetimes: TokenLifetimes, clock: ClockMs) -> Result<Self, OpenError> {
        Self::open_limited(url, lifetimes, SESSIONS_PER_USER, clock).await
    }

    /// As [`EmbeddedStore::open`], with a limit of sessions per user.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`].
    pub async fn open_limited(
        url: &str,
        lifetimes: TokenLifetimes,
        sessions_max: u32,
        clock: ClockMs,
    ) -> Result<Self, OpenError> {
        let options = SqliteConnectOptions::from_str(url)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // An acknowledged revocation must survive a power cut.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(2))
            .disable_statement_logging();
        let path = options.get_filename().to_path_buf();
        let lock = files::take_lock(&path)?;
        files::make_private(&path).map_err(|error| OpenError::File(path.clone(), error))?;
        let mut connection = options.clone().connect().await?;
        let (mut meta, new) = rows::prepare(&mut connection, clock().saturating_sub(1000) / 1000)
            .await?
            .ok_or_else(|| OpenError::Foreign(path.clone()))?;
        let mark = compare_with_mark(&path, &mut connection, &mut meta, new, clock() / 1000).await?;
        let first = rows::first_position(&mut connection).await?;
        let readers = SqlitePoolOptions::new().max_connections(4).connect_with(options.clone()).await?;
        let feed = Arc::new(Feed::new(meta.head(first), readers.clone()));
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let rules = Rules { lifetimes, sessions_max: sessions_max.max(1), clock: Arc::clone(&clock) };
        let writer = Writer::new(options.create_if_missing(false), connection, meta, mark, rules, Arc::clone(&feed));
        tokio::spawn(writer.run(queue));
        Ok(Self { jobs, readers, feed, clock, counts: StoreCounts::default(), _lock: Arc::new(lock) })
    }

    /// The store's counters.
    pub const fn counts(&self) -> &StoreCounts {
        &self.counts
    }

    /// The log, for followers.
    pub fn feed(&self) -> Arc<Feed> {
        Arc::clone(&self.feed)
    }

    async fn ask(&self, command: Command) -> Result<Reply, DependencyUnavailable> {
        let (answer, reply) = oneshot::channel();
        self.jobs
            .try_send(Job { command, answer })
            .map_err(|_| DependencyUnavailable::new(NAME, "its queue is full"))?;
        match tokio::time::timeout(TIMEOUT, reply).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(DependencyUnavailable::new(NAME, "its writer has stopped")),
            Err(_) => Err(DependencyUnavailable::new(NAME, "no answer in time")),
        }
    }

    fn now(&self) -> UnixTime {
        UnixTime((self.clock)() / 1000)
    }

    async fn hand_out(&self, issued: UnixTime) {
        until_valid((issued.0 * 1000).saturating_sub((self.clock)())).await;
        self.counts.store_clock_behind.issued();
    }

    fn ahead(&self) -> DependencyUnavailable {
        let error =
            DependencyUnavailable::new(NAME, "the last revocation lies in the future: this machine's clock is behind");
        self.counts.store_clock_behind.refused(&error);
        error
    }
}

/// Compares the data set with its mark. A log that ends before the mark is an old copy: it lacks
/// revocations and contains sessions that have ended. The copy becomes a new data set, complete
/// from now on, without any session.
async fn compare_with_mark(
    path: &Path,
    connection: &mut SqliteConnection,
    meta: &mut Meta,
    new: bool,
    now: u64,
) -> Result<Mark, OpenError> {
    let failed = |error| OpenError::File(path.to_path_buf(), error);
    let (mark, marked) = Mark::open(path).map_err(failed)?;
    let old = match &marked {
        _ if new => false,
        Some(marked) => marked.epoch != meta.epoch || meta.last < marked.last,
        // Created by a version without marks, or restored without its mark.
        None => rows::is_marked(connection).await?,
    };
    if old {
        let now = UnixTime(now).max(meta.peak);
        (meta.epoch, meta.since, meta.all_dead, meta.peak) = (new_epoch()?, now, now, now);
        rows::renew(connection, meta).await?;
        tracing::error!(
            store = %path.display(),
            since = now.0,
            "the embedded store is an old copy, or its .mark file is missing: what was revoked before now may be missing \
             in it, so every session has ended, and verifiers that start from now on refuse older tokens"
        );
    }
    mark.begin(&meta.epoch, meta.last).map_err(failed)?;
    rows::set_marked(connection).await?;
    Ok(mark)
}

fn unavailable(error: sqlx::Error) -> DependencyUnavailable {
    DependencyUnavailable::new(NAME, error)
}

fn mismatch() -> DependencyUnavailable {
    DependencyUnavailable::new(NAME, "its writer answered another question")
}

impl Store for EmbeddedStore {
    async fn create(&self, new: &NewSession) -> Result<Created, DependencyUnavailable> {
        match self.ask(Command::Create(new.clone())).await? {
            Reply::Created(created) => {
                self.hand_out(created.issued).await;
                Ok(created)
            }
            Reply::Ahead => Err(self.ahead()),
            _ => Err(mismatch()),
        }
    }

    async fn read(&self, _partition: u16, sid: &Id) -> Result<Option<Session>, DependencyUnavailable> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        rows::session(&mut connection, sid).await.map_err(unavailable)
    }

    async fn rotate(&self, rotation: &Rotation) -> Result<Rotated, DependencyUnavailable> {
        match self.ask(Command::Rotate(rotation.clone())).await? {
            Reply::Rotated(rotated) => {
                if let Rotated::Traded { issued, .. } = &rotated {
                    self.hand_out(*issued).await;
                }
                Ok(rotated)
            }
            Reply::Ahead => Err(self.ahead()),
            _ => Err(mismatch()),
        }
    }

    async fn examine(&self, rotation: &Rotation) -> Result<Standing, DependencyUnavailable> {
        match self.ask(Command::Examine(rotation.clone())).await? {
            Reply::Examined(standing) => Ok(standing),
            _ => Err(mismatch()),
        }
    }

    async fn end(&self, ending: &EndSession) -> Result<EndOutcome, DependencyUnavailable> {
        match self.ask(Command::End(ending.clone())).await? {
            Reply::Ended(ended) => Ok(ended),
            _ => Err(mismatch()),
        }
    }

    async fn revoke_user(&self, sub: &str, sessions: UserSessions) -> Result<SubjectRevoked, DependencyUnavailable> {
        match self.ask(Command::RevokeUser(sub.to_owned(), sessions)).await? {
            Reply::Revoked(revoked) => Ok(revoked),
            Reply::Ahead => Err(self.ahead()),
            _ => Err(mismatch()),
        }
    }

    async fn revoke_all(&self, _partition: u16) -> Result<UnixTime, DependencyUnavailable> {
        match self.ask(Command::RevokeAll).await? {
            Reply::Moment(threshold) => Ok(threshold),
            Reply::Ahead => Err(self.ahead()),
            _ => Err(mismatch()),
        }
    }

    async fn append(&self, _partition: u16, revocation: &Revocation) -> Result<(), DependencyUnavailable> {
        match self.ask(Command::Append(revocation.clone())).await? {
            Reply::Ahead => Err(self.ahead()),
            _ => Ok(()),
        }
    }

    async fn append_until_now(
        &self,
        _partition: u16,
        target: &Target,
        slack: u64,
    ) -> Result<(), DependencyUnavailable> {
        self.ask(Command::AppendUntilNow(target.clone(), slack)).await.map(|_| ())
    }

    async fn sessions(
        &self,
        sub: &str,
        after: Option<&PageCursor>,
        limit: u32,
    ) -> Result<SessionPage, DependencyUnavailable> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        let own = rows::watermarks(&mut connection, sub, self.now()).await.map_err(unavailable)?.sessions;
        let ended_up_to = own.unwrap_or_default().max(self.feed.all_dead());
        let (sessions, more) = rows::sessions_of(&mut connection, sub, ended_up_to, self.now(), after, limit.max(1))
            .await
            .map_err(unavailable)?;
        let last = sessions.last().filter(|_| more);
        let next = last.map(|last| PageCursor { kept_until: last.kept_until(), sid: last.sid.clone() });
        Ok(SessionPage { sessions, next })
    }

    async fn session_ids(&self, sub: &str) -> Result<Vec<Id>, DependencyUnavailable> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        rows::session_ids(&mut connection, sub, self.now()).await.map_err(unavailable)
    }

    fn partitions(&self) -> u16 {
        1
    }

    async fn probe(&self) -> Result<(), DependencyUnavailable> {
        self.ask(Command::Probe).await.map(|_| ())
    }
}

/// Closes the writer's connection cleanly once its queue ends.
async fn close(connection: SqliteConnection) {
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "closing the embedded store failed");
    }
}
