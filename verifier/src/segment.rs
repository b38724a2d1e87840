//! The daemon's shared-memory segment, which makes readers in other processes ask when needed.
//! Every change is in the index first, so a reader that asks gets the newest answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidegate_common::clock::CheckTime;
use sidegate_common::index::HeldId;
use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::revocation_state::{Observer, OnStale, Unavailable};
use sidegate_common::time::UnixTime;
use sidegate_common::token_checker::TokenChecker;
use sidegate_shm::attach::SegmentOffer;
use sidegate_shm::clock::NANOS;
use sidegate_shm::hash::Subject;
use sidegate_shm::writer::SegmentEntry;
use sidegate_shm::{CoarseClock, Geometry, Live, Publisher, SegmentClock as _, SegmentError, SegmentState, Stats};

/// How long a segment stays valid after its daemon has stopped ticking.
const TICK_VALID_NS: u64 = NANOS;
/// How many entries are fed to a growing segment before the lock is released.
const FEED_AT_ONCE: usize = 2048;

/// The current segment.
#[derive(Debug)]
pub struct SharedSegment {
    shared: Mutex<Shared>,
    id: AtomicU64,
}

/// The segment, and what is needed to remove entries again.
#[derive(Debug)]
struct Shared {
    publisher: Publisher,
    /// The published threshold of each user, and its expiry.
    watermarks: HashMap<Box<str>, Watermark>,
    /// The live line as published last.
    live: Live,
}

#[derive(Clone, Copy, Debug)]
struct Watermark {
    threshold: UnixTime,
    expires_at: UnixTime,
}

impl SharedSegment {
    /// An empty segment, offered at once; readers ask about every token until the first tick.
    ///
    /// # Errors
    /// The kernel rejects the segment.
    pub fn new(offer: Arc<SegmentOffer>) -> Result<Self, SegmentError> {
        let publisher = Publisher::new(Geometry::for_entries(0), offer)?;
        let id = AtomicU64::new(publisher.segment());
        let live = Live {
            valid_until_monotonic_ns: 0,
            valid_until_realtime_ns: 0,
            state: SegmentState::Filling,
            key_epoch: 0,
            time_floor_s: 0,
        };
        Ok(Self { shared: Mutex::new(Shared { publisher, watermarks: HashMap::new(), live }), id })
    }

    /// The current segment's identifier.
    pub fn id(&self) -> u64 {
        self.id.load(Ordering::Acquire)
    }

    /// The segment's statistics, and the number of attached readers.
    pub fn stats(&self) -> (Stats, usize) {
        let shared = self.lock();
        (shared.publisher.stats(), shared.publisher.readers())
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Extends the validity of what `checker` would answer, by at most a second; call several times
    /// a second.
    pub fn tick(&self, checker: &TokenChecker, at: CheckTime) {
        let mut shared = self.lock();
        shared.live = live(checker, at);
        shared.tick();
    }

    /// Drops entries that no unexpired token can match. The time floor is published first, so
    /// readers then ask about such tokens.
    pub fn expire(&self, checker: &TokenChecker, at: CheckTime) {
        self.tick(checker, at);
        let expired = checker.state().index().expire(at.now);
        for (ids, session) in [(&expired.tokens, false), (&expired.sessions, true)] {
            for chunk in ids.chunks(FEED_AT_ONCE) {
                let mut shared = self.lock();
                chunk.iter().for_each(|held| with_id(held, session, |entry| shared.publisher.remove(entry)));
            }
        }
        let mut shared = self.lock();
        for sub in &expired.subjects {
            // The watermark may have been raised meanwhile.
            if let Some(Watermark { threshold, expires_at }) = shared.watermarks.get(sub).copied()
                && expires_at < at.now
            {
                shared.watermarks.remove(sub);
                shared.publisher.remove(&watermark(sub, threshold));
            }
        }
    }

    /// Switches to a larger or smaller segment, if needed. Readers keep the old one until they have
    /// the new one.
    ///
    /// # Errors
    /// The kernel rejects the segment; readers then ask more often.
    pub fn resize(&self, checker: &TokenChecker, at: CheckTime) -> Result<(), SegmentError> {
        let mut shared = self.lock();
        let Some(geometry) = shared.publisher.wants_resize() else { return Ok(()) };
        shared.publisher.begin_resize(geometry)?;
        drop(shared);
        let (index, mut batch) = (checker.state().index(), Vec::with_capacity(FEED_AT_ONCE));
        // First: a push that the log confirms meanwhile is in the index before it leaves these.
        index.each_unconfirmed(|_, revocation| batch.push(revocation.clone()));
        self.feed(&mut batch);
        index.each(|revocation| {
            batch.push(revocation);
            if batch.len() == FEED_AT_ONCE {
                self.feed(&mut batch);
                self.tick(checker, at);
            }
        });
        self.feed(&mut batch);
        let mut shared = self.lock();
        shared.publisher.switch();
        self.id.store(shared.publisher.segment(), Ordering::Release);
        Ok(())
    }

    fn feed(&self, batch: &mut Vec<Revocation>) {
        let mut shared = self.lock();
        for revocation in batch.drain(..) {
            match &revocation.target {
                Target::Subject { sub, .. } => {
                    // The published threshold; this entry may be older or newer.
                    if let Some(Watermark { threshold, .. }) = shared.watermarks.get(sub).copied() {
                        shared.publisher.feed(&watermark(sub, threshold));
                    }
                }
                target => with_target(target, |entry| shared.publisher.feed(entry)),
            }
        }
    }

    /// Invalidates the segment: the daemon is stopping.
    pub fn close(&self) {
        self.lock().publisher.close();
    }
}

fn live(checker: &TokenChecker, at: CheckTime) -> Live {
    let (state, now) = (checker.state(), CoarseClock.now());
    let staleness = state.staleness();
    let age_ms = state.proven().map_or(u64::MAX, |proven| at.monotonic_ms.saturating_sub(proven));
    let left_ms = match staleness.policy {
        OnStale::Deny => staleness.max_ms.saturating_sub(age_ms),
        // A lost feed is allowed; a dead daemon is not.
        OnStale::Allow => u64::MAX,
    };
    let trusted_ns = left_ms.saturating_mul(NANOS / 1000).min(TICK_VALID_NS);
    Live {
        valid_until_monotonic_ns: now.monotonic_ns.saturating_add(trusted_ns),
        valid_until_realtime_ns: now.realtime_ns.saturating_add(trusted_ns),
        state: match checker.ensure_ready(at) {
            Ok(_) => SegmentState::Live,
            Err(Unavailable::NotLoaded) => SegmentState::Filling,
            Err(_) => SegmentState::Closed,
        },
        key_epoch: state.key_epoch(),
        time_floor_s: at.now.0,
    }
}

impl Observer for SharedSegment {
    fn revoked(&self, _partition: u16, revocation: &Revocation) {
        let mut shared = self.lock();
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

    fn iat_floor(&self, moment: UnixTime) {
        self.lock().publisher.raise_iat_floor(moment.0);
    }

    fn key_epoch(&self, epoch: u64) {
        let mut shared = self.lock();
        // Not at the next tick: until then readers would use the old epoch.
        shared.live.key_epoch = shared.live.key_epoch.max(epoch);
        shared.tick();
    }

    fn unproven(&self) {
        let mut shared = self.lock();
        shared.live.state = SegmentState::Filling;
        shared.tick();
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

fn watermark(sub: &str, threshold: UnixTime) -> SegmentEntry<'static> {
    SegmentEntry::Subject { subject: Subject(SubjectTag::of(sub).value()), threshold_s: threshold.0 }
}

fn with_target(target: &Target, act: impl FnOnce(&SegmentEntry<'_>)) {
    match target {
        Target::Token { jti, subject: whose } => {
            act(&SegmentEntry::Token { jti: text(jti).as_bytes(), subject: subject(*whose) });
        }
        Target::Session { sid, subject: whose } => {
            act(&SegmentEntry::Session { sid: text(sid).as_bytes(), subject: subject(*whose) });
        }
        // Not in the table: watermarks have their own path, keys the key epoch; and clients ask
        // about every token of another issuer.
        Target::Subject { .. }
        | Target::All { .. }
        | Target::Key { .. }
        | Target::ForeignSubject { .. }
        | Target::Claim { .. } => {}
    }
}

fn with_id(held: &HeldId, session: bool, act: impl FnOnce(&SegmentEntry<'_>)) {
    let (id, subject) = (text(&held.id), subject(held.subject));
    if session {
        act(&SegmentEntry::Session { sid: id.as_bytes(), subject });
    } else {
        act(&SegmentEntry::Token { jti: id.as_bytes(), subject });
    }
}

/// As in the token, which is what readers hash.
fn text(id: &Id) -> String {
    id.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use sidegate_common::log_protocol::Position;
    use sidegate_common::revocation_state::{RevocationState, Staleness};
    use sidegate_common::sync::Sink as _;
    use sidegate_common::time::ClockReading;

    #[test]
    fn segment_that_grows_takes_unconfirmed_pushes_along() {
        let segment = Arc::new(SharedSegment::new(SegmentOffer::new().unwrap()).unwrap());
        let staleness = Staleness { max_ms: 30_000, policy: OnStale::Deny };
        let now = ClockReading { wall_ms: testing::AT.now.0 * 1000, monotonic_ms: 1 };
        let observer = Arc::clone(&segment) as Arc<dyn Observer>;
        let state = Arc::new(RevocationState::new(staleness, now, Some(observer)));
        state.begin(1);
        let tokens = TokenChecker::new(testing::policy(), Arc::clone(&state));
        let (before, slots) = (segment.id(), segment.stats().0.slots);
        for sequence in 0..slots {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&sequence.to_be_bytes());
            let target = Target::Token { jti: Id::Packed(id), subject: Some(SubjectTag::of(&sequence.to_string())) };
            let push = (Position { ms: 1, sequence }, Revocation { target, expires_at: UnixTime(4_000_000_000) });
            assert!(state.push(0, &push));
        }
        segment.resize(&tokens, testing::AT).unwrap();
        assert_ne!(segment.id(), before, "it has grown");
        assert_eq!(segment.stats().0.entries, slots);
    }
}
