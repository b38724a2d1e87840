//! Puts back into a log what it lacks of that which this issuer acknowledged, and of that which its feed brought.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use sidegate_common::log_protocol::Position;
use sidegate_common::revocation::{Revocation, SubjectTag, Target};
use sidegate_common::revocation_state::RevocationState;
use sidegate_common::sync::Lineage;
use sidegate_common::time::UnixTime;
use sidegate_runtime::clock::reading;
use sidegate_runtime::feed::backoff::random;
use sidegate_runtime::feed::status::Status;
use tokio::time::{Instant, sleep};

use super::RedisStore;
use super::log_reader::{self, LogContents};
use super::replay_entry::ReplayEntry;
use super::scripts::{Call, Script};

/// How many revocations one script puts back: about a millisecond, so that other clients are not held up.
pub(super) const REPLAYED_AT_ONCE: usize = 200;
/// How long the feed may take to follow the log that is to be completed.
const FEED_TIMEOUT: Duration = Duration::from_secs(2);
const FEED_LOOK: Duration = Duration::from_millis(10);

/// The issuer's own feed, as a replay needs it.
#[derive(Clone)]
pub struct OwnFeed {
    /// Every revocation that it has brought and that has not expired.
    pub state: Arc<RevocationState>,
    /// Which log it follows.
    pub status: Arc<Status>,
}

impl OwnFeed {
    /// True while it follows another log than this one: something that was pushed there may still be on its way.
    fn follows_another(&self, partition: u16, lineage: &Lineage) -> bool {
        self.status.partition(partition).and_then(|status| status.lineage).is_some_and(|followed| followed != *lineage)
    }

    /// As of when it has brought everything that the log had; none if never.
    pub(super) fn proven(&self, partition: u16) -> Option<std::time::Instant> {
        let age_ms = self.status.partition(partition)?.fresh_age_ms(reading())?;
        std::time::Instant::now().checked_sub(Duration::from_millis(age_ms))
    }

    fn is_empty(&self, partition: u16) -> bool {
        let index = self.state.index();
        index.is_empty() && index.marks(partition).0 == UnixTime(0)
    }

    /// What it has brought of a partition that `contents` lacks.
    fn missing(&self, partition: u16, contents: &LogContents) -> Vec<Revocation> {
        let (index, mut missing) = (self.state.index(), Vec::new());
        let partitions = index.partitions();
        let is_of = |subject: &Option<SubjectTag>| subject.is_none_or(|tag| tag.partition(partitions) == partition);
        index.each_to_replay(partition, |revocation| {
            let ours = match &revocation.target {
                Target::Token { subject, .. } | Target::Session { subject, .. } => is_of(subject),
                Target::Subject { sub, .. } => SubjectTag::of(sub).partition(partitions) == partition,
                Target::ForeignSubject { subject, .. } => {
                    SubjectTag::of_foreign(subject).partition(partitions) == partition
                }
                Target::All { .. } | Target::Key { .. } | Target::Claim { .. } => true,
            };
            if ours && !contents.covers(&revocation) {
                missing.push(revocation);
            }
        });
        missing
    }
}

/// What became of revocations that were put into a log.
pub(super) struct Replayed {
    /// Where each was appended; none if it has expired.
    pub(super) positions: Vec<Option<Position>>,
    /// The data set is lost: what was appended is seen once it has been made anew.
    pub(super) lost: bool,
}

impl RedisStore {
    /// Puts back whatever the log lacks; says how much that was. `lineage` is the log, as a heartbeat has just seen it:
    /// where another one takes its place meanwhile this fails, and has to be done again.
    pub(super) async fn replay(&self, partition: u16, lineage: &Lineage) -> Result<u64, RedisError> {
        if let Some(feed) = self.shared.feed.get() {
            let limit = Instant::now() + FEED_TIMEOUT;
            while feed.follows_another(partition, lineage) && Instant::now() < limit {
                sleep(FEED_LOOK).await;
            }
        }
        // Issuers that do not begin in step find what the first one has put back.
        sleep(self.shared.pace.spread.mul_f64(random())).await;
        self.put_back_missing(partition, &lineage.replication_id).await
    }

    /// Puts back what the log on the server with this replication id lacks, whether its data set is whole or not.
    pub(super) async fn put_back_missing(&self, partition: u16, replid: &str) -> Result<u64, RedisError> {
        let (own, feed) = (self.shared.replay_buffer.recent(partition), self.shared.feed.get().cloned());
        if own.is_empty() && feed.as_ref().is_none_or(|feed| feed.is_empty(partition)) {
            return Ok(0);
        }
        let asked: HashSet<Position> = own.iter().filter_map(|(_, entry)| entry.position).collect();
        let mut contents = log_reader::read(&self.shared.link, &self.keys(partition).log(), asked).await?;
        let mut appended = 0;
        let missing: Vec<&(u64, ReplayEntry)> = own.iter().filter(|(_, entry)| !contents.has(entry)).collect();
        for chunk in missing.chunks(REPLAYED_AT_ONCE) {
            let replayed = self.replay_at_once(partition, replid, chunk.iter().map(|(_, entry)| entry)).await?;
            for ((turn, entry), position) in chunk.iter().zip(replayed.positions) {
                let Some(position) = position else { continue };
                self.shared.replay_buffer.moved(*turn, position);
                contents.add(None, &entry.revocation);
                appended += 1;
            }
        }
        if let Some(feed) = feed {
            let head = move || feed.missing(partition, &contents);
            let missing = tokio::task::spawn_blocking(head).await.unwrap_or_default();
            appended += self.replay_received(partition, replid, missing).await?;
        }
        self.shared.counts.replayed.inc_by(appended);
        Ok(appended)
    }

    async fn replay_received(&self, partition: u16, replid: &str, missing: Vec<Revocation>) -> Result<u64, RedisError> {
        let mut appended = 0;
        for chunk in missing.chunks(REPLAYED_AT_ONCE) {
            let entries: Vec<_> =
                chunk.iter().map(|revocation| ReplayEntry::received(partition, revocation.clone())).collect();
            let replayed = self.replay_at_once(partition, replid, entries.iter()).await?;
            appended += replayed.positions.iter().flatten().count() as u64;
        }
        Ok(appended)
    }

    /// Puts these into the log of the server with this replication id, with the ends of sessions and the watermarks that
    /// go with them.
    pub(super) async fn replay_at_once(
        &self,
        partition: u16,
        replid: &str,
        entries: impl Iterator<Item = &ReplayEntry>,
    ) -> Result<Replayed, RedisError> {
        let (keys, terms) = (self.keys(partition), &self.shared.terms);
        let call = self.call(Script::Replay, keys).expecting(self.shared.issuers.name(), replid);
        let call = call.arg(keys.session("")).arg(keys.user("")).arg(keys.watermark(""));
        let call = call.arg(keys.token_watermark("")).arg(terms.lifetime_max).arg(terms.watermark_ttl());
        let call = entries.flat_map(ReplayEntry::arguments).fold(call, Call::arg);
        let (lost, odd, positions): (u8, u64, Vec<String>) = call.run(&self.shared.link).await?;
        if odd > 0 {
            tracing::error!(partition, odd, "records in Redis have an unexpected type and were left alone");
        }
        let positions = positions.iter().map(|position| Position::parse(position)).collect();
        Ok(Replayed { positions, lost: lost == 1 })
    }
}
