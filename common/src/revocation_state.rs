//! What is known of revocations: a followed log is taken in here and nowhere else, and every check asks here.
//!
//! It starts empty, and nothing is proven then: no token is found good before every partition has been loaded. Issuer and
//! verifier hold one each; what else has to hear of a revocation (shared memory, a journal) is its [`Observer`].

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::clock::{Clock, Moment};
use crate::index::{Applied, Index};
use crate::problem::Code;
use crate::revocation::{Revocation, Target};
use crate::sync::{Push, Sink};
use crate::time::{Instants, UnixTime};

/// What to do when the revocations held may be out of date (`ON_STALE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStale {
    /// Find no token good.
    Deny,
    /// Go on with what is held, and say so.
    Allow,
}

/// How long the revocations held may go unproven, and what then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// `MAX_STALENESS`, in milliseconds.
    pub max_ms: u64,
    /// `ON_STALE`.
    pub policy: OnStale,
}

/// Why no token can be found good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// No complete list has come in yet.
    #[error("the list of revoked tokens has not been loaded yet")]
    NotLoaded,
    /// The list is older than `MAX_STALENESS`, by this many seconds since it was proven complete.
    #[error("the list of revoked tokens was last known complete {0} s ago")]
    Stale(u64),
    /// There are no keys to verify with yet.
    #[error("no verification keys have been loaded yet")]
    NoKeys,
    /// The token's key is unknown, and the JWK set could not be read to look for it.
    #[error("the token's key could not be looked up: the JWKS fetch failed")]
    KeyLookupFailed,
}

impl Unavailable {
    /// The stable code that a client sees.
    pub const fn code(self) -> Code {
        match self {
            Self::NotLoaded | Self::NoKeys | Self::KeyLookupFailed => Code::TemporarilyUnavailable,
            Self::Stale(_) => Code::Stale,
        }
    }
}

/// Hears of every change, right after the index has it. Calls are cheap and never wait.
pub trait Observer: Send + Sync {
    /// A revocation is held that was not. The log may not have it yet.
    fn revoked(&self, partition: u16, revocation: &Revocation);

    /// The log is known to have this revocation of all tokens or of a key, which may have been held before.
    fn logged(&self, _partition: u16, _revocation: &Revocation) {}

    /// Tokens with `iat` at or before this moment are refused in one of the partitions.
    fn iat_floor(&self, _moment: UnixTime) {}

    /// Tokens verified under an older epoch have to be verified again. Epochs may be told out of order.
    fn key_epoch(&self, _epoch: u64) {}

    /// Nothing is proven any more.
    fn unproven(&self) {}
}

/// When each partition was last proven complete, in monotonic milliseconds; none until their number is known.
#[derive(Debug, Default)]
struct Freshness(OnceLock<Box<[AtomicU64]>>);

impl Freshness {
    fn partitions(&self) -> &[AtomicU64] {
        self.0.get().map_or(&[], |partitions| partitions)
    }

    /// When the partition that lags most was proven complete; none until each has been.
    fn oldest(&self) -> Option<u64> {
        // Zero means "never": a machine that booted this very millisecond waits for the next proof.
        let oldest = self.partitions().iter().map(|proven| proven.load(Ordering::Acquire)).min();
        oldest.filter(|proven| *proven > 0)
    }
}

/// The revocations held, and the proof that they are complete.
pub struct RevocationState {
    index: Index,
    freshness: Freshness,
    staleness: Staleness,
    key_epoch: AtomicU64,
    clock: Clock,
    observer: Option<Arc<dyn Observer>>,
}

impl fmt::Debug for RevocationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, freshness, staleness, key_epoch, clock, observer: _ } = self;
        f.debug_struct("RevocationState")
            .field("index", index)
            .field("freshness", freshness)
            .field("staleness", staleness)
            .field("key_epoch", key_epoch)
            .field("clock", clock)
            .finish_non_exhaustive()
    }
}

impl RevocationState {
    /// Nothing is loaded, and it is `now`. `observer` hears of everything from then on.
    pub fn new(staleness: Staleness, now: Instants, observer: Option<Arc<dyn Observer>>) -> Self {
        Self {
            index: Index::empty(),
            freshness: Freshness::default(),
            staleness,
            key_epoch: AtomicU64::new(0),
            clock: Clock::new(now),
            observer,
        }
    }

    /// The log has so many `partitions`. Only the first call counts: the number never changes.
    pub fn begin(&self, partitions: u16) {
        self.index.begin(partitions);
        self.freshness.0.get_or_init(|| (0..partitions.max(1)).map(|_| AtomicU64::new(0)).collect());
    }

    /// The revocations held, for look-ups.
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// The time that tokens are checked and entries expire by.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// How long they may go unproven.
    pub const fn staleness(&self) -> Staleness {
        self.staleness
    }

    /// When the partition that lags most was proven complete (monotonic milliseconds); none until each has been.
    pub fn proven(&self) -> Option<u64> {
        self.freshness.oldest()
    }

    /// Seconds of permitted staleness; none if what is held is fresh.
    ///
    /// # Errors
    /// It is not loaded, or staler than allowed.
    pub fn stale_seconds(&self, at: Moment) -> Result<Option<u64>, Unavailable> {
        let proven = self.proven().ok_or(Unavailable::NotLoaded)?;
        let age_ms = at.monotonic_ms.saturating_sub(proven);
        if age_ms <= self.staleness.max_ms {
            return Ok(None);
        }
        match self.staleness.policy {
            OnStale::Deny => Err(Unavailable::Stale(age_ms / 1000)),
            OnStale::Allow => Ok(Some(age_ms / 1000)),
        }
    }

    /// Changes whenever a verified token must be verified again: other keys, or a key revoked by the log.
    pub fn key_epoch(&self) -> u64 {
        self.key_epoch.load(Ordering::Acquire)
    }

    /// Changes what keys are worth. Clients ask about every token before the first answer that follows from the change, and so
    /// never call good what this process has refused; and once more after it, since what is answered meanwhile may still
    /// rest on what was.
    pub fn change_keys<T>(&self, change: impl FnOnce() -> T) -> T {
        self.next_key_epoch();
        let changed = change();
        self.next_key_epoch();
        changed
    }

    fn next_key_epoch(&self) {
        let epoch = self.key_epoch.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(observer) = &self.observer {
            observer.key_epoch(epoch);
        }
    }

    /// Takes in what this process had before it was restarted. The observer, who may have kept it, is not told.
    pub fn restore(&self, partition: u16, revocation: &Revocation) {
        self.index.apply(partition, revocation);
    }

    fn hold(&self, partition: u16, revocation: &Revocation, is_new: impl FnOnce() -> Applied) -> bool {
        let applied = match &revocation.target {
            Target::Key { kid } if !self.index.has_key(kid) => self.change_keys(is_new),
            _ => is_new(),
        };
        if let (Applied::New, Some(observer)) = (applied, &self.observer) {
            observer.revoked(partition, revocation);
        }
        applied == Applied::New
    }

    /// Takes in what the log is known to have, and tells the observer of an `all` or `key` that it was not known to have.
    fn log<T>(&self, partition: u16, revocation: &Revocation, take_in: impl FnOnce() -> T) -> T {
        let known = self.index.has_in_log(partition, revocation);
        let taken = take_in();
        if let (false, Some(observer)) = (known, &self.observer) {
            observer.logged(partition, revocation);
        }
        taken
    }
}

impl Sink for RevocationState {
    fn apply(&self, partition: u16, revocation: &Revocation) -> bool {
        let apply = || self.index.apply(partition, revocation);
        self.log(partition, revocation, || self.hold(partition, revocation, apply))
    }

    fn push(&self, partition: u16, push: &Push) -> bool {
        self.hold(partition, &push.1, || self.index.apply_unconfirmed(partition, push))
    }

    /// The observer has heard that they are held.
    fn confirm(&self, partition: u16, pushes: &[Push]) {
        for push in pushes {
            self.log(partition, &push.1, || self.index.confirm(partition, std::slice::from_ref(push)));
        }
    }

    /// The observer has heard that they are held.
    fn keep(&self, partition: u16, pushes: &[Push]) {
        self.index.keep(partition, pushes);
    }

    /// Observers are not told: they go on asking about them.
    fn drop_pushes(&self, partition: u16, pushes: &[Push]) {
        let drop = || self.index.drop_unconfirmed(partition, pushes);
        if pushes.iter().any(|(_, revocation)| matches!(revocation.target, Target::Key { .. })) {
            self.change_keys(drop);
        } else {
            drop();
        }
    }

    fn since(&self, partition: u16, moment: UnixTime) {
        self.index.raise_since(partition, moment);
        if let Some(observer) = &self.observer {
            observer.iat_floor(moment);
        }
    }

    fn time(&self, store: UnixTime, now: Instants) -> u64 {
        // Before the time goes back: nothing is found good until every partition has been read whole again.
        self.clock.confirm(store, now, || {
            self.freshness.partitions().iter().for_each(|proven| proven.store(0, Ordering::Release));
            if let Some(observer) = &self.observer {
                observer.unproven();
            }
        })
    }

    fn fresh(&self, partition: u16, as_of: Instants, lowered: u64) {
        self.clock.while_lowered(lowered, || {
            if let Some(proven) = self.freshness.partitions().get(usize::from(partition)) {
                proven.fetch_max(as_of.monotonic_ms, Ordering::AcqRel);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Position;
    use std::sync::Mutex;

    /// What the observer heard of: "held" and "logged", with the kind.
    #[derive(Default)]
    struct Heard(Mutex<Vec<(&'static str, Target)>>);

    impl Observer for Heard {
        fn revoked(&self, _partition: u16, revocation: &Revocation) {
            self.0.lock().unwrap().push(("held", revocation.target.clone()));
        }

        fn logged(&self, _partition: u16, revocation: &Revocation) {
            self.0.lock().unwrap().push(("logged", revocation.target.clone()));
        }
    }

    fn observed() -> (RevocationState, Arc<Heard>) {
        let heard = Arc::new(Heard::default());
        let staleness = Staleness { policy: OnStale::Deny, max_ms: 1000 };
        let now = Instants { wall_ms: 1_000_000, monotonic_ms: 1000 };
        let state = RevocationState::new(staleness, now, Some(Arc::clone(&heard) as Arc<dyn Observer>));
        state.begin(1);
        (state, heard)
    }

    fn all_and_key() -> [Push; 2] {
        let targets = [Target::All { threshold: UnixTime(900) }, Target::Key { kid: "k1".into() }];
        let mut sequence = 0;
        targets.map(|target| {
            sequence += 1;
            (Position { ms: 1, sequence }, Revocation { target, expires_at: UnixTime(9_999) })
        })
    }

    #[test]
    fn all_and_key_are_logged_once_when_their_push_is_confirmed() {
        let (state, heard) = observed();
        let pushes = all_and_key();
        let [all, key] = pushes.clone().map(|push| push.1.target);
        for push in &pushes {
            assert!(state.push(0, push));
        }
        assert_eq!(*heard.0.lock().unwrap(), [("held", all.clone()), ("held", key.clone())], "not logged yet");
        state.confirm(0, &pushes);
        state.confirm(0, &pushes);
        pushes.iter().for_each(|push| assert!(!state.apply(0, &push.1)));
        let logged = [("held", all.clone()), ("held", key.clone()), ("logged", all), ("logged", key)];
        assert_eq!(*heard.0.lock().unwrap(), logged);
    }

    #[test]
    fn all_and_key_that_a_lost_connection_keeps_are_logged_when_the_log_shows_them() {
        let (state, heard) = observed();
        let pushes = all_and_key();
        let [all, key] = pushes.clone().map(|push| push.1.target);
        pushes.iter().for_each(|push| assert!(state.push(0, push)));
        state.keep(0, &pushes);
        assert_eq!(heard.0.lock().unwrap().len(), 2, "held, and no more");
        pushes.iter().for_each(|push| assert!(!state.apply(0, &push.1), "held already"));
        assert_eq!(heard.0.lock().unwrap()[2..], [("logged", all), ("logged", key)]);
    }

    #[test]
    fn pushes_that_are_dropped_are_never_logged() {
        let (state, heard) = observed();
        let pushes = all_and_key();
        pushes.iter().for_each(|push| assert!(state.push(0, push)));
        state.drop_pushes(0, &pushes);
        assert!(heard.0.lock().unwrap().iter().all(|(what, _)| *what == "held"));
    }
}
