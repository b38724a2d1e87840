//! The only task that changes the embedded store: it commits all queued changes together, then
//! answers.

use std::sync::Arc;

use sidegate_common::log_protocol::Position;
use sidegate_common::revocation::{Revocation, SubjectTag, Target};
use sidegate_common::time::{REVOCATION_MARGIN_SECONDS, UnixTime};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::feed::{Feed, Pushed};
use super::log::LogEntry;
use super::mark::Mark;
use super::rows::{self, Meta};
use super::{ClockMs, close, unavailable};
use crate::domain::session::{
    Created, Decision, EndOutcome, EndSession, NewSession, Refusal, Reuse, Rotated, Rotation, Session, Standing,
    SubjectRevoked, THRESHOLD_AHEAD_MAX_SECONDS, TokenLifetimes, UserSessions, decide, issue_at,
};
use crate::domain::traits::DependencyUnavailable;

/// How many changes one commit contains at most.
const BATCH_MAX: usize = 64;
/// How many sessions one login ends at most, if a user has too many.
const DISPLACED_MAX: u32 = 8;

/// A requested change.
pub(super) enum Command {
    Create(NewSession),
    Rotate(Rotation),
    Examine(Rotation),
    End(EndSession),
    RevokeUser(String, UserSessions),
    RevokeAll,
    Append(Revocation),
    AppendUntilNow(Target, u64),
    Probe,
}

/// Result of a change.
pub(super) enum Reply {
    Created(Created),
    Moment(UnixTime),
    Revoked(SubjectRevoked),
    Rotated(Rotated),
    Examined(Standing),
    Ended(EndOutcome),
    Done,
    /// The latest watermark is too far in the future to issue a token, or to accept a revocation.
    Ahead,
}

/// A change and its caller.
pub(super) struct Job {
    pub(super) command: Command,
    pub(super) answer: oneshot::Sender<Result<Reply, DependencyUnavailable>>,
}

/// The writer's parameters.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) lifetimes: TokenLifetimes,
    pub(super) sessions_max: u32,
    pub(super) clock: ClockMs,
}

/// Owner of the writing connection.
pub(super) struct Writer {
    options: SqliteConnectOptions,
    /// `None` after an error: the state of its transaction is unknown, so the connection is
    /// replaced.
    connection: Option<SqliteConnection>,
    meta: Meta,
    mark: Mark,
    first: Option<Position>,
    rules: Rules,
    feed: Arc<Feed>,
}

impl Writer {
    pub(super) fn new(
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        meta: Meta,
        mark: Mark,
        rules: Rules,
        feed: Arc<Feed>,
    ) -> Self {
        let first = feed.head().first;
        Self { options, connection: Some(connection), meta, mark, first, rules, feed }
    }

    /// Runs until the last sender is gone.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::with_capacity(BATCH_MAX);
        while queue.recv_many(&mut jobs, BATCH_MAX).await > 0 {
            let (commands, answers): (Vec<_>, Vec<_>) = jobs.drain(..).map(|job| (job.command, job.answer)).unzip();
            match self.commit(&commands).await {
                Ok(replies) => {
                    for (answer, reply) in answers.into_iter().zip(replies) {
                        // The caller may be gone; the change stands.
                        let _gone = answer.send(Ok(reply));
                    }
                }
                Err(error) => {
                    if let Some(connection) = self.connection.take() {
                        close(connection).await;
                    }
                    let error = unavailable(error);
                    for answer in answers {
                        let _gone = answer.send(Err(error.clone()));
                    }
                }
            }
        }
        if let Some(connection) = self.connection.take() {
            close(connection).await;
        }
    }

    async fn commit(&mut self, commands: &[Command]) -> Result<Vec<Reply>, sqlx::Error> {
        if self.connection.is_none() {
            self.connection = Some(self.reconnect().await?);
        }
        let Some(connection) = &mut self.connection else { return Err(sqlx::Error::WorkerCrashed) };
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let now_ms = (self.rules.clock)();
        let mut batch = Batch {
            connection: &mut transaction,
            meta: self.meta.clone(),
            lifetimes: self.rules.lifetimes,
            sessions_max: self.rules.sessions_max,
            now_ms,
            now: UnixTime(now_ms / 1000),
            pushed: Vec::new(),
        };
        let mut replies = Vec::with_capacity(commands.len());
        for command in commands {
            replies.push(batch.apply(command).await?);
        }
        let trimmed = batch.finish().await?;
        let (meta, pushed) = (batch.meta, batch.pushed);
        let first =
            if trimmed || self.first.is_none() { rows::first_position(&mut transaction).await? } else { self.first };
        transaction.commit().await?;
        self.publish(meta, first, pushed);
        Ok(replies)
    }

    fn publish(&mut self, meta: Meta, first: Option<Position>, pushed: Vec<Pushed>) {
        if !pushed.is_empty() {
            self.mark.note(&meta.epoch, meta.last);
        }
        self.meta = meta;
        self.first = first;
        self.feed.publish(self.meta.head(first), pushed);
    }

    /// Replaces a failed connection. Entries that the failed one had committed are announced now.
    async fn reconnect(&mut self) -> Result<SqliteConnection, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        let meta = rows::read_meta(&mut connection).await?;
        if meta.epoch != self.meta.epoch || meta.last < self.meta.last {
            return Err(sqlx::Error::Protocol("the file was replaced while it was in use: restart the issuer".into()));
        }
        let entries = rows::entries(&mut connection, self.meta.last, u32::MAX).await?;
        let mut previous = self.meta.last;
        let pushed = entries.into_iter().map(|entry| {
            let before = std::mem::replace(&mut previous, entry.position);
            Pushed { epoch: meta.epoch.clone(), previous: before, entry }
        });
        let pushed = pushed.collect();
        let first = rows::first_position(&mut connection).await?;
        self.publish(meta, first, pushed);
        Ok(connection)
    }
}

/// Changes that are committed together.
struct Batch<'a> {
    connection: &'a mut SqliteConnection,
    meta: Meta,
    lifetimes: TokenLifetimes,
    sessions_max: u32,
    now_ms: u64,
    now: UnixTime,
    pushed: Vec<Pushed>,
}

impl Batch<'_> {
    async fn apply(&mut self, command: &Command) -> Result<Reply, sqlx::Error> {
        match command {
            Command::Create(new) => self.create(new).await,
            Command::Rotate(rotation) => self.rotate(rotation).await,
            Command::Examine(rotation) => self.examine(rotation).await.map(Reply::Examined),
            Command::End(ending) => self.end(ending).await.map(Reply::Ended),
            Command::RevokeUser(sub, sessions) => self.revoke_user(sub, *sessions).await,
            Command::RevokeAll => self.revoke_all().await,
            Command::Append(revocation) => self.append_given(revocation).await,
            Command::AppendUntilNow(target, slack) => self.append_until_now(target.clone(), *slack).await,
            Command::Probe => Ok(Reply::Done),
        }
    }

    async fn finish(&mut self) -> Result<bool, sqlx::Error> {
        rows::save_meta(self.connection, &self.meta).await?;
        if self.pushed.is_empty() {
            return Ok(false);
        }
        rows::trim(self.connection, self.now_ms.saturating_sub(self.lifetimes.retention() * 1000)).await
    }

    async fn create(&mut self, new: &NewSession) -> Result<Reply, sqlx::Error> {
        rows::sweep(self.connection, self.now).await?;
        let (_, tokens) = self.watermarks(&new.sub).await?;
        let Some(issued) = issue_at(self.now, tokens) else { return Ok(Reply::Ahead) };
        let most = self.sessions_max - 1;
        let surplus = rows::surplus(self.connection, &new.sub, self.now, most, DISPLACED_MAX).await?;
        for session in &surplus {
            self.end_session(session, UnixTime(0)).await?;
        }
        let session = Session::new(new, self.now, issued, &self.lifetimes);
        self.meta.peak = self.meta.peak.max(issued);
        rows::save_session(self.connection, &session).await?;
        let displaced = surplus.into_iter().map(|session| session.sid).collect();
        Ok(Reply::Created(Created { issued, displaced }))
    }

    async fn rotate(&mut self, rotation: &Rotation) -> Result<Reply, sqlx::Error> {
        let refused = |refusal| Ok(Reply::Rotated(Rotated::Refused(refusal)));
        let Some(mut session) = self.session_of(rotation).await? else { return refused(Refusal::Gone) };
        let (sessions, tokens) = self.watermarks(&session.sub).await?;
        let decision = decide(&session, rotation.presented, self.now, sessions, self.lifetimes.retry_window);
        let retried = match decision {
            Decision::Refuse(refusal) => return refused(refusal),
            Decision::Reuse => {
                let reuse = self.end_reused(&session, rotation.presented).await?;
                return Ok(Reply::Rotated(Rotated::Reused(reuse)));
            }
            Decision::Retry => true,
            Decision::Trade(generation) => {
                session.generation = generation;
                session.rotated = self.now;
                session.idle_ends = self.now.plus(self.lifetimes.idle_ttl);
                false
            }
        };
        let Some(issued) = issue_at(self.now, tokens) else { return Ok(Reply::Ahead) };
        session.refreshed = self.now;
        // If the clock went back, the record still has the time of the latest token.
        session.issued = session.issued.max(issued);
        session.exp_max = session.exp_max.max(issued.plus(self.lifetimes.access_ttl));
        self.meta.peak = self.meta.peak.max(issued);
        rows::save_session(self.connection, &session).await?;
        Ok(Reply::Rotated(Rotated::Traded { generation: session.generation, issued, retried }))
    }

    async fn examine(&mut self, rotation: &Rotation) -> Result<Standing, sqlx::Error> {
        let Some(session) = self.session_of(rotation).await? else { return Ok(Standing::Refused(Refusal::Gone)) };
        let (sessions, _) = self.watermarks(&session.sub).await?;
        match decide(&session, rotation.presented, self.now, sessions, self.lifetimes.retry_window) {
            Decision::Trade(_) | Decision::Retry => Ok(Standing::Current),
            Decision::Refuse(refusal) => Ok(Standing::Refused(refusal)),
            Decision::Reuse => Ok(Standing::Reused(self.end_reused(&session, rotation.presented).await?)),
        }
    }

    async fn session_of(&mut self, rotation: &Rotation) -> Result<Option<Session>, sqlx::Error> {
        let found = rows::session(self.connection, &rotation.sid).await?;
        Ok(found.filter(|session| session.sub == rotation.sub))
    }

    /// Ends a session after reuse of a refresh token.
    async fn end_reused(&mut self, session: &Session, presented: u32) -> Result<Reuse, sqlx::Error> {
        self.end_session(session, UnixTime(0)).await?;
        Ok(session.reuse_of(presented, self.now))
    }

    async fn end(&mut self, ending: &EndSession) -> Result<EndOutcome, sqlx::Error> {
        if let Some(session) = rows::session(self.connection, &ending.sid).await? {
            self.end_session(&session, ending.exp_seen).await?;
            return Ok(EndOutcome::Now);
        }
        if !ending.known {
            let target = Target::Session { sid: ending.sid.clone(), subject: ending.subject };
            self.append(target, self.now.plus(self.lifetimes.lifetime_max).max(ending.exp_seen)).await?;
        }
        Ok(EndOutcome::Before)
    }

    async fn end_session(&mut self, session: &Session, exp_seen: UnixTime) -> Result<(), sqlx::Error> {
        let target = Target::Session { sid: session.sid.clone(), subject: Some(SubjectTag::of(&session.sub)) };
        self.append(target, session.exp_max.max(exp_seen)).await?;
        rows::delete_session(self.connection, &session.sid).await
    }

    async fn revoke_user(&mut self, sub: &str, sessions: UserSessions) -> Result<Reply, sqlx::Error> {
        // The threshold covers the latest token of every session, even one ahead of the clock.
        let latest = rows::latest_issued(self.connection, sub).await?;
        let (ended_up_to, dead) = self.watermarks(sub).await?;
        let threshold = self.now.max(dead.unwrap_or_default()).max(latest);
        if self.is_too_far(threshold) {
            return Ok(Reply::Ahead);
        }
        self.append(Target::Subject { sub: sub.into(), threshold }, threshold.plus(self.lifetimes.lifetime_max))
            .await?;
        let kept_until = threshold.plus(self.lifetimes.watermark_ttl());
        rows::save_watermark(self.connection, sub, sessions, threshold, kept_until).await?;
        self.meta.peak = self.meta.peak.max(threshold);
        let mut sessions_ended = 0;
        if sessions == UserSessions::End {
            sessions_ended = rows::live(self.connection, sub, ended_up_to.unwrap_or_default(), self.now).await?;
            rows::delete_sessions_of(self.connection, sub).await?;
        }
        Ok(Reply::Revoked(SubjectRevoked { threshold, sessions_ended }))
    }

    async fn revoke_all(&mut self) -> Result<Reply, sqlx::Error> {
        let threshold = self.now.max(self.meta.all_dead).max(self.meta.peak);
        if self.is_too_far(threshold) {
            return Ok(Reply::Ahead);
        }
        self.append(Target::All { threshold }, threshold.plus(self.lifetimes.lifetime_max)).await?;
        self.meta.all_dead = threshold;
        self.meta.peak = threshold;
        Ok(Reply::Moment(threshold))
    }

    async fn append_given(&mut self, revocation: &Revocation) -> Result<Reply, sqlx::Error> {
        let last_exp = match revocation.expires_at {
            UnixTime(0) => self.now.plus(self.lifetimes.lifetime_max),
            given if given <= self.now => return Ok(Reply::Done),
            given => given.minus(REVOCATION_MARGIN_SECONDS),
        };
        match revocation.target {
            Target::Subject { threshold, .. } | Target::All { threshold } if self.is_too_far(threshold) => {
                Ok(Reply::Ahead)
            }
            _ => self.append(revocation.target.clone(), last_exp).await.map(|()| Reply::Done),
        }
    }

    async fn append_until_now(&mut self, target: Target, slack: u64) -> Result<Reply, sqlx::Error> {
        let target = target.with_threshold(self.now.plus(slack));
        self.append(target, self.now.plus(self.lifetimes.lifetime_max)).await.map(|()| Reply::Done)
    }

    fn is_too_far(&self, threshold: UnixTime) -> bool {
        threshold > self.now.plus(THRESHOLD_AHEAD_MAX_SECONDS)
    }

    /// Appends an entry that covers tokens up to `exp` = `last_exp`.
    async fn append(&mut self, target: Target, last_exp: UnixTime) -> Result<(), sqlx::Error> {
        let entry = Revocation { target, expires_at: last_exp.plus(REVOCATION_MARGIN_SECONDS) }.to_bytes();
        let previous = self.meta.last;
        let ms = self.now_ms.max(previous.ms);
        let sequence = if ms == previous.ms { previous.sequence + 1 } else { 0 };
        let position = Position { ms, sequence };
        rows::append(self.connection, position, &entry).await?;
        self.meta.last = position;
        let epoch = self.meta.epoch.clone();
        self.pushed.push(Pushed { epoch, previous, entry: LogEntry { position, entry } });
        Ok(())
    }

    /// For a user: the time up to which created sessions have ended, and the latest revoked `iat`;
    /// the user's own or the global one, whichever is later. `None` if there never was one.
    async fn watermarks(&mut self, sub: &str) -> Result<(Option<UnixTime>, Option<UnixTime>), sqlx::Error> {
        let own = rows::watermarks(self.connection, sub, self.now).await?;
        let all = (self.meta.all_dead > UnixTime(0)).then_some(self.meta.all_dead);
        let sessions = own.sessions.max(all);
        Ok((sessions, sessions.max(own.tokens)))
    }
}
