//! The issuer's side: 2,000 revocations per second of every kind, through the issuer's own store.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sidegate_common::claims::Claims;
use sidegate_common::key::{KeyRing, SigningKey};
use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::secret::Secret;
use sidegate_common::time::UnixTime;
use sidegate_common::token::{self, Policy};
use sidegate_issuer::domain::session::{EndSession, NewSession, Rotated, Rotation, TokenLifetimes};
use sidegate_issuer::domain::traits::Store as _;
use sidegate_issuer::store::redis::{ReconcilerIntervals, RedisRequirements, RedisStore, StoreLink};
use sidegate_runtime::clock::{monotonic_ms, unix_now};
use sidegate_tests::daemon::claims;
use sidegate_tests::random::Random;
use sidegate_tests::stack::SECRET;
use tokio::sync::Semaphore;

use super::truth::{Dead, Truth};

/// How often dead sessions are refreshed, and how many at once.
const REFRESH_EVERY: Duration = Duration::from_millis(20);
const REFRESHES: usize = 8;
const TICK: Duration = Duration::from_millis(5);
const A_TICK: u64 = 10;
/// Limit of concurrent revocations.
const UNDER_WAY_MAX: usize = 512;

const LIFETIMES: TokenLifetimes =
    TokenLifetimes { access_ttl: 3_600, idle_ttl: 3_600, absolute_ttl: 7_200, retry_window: 30, lifetime_max: 86_400 };

/// One fault is a Redis without persistence.
const DEMANDS: RedisRequirements = RedisRequirements { persistence: false, noeviction: true, waitaof: false };

/// A dead issuer is given up after two seconds, because cycles are short. Other intervals are as in
/// production.
fn pace() -> ReconcilerIntervals {
    ReconcilerIntervals { stopped: Duration::from_secs(2), ..ReconcilerIntervals::default() }
}

/// An issuer's store with a running writer.
pub struct Writer {
    store: RedisStore,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    under_way: Arc<Semaphore>,
}

struct Pen {
    store: RedisStore,
    key: SigningKey,
    ring: KeyRing,
    policy: Policy,
    truth: Arc<Truth>,
}

impl Writer {
    /// Starts an issuer's store on the Redis at `url`, and writes.
    pub async fn start(url: &str, seed: u64, truth: &Arc<Truth>) -> Self {
        let store = RedisStore::new(StoreLink::new(url).expect("a URL"), "sidegate", 1, LIFETIMES).pacing(pace());
        sidegate_tests::wait::eventually("the data set", || async { store.initialise().await.ok() }).await;
        let watch = tokio::spawn(store.clone().watch(DEMANDS, || None));
        let key = SigningKey::hs256(&Secret::new(SECRET)).expect("a key");
        let ring = KeyRing::new(vec![key.verifying().clone()]).expect("a ring");
        let policy = Policy {
            issuer: "sidegate".into(),
            audiences: vec!["sidegate".into()],
            leeway_seconds: 5,
            lifetime_max_seconds: 86_400,
        };
        let refresh = tokio::spawn(refresh(store.clone(), Arc::clone(truth)));
        let pen = Arc::new(Pen { store: store.clone(), key, ring, policy, truth: Arc::clone(truth) });
        let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        let (permits, random) = (Arc::clone(&under_way), Random::new(!seed));
        let write = tokio::spawn(write(pen, permits, random));
        Self { store, tasks: vec![watch, write, refresh], under_way }
    }

    /// Stops like an issuer on SIGTERM.
    pub async fn stop(self) {
        self.pause().await;
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        self.store.leave().await;
    }

    /// Stops writing and waits for the pending revocations. The issuer keeps running: it replays
    /// what Redis lost.
    pub async fn pause(&self) {
        self.tasks[1].abort();
        let _all_done = self.under_way.acquire_many(UNDER_WAY_MAX as u32).await;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Tries to refresh dead sessions continuously: the store must never trade their tokens.
async fn refresh(store: RedisStore, truth: Arc<Truth>) {
    for round in 0_usize.. {
        for dead in truth.dead_sessions(round.wrapping_mul(7919), REFRESHES) {
            let Some(rotation) = &dead.session else { continue };
            let asked_ms = monotonic_ms();
            let answer = store.rotate(rotation).await;
            truth.refreshes.fetch_add(1, Ordering::Relaxed);
            if let Ok(Rotated::Traded { .. }) = answer {
                truth.refreshed(format!(
                    "{} refreshed {} ms after its end",
                    rotation.sid,
                    asked_ms - dead.acknowledged_ms
                ));
            }
        }
        tokio::time::sleep(REFRESH_EVERY).await;
    }
}

async fn write(pen: Arc<Pen>, under_way: Arc<Semaphore>, mut random: Random) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for _ in 0..A_TICK {
            let Ok(permit) = Arc::clone(&under_way).try_acquire_owned() else { break };
            let (name, kind, pen) = (random.name(), random.between(0, 20), Arc::clone(&pen));
            tokio::spawn(async move {
                pen.revoke(&name, kind).await;
                drop(permit);
            });
        }
    }
}

trait Names {
    fn name(&mut self) -> String;
}

impl Names for Random {
    /// An identifier like the issuer's: 128 bits.
    fn name(&mut self) -> String {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.number().to_be_bytes());
        bytes[8..].copy_from_slice(&self.number().to_be_bytes());
        Id::Packed(bytes).to_string()
    }
}

impl Pen {
    /// Revokes a new token, either alone, or with its session, or with all tokens of its user.
    async fn revoke(&self, name: &str, kind: u64) {
        let sub = format!("user-{name}");
        let claims = Claims { jti: name.to_owned(), sid: name.to_owned(), ..claims(&sub) };
        let token: Arc<str> = token::sign(&self.key, &claims).expect("fit claims").into();
        let verified = token::verify(&self.ring, &self.policy, unix_now(), &token).expect("a good token");
        let (id, subject) = (Id::parse(name).expect("an id"), SubjectTag::of(&sub));
        let mut session = None;
        if kind <= 1 {
            let new = NewSession { sid: id.clone(), sub: sub.clone(), address: String::new(), agent: String::new() };
            if self.store.create(&new).await.is_ok() {
                session = Some(Rotation { sid: id.clone(), sub: sub.clone(), presented: 0 });
            }
        }
        let done = match kind {
            0 => self.store.revoke_subject(&sub).await.map(|_| ()),
            1..=6 => {
                let (sub, exp_seen) = (Some(sub), UnixTime(claims.exp));
                let ending = EndSession { sid: id, partition: 0, sub, subject: Some(subject), exp_seen, known: false };
                self.store.end(&ending).await.map(|_| ())
            }
            _ => {
                let target = Target::Token { jti: id, subject: Some(subject) };
                let expires_at = UnixTime(claims.exp + 70);
                self.store.append(0, &Revocation { target, expires_at }).await
            }
        };
        match done {
            Ok(()) => {
                let acknowledged_ms = monotonic_ms();
                self.truth.acknowledged(Dead { token, verified: Arc::new(verified), session, acknowledged_ms });
            }
            Err(_) => {
                self.truth.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
