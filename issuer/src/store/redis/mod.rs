//! Sessions and the revocation log in Redis (7.0 or later): every change is one Lua script in one partition.
//!
//! The scripts lie in `scripts/`, one a file, and share `prelude.lua`. docs/protocol.md describes the keys.

mod deed;
mod guard;
mod journal;
mod keeper;
mod link;
mod outbox;
mod recall;
mod ring;
mod scripts;
mod sightings;
mod waiter;

use std::path::PathBuf;
use std::sync::Arc;

use redis::{RedisError, Value};
use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::time::{CLOCK_SKEW_SECONDS, REVOCATION_MARGIN_SECONDS, UnixTime};
use sidegate_common::wire::{Keys, Position};

pub use guard::{Demands, Unfit};
pub use journal::JournalError;
pub use keeper::Pace;
pub use link::Link;
pub use waiter::WaitSettings;

use crate::domain::ports::{Store, Unavailable};
use crate::domain::session::{Ended, Ending, NewSession, Refusal, Rotated, Rotation, Session, Terms};
use crate::store::counts::Counts;
use crate::store::until_valid;
use deed::Deed;
use journal::Journal;
use outbox::Outbox;
use ring::Ring;
use scripts::{Call, Script};
use sightings::Sightings;
use waiter::Waiter;

/// The store's name in error messages.
const NAME: &str = "Redis";

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
    outbox: Outbox,
    sightings: Sightings,
    journal: Option<Arc<Journal>>,
    waiter: Option<Waiter>,
    /// One at a time makes a lost data set again.
    making: tokio::sync::Mutex<()>,
    counts: Counts,
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
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Where a journal is (`REVOCATION_JOURNAL`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSettings {
    /// The file.
    pub path: PathBuf,
    /// `REVOCATION_JOURNAL_SOLE`.
    pub sole: bool,
}

impl RedisStore {
    /// Uses `link`, with `partitions` partitions under `prefix`.
    pub fn new(link: Link, prefix: &str, partitions: u16, terms: Terms) -> Self {
        let partitions = (0..partitions.max(1)).map(|partition| Keys::new(prefix, partition)).collect();
        let counts = Counts::default();
        let shared = Shared {
            link,
            partitions,
            terms,
            ring: Ring::new(counts.clone()),
            outbox: Outbox::new(counts.clone()),
            sightings: Sightings::default(),
            journal: None,
            waiter: None,
            making: tokio::sync::Mutex::new(()),
            counts,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits, on a connection of its own, for what `settings` ask before a revocation counts as stored.
    #[must_use]
    pub fn waiting(mut self, link: Link, settings: WaitSettings) -> Self {
        let key = format!("{}:wait", self.keys(0).tag());
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.waiter = Some(Waiter::start(link.patient(settings.timeout), key, settings));
        }
        self
    }

    /// Keeps a journal, and takes from it what was acknowledged lately before a restart.
    ///
    /// # Errors
    /// The file cannot be used, or another issuer does.
    pub fn journaling(mut self, settings: &JournalSettings) -> Result<Self, OpenError> {
        let owner = journal::Owner {
            prefix: self.keys(0).tag().to_owned(),
            partitions: self.partitions(),
            sole: settings.sole,
        };
        let journal = Journal::open(&settings.path, &owner, self.shared.counts.clone())?;
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.remember(&journal).map_err(|error| JournalError::Io(settings.path.clone(), error))?;
            shared.journal = Some(Arc::new(journal));
        }
        Ok(self)
    }

    /// What it counts.
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
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
                self.made(partition).await?;
                call.run(&self.shared.link).await.map_err(unavailable)
            }
            answer => answer.map_err(unavailable),
        }
    }

    /// What follows a revocation that the log has taken, before anybody hears that it is stored.
    async fn stored(&self, partition: u16, target: Target, position: &str) -> Result<(), Unavailable> {
        let deed = Deed::done(partition, target, &self.shared.terms, Position::parse(position));
        self.shared.ring.acknowledged(deed.clone());
        let confirmed = self.confirmed(&deed).await;
        match confirmed {
            Ok(()) => self.shared.outbox.done(&deed),
            Err(_) => self.shared.outbox.keep_unconfirmed(deed),
        }
        confirmed
    }

    /// Returns once the journal has a deed that the log has, and replicas and disks as far as they are waited for.
    async fn confirmed(&self, deed: &Deed) -> Result<(), Unavailable> {
        let journal = async {
            match &self.shared.journal {
                Some(journal) if !journal.acknowledged(deed).await => {
                    Err(Unavailable::new("the journal", "it cannot be written"))
                }
                _ => Ok(()),
            }
        };
        let replicas = async {
            let Some(waiter) = &self.shared.waiter else { return Ok(()) };
            let position = deed.position.map(|position| position.to_string());
            let waited = waiter.wait(self.keys(deed.partition).log(), position).await;
            waited.map_err(|trouble| Unavailable::new(NAME, trouble))
        };
        let (journal, replicas) = tokio::join!(journal, replicas);
        journal.and(replicas)
    }

    /// Keeps a revocation that was refused, or may have been: it is delivered once Redis takes it.
    fn refused(&self, partition: u16, target: Target, error: Unavailable) -> Unavailable {
        self.shared.outbox.keep(Deed::owed(partition, target, &self.shared.terms));
        error
    }

    /// The store's clock, as near as it is known.
    fn store_now(&self, partition: u16) -> UnixTime {
        let known = self.shared.sightings.store_now(partition);
        known.unwrap_or_else(|| sidegate_runtime::clock::unix_now().plus(CLOCK_SKEW_SECONDS))
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
        let (issued, ahead_ms) = self.run(partition, &call).await?;
        until_valid(ahead_ms).await;
        Ok(UnixTime(issued))
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
        match rotated {
            Rotated::Reused { .. } => {
                self.stored(partition, target, &scripts::text(answer.get(3)).map_err(unavailable)?).await?;
            }
            Rotated::Traded { .. } => until_valid(scripts::number(answer.get(3)).map_err(unavailable)?).await,
            Rotated::Refused(_) => {}
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
        let answer: Result<(u8, String), _> = self.run(ending.partition, &call).await;
        let (ended, position) = answer.map_err(|error| self.refused(ending.partition, target.clone(), error))?;
        self.stored(ending.partition, target, &position).await?;
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
        let target = |threshold| Target::Subject { sub: sub.into(), threshold };
        let asked = self.store_now(partition);
        let answer: Result<(u64, String), _> = self.run(partition, &call).await;
        let (threshold, position) = answer.map_err(|error| self.refused(partition, target(asked), error))?;
        self.stored(partition, target(UnixTime(threshold)), &position).await?;
        Ok(UnixTime(threshold))
    }

    async fn revoke_all(&self, partition: u16) -> Result<UnixTime, Unavailable> {
        let (head, _) = head_and_tail(Target::All { threshold: UnixTime(0) });
        let terms = &self.shared.terms;
        let call = self.call(Script::RevokeAll, self.keys(partition)).arg(head).arg(terms.lifetime_max);
        let asked = self.store_now(partition);
        let answer: Result<(u64, String), _> = self.run(partition, &call).await;
        let refused = |error| self.refused(partition, Target::All { threshold: asked }, error);
        let (threshold, position) = answer.map_err(refused)?;
        self.stored(partition, Target::All { threshold: UnixTime(threshold) }, &position).await?;
        Ok(UnixTime(threshold))
    }

    async fn append(&self, partition: u16, revocation: &Revocation) -> Result<(), Unavailable> {
        let call = self.call(Script::Append, self.keys(partition));
        let call = append_args(call, &revocation.to_bytes(), &self.shared.terms);
        let answer: Result<String, _> = self.run(partition, &call).await;
        let position = answer.map_err(|error| self.refused(partition, revocation.target.clone(), error))?;
        self.stored(partition, revocation.target.clone(), &position).await
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
