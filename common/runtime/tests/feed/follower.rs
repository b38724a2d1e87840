//! A follower under test: the driver over some source, with a list that the test can inspect.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sidegate_common::revocation::{Id, Revocation, Target};
use sidegate_common::sync::{Checkpoint, Push, Sink};
use sidegate_common::time::{ClockReading, UnixTime};
use sidegate_runtime::feed::Source;
use sidegate_runtime::feed::driver::{self, Intervals};
use sidegate_runtime::feed::status::{PartitionStatus, Status};
use tokio::sync::watch;

/// The timeout of every wait.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// A minimal list of revocations.
#[derive(Default)]
pub struct TestSink {
    state: Mutex<Held>,
}

#[derive(Default, Clone)]
pub struct Held {
    pub tokens: HashSet<(u16, String)>,
    pub since: Vec<(u16, UnixTime)>,
    pub fresh: Vec<(u16, ClockReading)>,
}

impl TestSink {
    pub fn held(&self) -> Held {
        self.state.lock().unwrap().clone()
    }
}

impl Sink for TestSink {
    fn apply(&self, partition: u16, revocation: &Revocation) -> bool {
        let Target::Token { jti, .. } = &revocation.target else { panic!("tests revoke tokens") };
        self.state.lock().unwrap().tokens.insert((partition, jti.to_string()))
    }

    fn push(&self, partition: u16, push: &Push) -> bool {
        self.apply(partition, &push.1)
    }

    fn confirm(&self, partition: u16, pushes: &[Push]) {
        assert!(pushes.iter().all(|(_, revocation)| !self.apply(partition, revocation)), "pushed before");
    }

    fn keep(&self, partition: u16, pushes: &[Push]) {
        self.confirm(partition, pushes);
    }

    fn drop_pushes(&self, partition: u16, pushes: &[Push]) {
        let mut state = self.state.lock().unwrap();
        for (_, revocation) in pushes {
            let Target::Token { jti, .. } = &revocation.target else { panic!("tests revoke tokens") };
            state.tokens.remove(&(partition, jti.to_string()));
        }
    }

    fn since(&self, partition: u16, moment: UnixTime) {
        self.state.lock().unwrap().since.push((partition, moment));
    }

    fn time(&self, _: UnixTime, _: ClockReading) -> u64 {
        0
    }

    fn fresh(&self, partition: u16, as_of: ClockReading, _: u64) {
        self.state.lock().unwrap().fresh.push((partition, as_of));
    }
}

/// The entry that revokes token `name`.
pub fn entry(name: &str) -> Vec<u8> {
    let target = Target::Token { jti: Id::parse(name).unwrap(), subject: None };
    Revocation { target, expires_at: UnixTime(4_000_000_000) }.to_bytes()
}

pub struct Follower {
    pub list: Arc<TestSink>,
    pub status: Arc<Status>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Follower {
    pub fn start<S: Source>(source: S) -> Self {
        Self::resume(source, Vec::new())
    }

    pub fn resume<S: Source>(source: S, kept: Vec<Checkpoint>) -> Self {
        let (list, status) = (Arc::new(TestSink::default()), Arc::new(Status::default()));
        let (stop, mut stopped) = watch::channel(false);
        let pace = Intervals::every(Duration::from_millis(50));
        let (sink, watched) = (Arc::clone(&list), Arc::clone(&status));
        let task = tokio::spawn(async move {
            if let Some(partitions) = driver::partitions(&source, &pace, &watched, &mut stopped).await {
                driver::follow(Arc::new(source), partitions, kept, sink, pace, watched, stopped).await;
            }
        });
        Self { list, status, stop, task }
    }

    pub fn partition(&self, partition: usize) -> PartitionStatus {
        self.status.partitions()[partition].clone()
    }

    pub fn holds(&self, partition: u16, name: &str) -> bool {
        self.list.state.lock().unwrap().tokens.contains(&(partition, name.to_owned()))
    }

    /// The number of proofs.
    pub fn proofs(&self) -> usize {
        self.list.state.lock().unwrap().fresh.len()
    }

    /// Waits until `reached`.
    pub async fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !reached(self) {
            let partitions = self.status.partitions();
            assert!(started.elapsed() < TIMEOUT, "never: {what}; {:?} {partitions:#?}", self.status.last_error());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits for a proof by a probe sent from now on.
    pub async fn proven_anew(&self) {
        let now = sidegate_runtime::clock::monotonic_ms();
        self.until("proven anew", |follower| {
            let partitions = follower.status.partitions();
            !partitions.is_empty()
                && partitions.iter().all(|status| status.fresh_as_of.is_some_and(|at| at.monotonic_ms > now))
        })
        .await;
    }

    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}
