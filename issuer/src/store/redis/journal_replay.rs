//! What the journal is for: what was acknowledged before a restart, the list that the issuer's own routes judge by, and
//! since when a log built from it has everything.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use redis::RedisError;
use sidegate_common::revocation::Revocation;
use sidegate_common::revocation_state::Observer;
use sidegate_common::time::UnixTime;
use sidegate_runtime::clock::monotonic_ms;

use super::journal::{Journal, Proof};
use super::log_observer::LogHead;
use super::log_reader;
use super::replay::REPLAYED_AT_ONCE;
use super::replay_buffer::REMEMBERED;
use super::{RedisStore, Shared};
use crate::domain::traits::Store as _;

/// What was seen of a log, until the feed has brought all of it: its proof to be, and when it was seen.
pub(super) type Pending = HashMap<u16, (u64, Proof)>;

impl Shared {
    /// Takes from a journal what a restart forgot: which log it was, where it ended, and what was acknowledged recently.
    pub(super) fn remember(&self, journal: &Journal) -> io::Result<()> {
        let proofs = journal.proofs();
        for (partition, proof) in &proofs {
            let head = LogHead {
                epoch: Some(proof.epoch.clone()),
                last: proof.last,
                since: proof.since,
                now: proof.now,
                replid: proof.replid.clone(),
            };
            self.log_observer.remember(*partition, head);
        }
        journal.each(|entry, own| {
            let proven = proofs.get(&entry.partition).map_or(0, |proof| proof.now.0);
            let recent = proven.saturating_sub(REMEMBERED.as_secs());
            if own && entry.position.is_none_or(|position| position.ms / 1000 >= recent) {
                let asked = self.replay_buffer.ask(entry.partition);
                self.replay_buffer.acknowledged(entry, asked);
            }
        })
    }
}

impl RedisStore {
    /// Visits every revocation in the journal, where there is one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn recall(&self, mut visit: impl FnMut(u16, &Revocation) + Send + 'static) -> io::Result<()> {
        let Some(journal) = self.shared.journal.as_ref().map(Arc::clone) else { return Ok(()) };
        let reading =
            tokio::task::spawn_blocking(move || journal.each(|entry, _| visit(entry.partition, &entry.revocation)));
        reading.await.map_err(io::Error::other)?
    }

    /// What is to hear of revocations that the feed brings: the journal, where there is one.
    pub fn observer(&self) -> Option<Arc<dyn Observer>> {
        self.shared.journal.clone().map(|journal| journal as Arc<dyn Observer>)
    }

    /// Puts the whole journal into the log, where there is one; gives how much was missing, and since when the log has
    /// everything now, if the journal can say that at `now`. Only on the server with this replication id.
    pub(super) async fn replay_journal(
        &self,
        partition: u16,
        replid: &str,
        now: UnixTime,
    ) -> Result<(u64, Option<UnixTime>), RedisError> {
        let Some(journal) = &self.shared.journal else { return Ok((0, None)) };
        let mut since = journal.complete_since(partition, now);
        let contents = log_reader::read(&self.shared.link, &self.keys(partition).log(), HashSet::new()).await?;
        let (mut appended, mut chunks) = (0, journal.replay_entries(partition, REPLAYED_AT_ONCE));
        while let Some(chunk) = chunks.recv().await {
            match chunk {
                Ok(entries) => {
                    let missing = entries.iter().filter(|entry| !contents.has(entry));
                    let replayed = self.replay_at_once(partition, replid, missing).await?;
                    appended += replayed.positions.iter().flatten().count() as u64;
                }
                Err(error) => {
                    tracing::error!(%error, "the journal cannot be read");
                    since = None;
                }
            }
        }
        self.shared.counts.replayed.inc_by(appended);
        Ok((appended, since))
    }

    /// Notes in the journal that it has everything, once the feed has been proven to have brought what a look saw.
    pub(super) async fn prove(&self, pending: &mut Pending, proven_ms: Option<u64>) {
        let Some(journal) = &self.shared.journal else { return };
        for partition in 0..self.partitions() {
            if let Some((seen_ms, _)) = pending.get(&partition) {
                if proven_ms.is_some_and(|proven| proven >= *seen_ms)
                    && let Some((_, proof)) = pending.remove(&partition)
                {
                    journal.proven(partition, proof).await;
                }
            } else if let Some((head, ago)) = self.shared.log_observer.last(partition)
                && let Some(epoch) = head.epoch
            {
                let proof = Proof { epoch, replid: head.replid, last: head.last, since: head.since, now: head.now };
                let seen_ms = monotonic_ms().saturating_sub(ago.as_millis() as u64);
                pending.insert(partition, (seen_ms, proof));
            }
        }
    }
}
