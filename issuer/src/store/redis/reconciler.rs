//! The heartbeat of the store: lists this issuer, notices another log or server, makes a lost data set anew, has put back
//! what is missing, and delivers what Redis refused.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::{ErrorKind, RedisError};
use sidegate_common::log_protocol::Position;
use sidegate_common::sync::Lineage;
use sidegate_common::time::UnixTime;
use tokio::time::sleep;

use super::issuer_list::Row;
use super::journal_replay::Pending;
use super::link::StoreLink;
use super::log_observer::LogHead;
use super::outbox::PendingDelivery;
use super::replay::REPLAYED_AT_ONCE;
use super::scripts::Script;
use super::server_checks::{self, RedisRequirements};
use super::{OpenError, RedisStore, unavailable};
use crate::domain::traits::{DependencyUnavailable, Store as _};
use crate::store::new_epoch;

/// How long a request waits for a lost data set to be made again.
const MAKING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long replicas may take to learn that this issuer is on the list, or off it.
const REPLICAS_TIMEOUT: Duration = Duration::from_secs(2);
/// The shortest time between two heartbeats, however often one is asked for.
const BEAT_APART: Duration = Duration::from_millis(20);

/// How often, and how long, the heartbeat does what.
#[derive(Clone, Copy, Debug)]
pub struct ReconcilerIntervals {
    /// A look at the data set.
    pub heartbeat: Duration,
    /// The same while the log is not settled.
    pub unsettled: Duration,
    /// The same while something waits in the outbox.
    pub delivery: Duration,
    /// A look at how the server is set up.
    pub inspection: Duration,
    /// A note in the journal that it has everything.
    pub proof: Duration,
    /// The longest that a replay waits before it reads the log, at random: issuers that do not begin in step need not
    /// put back the same.
    pub spread: Duration,
    /// How long a data set that was made anew stays unsettled, so that every issuer can list itself again.
    pub gathering: Duration,
    /// After how long without a heartbeat another issuer is taken off the list.
    pub stopped: Duration,
}

impl Default for ReconcilerIntervals {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            unsettled: Duration::from_millis(100),
            delivery: Duration::from_millis(200),
            inspection: Duration::from_secs(60),
            proof: Duration::from_secs(5),
            spread: Duration::from_millis(200),
            gathering: Duration::from_secs(3),
            stopped: Duration::from_secs(60),
        }
    }
}

/// What one heartbeat brought.
struct Heartbeat {
    head: LogHead,
    settled: bool,
    /// This issuer was not on the list.
    new: bool,
    replicas: u64,
}

/// The answer of `heartbeat.lua`.
type HeartbeatAnswer = (String, String, u64, u64, String, u8, u8, u64, Vec<Row>);

impl RedisStore {
    /// Makes the data set where it is not there yet, and checks that it is laid out as configured.
    ///
    /// # Errors
    /// Redis does not answer, or the layout is another.
    pub async fn initialise(&self) -> Result<(), OpenError> {
        for partition in 0..self.partitions() {
            match self.reconcile_partition(partition).await {
                Ok(()) => {}
                Err(error) if error.code() == Some("PARTITIONS") => {
                    let found = error.detail().unwrap_or_default().to_owned();
                    return Err(OpenError::Partitions { found, wanted: self.partitions() });
                }
                Err(error) => return Err(unavailable(error).into()),
            }
        }
        Ok(())
    }

    /// Refuses a server that would forget revocations: see [`server_checks::RequirementError`].
    ///
    /// # Errors
    /// Redis does not answer, or is unfit.
    pub async fn check_server(&self, requirements: RedisRequirements) -> Result<(), OpenError> {
        let answer = self.shared.link.call(redis::cmd("INFO").arg("everything")).await.map_err(unavailable)?;
        let info = server_checks::info_text(&answer);
        // Meanwhile it says that it keeps nothing on disk.
        if server_checks::is_loading(&info) {
            return Err(DependencyUnavailable::new(super::NAME, "LOADING: it is reading its data from disk").into());
        }
        let found = server_checks::faults(&info, requirements);
        for reason in server_checks::REASONS {
            self.shared.counts.unfit(reason, found.iter().any(|unfit| unfit.reason() == reason));
        }
        found.into_iter().next().map_or(Ok(()), |unfit| Err(unfit.into()))
    }

    /// Reconciles the data set, the outbox and the journal. `proven` says, on the monotonic clock in milliseconds, as of
    /// when the feed has brought everything. Runs until dropped.
    pub async fn watch(self, requirements: RedisRequirements, proven: impl Fn() -> Option<u64> + Send) {
        let pace = self.shared.pace;
        let (mut inspected, mut noted, mut pending) = (Instant::now(), Instant::now(), Pending::new());
        let mut last_error = None;
        loop {
            tokio::select! {
                () = sleep(self.until_next_beat()) => {}
                () = self.shared.lineages.woken() => sleep(BEAT_APART).await,
            }
            let found = self.tick().await.err();
            match &found {
                Some(error) if found != last_error => tracing::warn!(%error, "revocation log reconciliation failed"),
                None if last_error.is_some() => tracing::info!("revocation log reconciliation works again"),
                _ => {}
            }
            last_error = found;
            if inspected.elapsed() >= pace.inspection {
                inspected = Instant::now();
                // An outage has been logged above.
                if let Err(error @ OpenError::RequirementError(_)) = self.check_server(requirements).await {
                    tracing::error!(%error, "Redis configuration no longer meets requirements");
                }
            }
            if noted.elapsed() >= pace.proof {
                noted = Instant::now();
                self.prove(&mut pending, proven()).await;
            }
        }
    }

    fn until_next_beat(&self) -> Duration {
        let pace = self.shared.pace;
        if self.shared.lineages.unsettled() > 0 {
            pace.unsettled
        } else if self.shared.outbox.is_empty() {
            pace.heartbeat
        } else {
            pace.delivery
        }
    }

    /// Delivers what waits and takes this issuer off the list, before the program ends. An issuer that has not put back
    /// yet what it holds stays on the list: the others then wait for it in vain, for a minute.
    pub async fn leave(&self) {
        if self.shared.opening.done().is_ok() {
            // What it leaves undelivered is logged below.
            let _last = tokio::time::timeout(MAKING_TIMEOUT, self.tick()).await;
        }
        let left = self.shared.counts.outbox.get();
        if left > 0 {
            tracing::error!(
                left,
                "stopping with revocations that Redis refused; they are lost unless their clients retry"
            );
        }
        if self.shared.opening.done().is_err() {
            return;
        }
        let leaving = join_all((0..self.partitions()).map(|partition| self.leave_list(partition)));
        match tokio::time::timeout(2 * REPLICAS_TIMEOUT, leaving).await {
            Ok(left) if left.iter().all(Result::is_ok) => {}
            _ => tracing::warn!(
                "leaving the list of issuers failed; a failover within a minute makes logins wait for this issuer"
            ),
        }
    }

    /// Takes this issuer off the list at every replica that is connected, which then has all that it acknowledged, too.
    async fn leave_list(&self, partition: u16) -> Result<(), RedisError> {
        let link = self.shared.link.sibling().patient(REPLICAS_TIMEOUT);
        let heartbeat = self.heartbeat_over(&link, partition, true).await?;
        until_replicated(&link, heartbeat.replicas).await
    }

    async fn tick(&self) -> Result<(), DependencyUnavailable> {
        let reconciled = join_all((0..self.partitions()).map(|partition| self.reconcile_partition(partition))).await;
        self.shared.counts.unsettled.set(i64::try_from(self.shared.lineages.unsettled()).unwrap_or(i64::MAX));
        reconciled.into_iter().collect::<Result<Vec<()>, _>>().map_err(unavailable)?;
        let mut all = Ok(());
        for partition in 0..self.partitions() {
            all = self.deliver(partition).await.and(all);
        }
        all
    }

    /// Makes the partition's data set if it is lost. Into a log, or on a server, that is another one than before it puts
    /// back what is missing there; it is not settled until every issuer has done so.
    async fn reconcile_partition(&self, partition: u16) -> Result<(), RedisError> {
        let _one_at_a_time = self.shared.lineages.reconciling(partition).await;
        let at = Instant::now();
        let mut heartbeat = self.listed(partition).await?;
        if heartbeat.head.epoch.is_none() {
            self.make(partition, &heartbeat.head).await?;
            heartbeat = self.heartbeat(partition, false).await?;
            self.shared.log_observer.take(partition, heartbeat.head.clone(), at);
        }
        // Lost once more: the next heartbeat comes soon.
        let Some(lineage) = heartbeat.head.lineage() else {
            self.shared.lineages.wake();
            return Ok(());
        };
        if self.shared.lineages.replayed(partition).as_ref() != Some(&lineage) {
            if self.shared.log_observer.is_older(partition, &heartbeat.head) {
                self.restore_lost(partition, &lineage, &heartbeat.head).await?;
            }
            if let Some(since) = self.shared.log_observer.lost_before(partition, &heartbeat.head) {
                self.forget_before(partition, Some(since)).await?;
                tracing::error!(
                    partition,
                    since = since.0,
                    "the log is a copy from before data was lost: sessions from before that loss have to log in again"
                );
            }
            let appended = self.replay(partition, &lineage).await?;
            if appended > 0 {
                tracing::warn!(partition, appended, "Redis failed over or lost data; put back what it had lost");
            }
            // Only now: what failed is tried again. And the next heartbeat is the mark.
            self.shared.lineages.set_replayed(partition, lineage.clone());
            heartbeat = self.heartbeat(partition, false).await?;
            if heartbeat.head.lineage().as_ref() != Some(&lineage) {
                self.shared.lineages.wake();
                return Ok(());
            }
        }
        self.shared.lineages.set_settled(partition, heartbeat.settled.then_some(&*lineage.replication_id));
        self.shared.log_observer.take(partition, heartbeat.head, at);
        self.forget_what_is_safe(partition, at);
        Ok(())
    }

    /// What was acknowledged long ago need not be remembered beside the feed's list, once the feed has it.
    fn forget_what_is_safe(&self, partition: u16, looked: Instant) {
        let safe = match self.shared.feed.get() {
            Some(feed) => feed.proven(partition).map(|proven| proven.min(looked)),
            None => Some(looked),
        };
        if let Some(safe) = safe {
            self.shared.replay_buffer.settled(partition, safe);
        }
    }

    /// A heartbeat after which this issuer is on the list, at every replica that is connected: what it acknowledges from
    /// now on, the others wait for after a failover.
    async fn listed(&self, partition: u16) -> Result<Heartbeat, RedisError> {
        let heartbeat = self.heartbeat(partition, false).await?;
        if !heartbeat.new || heartbeat.replicas == 0 {
            return Ok(heartbeat);
        }
        // On a connection of its own, since WAIT holds up everything behind it; and written once more, since WAIT is about
        // what this very connection wrote.
        let link = self.shared.link.sibling().patient(REPLICAS_TIMEOUT);
        let heartbeat = self.heartbeat_over(&link, partition, false).await?;
        until_replicated(&link, heartbeat.replicas).await?;
        Ok(heartbeat)
    }

    async fn heartbeat(&self, partition: u16, leave: bool) -> Result<Heartbeat, RedisError> {
        self.heartbeat_over(&self.shared.link, partition, leave).await
    }

    /// One run of `heartbeat.lua`. Where it shows another log than before, answers that are still to come from the old one
    /// count as refused from here on.
    async fn heartbeat_over(&self, link: &StoreLink, partition: u16, leave: bool) -> Result<Heartbeat, RedisError> {
        let (shared, at) = (&self.shared, Instant::now());
        let (epoch, replid) = match shared.lineages.replayed(partition) {
            Some(lineage) => (lineage.epoch.into_string(), lineage.replication_id.into_string()),
            None => (String::new(), String::new()),
        };
        let call =
            self.call(Script::LogHead, self.keys(partition)).arg(self.partitions()).arg(shared.issuers.next_beat());
        let call = call.arg(epoch).arg(replid).arg(shared.pace.gathering.as_millis() as u64);
        let call = call.arg(if leave { "leave" } else { "" }).arg(self.newest_iat(partition).0);
        let stopped = shared.issuers.stopped(partition, shared.pace.stopped);
        let call = stopped.into_iter().fold(call, |call, (name, row)| call.arg(name).arg(row));
        let answer: HeartbeatAnswer = call.run(link).await?;
        let (epoch, last, since, now, replid, settled, new, replicas, rows) = answer;
        let last = Position::parse(&last).ok_or((ErrorKind::Parse, "not a position"))?;
        let epoch = Some(epoch).filter(|epoch| !epoch.is_empty());
        let head = LogHead { epoch, last, since: UnixTime(since), now: UnixTime(now), replid };
        let mut other = false;
        if let Some(lineage) = head.lineage() {
            other = shared.lineages.see(partition, &lineage);
            if other {
                shared.replay_buffer.next_generation(partition);
            }
        }
        shared.issuers.observe(partition, rows, other, at);
        Ok(Heartbeat { head, settled: settled == 1, new: new == 1, replicas })
    }

    /// Repairs a log that ends long before it did, such as a restored old backup.
    async fn restore_lost(&self, partition: u16, lineage: &Lineage, head: &LogHead) -> Result<(), RedisError> {
        let (appended, since) = self.replay_journal(partition, &lineage.replication_id, head.now).await?;
        // Ends of sessions that are older than the shortest-lived entry have expired, in the journal as well.
        let lasts = head.now.0.saturating_sub(head.last.ms / 1000);
        if since.is_some() && lasts < self.shared.terms.access_ttl {
            tracing::warn!(partition, appended, "the revocation log is an old copy; put back what the journal has");
            return Ok(());
        }
        self.forget_before(partition, None).await?;
        tracing::error!(
            partition,
            "the revocation log is an old copy: what was revoked before now may be missing in it, so every session has ended"
        );
        Ok(())
    }

    /// Says in the log that it may lack what was stored before this moment, or before now, and ends the sessions from then.
    async fn forget_before(&self, partition: u16, moment: Option<UnixTime>) -> Result<(), RedisError> {
        let moment = moment.map(|moment| moment.0.to_string()).unwrap_or_default();
        let _moment: u64 = self.call(Script::Forget, self.keys(partition)).arg(moment).run(&self.shared.link).await?;
        Ok(())
    }

    /// Waits until a lost data set has been made again, or this issuer is on the list again, for as long as a request may
    /// wait. The work goes on in any case.
    pub(super) async fn made(&self, partition: u16) -> Result<(), RedisError> {
        let store = self.clone();
        let making = tokio::spawn(async move { store.make_if_lost(partition).await });
        match tokio::time::timeout(MAKING_TIMEOUT, making).await {
            Ok(Ok(made)) => made,
            Ok(Err(_)) | Err(_) => Err((ErrorKind::Io, "the revocation log is being created again").into()),
        }
    }

    async fn make_if_lost(&self, partition: u16) -> Result<(), RedisError> {
        let _one_at_a_time = self.shared.lineages.reconciling(partition).await;
        let heartbeat = self.listed(partition).await?;
        if heartbeat.head.epoch.is_none() {
            self.make(partition, &heartbeat.head).await?;
        }
        self.shared.lineages.wake();
        Ok(())
    }

    /// Makes a lost data set: what must be in its log first, and only then the epoch by which others take it for whole.
    async fn make(&self, partition: u16, head: &LogHead) -> Result<(), RedisError> {
        let (journaled, since) = self.replay_journal(partition, &head.replid, head.now).await?;
        let since = since.map(|since| since.0.to_string()).unwrap_or_default();
        let replayed = journaled + self.put_back_missing(partition, &head.replid).await?;
        let epoch = new_epoch().map_err(|_| (ErrorKind::Client, "no randomness"))?;
        let init = self
            .call(Script::Init, self.keys(partition))
            .arg(epoch)
            .arg(self.partitions())
            .arg(&since)
            .arg(self.newest_iat(partition).0);
        let init = init.expecting(self.shared.issuers.name(), &head.replid);
        let (_, made): (String, u8) = init.run(&self.shared.link).await?;
        if made == 1 {
            tracing::warn!(partition, replayed, since, "made a new revocation log");
        }
        Ok(())
    }

    /// Delivers what Redis refused, and gets confirmed what was not.
    async fn deliver(&self, partition: u16) -> Result<(), DependencyUnavailable> {
        loop {
            // An order that names a moment needs the watermarks that others put back first: it is raised over them.
            let settled = self.shared.lineages.is_settled(partition);
            let mut deliveries = self.shared.outbox.deliveries(partition, settled, REPLAYED_AT_ONCE);
            if deliveries.is_empty() {
                return Ok(());
            }
            let lost = self.append_pending(partition, &mut deliveries).await.map_err(unavailable)?;
            if lost {
                self.make_if_lost(partition).await.map_err(unavailable)?;
            }
            let confirmed = join_all(deliveries.iter().map(|delivery| self.confirmed(&delivery.entry))).await;
            confirmed.into_iter().collect::<Result<Vec<()>, _>>()?;
            self.shared.outbox.delivered(&deliveries);
            tracing::warn!(partition, delivered = deliveries.len(), "delivered revocations that Redis had refused");
        }
    }

    /// Puts into the log what it does not have yet; true if the data set is lost.
    async fn append_pending(&self, partition: u16, deliveries: &mut [PendingDelivery]) -> Result<bool, RedisError> {
        let mut fresh: Vec<&mut PendingDelivery> = deliveries.iter_mut().filter(|one| !one.appended).collect();
        let asked = self.shared.replay_buffer.ask(partition);
        let seen = self.shared.lineages.seen(partition).ok_or((ErrorKind::Io, "the log has not been seen yet"))?;
        for delivery in &mut fresh {
            delivery.entry.moved |= delivery.generation != asked.generation;
        }
        let done =
            self.replay_at_once(partition, &seen.replication_id, fresh.iter().map(|delivery| &delivery.entry)).await?;
        for (delivery, position) in fresh.iter_mut().zip(done.positions) {
            delivery.entry = delivery.entry.clone().taken(position, &self.shared.terms, self.store_now(partition));
            if !self.shared.replay_buffer.acknowledged(delivery.entry.clone(), asked) {
                return Err((ErrorKind::Io, "another server has taken over").into());
            }
            self.shared.outbox.appended(delivery);
        }
        Ok(done.lost)
    }
}

/// Waits until all replicas that are connected have what was written over `link`, for a while: fewer than all of them in
/// time are no error, since one that hangs must not delay the others.
async fn until_replicated(link: &StoreLink, replicas: u64) -> Result<(), RedisError> {
    if replicas > 0 {
        let wait = redis::cmd("WAIT").arg(replicas).arg(REPLICAS_TIMEOUT.as_millis() as u64).take();
        let _how_many = link.call(&wait).await?;
    }
    Ok(())
}
