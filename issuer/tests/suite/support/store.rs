//! A store in Redis as the tests use it: its lifetimes, its intervals, its requests.

use std::time::Duration;

use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::time::UnixTime;
use sidegate_issuer::domain::session::{EndOutcome, EndSession, NewSession, TokenLifetimes};
use sidegate_issuer::domain::traits::{DependencyUnavailable, Store as _};
use sidegate_issuer::store::redis::{ReconcilerIntervals, RedisRequirements, RedisStore, StoreLink};
use sidegate_runtime::clock::monotonic_ms;

use super::redis::PREFIX;

pub const LIFETIMES: TokenLifetimes =
    TokenLifetimes { access_ttl: 600, idle_ttl: 3600, absolute_ttl: 7200, retry_window: 30, lifetime_max: 86_400 };
pub const STRICT: RedisRequirements = RedisRequirements { persistence: true, noeviction: true, waitaof: false };
/// ReconcilerIntervals scaled down: seconds become tens of milliseconds.
pub const FAST: ReconcilerIntervals = ReconcilerIntervals {
    heartbeat: Duration::from_millis(50),
    delivery: Duration::from_millis(20),
    inspection: Duration::from_millis(50),
    proof: Duration::from_millis(20),
    unsettled: Duration::from_millis(20),
    spread: Duration::from_millis(20),
    gathering: Duration::ZERO,
    stopped: Duration::from_secs(60),
};

pub fn store_at(url: &str) -> RedisStore {
    RedisStore::new(StoreLink::new(url).unwrap(), PREFIX, 1, LIFETIMES).pacing(FAST)
}

/// A store with a running heartbeat.
pub async fn beating(url: &str) -> RedisStore {
    let store = store_at(url);
    store.initialise().await.unwrap();
    tokio::spawn(store.clone().watch(STRICT, || Some(monotonic_ms())));
    store
}

pub fn sid(number: u8) -> Id {
    Id::Packed([number; 16])
}

/// The user of session `number`.
pub fn user(number: u8) -> String {
    format!("user-{number}")
}

pub async fn log_in(store: &RedisStore, number: u8) {
    store.create(&new_session(number, number)).await.unwrap();
}

/// Session `number` of a user.
pub fn new_session(number: u8, of: u8) -> NewSession {
    NewSession { sid: sid(number), sub: user(of), address: String::new(), agent: String::new() }
}

pub async fn is_there(store: &RedisStore, number: u8) -> bool {
    store.read(0, &sid(number)).await.unwrap().is_some()
}

pub async fn log_out(store: &RedisStore, number: u8) -> Result<EndOutcome, DependencyUnavailable> {
    let subject = Some(SubjectTag::of(&user(number)));
    let (sid, sub) = (sid(number), Some(user(number)));
    store.end(&EndSession { sid, partition: 0, sub, subject, exp_seen: UnixTime(0), known: false }).await
}

pub fn session(number: u8) -> Target {
    Target::Session { sid: sid(number), subject: Some(SubjectTag::of(&user(number))) }
}

/// Revokes token `number`.
pub async fn revoke_token(store: &RedisStore, number: u8) -> Result<(), DependencyUnavailable> {
    store.append(0, &Revocation { target: token(number), expires_at: UnixTime(0) }).await
}

pub fn token(number: u8) -> Target {
    Target::Token { jti: sid(number), subject: None }
}
