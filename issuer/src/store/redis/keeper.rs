//! The store's heartbeat: looks whether the data set is still there and the server the same, makes it again if not, puts
//! back what this issuer acknowledged lately, and delivers what Redis refused.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::{ErrorKind, RedisError};
use sidegate_common::time::UnixTime;
use sidegate_common::wire::Position;
use tokio::time::sleep;

use super::deed::Deed;
use super::guard::{self, Demands};
use super::outbox::Parcel;
use super::recall::Pending;
use super::scripts::{Call, Script};
use super::sightings::Look;
use super::{OpenError, RedisStore, unavailable};
use crate::domain::ports::{Store as _, Unavailable};
use crate::store::new_epoch;

/// How many deeds one script does: about a millisecond, so that other clients are not held up.
pub(super) const DEEDS_AT_ONCE: usize = 200;
/// How long a request waits for a lost data set to be made again.
const MAKING_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the keeper does what.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// A look at the data set.
    pub heartbeat: Duration,
    /// The same while something waits in the outbox.
    pub delivery: Duration,
    /// A look at how the server is set up.
    pub inspection: Duration,
    /// A note in the journal that it has everything.
    pub proof: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            delivery: Duration::from_millis(200),
            inspection: Duration::from_secs(60),
            proof: Duration::from_secs(5),
        }
    }
}

impl RedisStore {
    /// Makes the data set where it is not there yet, and checks that it is laid out as configured.
    ///
    /// # Errors
    /// Redis does not answer, or the layout is another.
    pub async fn initialise(&self) -> Result<(), OpenError> {
        for partition in 0..self.partitions() {
            match self.look_after(partition).await {
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

    /// Refuses a server that would forget revocations: see [`guard::Unfit`].
    ///
    /// # Errors
    /// Redis does not answer, or is unfit.
    pub async fn check_server(&self, demands: Demands) -> Result<(), OpenError> {
        let answer = self.shared.link.call(redis::cmd("INFO").arg("everything")).await.map_err(unavailable)?;
        let found = guard::faults(&guard::info_text(&answer), demands);
        for reason in guard::REASONS {
            self.shared.counts.unfit(reason, found.iter().any(|unfit| unfit.reason() == reason));
        }
        found.into_iter().next().map_or(Ok(()), |unfit| Err(unfit.into()))
    }

    /// Looks after the data set, the outbox and the journal. `proven` says, on the monotonic clock in milliseconds, as of
    /// when the feed has brought everything. Runs until dropped.
    pub async fn watch(self, pace: Pace, demands: Demands, proven: impl Fn() -> Option<u64> + Send) {
        let (mut inspected, mut noted, mut pending) = (Instant::now(), Instant::now(), Pending::new());
        let mut trouble = None;
        loop {
            sleep(if self.shared.outbox.is_empty() { pace.heartbeat } else { pace.delivery }).await;
            let found = self.beat().await.err();
            match &found {
                Some(error) if found != trouble => tracing::warn!(%error, "the revocation log cannot be looked after"),
                None if trouble.is_some() => tracing::info!("the revocation log is looked after again"),
                _ => {}
            }
            trouble = found;
            if inspected.elapsed() >= pace.inspection {
                inspected = Instant::now();
                // An outage is told of above.
                if let Err(error @ OpenError::Unfit(_)) = self.check_server(demands).await {
                    tracing::error!(%error, "Redis is not set up as it was");
                }
            }
            if noted.elapsed() >= pace.proof {
                noted = Instant::now();
                self.prove(&mut pending, proven()).await;
            }
        }
    }

    /// Tries once more to deliver what waits, before the program ends and forgets it.
    pub async fn deliver_at_last(&self) {
        if self.shared.outbox.is_empty() {
            return;
        }
        // Whatever comes of it: what is left is told.
        let _last = tokio::time::timeout(MAKING_TIMEOUT, self.beat()).await;
        let left = self.shared.counts.outbox.get();
        if left > 0 {
            tracing::error!(
                left,
                "stopping with revocations that Redis refused: only their clients' retries can do them"
            );
        }
    }

    async fn beat(&self) -> Result<(), Unavailable> {
        for partition in 0..self.partitions() {
            self.look_after(partition).await.map_err(unavailable)?;
        }
        let mut all = Ok(());
        for partition in 0..self.partitions() {
            all = self.deliver(partition).await.and(all);
        }
        all
    }

    /// Makes the partition's data set if it is lost. If another issuer made it, or the server is another one, puts back
    /// what was acknowledged lately.
    async fn look_after(&self, partition: u16) -> Result<(), RedisError> {
        let at = Instant::now();
        let look = self.look(partition).await?;
        if look.epoch.is_none() {
            return self.make(partition).await;
        }
        let finding = self.shared.sightings.finding(partition, &look, at);
        if finding.older {
            self.mend_old(partition, look.now).await?;
        }
        if finding.changed {
            let appended = self.replay_lately(partition).await?;
            if appended > 0 {
                tracing::warn!(partition, appended, "the server or its data changed: put back what it had lost");
            }
        }
        // Only now: what failed is tried again.
        self.shared.sightings.take(partition, look, at);
        self.shared.ring.settled(at);
        Ok(())
    }

    /// Mends a log that ends long before it did: an old backup was restored, say.
    async fn mend_old(&self, partition: u16, now: UnixTime) -> Result<(), RedisError> {
        let (appended, since) = self.replay_journal(partition, now).await?;
        if since.is_some() {
            tracing::warn!(partition, appended, "the log is an old one; put back what the journal has");
            return Ok(());
        }
        let _now: u64 = self.call(Script::Forget, self.keys(partition)).run(&self.shared.link).await?;
        tracing::error!(partition, "the log is an old one: what was revoked before now may be missing in it");
        Ok(())
    }

    async fn look(&self, partition: u16) -> Result<Look, RedisError> {
        let call = self.call(Script::Look, self.keys(partition)).arg(self.partitions());
        let (epoch, last, since, now, replid): (String, String, u64, u64, String) = call.run(&self.shared.link).await?;
        let last = Position::parse(&last).ok_or((ErrorKind::Parse, "not a position"))?;
        let epoch = Some(epoch).filter(|epoch| !epoch.is_empty());
        Ok(Look { epoch, last, since: UnixTime(since), now: UnixTime(now), replid })
    }

    /// Waits until a lost data set has been made again, for as long as a request may wait. The making goes on in any case.
    pub(super) async fn made(&self, partition: u16) -> Result<(), Unavailable> {
        let store = self.clone();
        let making = tokio::spawn(async move { store.make(partition).await });
        match tokio::time::timeout(MAKING_TIMEOUT, making).await {
            Ok(Ok(made)) => made.map_err(unavailable),
            Ok(Err(_)) | Err(_) => Err(Unavailable::new(super::NAME, "its data set is being made again")),
        }
    }

    /// Makes a lost data set: what must be in its log first, and only then the epoch by which others take it for whole.
    async fn make(&self, partition: u16) -> Result<(), RedisError> {
        let _one_at_a_time = self.shared.making.lock().await;
        let at = Instant::now();
        let look = self.look(partition).await?;
        if look.epoch.is_some() {
            return Ok(());
        }
        let (journaled, since) = self.replay_journal(partition, look.now).await?;
        let since = since.map(|since| since.0.to_string()).unwrap_or_default();
        let replayed = journaled + self.replay_lately(partition).await?;
        let epoch = new_epoch().map_err(|_| (ErrorKind::Client, "no randomness"))?;
        let init = self.call(Script::Init, self.keys(partition)).arg(epoch).arg(self.partitions()).arg(&since);
        let (_, made): (String, u8) = init.run(&self.shared.link).await?;
        if made == 1 {
            tracing::warn!(partition, replayed, since, "made a new revocation log");
            let look = self.look(partition).await?;
            self.shared.sightings.take(partition, look, at);
        }
        Ok(())
    }

    /// Puts what was acknowledged lately into the log where it is missing; says how much was.
    async fn replay_lately(&self, partition: u16) -> Result<u64, RedisError> {
        let mut sum = 0;
        for chunk in self.shared.ring.lately(partition).chunks(DEEDS_AT_ONCE) {
            let replayed = self.replay_at_once(partition, chunk.iter().map(|(_, deed)| deed)).await?;
            for ((turn, _), position) in chunk.iter().zip(replayed.positions) {
                if let Some(position) = position {
                    self.shared.ring.moved(*turn, position);
                    sum += 1;
                }
            }
        }
        self.shared.counts.replayed.inc_by(sum);
        Ok(sum)
    }

    /// Delivers what Redis refused, and gets confirmed what was not.
    async fn deliver(&self, partition: u16) -> Result<(), Unavailable> {
        loop {
            let mut parcels = self.shared.outbox.parcels(partition, DEEDS_AT_ONCE);
            if parcels.is_empty() {
                return Ok(());
            }
            let lost = self.append_parcels(partition, &mut parcels).await.map_err(unavailable)?;
            if lost {
                self.make(partition).await.map_err(unavailable)?;
            }
            let confirmed = join_all(parcels.iter().map(|parcel| self.confirmed(&parcel.deed))).await;
            confirmed.into_iter().collect::<Result<Vec<()>, _>>()?;
            self.shared.outbox.delivered(&parcels);
            tracing::warn!(partition, delivered = parcels.len(), "delivered revocations that Redis had refused");
        }
    }

    /// Puts into the log what it does not have yet; true if the data set is lost.
    async fn append_parcels(&self, partition: u16, parcels: &mut [Parcel]) -> Result<bool, RedisError> {
        let mut fresh: Vec<&mut Parcel> = parcels.iter_mut().filter(|one| !one.appended).collect();
        let done = self.replay_at_once(partition, fresh.iter().map(|parcel| &parcel.deed)).await?;
        for (parcel, position) in fresh.iter_mut().zip(done.positions) {
            parcel.deed.position = position;
            self.shared.ring.acknowledged(parcel.deed.clone());
            self.shared.outbox.appended(parcel);
        }
        Ok(done.lost)
    }

    pub(super) async fn replay_at_once(
        &self,
        partition: u16,
        deeds: impl Iterator<Item = &Deed>,
    ) -> Result<Replayed, RedisError> {
        let (keys, terms) = (self.keys(partition), &self.shared.terms);
        let call = self.call(Script::Replay, keys).arg(keys.session("")).arg(keys.user("")).arg(keys.watermark(""));
        let call = call.arg(keys.token_watermark("")).arg(terms.lifetime_max).arg(terms.watermark_ttl());
        let call = deeds.flat_map(Deed::arguments).fold(call, Call::arg);
        let (lost, odd, positions): (u8, u64, Vec<String>) = call.run(&self.shared.link).await?;
        if odd > 0 {
            tracing::error!(partition, odd, "records in Redis are of a type that is not ours; they were left alone");
        }
        let positions = positions.iter().map(|position| Position::parse(position)).collect();
        Ok(Replayed { positions, lost: lost == 1 })
    }
}

pub(super) struct Replayed {
    /// Where each was appended; none if it stands or has expired.
    pub(super) positions: Vec<Option<Position>>,
    lost: bool,
}
