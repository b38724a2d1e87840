//! Sessions and the revocation log in Redis (7.0 or later): every change is one Lua script in one partition.
//!
//! The scripts lie in `scripts/`, one a file, and share `prelude.lua`. docs/protocol.md describes the keys.

mod guard;
mod link;
mod ring;
mod scripts;

use std::sync::Arc;
use std::time::Duration;

use redis::{RedisError, Value};
use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::time::{REVOCATION_MARGIN_SECONDS, UnixTime};
use sidegate_common::wire::Keys;

pub use guard::Unfit;
pub use link::Link;

use crate::domain::ports::{Store, Unavailable};
use crate::domain::session::{Ended, Ending, NewSession, Refusal, Rotated, Rotation, Session, Terms};
use crate::store::new_epoch;
use ring::Ring;
use scripts::{Call, Script};

/// The store's name in error messages.
const NAME: &str = "Redis";
/// How often the store looks whether its data set is still there.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The store in Redis.
#[derive(Clone)]
pub struct RedisStore {
    shared: Arc<Shared>,
}

struct Shared {
    link: Link,
    partitions: Vec<Keys>,
    terms: Terms,
    ring: Ring,
}

/// Why the store could not be used from the start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Redis does not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The store was made with another number of partitions, which is fixed.
    #[error(
        "the store has {found} partitions and REVOCATION_PARTITIONS is {wanted}: the number is fixed at first start"
    )]
    Partitions {
        /// As recorded in the store.
        found: String,
        /// As configured.
        wanted: u16,
    },
    /// Redis is set up so that it would lose revocations.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

impl RedisStore {
    /// Uses `link`, with `partitions` partitions under `prefix`.
    pub fn new(link: Link, prefix: &str, partitions: u16, terms: Terms) -> Self {
        let partitions = (0..partitions.max(1)).map(|partition| Keys::new(prefix, partition)).collect();
        Self { shared: Arc::new(Shared { link, partitions, terms, ring: Ring::default() }) }
    }

    /// Makes the data set where it is not there yet, and checks that it is laid out as configured.
    ///
    /// # Errors
    /// Redis does not answer, or the layout is another.
    pub async fn initialise(&self) -> Result<(), OpenError> {
        for partition in 0..self.partitions() {
            match self.ensure_epoch(partition).await {
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

    /// Refuses a server that would forget revocations: see [`Unfit`].
    ///
    /// # Errors
    /// Redis does not answer, or is unfit.
    pub async fn check_server(&self, persistence_required: bool) -> Result<(), OpenError> {
        let answer = self.shared.link.call(redis::cmd("INFO").arg("everything")).await.map_err(unavailable)?;
        guard::check(&guard::info_text(&answer), persistence_required)?;
        Ok(())
    }

    /// Looks once a second whether the data set is still there and the server the same, makes it again if not, and puts
    /// back what this issuer acknowledged lately. Runs until dropped.
    pub async fn watch(self) {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            for partition in 0..self.partitions() {
                if let Err(error) = self.ensure_epoch(partition).await {
                    tracing::warn!(partition, error = %error, "the revocation log cannot be looked at");
                }
            }
        }
    }

    /// Makes the partition's data set if it is gone, with the entries acknowledged lately in it. If another issuer made
    /// it, or the server is another one, those entries are appended: they may be missing, and twice does no harm.
    async fn ensure_epoch(&self, partition: u16) -> Result<(), RedisError> {
        let keys = self.keys(partition);
        let epoch = new_epoch().map_err(|_| (redis::ErrorKind::Client, "no randomness"))?;
        let lately = self.shared.ring.lately(partition);
        let mut call = self.call(Script::Init, keys).arg(epoch).arg(self.partitions());
        for entry in &lately {
            call = call.arg(entry.clone());
        }
        let (epoch, made, replid): (String, u8, String) = call.run(&self.shared.link).await?;
        let replay = self.shared.ring.remember(partition, &epoch, &replid);
        if made == 1 {
            tracing::warn!(partition, replayed = lately.len(), "made a new revocation log");
        } else if replay && !lately.is_empty() {
            tracing::warn!(partition, replayed = lately.len(), "the server or its data changed; replaying revocations");
            for entry in lately {
                let append = self.call(Script::Append, keys);
                let () = append_args(append, &entry, &self.shared.terms).run(&self.shared.link).await?;
            }
        }
        Ok(())
    }

    fn keys(&self, partition: u16) -> &Keys {
        // Out of range only if a caller invents a partition; the first one then refuses it by its contents.
        self.shared.partitions.get(usize::from(partition)).unwrap_or(&self.shared.partitions[0])
    }

    fn partition_of(&self, sub: &str) -> u16 {
        SubjectTag::of(sub).partition(self.partitions())
    }

    fn call(&self, script: Script, keys: &Keys) -> Call {
        Call::new(script)
            .key(keys.meta())
            .key(keys.log())
            .arg(keys.channel())
            .arg(self.shared.terms.retention())
            .arg(REVOCATION_MARGIN_SECONDS)
    }

    /// Runs a script; if the data set is gone, makes it again first and tries once more.
    async fn run<T: redis::FromRedisValue>(&self, partition: u16, call: &Call) -> Result<T, Unavailable> {
        match call.run(&self.shared.link).await {
            Err(error) if error.code() == Some("NOEPOCH") => {
                self.ensure_epoch(partition).await.map_err(unavailable)?;
                call.run(&self.shared.link).await.map_err(unavailable)
            }
            answer => answer.map_err(unavailable),
        }
    }
}

fn unavailable(error: RedisError) -> Unavailable {
    Unavailable::new(NAME, error)
}

/// An entry's bytes without `expires_at`, which the script fills in: the head byte, and all after it.
fn head_and_tail(target: Target) -> (Vec<u8>, Vec<u8>) {
    let bytes = Revocation { target, expires_at: UnixTime(0) }.to_bytes();
    (bytes[..1].to_vec(), bytes[5..].to_vec())
}

fn append_args(call: Call, entry: &[u8], terms: &Terms) -> Call {
    let expires_at = entry[1..5].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    call.arg(entry[..1].to_vec()).arg(expires_at).arg(entry[5..].to_vec()).arg(terms.lifetime_max)
}

impl Store for RedisStore {
    async fn create(&self, new: &NewSession) -> Result<UnixTime, Unavailable> {
        let partition = self.partition_of(&new.sub);
        let keys = self.keys(partition);
        let terms = &self.shared.terms;
        let call = self
            .call(Script::Create, keys)
            .key(keys.session(&new.sid.to_string()))
            .key(keys.user(&new.sub))
            .key(keys.watermark(&new.sub))
            .arg(new.sid.to_string())
            .arg(new.sub.as_str())
            .arg(terms.access_ttl)
            .arg(terms.idle_ttl)
            .arg(terms.absolute_ttl)
            .arg(new.address.as_str())
            .arg(new.agent.as_str());
        self.run(partition, &call).await.map(UnixTime)
    }

    async fn read(&self, partition: u16, sid: &Id) -> Result<Option<Session>, Unavailable> {
        let key = self.keys(partition).session(&sid.to_string());
        let command = scripts::read_session(&key);
        let row = self.shared.link.call(&command).await.map_err(unavailable)?;
        scripts::session(sid.clone(), row).map_err(unavailable)
    }

    async fn rotate(&self, rotation: &Rotation) -> Result<Rotated, Unavailable> {
        let partition = self.partition_of(&rotation.sub);
        let keys = self.keys(partition);
        let terms = &self.shared.terms;
        let subject = Some(SubjectTag::of(&rotation.sub));
        let target = Target::Session { sid: rotation.sid.clone(), subject };
        let (head, tail) = head_and_tail(target.clone());
        let call = self
            .call(Script::Rotate, keys)
            .key(keys.session(&rotation.sid.to_string()))
            .key(keys.user(&rotation.sub))
            .key(keys.watermark(&rotation.sub))
            .arg(rotation.sid.to_string())
            .arg(rotation.sub.as_str())
            .arg(rotation.presented)
            .arg(terms.access_ttl)
            .arg(terms.idle_ttl)
            .arg(terms.retry_window)
            .arg(head)
            .arg(tail);
        let answer: Vec<Value> = self.run(partition, &call).await?;
        let rotated = rotated(&answer).map_err(unavailable)?;
        if matches!(rotated, Rotated::Reused { .. }) {
            self.shared.ring.acknowledged(partition, target, terms);
        }
        Ok(rotated)
    }

    async fn end(&self, ending: &Ending) -> Result<Ended, Unavailable> {
        let keys = self.keys(ending.partition);
        let target = Target::Session { sid: ending.sid.clone(), subject: ending.subject };
        let (head, tail) = head_and_tail(target.clone());
        let call = self
            .call(Script::End, keys)
            .key(keys.session(&ending.sid.to_string()))
            .key(keys.user(ending.sub.as_deref().unwrap_or_default()))
            .arg(ending.sid.to_string())
            .arg(head)
            .arg(tail)
            .arg(ending.exp_seen.0)
            .arg(self.shared.terms.lifetime_max)
            .arg(u8::from(ending.known));
        let ended: u8 = self.run(ending.partition, &call).await?;
        self.shared.ring.acknowledged(ending.partition, target, &self.shared.terms);
        Ok(if ended == 1 { Ended::Now } else { Ended::Before })
    }

    async fn revoke_subject(&self, sub: &str) -> Result<UnixTime, Unavailable> {
        let partition = self.partition_of(sub);
        let keys = self.keys(partition);
        let terms = &self.shared.terms;
        let (head, _) = head_and_tail(Target::Subject { sub: sub.into(), threshold: UnixTime(0) });
        let call = self
            .call(Script::RevokeSubject, keys)
            .key(keys.user(sub))
            .key(keys.watermark(sub))
            .arg(head)
            .arg(sub)
            .arg(keys.session(""))
            .arg(terms.lifetime_max)
            .arg(terms.watermark_ttl());
        let threshold = self.run(partition, &call).await.map(UnixTime)?;
        self.shared.ring.acknowledged(partition, Target::Subject { sub: sub.into(), threshold }, terms);
        Ok(threshold)
    }

    async fn revoke_all(&self, partition: u16) -> Result<UnixTime, Unavailable> {
        let (head, _) = head_and_tail(Target::All { threshold: UnixTime(0) });
        let terms = &self.shared.terms;
        let call = self.call(Script::RevokeAll, self.keys(partition)).arg(head).arg(terms.lifetime_max);
        let threshold = self.run(partition, &call).await.map(UnixTime)?;
        self.shared.ring.acknowledged(partition, Target::All { threshold }, terms);
        Ok(threshold)
    }

    async fn append(&self, partition: u16, revocation: &Revocation) -> Result<(), Unavailable> {
        let call = self.call(Script::Append, self.keys(partition));
        let call = append_args(call, &revocation.to_bytes(), &self.shared.terms);
        let _appended: u8 = self.run(partition, &call).await?;
        self.shared.ring.acknowledged(partition, revocation.target.clone(), &self.shared.terms);
        Ok(())
    }

    async fn sessions(&self, sub: &str) -> Result<Vec<Session>, Unavailable> {
        let partition = self.partition_of(sub);
        let keys = self.keys(partition);
        let call = self.call(Script::Sessions, keys).key(keys.user(sub)).arg(keys.session(""));
        let flat: Vec<Value> = self.run(partition, &call).await?;
        let mut sessions = scripts::sessions(flat).map_err(unavailable)?;
        sessions.sort_by_key(|session| std::cmp::Reverse(session.created));
        Ok(sessions)
    }

    fn partitions(&self) -> u16 {
        u16::try_from(self.shared.partitions.len()).unwrap_or(u16::MAX)
    }

    async fn probe(&self) -> Result<(), Unavailable> {
        for partition in 0..self.partitions() {
            let call = self.call(Script::Probe, self.keys(partition));
            let _ready: u8 = self.run(partition, &call).await?;
        }
        Ok(())
    }
}

fn rotated(answer: &[Value]) -> Result<Rotated, RedisError> {
    let text = |at: usize| scripts::text(answer.get(at));
    let number = |at: usize| scripts::number(answer.get(at));
    let short = |at: usize| number(at).map(|value| u32::try_from(value).unwrap_or(u32::MAX));
    match text(0)?.as_str() {
        word @ ("traded" | "retried") => {
            Ok(Rotated::Traded { generation: short(1)?, issued: UnixTime(number(2)?), retried: word == "retried" })
        }
        "reused" => Ok(Rotated::Reused { generations_old: short(1)?, rotated_ago: number(2)? }),
        _ => Ok(Rotated::Refused(match text(1)?.as_str() {
            "gone" => Refusal::Gone,
            "expired" => Refusal::Expired,
            _ => Refusal::Revoked,
        })),
    }
}
