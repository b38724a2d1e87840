//! Runs one state machine per partition over a source: turns messages into events, executes the
//! actions, and reconnects for ever.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sidegate_common::sync::{Action, Checkpoint, Event, Machine, Sink, Timing};
use sidegate_common::time::ClockReading;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::backoff::{Backoff, random};
use super::status::Status;
use super::{FeedError, Link, Source};
use crate::program::stopped;

/// The timing of a feed.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// The machines' timeouts.
    pub timing: Timing,
    /// The timeout for connecting and subscribing.
    pub connect_timeout: Duration,
    /// The first wait after a failure.
    pub backoff_first: Duration,
    /// The longest wait after failures.
    pub backoff_most: Duration,
    /// Reads both clocks.
    pub clock: fn() -> ClockReading,
}

impl Intervals {
    /// The default intervals, with a probe every `probe_interval`, varied by a tenth so that
    /// verifiers do not probe in step.
    pub fn every(probe_interval: Duration) -> Self {
        let varied = probe_interval.mul_f64(0.9 + 0.2 * random());
        let probe_interval_ms = (varied.as_millis() as u64).max(1);
        // A user of the list sets the wait for a replay: `waiting_for_replay`.
        let timing = Timing { probe_interval_ms, replay_wait_ms: 0, replay_wait_running_ms: 0, ..Timing::default() };
        Self {
            timing,
            connect_timeout: Duration::from_secs(3),
            backoff_first: Duration::from_millis(50),
            // An attempt may hang for as long again; together they must stay within two seconds.
            backoff_most: Duration::from_secs(1),
            clock: crate::clock::reading,
        }
    }

    /// Sets how long to wait for a log whose replay is not marked as done: `wait` at first sight of
    /// any log; a list that was proven before may wait longer, within `staleness_max`.
    pub fn waiting_for_replay(mut self, wait: Duration, staleness_max: Duration) -> Self {
        self.timing.replay_wait_ms = wait.as_millis() as u64;
        let running = if wait.is_zero() { wait } else { wait.max(staleness_max / 2) };
        self.timing.replay_wait_running_ms = running.as_millis() as u64;
        self
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(self.backoff_first, self.backoff_most)
    }
}

/// Asks for the data set's number of partitions until an answer comes; `None` if stopped first.
pub async fn partitions<S: Source>(
    source: &S,
    pace: &Intervals,
    status: &Status,
    stop: &mut watch::Receiver<bool>,
) -> Option<u16> {
    let mut backoff = pace.backoff();
    loop {
        let asked = tokio::select! {
            asked = timeout(pace.connect_timeout, source.partitions()) => asked,
            () = stopped(stop) => return None,
        };
        let error = match asked {
            Ok(Ok(partitions)) => {
                status.begin(partitions);
                return Some(partitions);
            }
            Ok(Err(error)) => error,
            Err(_) => FeedError::Unreachable("no answer in time".to_owned()),
        };
        if status.last_error().as_deref() != Some(&error.to_string()) {
            tracing::warn!(error = %error, "waiting for the revocation log");
        }
        status.searching(Some(error.to_string()));
        tokio::select! {
            () = sleep(backoff.wait()) => {}
            () = stopped(stop) => return None,
        }
    }
}

/// Follows the log until `stop`. `kept` has a snapshot's checkpoint for each partition, or is
/// empty.
pub async fn follow<S: Source, K: Sink>(
    source: Arc<S>,
    partitions: u16,
    kept: Vec<Checkpoint>,
    sink: Arc<K>,
    pace: Intervals,
    status: Arc<Status>,
    stop: watch::Receiver<bool>,
) {
    status.begin(partitions);
    let mut kept: Vec<_> = kept.into_iter().map(Some).collect();
    kept.resize(usize::from(partitions), None);
    let mut tasks = tokio::task::JoinSet::new();
    for group in source.groups(partitions) {
        let machines =
            group.iter().map(|partition| match kept.get_mut(usize::from(*partition)).and_then(Option::take) {
                Some(checkpoint) => Machine::resume(pace.timing, partitions, checkpoint),
                None => Machine::new(pace.timing, partitions),
            });
        let machines: Vec<_> = machines.collect();
        let follower = Follower {
            source: Arc::clone(&source),
            sink: Arc::clone(&sink),
            status: Arc::clone(&status),
            backoff: pace.backoff(),
            pace,
            group,
            lowered: vec![0; machines.len()],
            machines,
            logged: None,
        };
        tasks.spawn(follower.run(stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "revocation log task failed; restart this program");
        }
    }
}

/// Follows the partitions that share a connection.
struct Follower<S, K> {
    source: Arc<S>,
    sink: Arc<K>,
    status: Arc<Status>,
    pace: Intervals,
    backoff: Backoff,
    group: Vec<u16>,
    machines: Vec<Machine>,
    /// The kind of failure logged since the last proof: an outage gives one line, not one per
    /// attempt.
    logged: Option<std::mem::Discriminant<FeedError>>,
    /// For each machine, the last result of [`Sink::time`].
    lowered: Vec<u64>,
}

/// Why a connection is closed without a stop.
const UNPROVEN: &str = "closed by this program, as nothing on it proved the list complete";

impl<S: Source, K: Sink> Follower<S, K> {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut first = true;
        loop {
            let error = tokio::select! {
                error = self.session(first) => error,
                () = stopped(&mut stop) => return,
            };
            first = false;
            self.disconnected(&error);
            tokio::select! {
                () = sleep(self.backoff.wait()) => {}
                () = stopped(&mut stop) => return,
            }
        }
    }

    /// Runs one connection from start to end; returns why it ended.
    async fn session(&mut self, first: bool) -> FeedError {
        let connecting = timeout(self.pace.connect_timeout, self.source.connect(&self.group));
        let mut link = match connecting.await {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => return error,
            Err(_) => return FeedError::Unreachable("no connection in time".to_owned()),
        };
        for (index, partition) in self.group.clone().into_iter().enumerate() {
            self.status.connected(partition, first);
            if let Err(error) = self.step(index, Event::Subscribed, &mut link) {
                return error;
            }
        }
        loop {
            let wake = self.wake();
            let stepped = tokio::select! {
                next = link.next() => match next {
                    Ok((partition, event)) => match self.group.iter().position(|ours| *ours == partition) {
                        Some(index) => self.step(index, event, &mut link),
                        None => Ok(()),
                    },
                    Err(error) => Err(error),
                },
                () = sleep(wake) => self.tick(&mut link),
            };
            if let Err(error) = stepped {
                return error;
            }
        }
    }

    fn wake(&self) -> Duration {
        let earliest = self.machines.iter().filter_map(Machine::wake_ms).min().unwrap_or(u64::MAX);
        Duration::from_millis(earliest.saturating_sub((self.pace.clock)().monotonic_ms).min(60_000))
    }

    fn tick(&mut self, link: &mut S::Link) -> Result<(), FeedError> {
        (0..self.machines.len()).try_for_each(|index| self.step(index, Event::Tick, link))
    }

    fn step(&mut self, index: usize, event: Event, link: &mut S::Link) -> Result<(), FeedError> {
        let (partition, machine) = (self.group[index], &mut self.machines[index]);
        let mut proven = false;
        let mut actions = VecDeque::from(machine.on(event, (self.pace.clock)()));
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Probe { token } => link.probe(partition, token),
                Action::Read { request, from } => link.read(partition, request, from),
                Action::Apply { position, revocation } => {
                    let new = self.sink.push(partition, &(position, revocation));
                    self.status.propagated((self.pace.clock)().wall_ms.saturating_sub(position.ms));
                    self.status.applied(partition, u64::from(new));
                }
                Action::Confirm(pushes) => self.sink.confirm(partition, &pushes),
                Action::Keep(pushes) => self.sink.keep(partition, &pushes),
                Action::Drop(pushes) => {
                    tracing::warn!(
                        partition,
                        pushes = pushes.len(),
                        "dropped pushes that the log does not have: forged?"
                    );
                    self.sink.drop_pushes(partition, &pushes);
                }
                Action::ApplyAll(revocations) => {
                    let new = revocations.iter().filter(|revocation| self.sink.apply(partition, revocation)).count();
                    self.status.applied(partition, new as u64);
                }
                Action::Since(moment) => {
                    let since = crate::clock::date(moment);
                    tracing::info!(
                        partition,
                        since,
                        "the revocation log is complete since this time; tokens issued earlier are refused"
                    );
                    self.sink.since(partition, moment);
                }
                Action::Time(store) => {
                    let now = (self.pace.clock)();
                    let lowered = self.sink.time(store, now);
                    if std::mem::replace(&mut self.lowered[index], lowered) != lowered {
                        tracing::warn!(partition, "this host's clock was ahead; reading the whole log again");
                        actions = VecDeque::from(machine.on(Event::ReadWhole, now));
                    }
                }
                Action::Fresh(as_of) => {
                    self.sink.fresh(partition, as_of, self.lowered[index]);
                    self.backoff.reset();
                    proven = true;
                    if self.logged.take().is_some() {
                        tracing::info!(partitions = ?self.group, "following the revocation log again");
                    }
                }
                Action::Reconnect => return Err(FeedError::Closed(UNPROVEN.to_owned())),
                Action::Alarm(Some(alarm)) => {
                    tracing::error!(
                        partition,
                        alarm = alarm.name(),
                        "the list cannot be proven complete; see docs/guarantees.md#alarms"
                    );
                }
                Action::Alarm(None) => tracing::info!(partition, "the list is proven complete again"),
                Action::Warning(alarm, true) => {
                    tracing::error!(partition, alarm = alarm.name(), "alarm raised; see docs/guarantees.md#alarms")
                }
                Action::Warning(alarm, false) => tracing::info!(partition, alarm = alarm.name(), "alarm cleared"),
            }
        }
        self.status.moved(partition, machine, proven);
        Ok(())
    }

    fn disconnected(&mut self, error: &FeedError) {
        let kind = std::mem::discriminant(error);
        if self.logged.replace(kind) == Some(kind) {
            tracing::debug!(partitions = ?self.group, error = %error, "still not following the revocation log");
        } else {
            tracing::warn!(partitions = ?self.group, error = %error, "not following the revocation log");
        }
        for (partition, machine) in self.group.iter().zip(&mut self.machines) {
            for action in machine.on(Event::Disconnected, (self.pace.clock)()) {
                match action {
                    Action::Keep(pushes) => self.sink.keep(*partition, &pushes),
                    other => debug_assert!(false, "a lost connection asks for nothing: {other:?}"),
                }
            }
            self.status.moved(*partition, machine, false);
            self.status.failed(*partition, &error.to_string());
        }
    }
}
