//! A session store in memory, with a clock that tests move. It passes the conformance suite, like
//! Redis and SQLite.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidegate_common::log_protocol::Position;
use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::time::{REVOCATION_MARGIN_SECONDS, UnixTime};

use crate::domain::session::{
    Created, Decision, EndOutcome, EndSession, NewSession, PageCursor, Refusal, Reuse, Rotated, Rotation, Session,
    SessionPage, Standing, SubjectRevoked, THRESHOLD_AHEAD_MAX_SECONDS, TokenLifetimes, UserSessions, decide, issue_at,
};
use crate::domain::traits::{DependencyUnavailable, Store};

/// A test's clock, in milliseconds since 1970. It stands still until a test moves it.
#[derive(Clone)]
pub struct TestClock(Arc<AtomicU64>);

impl Default for TestClock {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(1_750_000_000_000)))
    }
}

impl TestClock {
    pub fn ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn now(&self) -> UnixTime {
        UnixTime(self.ms() / 1000)
    }

    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds * 1000, Ordering::Relaxed);
    }

    /// Moves the clock to `moment`, if that is in the future.
    fn wait_until(&self, moment: UnixTime) {
        self.0.fetch_max(moment.0 * 1000, Ordering::Relaxed);
    }
}

/// The store. Each call holds the lock throughout, which makes it atomic.
pub struct MemoryStore {
    partitions: Mutex<Vec<Partition>>,
    count: u16,
    clock: TestClock,
    lifetimes: TokenLifetimes,
    sessions_max: usize,
}

/// Contents of one partition.
#[derive(Default)]
struct Partition {
    sessions: BTreeMap<Id, Session>,
    /// By user: sessions created at or before this time have ended.
    session_watermarks: BTreeMap<String, UnixTime>,
    /// By user: tokens issued at or before this time are revoked, and the sessions continue.
    token_watermarks: BTreeMap<String, UnixTime>,
    /// The threshold of the last `all`.
    all: Option<UnixTime>,
    /// The latest `iat` or threshold issued.
    peak: UnixTime,
    log: Vec<(Position, Revocation)>,
}

/// One call on one partition.
struct Call<'a> {
    partition: &'a mut Partition,
    now_ms: u64,
    now: UnixTime,
    lifetimes: TokenLifetimes,
    sessions_max: usize,
}

fn ahead() -> DependencyUnavailable {
    DependencyUnavailable::new("the session store", "the last dead moment lies in the future")
}

impl MemoryStore {
    pub fn new(clock: TestClock, lifetimes: TokenLifetimes, partitions: u16, sessions_max: usize) -> Self {
        let empty = (0..partitions).map(|_| Partition::default()).collect();
        Self { partitions: Mutex::new(empty), count: partitions, clock, lifetimes, sessions_max }
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Partition>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<T>(&self, partition: u16, work: impl FnOnce(&mut Call<'_>) -> T) -> T {
        let mut partitions = self.locked();
        work(&mut Call {
            partition: &mut partitions[usize::from(partition)],
            now_ms: self.clock.ms(),
            now: self.clock.now(),
            lifetimes: self.lifetimes,
            sessions_max: self.sessions_max,
        })
    }

    fn of<T>(&self, sub: &str, work: impl FnOnce(&mut Call<'_>) -> T) -> T {
        self.call(SubjectTag::of(sub).partition(self.count), work)
    }

    /// The log of a partition.
    pub fn log(&self, partition: u16) -> Vec<(Position, Revocation)> {
        self.call(partition, |call| call.partition.log.clone())
    }

    /// Revocations in log order, partition by partition.
    pub fn targets(&self) -> Vec<Target> {
        (0..self.count).flat_map(|partition| self.log(partition)).map(|(_, entry)| entry.target).collect()
    }

    /// The record of a session.
    pub fn session(&self, sub: &str, sid: &Id) -> Option<Session> {
        self.of(sub, |call| call.partition.sessions.get(sid).cloned())
    }

    /// Sets a user's watermark, like a replay after a failover.
    pub fn put_back_watermark(&self, sub: &str, threshold: UnixTime) {
        self.of(sub, |call| call.partition.session_watermarks.insert(sub.to_owned(), threshold));
    }

    /// Changes a session's record, like a failover that loses the latest write.
    pub fn change_session(&self, sub: &str, sid: &Id, change: impl FnOnce(&mut Session)) {
        self.of(sub, |call| change(call.partition.sessions.get_mut(sid).unwrap()));
    }

    /// Removes a session's record.
    pub fn lose_session(&self, sub: &str, sid: &Id) {
        self.of(sub, |call| call.partition.sessions.remove(sid).unwrap());
    }
}

impl Call<'_> {
    /// For a user: the time up to which created sessions have ended, and the latest revoked `iat`.
    fn watermarks(&self, sub: &str) -> (Option<UnixTime>, Option<UnixTime>) {
        let sessions = self.partition.session_watermarks.get(sub).copied().max(self.partition.all);
        (sessions, sessions.max(self.partition.token_watermarks.get(sub).copied()))
    }

    /// A user's kept sessions, in the order in which they expire.
    fn kept(&self, sub: &str) -> Vec<Session> {
        let kept = self.partition.sessions.values().filter(|one| one.sub == sub && one.kept_until() > self.now);
        let mut kept: Vec<_> = kept.cloned().collect();
        kept.sort_by_key(|one| (one.kept_until(), one.sid.clone()));
        kept
    }

    /// The kept sessions that can be refreshed.
    fn live(&self, sub: &str) -> Vec<Session> {
        let (ended_up_to, _) = self.watermarks(sub);
        let ended = |one: &Session| ended_up_to.is_some_and(|dead| one.birth() <= dead);
        self.kept(sub).into_iter().filter(|one| one.is_live(self.now) && !ended(one)).collect()
    }

    fn is_too_far(&self, threshold: UnixTime) -> bool {
        threshold > self.now.plus(THRESHOLD_AHEAD_MAX_SECONDS)
    }

    /// Appends an entry that covers tokens up to `exp` = `last_exp`.
    fn append(&mut self, target: Target, last_exp: UnixTime) {
        let previous = self.partition.log.last().map_or(Position::START, |(position, _)| *position);
        let ms = self.now_ms.max(previous.ms);
        let sequence = if ms == previous.ms { previous.sequence + 1 } else { 0 };
        let revocation = Revocation { target, expires_at: last_exp.plus(REVOCATION_MARGIN_SECONDS) };
        self.partition.log.push((Position { ms, sequence }, revocation));
    }

    fn end_session(&mut self, session: &Session, exp_seen: UnixTime) {
        let target = Target::Session { sid: session.sid.clone(), subject: Some(SubjectTag::of(&session.sub)) };
        self.append(target, session.exp_max.max(exp_seen));
        self.partition.sessions.remove(&session.sid);
    }

    fn create(&mut self, new: &NewSession) -> Result<Created, DependencyUnavailable> {
        let (_, tokens) = self.watermarks(&new.sub);
        let issued = issue_at(self.now, tokens).ok_or_else(ahead)?;
        let kept = self.kept(&new.sub);
        let surplus = (kept.len() + 1).saturating_sub(self.sessions_max);
        let displaced: Vec<_> = kept.into_iter().take(surplus).collect();
        for session in &displaced {
            self.end_session(session, UnixTime(0));
        }
        self.partition.peak = self.partition.peak.max(issued);
        self.partition.sessions.insert(new.sid.clone(), Session::new(new, self.now, issued, &self.lifetimes));
        Ok(Created { issued, displaced: displaced.into_iter().map(|session| session.sid).collect() })
    }

    /// The decision of the rotation rules, and the session; `None` if the session does not exist.
    fn decide(&self, rotation: &Rotation) -> Option<(Session, Decision)> {
        let session = self.partition.sessions.get(&rotation.sid).filter(|session| session.sub == rotation.sub)?;
        let (sessions, _) = self.watermarks(&session.sub);
        let decision = decide(session, rotation.presented, self.now, sessions, self.lifetimes.retry_window);
        Some((session.clone(), decision))
    }

    /// Ends a session after reuse of a refresh token; returns the token's age.
    fn end_reused(&mut self, session: &Session, presented: u32) -> Reuse {
        self.end_session(session, UnixTime(0));
        session.reuse_of(presented, self.now)
    }

    fn rotate(&mut self, rotation: &Rotation) -> Result<Rotated, DependencyUnavailable> {
        let Some((mut session, decision)) = self.decide(rotation) else { return Ok(Rotated::Refused(Refusal::Gone)) };
        let retried = match decision {
            Decision::Refuse(refusal) => return Ok(Rotated::Refused(refusal)),
            Decision::Reuse => {
                return Ok(Rotated::Reused(self.end_reused(&session, rotation.presented)));
            }
            Decision::Retry => true,
            Decision::Trade(generation) => {
                session.generation = generation;
                session.rotated = self.now;
                session.idle_ends = self.now.plus(self.lifetimes.idle_ttl);
                false
            }
        };
        let (_, tokens) = self.watermarks(&session.sub);
        let issued = issue_at(self.now, tokens).ok_or_else(ahead)?;
        session.refreshed = self.now;
        session.issued = session.issued.max(issued);
        session.exp_max = session.exp_max.max(issued.plus(self.lifetimes.access_ttl));
        self.partition.peak = self.partition.peak.max(issued);
        let generation = session.generation;
        self.partition.sessions.insert(session.sid.clone(), session);
        Ok(Rotated::Traded { generation, issued, retried })
    }

    fn examine(&mut self, rotation: &Rotation) -> Standing {
        match self.decide(rotation) {
            None => Standing::Refused(Refusal::Gone),
            Some((_, Decision::Trade(_) | Decision::Retry)) => Standing::Current,
            Some((_, Decision::Refuse(refusal))) => Standing::Refused(refusal),
            Some((session, Decision::Reuse)) => Standing::Reused(self.end_reused(&session, rotation.presented)),
        }
    }

    fn end(&mut self, ending: &EndSession) -> EndOutcome {
        if let Some(session) = self.partition.sessions.get(&ending.sid).cloned() {
            self.end_session(&session, ending.exp_seen);
            return EndOutcome::Now;
        }
        if !ending.known {
            let target = Target::Session { sid: ending.sid.clone(), subject: ending.subject };
            self.append(target, self.now.plus(self.lifetimes.lifetime_max).max(ending.exp_seen));
        }
        EndOutcome::Before
    }

    fn revoke_user(&mut self, sub: &str, sessions: UserSessions) -> Result<SubjectRevoked, DependencyUnavailable> {
        let issued = self.partition.sessions.values().filter(|session| session.sub == sub).map(|one| one.issued);
        let (_, dead) = self.watermarks(sub);
        let threshold = self.now.max(dead.unwrap_or_default()).max(issued.max().unwrap_or_default());
        if self.is_too_far(threshold) {
            return Err(ahead());
        }
        self.append(Target::Subject { sub: sub.into(), threshold }, threshold.plus(self.lifetimes.lifetime_max));
        self.partition.peak = self.partition.peak.max(threshold);
        let mut sessions_ended = 0;
        match sessions {
            UserSessions::Keep => {
                self.partition.token_watermarks.insert(sub.to_owned(), threshold);
            }
            UserSessions::End => {
                sessions_ended = self.live(sub).len() as u64;
                self.partition.session_watermarks.insert(sub.to_owned(), threshold);
                self.partition.sessions.retain(|_, session| session.sub != sub);
            }
        }
        Ok(SubjectRevoked { threshold, sessions_ended })
    }

    fn revoke_all(&mut self) -> Result<UnixTime, DependencyUnavailable> {
        let threshold = self.now.max(self.partition.all.unwrap_or_default()).max(self.partition.peak);
        if self.is_too_far(threshold) {
            return Err(ahead());
        }
        self.append(Target::All { threshold }, threshold.plus(self.lifetimes.lifetime_max));
        self.partition.all = Some(threshold);
        self.partition.peak = threshold;
        Ok(threshold)
    }

    fn append_given(&mut self, revocation: &Revocation) -> Result<(), DependencyUnavailable> {
        let last_exp = match revocation.expires_at {
            UnixTime(0) => self.now.plus(self.lifetimes.lifetime_max),
            given if given <= self.now => return Ok(()),
            given => given.minus(REVOCATION_MARGIN_SECONDS),
        };
        match revocation.target {
            Target::Subject { threshold, .. } | Target::All { threshold } if self.is_too_far(threshold) => Err(ahead()),
            _ => {
                self.append(revocation.target.clone(), last_exp);
                Ok(())
            }
        }
    }

    fn append_until_now(&mut self, target: Target, slack: u64) {
        let target = target.with_threshold(self.now.plus(slack));
        self.append(target, self.now.plus(self.lifetimes.lifetime_max));
    }

    fn sessions(&self, sub: &str, after: Option<&PageCursor>, limit: usize) -> SessionPage {
        let place = |one: &Session| (one.kept_until(), one.sid.clone());
        let mut sessions = self.live(sub);
        sessions.reverse();
        if let Some(after) = after {
            sessions.retain(|one| place(one) < (after.kept_until, after.sid.clone()));
        }
        let more = sessions.len() > limit;
        sessions.truncate(limit);
        let last = sessions.last().filter(|_| more);
        let next = last.map(|last| PageCursor { kept_until: last.kept_until(), sid: last.sid.clone() });
        SessionPage { sessions, next }
    }
}

impl Store for MemoryStore {
    async fn create(&self, new: &NewSession) -> Result<Created, DependencyUnavailable> {
        let created = self.of(&new.sub, |call| call.create(new))?;
        self.clock.wait_until(created.issued);
        Ok(created)
    }

    async fn read(&self, partition: u16, sid: &Id) -> Result<Option<Session>, DependencyUnavailable> {
        Ok(self.call(partition, |call| call.partition.sessions.get(sid).cloned()))
    }

    async fn rotate(&self, rotation: &Rotation) -> Result<Rotated, DependencyUnavailable> {
        let rotated = self.of(&rotation.sub, |call| call.rotate(rotation))?;
        if let Rotated::Traded { issued, .. } = &rotated {
            self.clock.wait_until(*issued);
        }
        Ok(rotated)
    }

    async fn examine(&self, rotation: &Rotation) -> Result<Standing, DependencyUnavailable> {
        Ok(self.of(&rotation.sub, |call| call.examine(rotation)))
    }

    async fn end(&self, ending: &EndSession) -> Result<EndOutcome, DependencyUnavailable> {
        Ok(self.call(ending.partition, |call| call.end(ending)))
    }

    async fn revoke_user(&self, sub: &str, sessions: UserSessions) -> Result<SubjectRevoked, DependencyUnavailable> {
        self.of(sub, |call| call.revoke_user(sub, sessions))
    }

    async fn revoke_all(&self, partition: u16) -> Result<UnixTime, DependencyUnavailable> {
        self.call(partition, |call| call.revoke_all())
    }

    async fn append(&self, partition: u16, revocation: &Revocation) -> Result<(), DependencyUnavailable> {
        self.call(partition, |call| call.append_given(revocation))
    }

    async fn append_until_now(&self, partition: u16, target: &Target, slack: u64) -> Result<(), DependencyUnavailable> {
        self.call(partition, |call| call.append_until_now(target.clone(), slack));
        Ok(())
    }

    async fn sessions(
        &self,
        sub: &str,
        after: Option<&PageCursor>,
        limit: u32,
    ) -> Result<SessionPage, DependencyUnavailable> {
        Ok(self.of(sub, |call| call.sessions(sub, after, limit.max(1) as usize)))
    }

    async fn session_ids(&self, sub: &str) -> Result<Vec<Id>, DependencyUnavailable> {
        Ok(self.of(sub, |call| call.kept(sub).into_iter().map(|session| session.sid).collect()))
    }

    fn partitions(&self) -> u16 {
        self.count
    }

    async fn probe(&self) -> Result<(), DependencyUnavailable> {
        Ok(())
    }
}
