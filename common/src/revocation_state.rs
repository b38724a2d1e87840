//! The revocations and the proof that they are complete: followed logs write here and nowhere else,
//! and every check reads here.
//!
//! The state starts empty and unproven, so no token passes before every partition has been loaded.
//! Issuer and verifier have one each. Anything else that needs every revocation (shared memory, a
//! journal) implements [`Observer`].

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use crate::clock::{CheckTime, Clock};
use crate::foreign::set::ForeignIssuers;
use crate::index::{Applied, Index};
use crate::problem::Code;
use crate::revocation::{Revocation, Target};
use crate::sync::{Push, Sink};
use crate::time::{ClockReading, UnixTime};

/// What to do when the revocations may be out of date (`ON_STALE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStale {
    /// Reject every token.
    Deny,
    /// Check with the revocations at hand, and say so in the answer.
    Allow,
}

/// How long the revocations may stay unproven, and what to do then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// `MAX_STALENESS`, in milliseconds.
    pub max_ms: u64,
    /// `ON_STALE`.
    pub policy: OnStale,
}

/// Why no token can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// No complete list has been loaded yet.
    #[error("the list of revoked tokens has not been loaded yet")]
    NotLoaded,
    /// The list was last proven complete so many seconds ago, more than `MAX_STALENESS`.
    #[error("the list of revoked tokens was last known complete {0} s ago")]
    Stale(u64),
    /// There are no keys to verify with yet.
    #[error("no verification keys have been loaded yet")]
    NoKeys,
    /// The token's key is unknown, and the JWK set could not be read to look for it.
    #[error("the token's key could not be looked up: the JWKS fetch failed")]
    KeyLookupFailed,
    /// The log revokes tokens by a claim that this process' `ISSUERS_FILE` does not list.
    #[error("the list revokes tokens by a claim that ISSUERS_FILE does not list as revocable")]
    UnlistedClaim,
}

impl Unavailable {
    /// The stable code that a client sees.
    pub const fn code(self) -> Code {
        match self {
            Self::NotLoaded | Self::NoKeys | Self::KeyLookupFailed | Self::UnlistedClaim => {
                Code::TemporarilyUnavailable
            }
            Self::Stale(_) => Code::Stale,
        }
    }
}

/// Receives every change right after the index has it. Calls must be cheap and must never block.
pub trait Observer: Send + Sync {
    /// The index has a new revocation, which the log may not have yet.
    fn revoked(&self, partition: u16, revocation: &Revocation);

    /// The log is known to have this `all`, `key` or `claim`, which the index may have had before.
    fn logged(&self, _partition: u16, _revocation: &Revocation) {}

    /// One of the partitions now rejects tokens with `iat` at or before this time.
    fn iat_floor(&self, _moment: UnixTime) {}

    /// Tokens verified under an older epoch must be verified again. Epochs may arrive out of order.
    fn key_epoch(&self, _epoch: u64) {}

    /// The list is no longer proven complete.
    fn unproven(&self) {}
}

/// When each partition was last proven complete, in monotonic milliseconds; empty until their
/// number is known.
#[derive(Debug, Default)]
struct Freshness(OnceLock<Box<[AtomicU64]>>);

impl Freshness {
    fn partitions(&self) -> &[AtomicU64] {
        self.0.get().map_or(&[], |partitions| partitions)
    }

    /// When the least fresh partition was proven complete; `None` until every partition has been.
    fn oldest(&self) -> Option<u64> {
        // Zero means "never". On a machine that booted within this millisecond the next proof
        // counts.
        let oldest = self.partitions().iter().map(|proven| proven.load(Ordering::Acquire)).min();
        oldest.filter(|proven| *proven > 0)
    }
}

/// The revocations, and the proof that they are complete.
pub struct RevocationState {
    index: Index,
    freshness: Freshness,
    staleness: Staleness,
    key_epoch: AtomicU64,
    clock: Clock,
    observer: Option<Arc<dyn Observer>>,
    /// The issuers of `ISSUERS_FILE`, if it is set.
    foreign: RwLock<Option<Arc<ForeignIssuers>>>,
    /// True if the list has an entry of one of them that no look-up finds.
    unlisted_claim: AtomicBool,
    /// Held while that is found out, so that an older result never replaces a newer one.
    looking: Mutex<()>,
}

impl fmt::Debug for RevocationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            index,
            freshness,
            staleness,
            key_epoch,
            clock,
            observer: _,
            foreign: _,
            unlisted_claim: _,
            looking: _,
        } = self;
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
    /// An empty, unproven state at time `now`. `observer` receives every later change.
    pub fn new(staleness: Staleness, now: ClockReading, observer: Option<Arc<dyn Observer>>) -> Self {
        Self {
            index: Index::empty(),
            freshness: Freshness::default(),
            staleness,
            key_epoch: AtomicU64::new(0),
            clock: Clock::new(now),
            observer,
            foreign: RwLock::default(),
            unlisted_claim: AtomicBool::new(false),
            looking: Mutex::default(),
        }
    }

    /// Sets the number of partitions. Only the first call has an effect: the number never changes.
    pub fn begin(&self, partitions: u16) {
        self.index.begin(partitions);
        self.freshness.0.get_or_init(|| (0..partitions.max(1)).map(|_| AtomicU64::new(0)).collect());
    }

    /// The index, for look-ups.
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// The clock for token checks and entry expiry.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The staleness settings.
    pub const fn staleness(&self) -> Staleness {
        self.staleness
    }

    /// When the least fresh partition was proven complete (monotonic milliseconds); `None` until
    /// every partition has been.
    pub fn proven(&self) -> Option<u64> {
        self.freshness.oldest()
    }

    /// `None` if the list is fresh; its age in seconds if it is stale and `ON_STALE=allow`.
    ///
    /// # Errors
    /// The list is not loaded, or too stale.
    pub fn stale_seconds(&self, at: CheckTime) -> Result<Option<u64>, Unavailable> {
        let proven = self.proven().ok_or(Unavailable::NotLoaded)?;
        if self.unlisted_claim.load(Ordering::Acquire) {
            return Err(Unavailable::UnlistedClaim);
        }
        let age_ms = at.monotonic_ms.saturating_sub(proven);
        if age_ms <= self.staleness.max_ms {
            return Ok(None);
        }
        match self.staleness.policy {
            OnStale::Deny => Err(Unavailable::Stale(age_ms / 1000)),
            OnStale::Allow => Ok(Some(age_ms / 1000)),
        }
    }

    /// The issuers of `ISSUERS_FILE`; `None` without the file.
    pub fn foreign(&self) -> Option<Arc<ForeignIssuers>> {
        self.foreign.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the issuers of `ISSUERS_FILE`. Tokens verified before must be verified again.
    pub fn set_foreign(&self, issuers: Arc<ForeignIssuers>) {
        // Before any of their tokens can be accepted.
        self.unlisted_claim.fetch_or(self.index.any_claim(|claim| issuers.lack_claim(claim)), Ordering::AcqRel);
        self.change_keys(|| *self.foreign.write().unwrap_or_else(PoisonError::into_inner) = Some(issuers));
        self.look_for_unlisted_claims();
    }

    /// Looks whether the list has entries of the issuers that no look-up finds: call after entries
    /// have expired.
    pub fn look_for_unlisted_claims(&self) {
        let _one_at_a_time = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let unlisted = self.foreign().is_some_and(|issuers| self.index.any_claim(|claim| issuers.lack_claim(claim)));
        let was = self.unlisted_claim.swap(unlisted, Ordering::AcqRel);
        if let (true, false, Some(observer)) = (unlisted, was, &self.observer) {
            observer.unproven();
        }
    }

    /// True if the list has an entry of an issuer of `ISSUERS_FILE` that no look-up finds.
    pub fn has_unlisted_claim(&self) -> bool {
        self.unlisted_claim.load(Ordering::Acquire)
    }

    /// Changes whenever verified tokens must be verified again: keys were replaced, or the log
    /// revoked one.
    pub fn key_epoch(&self) -> u64 {
        self.key_epoch.load(Ordering::Acquire)
    }

    /// Runs `change`, which alters the valid keys, and starts a new key epoch before and after.
    /// Before: clients ask about every token before the first answer that depends on the change, so
    /// they never accept a token that this process has rejected. After: answers given during the
    /// change may still depend on the old keys.
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

    /// Adds a revocation from this process' own snapshot or journal. The observer, which may have
    /// stored it, gets no call.
    pub fn restore(&self, partition: u16, revocation: &Revocation) {
        self.index.apply(partition, revocation);
        self.note_claim(revocation);
    }

    fn note_claim(&self, revocation: &Revocation) {
        if matches!(revocation.target, Target::Claim { .. }) {
            self.look_for_unlisted_claims();
        }
    }

    fn hold(&self, partition: u16, revocation: &Revocation, is_new: impl FnOnce() -> Applied) -> bool {
        let applied = match &revocation.target {
            Target::Key { kid } if !self.index.has_key(kid) => self.change_keys(is_new),
            _ => is_new(),
        };
        self.note_claim(revocation);
        if let (Applied::New, Some(observer)) = (applied, &self.observer) {
            observer.revoked(partition, revocation);
        }
        applied == Applied::New
    }
}

impl Sink for RevocationState {
    fn apply(&self, partition: u16, revocation: &Revocation) -> bool {
        let known = self.index.has_in_log(partition, revocation);
        let new = self.hold(partition, revocation, || self.index.apply(partition, revocation));
        if let (false, Some(observer)) = (known, &self.observer) {
            observer.logged(partition, revocation);
        }
        new
    }

    fn push(&self, partition: u16, push: &Push) -> bool {
        self.hold(partition, &push.1, || self.index.apply_unconfirmed(partition, push))
    }

    /// The observer received these when they were pushed.
    fn confirm(&self, partition: u16, pushes: &[Push]) {
        // All at once: a burst has tens of thousands, and each removal visits all unconfirmed pushes.
        let unlogged = pushes.iter().map(|(_, revocation)| revocation);
        let unlogged: Vec<_> = unlogged.filter(|revocation| !self.index.has_in_log(partition, revocation)).collect();
        self.index.confirm(partition, pushes);
        if let Some(observer) = &self.observer {
            unlogged.into_iter().for_each(|revocation| observer.logged(partition, revocation));
        }
    }

    /// The observer received these when they were pushed.
    fn keep(&self, partition: u16, pushes: &[Push]) {
        self.index.keep(partition, pushes);
    }

    /// Observers get no call: for them the token stays suspect, and they ask about it.
    fn drop_pushes(&self, partition: u16, pushes: &[Push]) {
        let drop = || self.index.drop_unconfirmed(partition, pushes);
        if pushes.iter().any(|(_, revocation)| matches!(revocation.target, Target::Key { .. })) {
            self.change_keys(drop);
        } else {
            drop();
        }
    }

    fn since(&self, partition: u16, moment: UnixTime) {
        self.index.raise_complete_since(partition, moment);
        if let Some(observer) = &self.observer {
            observer.iat_floor(moment);
        }
    }

    fn time(&self, store: UnixTime, now: ClockReading) -> u64 {
        // Before the time goes back: no token passes until every partition has been read completely
        // again.
        self.clock.confirm(store, now, || {
            self.freshness.partitions().iter().for_each(|proven| proven.store(0, Ordering::Release));
            if let Some(observer) = &self.observer {
                observer.unproven();
            }
        })
    }

    fn fresh(&self, partition: u16, as_of: ClockReading, lowered: u64) {
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
    use crate::log_protocol::Position;
    use std::sync::Mutex;

    /// Records the observer's calls as "held" or "logged", with the target.
    #[derive(Default)]
    struct RecordingObserver(Mutex<Vec<(&'static str, Target)>>);

    impl Observer for RecordingObserver {
        fn revoked(&self, _partition: u16, revocation: &Revocation) {
            self.0.lock().unwrap().push(("held", revocation.target.clone()));
        }

        fn logged(&self, _partition: u16, revocation: &Revocation) {
            self.0.lock().unwrap().push(("logged", revocation.target.clone()));
        }
    }

    fn observed() -> (RevocationState, Arc<RecordingObserver>) {
        let calls = Arc::new(RecordingObserver::default());
        let staleness = Staleness { policy: OnStale::Deny, max_ms: 1000 };
        let now = ClockReading { wall_ms: 1_000_000, monotonic_ms: 1000 };
        let state = RevocationState::new(staleness, now, Some(Arc::clone(&calls) as Arc<dyn Observer>));
        state.begin(1);
        (state, calls)
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
    fn confirmed_all_and_key_are_logged_once() {
        let (state, calls) = observed();
        let pushes = all_and_key();
        let [all, key] = pushes.clone().map(|push| push.1.target);
        for push in &pushes {
            assert!(state.push(0, push));
        }
        assert_eq!(*calls.0.lock().unwrap(), [("held", all.clone()), ("held", key.clone())], "not logged yet");
        state.confirm(0, &pushes);
        state.confirm(0, &pushes);
        pushes.iter().for_each(|push| assert!(!state.apply(0, &push.1)));
        let logged = [("held", all.clone()), ("held", key.clone()), ("logged", all), ("logged", key)];
        assert_eq!(*calls.0.lock().unwrap(), logged);
    }

    #[test]
    fn kept_all_and_key_are_logged_once_the_log_has_them() {
        let (state, calls) = observed();
        let pushes = all_and_key();
        let [all, key] = pushes.clone().map(|push| push.1.target);
        pushes.iter().for_each(|push| assert!(state.push(0, push)));
        state.keep(0, &pushes);
        assert_eq!(calls.0.lock().unwrap().len(), 2, "held, not logged");
        pushes.iter().for_each(|push| assert!(!state.apply(0, &push.1), "held already"));
        assert_eq!(calls.0.lock().unwrap()[2..], [("logged", all), ("logged", key)]);
    }

    #[test]
    fn dropped_pushes_are_never_logged() {
        let (state, calls) = observed();
        let pushes = all_and_key();
        pushes.iter().for_each(|push| assert!(state.push(0, push)));
        state.drop_pushes(0, &pushes);
        assert!(calls.0.lock().unwrap().iter().all(|(what, _)| *what == "held"));
    }
}
