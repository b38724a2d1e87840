//! The list of revocations as this daemon keeps it: the index that decides, and beside it the shared-memory segment that
//! tells readers when to ask. Every change goes to the index first, so that whoever asks hears the newest.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidegate_common::index::{Applied, HeldId};
use sidegate_common::key::KeyRing;
use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::sync::Push;
use sidegate_common::time::{Instants, UnixTime};
use sidegate_common::verdict::{Judge, Moment, OnStale, Unknown};
use sidegate_shm::attach::Board;
use sidegate_shm::clock::NANOS;
use sidegate_shm::hash::Subject;
use sidegate_shm::writer::Entry;
use sidegate_shm::{Clock as _, CoarseClock, Geometry, Live, Publisher, SegmentError, State, Stats};

/// How long readers may go on believing a daemon that has stopped ticking.
const TICK_TRUSTED_NS: u64 = NANOS;
/// How many entries are fed to a growing segment before others get a turn.
const FEED_AT_ONCE: usize = 2048;

/// The list.
#[derive(Debug)]
pub struct List {
    judge: Arc<Judge>,
    shared: Option<Mutex<Shared>>,
    segment: AtomicU64,
}

/// The segment, and what of it has to be remembered to take entries out again.
#[derive(Debug)]
struct Shared {
    publisher: Publisher,
    /// The threshold that is published for a user, and when it may go.
    watermarks: HashMap<Box<str>, Watermark>,
    /// The live line as last published.
    live: Live,
}

#[derive(Clone, Copy, Debug)]
struct Watermark {
    threshold: UnixTime,
    expires_at: UnixTime,
}

impl List {
    /// A list without shared memory.
    pub const fn new(judge: Arc<Judge>) -> Self {
        Self { judge, shared: None, segment: AtomicU64::new(0) }
    }

    /// A list with a segment, offered on `board`.
    ///
    /// # Errors
    /// The kernel refuses the segment.
    pub fn shared(judge: Arc<Judge>, board: Arc<Board>) -> Result<Self, SegmentError> {
        let publisher = Publisher::new(Geometry::for_entries(0), board)?;
        let segment = AtomicU64::new(publisher.segment());
        let live = Live {
            valid_until_monotonic_ns: 0,
            valid_until_realtime_ns: 0,
            state: State::Filling,
            key_epoch: judge.key_epoch(),
            time_floor_s: 0,
        };
        Ok(Self { judge, shared: Some(Mutex::new(Shared { publisher, watermarks: HashMap::new(), live })), segment })
    }

    /// The judge who decides by it.
    pub const fn judge(&self) -> &Arc<Judge> {
        &self.judge
    }

    /// The segment that readers should use, 0 if there is none.
    pub fn segment(&self) -> u64 {
        self.segment.load(Ordering::Acquire)
    }

    /// What is in the segment, and how many readers are attached.
    pub fn stats(&self) -> Option<(Stats, usize)> {
        self.lock().map(|shared| (shared.publisher.stats(), shared.publisher.readers()))
    }

    fn lock(&self) -> Option<MutexGuard<'_, Shared>> {
        self.shared.as_ref().map(|shared| shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Extends readers' trust, by at most a second; several times a second.
    pub fn tick(&self, at: Moment) {
        if let Some(mut shared) = self.lock() {
            shared.live = self.live(at);
            shared.tick();
        }
    }

    fn live(&self, at: Moment) -> Live {
        let now = CoarseClock.now();
        let staleness = self.judge.staleness();
        let state = match self.judge.ready(at) {
            Ok(_) => State::Live,
            Err(Unknown::NotLoaded) => State::Filling,
            Err(Unknown::NoKeys | Unknown::KeyLookupFailed | Unknown::Stale(_)) => State::Closed,
        };
        let age_ms = self.judge.freshness().oldest().map_or(u64::MAX, |proven| at.monotonic_ms.saturating_sub(proven));
        let left_ms = match staleness.policy {
            OnStale::Deny => staleness.max_ms.saturating_sub(age_ms),
            // A lost feed is covered; a dead daemon is not.
            OnStale::Allow => u64::MAX,
        };
        let trusted_ns = left_ms.saturating_mul(NANOS / 1000).min(TICK_TRUSTED_NS);
        Live {
            valid_until_monotonic_ns: now.monotonic_ns.saturating_add(trusted_ns),
            valid_until_realtime_ns: now.realtime_ns.saturating_add(trusted_ns),
            state,
            key_epoch: self.judge.key_epoch(),
            time_floor_s: at.now.0,
        }
    }

    /// Drops entries that no living token bears. Readers are told the time first: they then ask about such tokens.
    pub fn expire(&self, at: Moment) {
        self.tick(at);
        let expired = self.judge.index().expire(at.now);
        for ids in [(&expired.tokens, false), (&expired.sessions, true)] {
            for chunk in ids.0.chunks(FEED_AT_ONCE) {
                let Some(mut shared) = self.lock() else { return };
                chunk.iter().for_each(|held| with_id(held, ids.1, |entry| shared.publisher.remove(entry)));
            }
        }
        let Some(mut shared) = self.lock() else { return };
        for sub in &expired.subjects {
            // It may have been raised again meanwhile.
            if let Some(Watermark { threshold, expires_at }) = shared.watermarks.get(sub).copied()
                && expires_at < at.now
            {
                shared.watermarks.remove(sub);
                shared.publisher.remove(&watermark(sub, threshold));
            }
        }
    }

    /// Moves to a larger or smaller segment, if it is time for one. Readers keep the old one until they have the new.
    ///
    /// # Errors
    /// The kernel refuses the segment; readers then ask more.
    pub fn resize(&self, at: Moment) -> Result<(), SegmentError> {
        let Some(mut shared) = self.lock() else { return Ok(()) };
        let Some(geometry) = shared.publisher.wants_resize() else { return Ok(()) };
        shared.publisher.begin_resize(geometry)?;
        drop(shared);
        let mut batch = Vec::with_capacity(FEED_AT_ONCE);
        // First: a push that the log confirms meanwhile stands in the index before it leaves these.
        self.judge.index().each_unconfirmed(|_, revocation| batch.push(revocation.clone()));
        self.feed(&mut batch);
        self.judge.index().each(|revocation| {
            batch.push(revocation);
            if batch.len() == FEED_AT_ONCE {
                self.feed(&mut batch);
                self.tick(at);
            }
        });
        self.feed(&mut batch);
        if let Some(mut shared) = self.lock() {
            shared.publisher.switch();
            self.segment.store(shared.publisher.segment(), Ordering::Release);
        }
        Ok(())
    }

    fn feed(&self, batch: &mut Vec<Revocation>) {
        let Some(mut shared) = self.lock() else { return };
        for revocation in batch.drain(..) {
            match &revocation.target {
                Target::Subject { sub, .. } => {
                    // What is published, which the entry at hand may be older or newer than.
                    if let Some(Watermark { threshold, .. }) = shared.watermarks.get(sub).copied() {
                        shared.publisher.feed(&watermark(sub, threshold));
                    }
                }
                target => with_target(target, |entry| shared.publisher.feed(entry)),
            }
        }
    }

    /// Readers are to believe nothing any more: the daemon is leaving.
    pub fn close(&self) {
        if let Some(mut shared) = self.lock() {
            shared.publisher.close();
        }
    }

    /// Holds a revocation of the partition; true if it was not held before.
    pub fn apply(&self, partition: u16, revocation: &Revocation) -> bool {
        let index = self.judge.index();
        self.hold(revocation, || index.apply(partition, revocation) == Applied::New)
    }

    /// Holds one that was only pushed, and that the log may turn out not to have.
    pub fn push(&self, partition: u16, push: &Push) -> bool {
        let index = self.judge.index();
        self.hold(&push.1, || index.apply_unconfirmed(partition, push) == Applied::New)
    }

    /// Holds for good what was pushed. Readers have been told of it.
    pub fn confirm(&self, partition: u16, pushes: &[Push]) {
        self.judge.index().confirm(partition, pushes);
    }

    /// Holds for good what was pushed and the log can no longer be asked about. Readers have been told of it.
    pub fn keep(&self, partition: u16, pushes: &[Push]) {
        self.judge.index().keep(partition, pushes);
    }

    /// Lets go what was pushed and never was in the log. Readers go on asking about it: a tag says no more than that.
    pub fn drop_pushes(&self, partition: u16, pushes: &[Push]) {
        let index = self.judge.index();
        if pushes.iter().any(|(_, revocation)| matches!(revocation.target, Target::Key { .. })) {
            self.with_new_epochs(|| index.drop_unconfirmed(partition, pushes));
        } else {
            index.drop_unconfirmed(partition, pushes);
        }
    }

    fn hold(&self, revocation: &Revocation, is_new: impl FnOnce() -> bool) -> bool {
        let index = self.judge.index();
        match &revocation.target {
            Target::Key { kid } if !index.has_key(kid) => self.with_new_epochs(is_new),
            Target::Key { .. } => is_new(),
            _ if is_new() => {
                self.publish(revocation);
                true
            }
            _ => false,
        }
    }

    /// Puts other keys in force.
    pub fn set_keys(&self, ring: KeyRing) {
        self.with_new_epochs(|| self.judge.set_keys(ring));
    }

    /// Changes what keys are worth. Readers ask about every token before the first answer that follows from the change, and so
    /// never call good what the daemon has refused; and once more after it, since what is answered meanwhile may still rest on
    /// what was.
    fn with_new_epochs<T>(&self, change: impl FnOnce() -> T) -> T {
        self.new_epoch();
        let changed = change();
        self.new_epoch();
        changed
    }

    fn new_epoch(&self) {
        self.judge.bump_key_epoch();
        if let Some(mut shared) = self.lock() {
            // Not at the next tick: until then readers would go by the old one.
            shared.live.key_epoch = self.judge.key_epoch();
            shared.tick();
        }
    }

    /// Tokens of the partition with `iat` at or before this moment cannot be judged: they are refused from now on.
    pub fn since(&self, partition: u16, moment: UnixTime) {
        self.judge.index().raise_since(partition, moment);
        if let Some(mut shared) = self.lock() {
            shared.publisher.raise_iat_floor(moment.0);
        }
    }

    /// Nothing is proven any more, and readers know it.
    pub fn unproven(&self, at: Moment) {
        self.judge.freshness().forget();
        self.tick(at);
    }

    /// Everything that was in the partition's log at this instant is held.
    pub fn fresh(&self, partition: u16, as_of: Instants) {
        self.judge.freshness().proven(partition, as_of.monotonic_ms);
    }

    fn publish(&self, revocation: &Revocation) {
        let Some(mut shared) = self.lock() else { return };
        match &revocation.target {
            Target::Subject { sub, threshold } => {
                let held = shared.watermarks.get(sub).copied();
                let expires_at = held.map_or(revocation.expires_at, |held| held.expires_at.max(revocation.expires_at));
                let raised = held.is_none_or(|held| held.threshold < *threshold);
                let highest = held.map_or(*threshold, |held| held.threshold.max(*threshold));
                shared.watermarks.insert(sub.clone(), Watermark { threshold: highest, expires_at });
                if raised {
                    shared.publisher.insert(&watermark(sub, *threshold));
                    if let Some(held) = held {
                        shared.publisher.remove(&watermark(sub, held.threshold));
                    }
                }
            }
            Target::All { threshold } => shared.publisher.raise_iat_floor(threshold.0),
            target => with_target(target, |entry| shared.publisher.insert(entry)),
        }
    }
}

impl Shared {
    fn tick(&mut self) {
        self.publisher.tick(&self.live, CoarseClock.now());
    }
}

fn subject(tag: Option<SubjectTag>) -> Option<Subject> {
    tag.map(|tag| Subject(tag.value()))
}

fn watermark(sub: &str, threshold: UnixTime) -> Entry<'static> {
    Entry::Subject { subject: Subject(SubjectTag::of(sub).value()), threshold_s: threshold.0 }
}

fn with_target(target: &Target, act: impl FnOnce(&Entry<'_>)) {
    match target {
        Target::Token { jti, subject: whose } => {
            act(&Entry::Token { jti: text(jti).as_bytes(), subject: subject(*whose) });
        }
        Target::Session { sid, subject: whose } => {
            act(&Entry::Session { sid: text(sid).as_bytes(), subject: subject(*whose) });
        }
        // Not in the table: watermarks are handled with their history, keys by the key epoch.
        Target::Subject { .. } | Target::All { .. } | Target::Key { .. } => {}
    }
}

fn with_id(held: &HeldId, session: bool, act: impl FnOnce(&Entry<'_>)) {
    let (id, subject) = (text(&held.id), subject(held.subject));
    if session {
        act(&Entry::Session { sid: id.as_bytes(), subject });
    } else {
        act(&Entry::Token { jti: id.as_bytes(), subject });
    }
}

/// As it stands in the token, which is what readers hash.
fn text(id: &Id) -> String {
    id.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use sidegate_common::wire::Position;

    #[test]
    fn segment_that_grows_takes_unconfirmed_pushes_along() {
        let board = Board::new().unwrap();
        let list = List::shared(testing::judge(OnStale::Deny), board).unwrap();
        let (before, slots) = (list.segment(), list.stats().unwrap().0.slots);
        for sequence in 0..slots {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&sequence.to_be_bytes());
            let target = Target::Token { jti: Id::Packed(id), subject: Some(SubjectTag::of(&sequence.to_string())) };
            let push = (Position { ms: 1, sequence }, Revocation { target, expires_at: UnixTime(4_000_000_000) });
            assert!(list.push(0, &push));
        }
        list.resize(testing::AT).unwrap();
        assert_ne!(list.segment(), before, "it has grown");
        assert_eq!(list.stats().unwrap().0.entries, slots);
    }
}
