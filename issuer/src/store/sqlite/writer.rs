//! The one task that changes the embedded store: it commits what has queued up together, then answers.

use std::sync::Arc;

use sidegate_common::revocation::{Revocation, SubjectTag, Target};
use sidegate_common::time::{REVOCATION_MARGIN_SECONDS, UnixTime};
use sidegate_common::wire::Position;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::feed::{Feed, LogEntry, Pushed};
use super::rows::{self, Meta};
use super::{ClockMs, close, unavailable};
use crate::domain::ports::Unavailable;
use crate::domain::session::{
    Decision, Ended, Ending, NewSession, Refusal, Rotated, Rotation, Session, Terms, decide, issue_at,
};

/// How many changes share one commit.
const BATCH_MAX: usize = 64;

/// A change asked for.
pub(super) enum Command {
    Create(NewSession),
    Rotate(Rotation),
    End(Ending),
    RevokeSubject(String),
    RevokeAll,
    Append(Revocation),
    Probe,
}

/// What became of it.
pub(super) enum Reply {
    Moment(UnixTime),
    Rotated(Rotated),
    Ended(Ended),
    Done,
    /// The last dead moment lies too far in the future for a token to be issued.
    Ahead,
}

/// A change and who waits for it.
pub(super) struct Job {
    pub(super) command: Command,
    pub(super) answer: oneshot::Sender<Result<Reply, Unavailable>>,
}

/// The owner of the connection that writes.
pub(super) struct Writer {
    connection: SqliteConnection,
    meta: Meta,
    first: Option<Position>,
    terms: Terms,
    clock: ClockMs,
    feed: Arc<Feed>,
}

impl Writer {
    pub(super) fn new(connection: SqliteConnection, meta: Meta, terms: Terms, clock: ClockMs, feed: Arc<Feed>) -> Self {
        let first = feed.head().first;
        Self { connection, meta, first, terms, clock, feed }
    }

    /// Works until the last asker is gone.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::with_capacity(BATCH_MAX);
        while queue.recv_many(&mut jobs, BATCH_MAX).await > 0 {
            let (commands, answers): (Vec<_>, Vec<_>) = jobs.drain(..).map(|job| (job.command, job.answer)).unzip();
            match self.commit(&commands).await {
                Ok(replies) => {
                    for (answer, reply) in answers.into_iter().zip(replies) {
                        // The asker may be gone; the change stands.
                        let _gone = answer.send(Ok(reply));
                    }
                }
                Err(error) => {
                    let error = unavailable(error);
                    for answer in answers {
                        let _gone = answer.send(Err(error.clone()));
                    }
                }
            }
        }
        close(self.connection).await;
    }

    async fn commit(&mut self, commands: &[Command]) -> Result<Vec<Reply>, sqlx::Error> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let now_ms = (self.clock)();
        let mut batch = Batch {
            connection: &mut transaction,
            meta: self.meta.clone(),
            terms: self.terms,
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
        self.meta = meta;
        self.first = first;
        self.feed.publish(self.meta.head(first), pushed);
        Ok(replies)
    }
}

/// Changes that will be committed together.
struct Batch<'a> {
    connection: &'a mut SqliteConnection,
    meta: Meta,
    terms: Terms,
    now_ms: u64,
    now: UnixTime,
    pushed: Vec<Pushed>,
}

impl Batch<'_> {
    async fn apply(&mut self, command: &Command) -> Result<Reply, sqlx::Error> {
        match command {
            Command::Create(new) => self.create(new).await,
            Command::Rotate(rotation) => self.rotate(rotation).await,
            Command::End(ending) => self.end(ending).await.map(Reply::Ended),
            Command::RevokeSubject(sub) => self.revoke_subject(sub).await.map(Reply::Moment),
            Command::RevokeAll => self.revoke_all().await.map(Reply::Moment),
            Command::Append(revocation) => self.append_given(revocation).await.map(|()| Reply::Done),
            Command::Probe => Ok(Reply::Done),
        }
    }

    async fn finish(&mut self) -> Result<bool, sqlx::Error> {
        rows::save_meta(self.connection, &self.meta).await?;
        if self.pushed.is_empty() {
            return Ok(false);
        }
        rows::trim(self.connection, self.now_ms.saturating_sub(self.terms.retention() * 1000)).await
    }

    async fn create(&mut self, new: &NewSession) -> Result<Reply, sqlx::Error> {
        rows::sweep(self.connection, self.now).await?;
        let Some(issued) = issue_at(self.now, self.watermark(&new.sub).await?) else { return Ok(Reply::Ahead) };
        let session = Session::new(new, self.now, issued, &self.terms);
        self.meta.peak = self.meta.peak.max(issued);
        rows::save_session(self.connection, &session).await?;
        Ok(Reply::Moment(issued))
    }

    async fn rotate(&mut self, rotation: &Rotation) -> Result<Reply, sqlx::Error> {
        let refused = |refusal| Ok(Reply::Rotated(Rotated::Refused(refusal)));
        let found = rows::session(self.connection, &rotation.sid).await?;
        let Some(mut session) = found.filter(|session| session.sub == rotation.sub) else {
            return refused(Refusal::Gone);
        };
        let watermark = self.watermark(&session.sub).await?;
        let decision = decide(&session, rotation.presented, self.now, watermark, self.terms.retry_window);
        let retried = match decision {
            Decision::Refuse(refusal) => return refused(refusal),
            Decision::Reuse => return self.end_reused(&session, rotation.presented).await.map(Reply::Rotated),
            Decision::Retry => true,
            Decision::Trade(generation) => {
                session.generation = generation;
                session.rotated = self.now;
                session.idle_ends = self.now.plus(self.terms.idle_ttl);
                false
            }
        };
        let Some(issued) = issue_at(self.now, watermark) else { return Ok(Reply::Ahead) };
        session.refreshed = self.now;
        // Should the clock ever go back, the record still names the latest token there is.
        session.issued = session.issued.max(issued);
        session.exp_max = session.exp_max.max(issued.plus(self.terms.access_ttl));
        self.meta.peak = self.meta.peak.max(issued);
        rows::save_session(self.connection, &session).await?;
        Ok(Reply::Rotated(Rotated::Traded { generation: session.generation, issued, retried }))
    }

    async fn end_reused(&mut self, session: &Session, presented: u32) -> Result<Rotated, sqlx::Error> {
        self.end_session(session, UnixTime(0)).await?;
        Ok(Rotated::Reused {
            generations_old: session.generation.saturating_sub(presented),
            rotated_ago: self.now.0.saturating_sub(session.rotated.0),
        })
    }

    async fn end(&mut self, ending: &Ending) -> Result<Ended, sqlx::Error> {
        if let Some(session) = rows::session(self.connection, &ending.sid).await? {
            self.end_session(&session, ending.exp_seen).await?;
            return Ok(Ended::Now);
        }
        if !ending.known {
            let target = Target::Session { sid: ending.sid.clone(), subject: ending.subject };
            self.append(target, self.now.plus(self.terms.lifetime_max).max(ending.exp_seen)).await?;
        }
        Ok(Ended::Before)
    }

    async fn end_session(&mut self, session: &Session, exp_seen: UnixTime) -> Result<(), sqlx::Error> {
        let target = Target::Session { sid: session.sid.clone(), subject: Some(SubjectTag::of(&session.sub)) };
        self.append(target, session.exp_max.max(exp_seen)).await?;
        rows::delete_session(self.connection, &session.sid).await
    }

    async fn revoke_subject(&mut self, sub: &str) -> Result<UnixTime, sqlx::Error> {
        // It reaches the latest token of every session there is, also one that is ahead of the clock.
        let latest = rows::latest_issued(self.connection, sub).await?;
        let threshold = self.now.max(self.watermark(sub).await?.unwrap_or_default()).max(latest);
        self.append(Target::Subject { sub: sub.into(), threshold }, threshold.plus(self.terms.lifetime_max)).await?;
        let kept_until = threshold.plus(self.terms.watermark_ttl());
        rows::save_watermark(self.connection, sub, threshold, kept_until).await?;
        rows::delete_sessions_of(self.connection, sub).await?;
        self.meta.peak = self.meta.peak.max(threshold);
        Ok(threshold)
    }

    async fn revoke_all(&mut self) -> Result<UnixTime, sqlx::Error> {
        let threshold = self.now.max(self.meta.all_dead).max(self.meta.peak);
        self.append(Target::All { threshold }, threshold.plus(self.terms.lifetime_max)).await?;
        self.meta.all_dead = threshold;
        self.meta.peak = threshold;
        Ok(threshold)
    }

    async fn append_given(&mut self, revocation: &Revocation) -> Result<(), sqlx::Error> {
        let last_exp = match revocation.expires_at {
            UnixTime(0) => self.now.plus(self.terms.lifetime_max),
            given if given <= self.now => return Ok(()),
            given => given.minus(REVOCATION_MARGIN_SECONDS),
        };
        self.append(revocation.target.clone(), last_exp).await
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

    /// The last dead `iat` for a user: the user's own, or everybody's; none if nothing was ever killed.
    async fn watermark(&mut self, sub: &str) -> Result<Option<UnixTime>, sqlx::Error> {
        let own = rows::watermark(self.connection, sub, self.now).await?;
        let all = (self.meta.all_dead > UnixTime(0)).then_some(self.meta.all_dead);
        Ok(own.max(all))
    }
}
