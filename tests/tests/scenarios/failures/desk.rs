//! One Redis, an issuer's store on it, and a complete verifier that follows it through a fault
//! proxy.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use sidegate_common::claims::Claims;
use sidegate_common::log_protocol::RedisKeys;
use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::time::UnixTime;
use sidegate_issuer::domain::session::TokenLifetimes;
use sidegate_issuer::domain::traits::Store as _;
use sidegate_issuer::store::redis::{RedisStore, StoreLink};
use sidegate_runtime::clock::monotonic_ms;
use sidegate_tests::daemon::{Launched, claims, sign};
use sidegate_tests::fault_proxy::FaultProxy;
use sidegate_tests::redis::Redis;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::wait::eventually;

const LIFETIMES: TokenLifetimes =
    TokenLifetimes { access_ttl: 3_600, idle_ttl: 3_600, absolute_ttl: 7_200, retry_window: 30, lifetime_max: 86_400 };
pub const AOF: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// An issuer's store on the Redis at `url`, with the data set created.
pub async fn issuer(url: &str) -> RedisStore {
    let store = RedisStore::new(StoreLink::new(url).expect("a URL"), "sidegate", 1, LIFETIMES);
    eventually("the data set", || async { store.initialise().await.ok() }).await;
    store
}

/// A verifier that follows the Redis at `url`, stale after a second.
pub fn verifier(url: &str) -> Launched {
    let settings = [("REDIS_URL", url), ("PROBE_INTERVAL", "50ms"), ("MAX_STALENESS", "1s")];
    Launched::start(Scratch::new(), &settings)
}

/// A token whose `jti` is `name`, issued `age` seconds ago.
pub fn token_of_age(name: &str, age: u64) -> String {
    let claims = claims(&format!("user-{name}"));
    let iat = claims.iat + 1 - age;
    sign(&Claims { jti: name.to_owned(), sid: format!("sid-{name}"), iat, exp: iat + 3_600, ..claims })
}

/// Issued in this second, and therefore later than the `since` of a log that was just created.
pub fn token(name: &str) -> String {
    token_of_age(name, 0)
}

/// The revocation of the token of `name`.
pub fn revocation(name: &str) -> Revocation {
    let subject = Some(SubjectTag::of(&format!("user-{name}")));
    let target = Target::Token { jti: Id::parse(name).expect("an id"), subject };
    Revocation { target, expires_at: UnixTime(claims("x").exp + 70) }
}

/// Queries a verifier from outside.
pub trait Seen {
    async fn answer(&self, token: &str) -> (u16, String);
    async fn feed(&self, field: &str) -> serde_json::Value;
    async fn metric(&self, line: &str) -> f64;
    async fn proven(&self);
    async fn denies(&self, name: &str);
}

impl Seen for Launched {
    /// Status and code of `/check`.
    async fn answer(&self, token: &str) -> (u16, String) {
        let reply = self.at.get("/check").bearer(token).send().await;
        let status = reply.status.as_u16();
        (status, if status == 200 { String::new() } else { reply.code() })
    }

    /// A field of the first partition in `/readyz`.
    async fn feed(&self, field: &str) -> serde_json::Value {
        self.admin.get("/readyz").send().await.json()["feed"][0][field].clone()
    }

    /// The value of a metric, by the text before the value.
    async fn metric(&self, line: &str) -> f64 {
        let text = self.admin.get("/metrics").send().await.body;
        let text = String::from_utf8_lossy(&text);
        let found = text.lines().find_map(|have| have.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in\n{text}"))
    }

    /// Waits for a proof by a probe that is sent from now on.
    async fn proven(&self) {
        let now = monotonic_ms();
        eventually("a new proof", || async { self.core.state().proven().is_some_and(|at| at > now).then_some(()) })
            .await;
    }

    /// Checks that the verifier denies the token now, without waiting.
    async fn denies(&self, name: &str) {
        assert_eq!(self.answer(&token(name)).await, (401, "token_revoked".to_owned()), "{name}");
    }
}

pub struct Desk {
    pub redis: Redis,
    pub fault_proxy: FaultProxy,
    pub issuer: RedisStore,
    pub verifier: Launched,
}

impl Desk {
    pub async fn start(options: &[&str]) -> Self {
        let redis = Redis::with(options).await;
        let fault_proxy = FaultProxy::to(redis.port()).await;
        let issuer = issuer(&redis.url()).await;
        let verifier = verifier(&through(&fault_proxy));
        verifier.proven().await;
        Self { redis, fault_proxy, issuer, verifier }
    }

    /// Revokes a token; waits for the acknowledgement.
    pub async fn revoke(&self, name: &str) {
        revoke(&self.issuer, name).await;
    }

    /// Appends an entry without a push, as if the push were lost.
    pub async fn revoke_without_push(&self, name: &str) {
        let keys = RedisKeys::new("sidegate", 0);
        let script =
            "local id = redis.call('XADD', KEYS[2], '*', 'r', ARGV[1]) redis.call('HSET', KEYS[1], 'last', id)";
        let entry = revocation(name).to_bytes();
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(2).arg(keys.meta()).arg(keys.log()).arg(entry);
        command.exec_async(&mut self.redis.connection().await).await.expect("appended");
    }

    pub async fn full_reads(&self) -> f64 {
        self.verifier.metric("sidegate_feed_full_reads_total{partition=\"0\"}").await
    }
}

pub async fn revoke(issuer: &RedisStore, name: &str) {
    let entry = revocation(name);
    // A store that was just cut off refuses at once; the client then retries.
    eventually("the revocation to be stored", || async { issuer.append(0, &entry).await.ok() }).await;
}

pub fn through(fault_proxy: &FaultProxy) -> String {
    format!("redis://127.0.0.1:{}/", fault_proxy.port())
}

pub async fn say(connection: &mut MultiplexedConnection, words: &[&str]) -> redis::Value {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(connection).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// Waits until a field of the first partition's status satisfies the condition.
pub async fn until_feed(verifier: &Launched, field: &str, so: impl Fn(&serde_json::Value) -> bool) {
    eventually(&format!("the feed's {field}"), || async { so(&verifier.feed(field).await).then_some(()) }).await;
}

/// True if the alarm is among those raised: without an issuer, `replay_missing` may be raised as
/// well.
pub fn names(raised: &serde_json::Value, alarm: &str) -> bool {
    raised.as_str().is_some_and(|raised| raised.split(", ").any(|one| one == alarm))
}

/// A short time in which something must not happen.
pub async fn a_while() {
    tokio::time::sleep(Duration::from_millis(400)).await;
}
