//! Which log each partition has, whether this issuer has put back into it what it holds, and whether all issuers have.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sidegate_common::sync::Lineage;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

/// What is known of a partition's log.
#[derive(Default)]
struct State {
    /// The log as of the last heartbeat.
    seen: Option<Lineage>,
    /// The log into which this issuer last put back everything that it holds.
    replayed: Option<Lineage>,
    /// A log was seen settled since this issuer started.
    begun: bool,
}

struct Partition {
    state: Mutex<State>,
    /// The replication id under which the log was last seen settled; none while it is not.
    settled: watch::Sender<Option<Box<str>>>,
    /// One at a time makes a lost data set anew, or puts back what is missing.
    reconciling: tokio::sync::Mutex<()>,
}

/// The logs of all partitions.
pub(super) struct Lineages {
    partitions: Vec<Partition>,
    wake: Notify,
}

impl Lineages {
    pub(super) fn new(partitions: usize) -> Self {
        let partition = |_| Partition {
            state: Mutex::default(),
            settled: watch::Sender::new(None),
            reconciling: tokio::sync::Mutex::new(()),
        };
        Self { partitions: (0..partitions.max(1)).map(partition).collect(), wake: Notify::new() }
    }

    /// Held by whoever changes what a partition's log has.
    pub(super) async fn reconciling(&self, partition: u16) -> tokio::sync::MutexGuard<'_, ()> {
        self.of(partition).reconciling.lock().await
    }

    /// Takes what a heartbeat saw; true if it is another log than the one before, which is not settled then.
    pub(super) fn see(&self, partition: u16, lineage: &Lineage) -> bool {
        let mut state = self.locked(partition);
        let other = state.seen.as_ref() != Some(lineage);
        if other {
            state.seen = Some(lineage.clone());
            self.of(partition).settled.send_replace(None);
        }
        other
    }

    /// The log as of the last heartbeat.
    pub(super) fn seen(&self, partition: u16) -> Option<Lineage> {
        self.locked(partition).seen.clone()
    }

    /// The log into which this issuer last put back everything that it holds.
    pub(super) fn replayed(&self, partition: u16) -> Option<Lineage> {
        self.locked(partition).replayed.clone()
    }

    pub(super) fn set_replayed(&self, partition: u16, lineage: Lineage) {
        self.locked(partition).replayed = Some(lineage);
    }

    /// Every listed issuer has put back what it holds into the log of this replication id, or (none) not yet.
    pub(super) fn set_settled(&self, partition: u16, replid: Option<&str>) {
        let settled = replid.map(Box::from);
        self.locked(partition).begun |= settled.is_some();
        self.of(partition).settled.send_if_modified(|held| {
            let other = *held != settled;
            *held = settled;
            other
        });
    }

    /// A script says that the log is not settled under this replication id (any more).
    pub(super) fn unsettle(&self, partition: u16, replid: &str) {
        let is_it = |held: &mut Option<Box<str>>| held.take_if(|held| **held == *replid).is_some();
        self.of(partition).settled.send_if_modified(is_it);
        self.wake();
    }

    /// True while every listed issuer has put back what it holds.
    pub(super) fn is_settled(&self, partition: u16) -> bool {
        self.of(partition).settled.borrow().is_some()
    }

    /// True once every partition's log has been seen settled, and logins could begin.
    pub(super) fn have_begun(&self) -> bool {
        (0..).zip(&self.partitions).all(|(partition, _)| self.locked(partition).begun)
    }

    /// How many partitions' logs are not settled.
    pub(super) fn unsettled(&self) -> usize {
        self.partitions.iter().filter(|partition| partition.settled.borrow().is_none()).count()
    }

    /// Waits until the partition's log is settled; the replication id under which it is, none if it is not by `limit`.
    pub(super) async fn until_settled(&self, partition: u16, limit: Instant) -> Option<Box<str>> {
        let mut settled = self.of(partition).settled.subscribe();
        if settled.borrow().is_none() {
            self.wake();
        }
        let found = timeout_at(limit, settled.wait_for(Option::is_some)).await.ok()?;
        found.ok()?.clone()
    }

    /// Asks for a heartbeat at once: something looks as if the server had changed.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Returns once a heartbeat is asked for.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    fn of(&self, partition: u16) -> &Partition {
        self.partitions.get(usize::from(partition)).unwrap_or(&self.partitions[0])
    }

    fn locked(&self, partition: u16) -> MutexGuard<'_, State> {
        self.of(partition).state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn lineage(epoch: &str, replication_id: &str) -> Lineage {
        Lineage { epoch: epoch.into(), replication_id: replication_id.into() }
    }

    #[tokio::test]
    async fn another_log_is_not_settled_until_a_heartbeat_says_so() {
        let lineages = Lineages::new(1);
        assert!(lineages.see(0, &lineage("e", "r")) && !lineages.see(0, &lineage("e", "r")));
        assert_eq!(lineages.until_settled(0, Instant::now() + Duration::from_millis(1)).await, None);
        assert!(!lineages.have_begun());
        lineages.set_settled(0, Some("r"));
        assert_eq!(lineages.until_settled(0, Instant::now()).await.as_deref(), Some("r"));
        lineages.unsettle(0, "q");
        assert_eq!(lineages.unsettled(), 0, "it speaks of a log that was there before");
        assert!(lineages.see(0, &lineage("e", "s")));
        assert!(lineages.unsettled() == 1 && lineages.have_begun());
    }
}
