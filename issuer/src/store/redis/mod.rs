//! Sessions and the revocation log in Redis (7.0 or later): every change is one Lua script in one partition.
//!
//! The scripts lie in `scripts/`, one a file, and share `prelude.lua`. docs/protocol.md describes the keys.

mod errors;
mod issuer_list;
mod journal;
mod journal_replay;
mod lineage;
mod link;
mod log_observer;
mod log_reader;
mod outbox;
mod reconciler;
mod replay;
mod replay_buffer;
mod replay_entry;
mod replica_ack;
mod scripts;
mod server_checks;
mod start;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::{ErrorKind, RedisError, Value};
use sidegate_common::log_protocol::{Position, RedisKeys};
use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::time::{CLOCK_SKEW_SECONDS, REVOCATION_MARGIN_SECONDS, UnixTime};

pub use errors::OpenError;
pub use journal::JournalError;
pub use link::StoreLink;
pub use reconciler::ReconcilerIntervals;
pub use replay::OwnFeed;
pub use replica_ack::ReplicaAckSettings;
pub use server_checks::{RedisRequirements, RequirementError};

use crate::domain::session::{
    Created, EndOutcome, EndSession, NewSession, PageCursor, Rotated, Rotation, SESSIONS_PER_USER, Session,
    SessionPage, Standing, SubjectRevoked, TokenLifetimes, UserSessions,
};
use crate::domain::traits::{DependencyUnavailable, Store};
use crate::store::counts::StoreCounts;
use crate::store::until_valid;
use errors::{replaced, unavailable, unsettled};
use issuer_list::IssuerList;
use journal::Journal;
use lineage::Lineages;
use log_observer::LogObserver;
use outbox::Outbox;
use replay_buffer::{Asked, ReplayBuffer};
use replay_entry::{ReplayEntry, tag_bytes};
use replica_ack::ReplicaAck;
use scripts::{Call, Script};
use start::Opening;

/// How long a login or refresh waits for issuers to put back what a failover may have lost.
const SETTLING_TIMEOUT: Duration = Duration::from_secs(2);

/// The store's name in error messages.
const NAME: &str = "Redis";

/// The store in Redis.
#[derive(Clone)]
pub struct RedisStore {
    shared: Arc<Shared>,
}

struct Shared {
    link: StoreLink,
    partitions: Vec<RedisKeys>,
    terms: TokenLifetimes,
    sessions_max: u32,
    /// The newest `iat` that this issuer has handed out, of each partition: a data set that was lost does not know it.
    newest: Vec<AtomicU64>,
    pace: ReconcilerIntervals,
    issuers: IssuerList,
    lineages: Lineages,
    /// What this issuer's own feed has brought, once it is there.
    feed: OnceLock<OwnFeed>,
    replay_buffer: ReplayBuffer,
    outbox: Outbox,
    log_observer: LogObserver,
    journal: Option<Arc<Journal>>,
    replica_ack: Option<ReplicaAck>,
    counts: StoreCounts,
    opening: Opening,
}

/// Where a journal is (`REVOCATION_JOURNAL`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSettings {
    /// The file.
    pub path: PathBuf,
    /// `REVOCATION_JOURNAL_SOLE`.
    pub sole: bool,
}

impl RedisStore {
    /// Uses `link`, with `partitions` partitions under `prefix`.
    pub fn new(link: StoreLink, prefix: &str, partitions: u16, terms: TokenLifetimes) -> Self {
        let partitions: Vec<_> = (0..partitions.max(1)).map(|partition| RedisKeys::new(prefix, partition)).collect();
        let counts = StoreCounts::default();
        let shared = Shared {
            link,
            newest: partitions.iter().map(|_| AtomicU64::new(0)).collect(),
            lineages: Lineages::new(partitions.len()),
            partitions,
            terms,
            pace: ReconcilerIntervals::default(),
            issuers: IssuerList::new(new_name()),
            feed: OnceLock::new(),
            sessions_max: SESSIONS_PER_USER,
            replay_buffer: ReplayBuffer::new(counts.clone()),
            outbox: Outbox::new(counts.clone()),
            log_observer: LogObserver::default(),
            journal: None,
            replica_ack: None,
            counts,
            opening: Opening::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Does what it does at another pace.
    #[must_use]
    pub fn pacing(mut self, pace: ReconcilerIntervals) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.pace = pace;
        }
        self
    }

    /// Lets a user have `sessions_max` sessions: beyond it the one that would end first ends.
    #[must_use]
    pub fn limiting(mut self, sessions_max: u32) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.sessions_max = sessions_max.max(1);
        }
        self
    }

    /// Puts back what `feed` has brought, too, where a failover or a loss of data took it away.
    pub fn follow(&self, feed: OwnFeed) {
        // There is one.
        let _second = self.shared.feed.set(feed);
    }

    /// Waits, on a connection of its own, for what `settings` ask before a revocation counts as stored.
    #[must_use]
    pub fn waiting(mut self, link: StoreLink, settings: ReplicaAckSettings) -> Self {
        let key = format!("{}:wait", self.keys(0).tag());
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.replica_ack = Some(ReplicaAck::start(link.patient(settings.timeout), key, settings));
        }
        self
    }

    /// Keeps a journal, and takes from it what was acknowledged recently before a restart.
    ///
    /// # Errors
    /// The file cannot be used, or another issuer does.
    pub fn journaling(mut self, settings: &JournalSettings) -> Result<Self, OpenError> {
        let owner = journal::Owner {
            prefix: self.keys(0).tag().to_owned(),
            partitions: self.partitions(),
            sole: settings.sole,
        };
        let journal = Journal::open(&settings.path, &owner, self.shared.counts.clone())?;
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.remember(&journal).map_err(|error| JournalError::Io(settings.path.clone(), error))?;
            shared.journal = Some(Arc::new(journal));
        }
        Ok(self)
    }

    /// What it counts.
    pub fn counts(&self) -> &StoreCounts {
        &self.shared.counts
    }

    fn keys(&self, partition: u16) -> &RedisKeys {
        // Out of range only if a caller invents a partition; the first one then refuses it by its contents.
        self.shared.partitions.get(usize::from(partition)).unwrap_or(&self.shared.partitions[0])
    }

    fn partition_of(&self, sub: &str) -> u16 {
        SubjectTag::of(sub).partition(self.partitions())
    }

    fn call(&self, script: Script, keys: &RedisKeys) -> Call {
        Call::new(script)
            .key(keys.meta())
            .key(keys.log())
            .arg(keys.channel())
            .arg(format!("{} {REVOCATION_MARGIN_SECONDS}", self.shared.terms.retention()))
            .arg(self.shared.issuers.name())
    }

    /// Runs a script; if the data set is gone, or this issuer is off the list, sees to that first and tries once more.
    async fn run<T: redis::FromRedisValue>(&self, partition: u16, call: &Call) -> Result<T, DependencyUnavailable> {
        self.try_run(partition, call).await.map_err(|error| self.unavailable(error))
    }

    async fn try_run<T: redis::FromRedisValue>(&self, partition: u16, call: &Call) -> Result<T, RedisError> {
        self.shared.opening.done().map_err(|unopened| (ErrorKind::Io, "no connection yet", unopened.cause))?;
        let answer = call.run(&self.shared.link).await;
        match answer.as_ref().err().map(RedisError::code) {
            None => answer,
            Some(Some("NOEPOCH" | "UNLISTED")) => {
                self.made(partition).await?;
                call.run(&self.shared.link).await
            }
            Some(_) => {
                if answer.as_ref().is_err_and(link::is_fatal) {
                    // It may be another server already: the sooner that is seen, the sooner the log is whole again.
                    self.shared.lineages.wake();
                }
                answer
            }
        }
    }

    /// Runs a script that hands out tokens: only while every issuer has put back into the log what it holds, so that no
    /// revocation is unknown to it. Waits for that as long as a client may be made to wait.
    async fn run_settled<T: redis::FromRedisValue>(
        &self,
        partition: u16,
        call: &Call,
    ) -> Result<T, DependencyUnavailable> {
        let limit = tokio::time::Instant::now() + SETTLING_TIMEOUT;
        loop {
            let Some(replid) = self.shared.lineages.until_settled(partition, limit).await else {
                return Err(unsettled());
            };
            let asked_of = self.shared.replay_buffer.ask(partition);
            match self.try_run(partition, &call.clone().expecting(self.shared.issuers.name(), &replid)).await {
                Err(error) if error.code() == Some("UNSETTLED") => self.shared.lineages.unsettle(partition, &replid),
                Ok(_) if !self.shared.replay_buffer.is_valid(partition, asked_of) => return Err(replaced()),
                answer => return answer.map_err(|error| self.unavailable(error)),
            }
        }
    }

    /// Records a revocation that the log has accepted, before the client is answered. `asked` says when
    /// and over which of its logs the partition was asked.
    async fn stored(
        &self,
        partition: u16,
        target: Target,
        position: &str,
        asked: Asked,
    ) -> Result<(), DependencyUnavailable> {
        self.stored_keeping(partition, target, position, UserSessions::End, asked).await
    }

    async fn stored_keeping(
        &self,
        partition: u16,
        target: Target,
        position: &str,
        sessions: UserSessions,
        asked: Asked,
    ) -> Result<(), DependencyUnavailable> {
        let (position, now) = (Position::parse(position), self.store_now(partition));
        let entry = ReplayEntry::done(partition, target.clone(), &self.shared.terms, position, now).keeping(sessions);
        if !self.shared.replay_buffer.acknowledged(entry.clone(), asked) {
            self.shared.outbox.keep(ReplayEntry::pending(partition, target).keeping(sessions), asked.generation);
            return Err(replaced());
        }
        let confirmed = self.confirmed(&entry).await;
        match confirmed {
            Ok(()) => self.shared.outbox.done(&entry),
            Err(_) => self.shared.outbox.keep_unconfirmed(entry, asked.generation),
        }
        confirmed
    }

    /// Returns once the journal has an entry that the log has, and replicas and disks as far as they are waited for.
    async fn confirmed(&self, entry: &ReplayEntry) -> Result<(), DependencyUnavailable> {
        let journal = async {
            match &self.shared.journal {
                Some(journal) if !journal.acknowledged(entry).await => {
                    Err(DependencyUnavailable::new(journal::NAME, journal::UNWRITABLE))
                }
                _ => Ok(()),
            }
        };
        let replicas = async {
            let Some(replica_ack) = &self.shared.replica_ack else { return Ok(()) };
            let position = entry.position.map(|position| position.to_string());
            let waited = replica_ack.wait(self.keys(entry.partition).log(), position).await;
            waited.map_err(|why| DependencyUnavailable::new(NAME, why))
        };
        let (journal, replicas) = tokio::join!(journal, replicas);
        journal.and(replicas)
    }

    /// Keeps a revocation that was refused, or may have been: it is delivered once Redis takes it.
    fn refused(
        &self,
        partition: u16,
        target: Target,
        asked: Asked,
        error: DependencyUnavailable,
    ) -> DependencyUnavailable {
        self.shared.outbox.keep(ReplayEntry::pending(partition, target), asked.generation);
        error
    }

    fn unavailable(&self, error: RedisError) -> DependencyUnavailable {
        if error.code() == Some("AHEAD") {
            self.shared.counts.store_clock_behind.refused(&error);
        }
        unavailable(error)
    }

    /// The store's clock, as near as it is known, and not before any `iat` that this issuer has handed out.
    fn store_now(&self, partition: u16) -> UnixTime {
        let known = self.shared.log_observer.store_now(partition);
        let now = known.unwrap_or_else(|| sidegate_runtime::clock::unix_now().plus(CLOCK_SKEW_SECONDS));
        now.max(self.newest_iat(partition))
    }

    /// The newest `iat` that this issuer has handed out in a partition.
    fn newest_iat(&self, partition: u16) -> UnixTime {
        UnixTime(self.shared.newest.get(usize::from(partition)).map_or(0, |newest| newest.load(Ordering::Relaxed)))
    }

    /// Waits until a token that was just issued is valid, and remembers its `iat`: from here on the client has it.
    async fn hand_out(&self, partition: u16, issued: UnixTime, ahead_ms: u64) {
        until_valid(ahead_ms).await;
        if let Some(newest) = self.shared.newest.get(usize::from(partition)) {
            newest.fetch_max(issued.0, Ordering::Relaxed);
        }
        self.shared.counts.store_clock_behind.issued();
    }

    /// Runs `rotate.lua`, for good or to look only.
    async fn ask_rotate(&self, rotation: &Rotation, look_only: bool) -> Result<Vec<Value>, DependencyUnavailable> {
        let partition = self.partition_of(&rotation.sub);
        let (keys, terms) = (self.keys(partition), &self.shared.terms);
        let (head, tail) = head_and_tail(session_target(rotation));
        let call = self
            .call(Script::Rotate, keys)
            .key(keys.session(&rotation.sid.to_string()))
            .key(keys.user(&rotation.sub))
            .key(keys.watermark(&rotation.sub))
            .key(keys.token_watermark(&rotation.sub))
            .arg(rotation.sid.to_string())
            .arg(rotation.sub.as_str())
            .arg(rotation.presented)
            .arg(terms.access_ttl)
            .arg(terms.idle_ttl)
            .arg(terms.retry_window)
            .arg(head)
            .arg(tail)
            .arg(u8::from(look_only));
        let asked_of = self.shared.replay_buffer.ask(partition);
        let answer: Vec<Value> = self.run_settled(partition, &call).await?;
        if scripts::text(answer.first()).map_err(unavailable)? == "reused" {
            let position = scripts::text(answer.get(3)).map_err(unavailable)?;
            self.stored(partition, session_target(rotation), &position, asked_of).await?;
        }
        Ok(answer)
    }

    /// Sees to the entries of sessions that a login ended because there were too many: pairs of sid and position.
    async fn displaced(&self, partition: u16, sub: &str, ended: &[String], asked: Asked) -> Vec<Id> {
        let mut displaced = Vec::new();
        for pair in ended.chunks_exact(2) {
            let Some(sid) = Id::parse(&pair[0]) else { continue };
            let target = Target::Session { sid: sid.clone(), subject: Some(SubjectTag::of(sub)) };
            // No client waits for this end: if it is not confirmed, the outbox delivers it.
            let _kept = self.stored(partition, target, &pair[1], asked).await;
            displaced.push(sid);
        }
        displaced
    }
}

fn session_target(rotation: &Rotation) -> Target {
    Target::Session { sid: rotation.sid.clone(), subject: Some(SubjectTag::of(&rotation.sub)) }
}

/// A name for the list of issuers, of this process alone.
fn new_name() -> String {
    super::new_epoch().unwrap_or_else(|_| format!("{}-{}", std::process::id(), sidegate_runtime::clock::wall_ms()))
}

/// An entry's bytes without `expires_at`, which the script fills in: the head byte, and all after it.
fn head_and_tail(target: Target) -> (Vec<u8>, Vec<u8>) {
    let bytes = Revocation { target, expires_at: UnixTime(0) }.to_bytes();
    (bytes[..1].to_vec(), bytes[5..].to_vec())
}

impl Store for RedisStore {
    async fn create(&self, new: &NewSession) -> Result<Created, DependencyUnavailable> {
        let partition = self.partition_of(&new.sub);
        let keys = self.keys(partition);
        let terms = &self.shared.terms;
        let call = self
            .call(Script::Create, keys)
            .key(keys.session(&new.sid.to_string()))
            .key(keys.user(&new.sub))
            .key(keys.watermark(&new.sub))
            .key(keys.token_watermark(&new.sub))
            .arg(new.sid.to_string())
            .arg(new.sub.as_str())
            .arg(terms.access_ttl)
            .arg(terms.idle_ttl)
            .arg(terms.absolute_ttl)
            .arg(new.address.as_str())
            .arg(new.agent.as_str())
            .arg(self.shared.sessions_max)
            .arg(keys.session(""))
            .arg(tag_bytes(SubjectTag::of(&new.sub)));
        let asked_of = self.shared.replay_buffer.ask(partition);
        let (issued, ahead_ms, ended): (u64, u64, Vec<String>) = self.run_settled(partition, &call).await?;
        let displaced = self.displaced(partition, &new.sub, &ended, asked_of).await;
        self.hand_out(partition, UnixTime(issued), ahead_ms).await;
        Ok(Created { issued: UnixTime(issued), displaced })
    }

    async fn read(&self, partition: u16, sid: &Id) -> Result<Option<Session>, DependencyUnavailable> {
        self.shared.opening.done()?;
        let key = self.keys(partition).session(&sid.to_string());
        let command = scripts::read_session(&key);
        let row = self.shared.link.call(&command).await.map_err(unavailable)?;
        scripts::session(sid.clone(), row).map_err(unavailable)
    }

    async fn rotate(&self, rotation: &Rotation) -> Result<Rotated, DependencyUnavailable> {
        let answer = self.ask_rotate(rotation, false).await?;
        let rotated = scripts::rotated(&answer).map_err(unavailable)?;
        if let Rotated::Traded { issued, .. } = rotated {
            let ahead_ms = scripts::number(answer.get(3)).map_err(unavailable)?;
            self.hand_out(self.partition_of(&rotation.sub), issued, ahead_ms).await;
        }
        Ok(rotated)
    }

    async fn examine(&self, rotation: &Rotation) -> Result<Standing, DependencyUnavailable> {
        let answer = self.ask_rotate(rotation, true).await?;
        scripts::standing(&answer).map_err(unavailable)
    }

    async fn end(&self, ending: &EndSession) -> Result<EndOutcome, DependencyUnavailable> {
        let keys = self.keys(ending.partition);
        let target = Target::Session { sid: ending.sid.clone(), subject: ending.subject };
        let (head, tail) = head_and_tail(target.clone());
        let call = self
            .call(Script::End, keys)
            .key(keys.session(&ending.sid.to_string()))
            .key(keys.user(ending.sub.as_deref().unwrap_or_default()))
            .arg(ending.sid.to_string())
            .arg(head)
            .arg(tail)
            .arg(ending.exp_seen.0)
            .arg(self.shared.terms.lifetime_max)
            .arg(u8::from(ending.known));
        let asked_of = self.shared.replay_buffer.ask(ending.partition);
        let answer: Result<(u8, String), _> = self.run(ending.partition, &call).await;
        let (ended, position) =
            answer.map_err(|error| self.refused(ending.partition, target.clone(), asked_of, error))?;
        self.stored(ending.partition, target, &position, asked_of).await?;
        Ok(if ended == 1 { EndOutcome::Now } else { EndOutcome::Before })
    }

    async fn revoke_user(&self, sub: &str, sessions: UserSessions) -> Result<SubjectRevoked, DependencyUnavailable> {
        let partition = self.partition_of(sub);
        let keys = self.keys(partition);
        let terms = &self.shared.terms;
        let target = |threshold| Target::Subject { sub: sub.into(), threshold };
        let (head, _) = head_and_tail(target(UnixTime(0)));
        let call = self
            .call(Script::RevokeSubject, keys)
            .key(keys.user(sub))
            .key(keys.watermark(sub))
            .key(keys.token_watermark(sub))
            .arg(head)
            .arg(sub)
            .arg(keys.session(""))
            .arg(terms.lifetime_max)
            .arg(terms.watermark_ttl())
            .arg(self.newest_iat(partition).0)
            .arg(u8::from(sessions == UserSessions::Keep));
        let asked = self.store_now(partition);
        let asked_of = self.shared.replay_buffer.ask(partition);
        let answer: Result<(u64, String, u64), _> = self.run(partition, &call).await;
        let (threshold, position, sessions_ended) = answer.inspect_err(|_| {
            let pending = ReplayEntry::pending(partition, target(asked)).keeping(sessions);
            self.shared.outbox.keep(pending, asked_of.generation);
        })?;
        let threshold = UnixTime(threshold);
        self.stored_keeping(partition, target(threshold), &position, sessions, asked_of).await?;
        Ok(SubjectRevoked { threshold, sessions_ended })
    }

    async fn revoke_all(&self, partition: u16) -> Result<UnixTime, DependencyUnavailable> {
        let (head, _) = head_and_tail(Target::All { threshold: UnixTime(0) });
        let terms = &self.shared.terms;
        let call = self.call(Script::RevokeAll, self.keys(partition)).arg(head).arg(terms.lifetime_max);
        let call = call.arg(self.newest_iat(partition).0);
        let asked = self.store_now(partition);
        let asked_of = self.shared.replay_buffer.ask(partition);
        let answer: Result<(u64, String), _> = self.run(partition, &call).await;
        let refused = |error| self.refused(partition, Target::All { threshold: asked }, asked_of, error);
        let (threshold, position) = answer.map_err(refused)?;
        self.stored(partition, Target::All { threshold: UnixTime(threshold) }, &position, asked_of).await?;
        Ok(UnixTime(threshold))
    }

    async fn append(&self, partition: u16, revocation: &Revocation) -> Result<(), DependencyUnavailable> {
        let call = self.call(Script::Append, self.keys(partition));
        let call = scripts::append_args(call, &revocation.to_bytes(), &self.shared.terms);
        let asked_of = self.shared.replay_buffer.ask(partition);
        let answer: Result<String, _> = self.run(partition, &call).await;
        let position = answer.map_err(|error| self.refused(partition, revocation.target.clone(), asked_of, error))?;
        self.stored(partition, revocation.target.clone(), &position, asked_of).await
    }

    async fn append_until_now(&self, partition: u16, target: &Target, slack: u64) -> Result<(), DependencyUnavailable> {
        // What the outbox keeps if Redis refuses: the store's clock as near as it is known.
        let mut target = target.clone().with_threshold(self.store_now(partition).plus(slack));
        let entry = Revocation { target: target.clone(), expires_at: UnixTime(0) }.to_bytes();
        let call = scripts::append_args(self.call(Script::Append, self.keys(partition)), &entry, &self.shared.terms)
            .arg(slack);
        let asked_of = self.shared.replay_buffer.ask(partition);
        let answer: Result<String, _> = self.run(partition, &call).await;
        let position = answer.map_err(|error| self.refused(partition, target.clone(), asked_of, error))?;
        if let Some(taken) = Position::parse(&position) {
            target = target.with_threshold(UnixTime(taken.ms / 1000).plus(slack));
        }
        self.stored(partition, target, &position, asked_of).await
    }

    async fn sessions(
        &self,
        sub: &str,
        after: Option<&PageCursor>,
        limit: u32,
    ) -> Result<SessionPage, DependencyUnavailable> {
        let partition = self.partition_of(sub);
        let keys = self.keys(partition);
        let (score, sid) =
            after.map(|cursor| (cursor.kept_until.0.to_string(), cursor.sid.to_string())).unwrap_or_default();
        let call = self
            .call(Script::Sessions, keys)
            .key(keys.user(sub))
            .key(keys.watermark(sub))
            .arg(keys.session(""))
            .arg(limit.max(1))
            .arg(score)
            .arg(sid);
        let (score, sid, flat): (String, String, Vec<Value>) = self.run(partition, &call).await?;
        let sessions = scripts::sessions(flat).map_err(unavailable)?;
        Ok(SessionPage { sessions, next: PageCursor::parse(&format!("{score}.{sid}")) })
    }

    async fn session_ids(&self, sub: &str) -> Result<Vec<Id>, DependencyUnavailable> {
        let partition = self.partition_of(sub);
        // What has expired is of no matter; the store's clock is known only nearly.
        let since = self.store_now(partition).minus(REVOCATION_MARGIN_SECONDS);
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(self.keys(partition).user(sub)).arg(since.0).arg("+inf");
        let sids = self.shared.link.call(&command).await.map_err(unavailable)?;
        let sids: Vec<String> =
            redis::FromRedisValue::from_redis_value(sids).map_err(|error| unavailable(error.into()))?;
        Ok(sids.iter().filter_map(|sid| Id::parse(sid)).collect())
    }

    fn partitions(&self) -> u16 {
        u16::try_from(self.shared.partitions.len()).unwrap_or(u16::MAX)
    }

    async fn probe(&self) -> Result<(), DependencyUnavailable> {
        let partitions = (0..self.partitions()).map(|partition| async move {
            let call = self.call(Script::Probe, self.keys(partition));
            self.run::<u8>(partition, &call).await
        });
        let all: Result<Vec<u8>, DependencyUnavailable> = futures_util::future::try_join_all(partitions).await;
        all?;
        // Only at the start: later, logouts work while logins wait.
        if !self.shared.lineages.have_begun() {
            return Err(unsettled());
        }
        match &self.shared.journal {
            Some(journal) if !journal.is_writable().await => {
                Err(DependencyUnavailable::new(journal::NAME, journal::UNWRITABLE))
            }
            _ => Ok(()),
        }
    }
}
