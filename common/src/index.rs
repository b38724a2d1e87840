//! The index of the revocations that a verifier holds; entries leave only when they expire.

use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;

use crate::claims::Claims;
use crate::foreign::ids::{ClaimId, ForeignId};
use crate::revocation::{Id, Revocation, SubjectTag, Target};
use crate::sync::Push;
use crate::time::UnixTime;

mod foreign;
mod unconfirmed;
mod watermark;

use foreign::{ClaimMark, claim_entry};
use unconfirmed::UnconfirmedSet;
use watermark::{Watermark, hold_watermark};

/// Many small shards, so that a sweep locks each only briefly and checks hardly wait.
const SHARDS: usize = 1024;
const SMALL_SHARDS: usize = 64;

/// The number of entries of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexCounts {
    /// Tokens.
    pub tokens: u64,
    /// Sessions.
    pub sessions: u64,
    /// Users with a watermark.
    pub subjects: u64,
    /// Keys.
    pub keys: u64,
    /// Users of other issuers with a watermark.
    pub foreign_subjects: u64,
    /// Claim values of other issuers' tokens with a watermark.
    pub claims: u64,
}

impl IndexCounts {
    /// The sum of all kinds.
    pub const fn total(self) -> u64 {
        self.tokens + self.sessions + self.subjects + self.keys + self.foreign_subjects + self.claims
    }
}

/// A revoked token or session as the shared-memory table needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldId {
    /// The identifier of the token or session.
    pub id: Id,
    /// The tag of its user, where known.
    pub subject: Option<SubjectTag>,
    /// After this time the entry can be dropped.
    pub expires_at: UnixTime,
}

/// Expiry in seconds (u32) and subject tag (u48), packed without padding: at ten million entries every byte counts.
type Packed = [u8; 10];

fn pack(expires_at: UnixTime, subject: Option<SubjectTag>) -> Packed {
    let mut out = [0xff; 10];
    out[..4].copy_from_slice(&u32::try_from(expires_at.0).unwrap_or(u32::MAX).to_be_bytes());
    if let Some(tag) = subject {
        out[4..].copy_from_slice(&tag.value().to_be_bytes()[2..]);
    }
    out
}

fn expiry(packed: &Packed) -> UnixTime {
    UnixTime(u64::from(u32::from_be_bytes([packed[0], packed[1], packed[2], packed[3]])))
}

fn subject(packed: &Packed) -> Option<SubjectTag> {
    let mut wide = [0; 8];
    wide[2..].copy_from_slice(&packed[4..]);
    SubjectTag::from_value(u64::from_be_bytes(wide))
}

/// Revoked identifiers of one kind.
#[derive(Debug)]
struct Ids {
    packed: DashMap<[u8; 16], Packed>,
    text: DashMap<Box<str>, Packed>,
}

impl Ids {
    fn new() -> Self {
        Self { packed: DashMap::with_shard_amount(SHARDS), text: DashMap::with_shard_amount(SMALL_SHARDS) }
    }

    /// Adds an identifier; true if it is new.
    fn hold(&self, id: &Id, whose: Option<SubjectTag>, expires_at: UnixTime) -> bool {
        let value = pack(expires_at, whose);
        // The later expiry wins: a replayed old entry must not shorten a newer one.
        let later = |held: &mut Packed| {
            if expiry(held) < expires_at {
                held[..4].copy_from_slice(&value[..4]);
            }
        };
        let mut new = false;
        match id {
            Id::Packed(bytes) => self.packed.entry(*bytes).and_modify(later).or_insert_with(|| {
                new = true;
                value
            }),
            Id::Text(text) => {
                let entry = self.text.entry(text.clone()).and_modify(later).or_insert_with(|| {
                    new = true;
                    value
                });
                drop(entry);
                return new;
            }
        };
        new
    }

    fn holds(&self, id: &Id) -> bool {
        match id {
            Id::Packed(bytes) => self.packed.contains_key(bytes),
            Id::Text(text) => self.text.contains_key(text),
        }
    }

    fn expiry_of(&self, id: &Id) -> Option<UnixTime> {
        match id {
            Id::Packed(bytes) => self.packed.get(bytes).map(|held| expiry(&held)),
            Id::Text(text) => self.text.get(text).map(|held| expiry(&held)),
        }
    }

    fn expire(&self, now: UnixTime, mut gone: impl FnMut(HeldId)) {
        let held = |id: Id, value: &Packed| HeldId { id, subject: subject(value), expires_at: expiry(value) };
        self.packed.retain(|id, value| {
            let keep = expiry(value) >= now;
            if !keep {
                gone(held(Id::Packed(*id), value));
            }
            keep
        });
        self.text.retain(|id, value| {
            let keep = expiry(value) >= now;
            if !keep {
                gone(held(Id::Text(id.clone()), value));
            }
            keep
        });
    }

    fn each(&self, mut visit: impl FnMut(HeldId)) {
        for item in &self.packed {
            visit(HeldId {
                id: Id::Packed(*item.key()),
                subject: subject(item.value()),
                expires_at: expiry(item.value()),
            });
        }
        for item in &self.text {
            let id = Id::Text(item.key().clone());
            visit(HeldId { id, subject: subject(item.value()), expires_at: expiry(item.value()) });
        }
    }

    fn count(&self) -> u64 {
        (self.packed.len() + self.text.len()) as u64
    }
}

/// The watermarks of one partition. Zero means no watermark: no token is that old.
#[derive(Debug, Default)]
struct PartitionMarks {
    all: AtomicU64,
    /// The part of `all` that came from the log.
    all_in_log: AtomicU64,
    since: AtomicU64,
}

/// A revoked signing key.
#[derive(Clone, Copy, Debug)]
struct RevokedKey {
    expires_at: UnixTime,
    /// The entry came from the log.
    in_log: bool,
}

/// The watermarks of every partition; empty until the number of partitions is known.
#[derive(Debug, Default)]
struct Partitions(OnceLock<Box<[PartitionMarks]>>);

impl Deref for Partitions {
    type Target = [PartitionMarks];

    fn deref(&self) -> &[PartitionMarks] {
        self.0.get().map_or(&[], |marks| marks)
    }
}

/// The revocations that a verifier holds, shared by all threads.
#[derive(Debug)]
pub struct Index {
    tokens: Ids,
    sessions: Ids,
    subjects: DashMap<Box<str>, Watermark>,
    keys: DashMap<Box<str>, RevokedKey>,
    foreign_subjects: DashMap<ForeignId, Watermark>,
    claims: DashMap<ClaimId, ClaimMark>,
    partitions: Partitions,
    /// Looked up before everything else: `confirm` adds a push to the index before it removes the
    /// push here, so a look-up finds it in one of the two.
    unconfirmed: UnconfirmedSet,
}

/// What applying an entry changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The entry is new.
    New,
    /// The index held it already.
    Known,
}

/// Entries dropped because no unexpired token can match them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Tokens.
    pub tokens: Vec<HeldId>,
    /// Sessions.
    pub sessions: Vec<HeldId>,
    /// Users whose watermark was dropped.
    pub subjects: Vec<Box<str>>,
}

impl Index {
    /// An empty index over `partitions` (at least one).
    pub fn new(partitions: u16) -> Self {
        let index = Self::empty();
        index.begin(partitions);
        index
    }

    /// An empty index for a log whose number of partitions is not known yet.
    pub fn empty() -> Self {
        Self {
            tokens: Ids::new(),
            sessions: Ids::new(),
            subjects: DashMap::with_shard_amount(SHARDS),
            keys: DashMap::with_shard_amount(SMALL_SHARDS),
            foreign_subjects: DashMap::with_shard_amount(SHARDS),
            claims: DashMap::with_shard_amount(SMALL_SHARDS),
            partitions: Partitions::default(),
            unconfirmed: UnconfirmedSet::default(),
        }
    }

    /// Sets the number of partitions (at least one). Only the first call has an effect: the number
    /// never changes.
    pub fn begin(&self, partitions: u16) {
        self.partitions.0.get_or_init(|| (0..partitions.max(1)).map(|_| PartitionMarks::default()).collect());
    }

    /// The number of partitions; zero until it is known.
    pub fn partitions(&self) -> u16 {
        self.partitions.len() as u16
    }

    /// Adds an entry of `partition`'s log. Idempotent; entries may come in any order.
    pub fn apply(&self, partition: u16, revocation: &Revocation) -> Applied {
        let expires_at = revocation.expires_at;
        let new = match &revocation.target {
            Target::Token { jti, subject } => self.tokens.hold(jti, *subject, expires_at),
            Target::Session { sid, subject } => self.sessions.hold(sid, *subject, expires_at),
            Target::Subject { sub, threshold } => {
                hold_watermark(&self.subjects, sub.clone(), Watermark { threshold: *threshold, expires_at })
            }
            Target::ForeignSubject { subject, threshold } => {
                hold_watermark(&self.foreign_subjects, *subject, Watermark { threshold: *threshold, expires_at })
            }
            Target::Claim { claim, threshold } => {
                self.hold_claim(*claim, Watermark { threshold: *threshold, expires_at }, true)
            }
            Target::All { threshold } => {
                self.raise(partition, |marks| &marks.all_in_log, *threshold);
                self.raise(partition, |marks| &marks.all, *threshold)
            }
            Target::Key { kid } => self.hold_key(kid, RevokedKey { expires_at, in_log: true }),
        };
        if new { Applied::New } else { Applied::Known }
    }

    fn hold_key(&self, kid: &str, key: RevokedKey) -> bool {
        let mut new = true;
        self.keys
            .entry(kid.into())
            .and_modify(|held| {
                new = false;
                held.expires_at = held.expires_at.max(key.expires_at);
                held.in_log |= key.in_log;
            })
            .or_insert(key);
        new
    }

    /// Adds a pushed entry that the log has not confirmed. It revokes like any other, but can be
    /// dropped.
    pub fn apply_unconfirmed(&self, partition: u16, push: &Push) -> Applied {
        let known = self.holds(partition, &push.1) || !self.unconfirmed.add(partition, push);
        if known { Applied::Known } else { Applied::New }
    }

    /// Makes pushes permanent that are in the log, whether or not they are still in the unconfirmed
    /// set.
    pub fn confirm(&self, partition: u16, pushes: &[Push]) {
        for (_, revocation) in pushes {
            self.apply(partition, revocation);
        }
        self.unconfirmed.remove(partition, pushes);
    }

    /// Makes pushes permanent that may be in no log. Unlike after [`Index::confirm`], `all`, `key`
    /// and `claim` among them are not replayed into a log that lacks them.
    pub fn keep(&self, partition: u16, pushes: &[Push]) {
        for (_, revocation) in pushes {
            match &revocation.target {
                Target::All { threshold } => {
                    self.raise(partition, |marks| &marks.all, *threshold);
                }
                Target::Key { kid } => {
                    self.hold_key(kid, RevokedKey { expires_at: revocation.expires_at, in_log: false });
                }
                Target::Claim { claim, threshold } => {
                    let mark = Watermark { threshold: *threshold, expires_at: revocation.expires_at };
                    self.hold_claim(*claim, mark, false);
                }
                Target::Token { .. }
                | Target::Session { .. }
                | Target::Subject { .. }
                | Target::ForeignSubject { .. } => {
                    self.apply(partition, revocation);
                }
            }
        }
        self.unconfirmed.remove(partition, pushes);
    }

    /// Drops pushes that never were in the log.
    pub fn drop_unconfirmed(&self, partition: u16, pushes: &[Push]) {
        self.unconfirmed.remove(partition, pushes);
    }

    /// True if the log is known to have this `all`, `key` or `claim`; other kinds count as
    /// logged.
    pub fn has_in_log(&self, partition: u16, revocation: &Revocation) -> bool {
        match &revocation.target {
            Target::All { threshold } => {
                let marks = self.partitions.get(usize::from(partition));
                marks.is_some_and(|marks| marks.all_in_log.load(Ordering::Acquire) >= threshold.0)
            }
            Target::Key { kid } => {
                self.keys.get(kid).is_some_and(|held| held.in_log && held.expires_at >= revocation.expires_at)
            }
            Target::Token { .. } | Target::Session { .. } | Target::Subject { .. } | Target::ForeignSubject { .. } => {
                true
            }
            Target::Claim { claim, threshold } => {
                let mark = Watermark { threshold: *threshold, expires_at: revocation.expires_at };
                self.claims.get(claim).is_some_and(|held| held.in_log && held.mark.covers(mark))
            }
        }
    }

    /// True if applying the entry would change nothing.
    fn holds(&self, partition: u16, revocation: &Revocation) -> bool {
        let expires_at = revocation.expires_at;
        match &revocation.target {
            Target::Token { jti, .. } => self.tokens.expiry_of(jti).is_some_and(|held| held >= expires_at),
            Target::Session { sid, .. } => self.sessions.expiry_of(sid).is_some_and(|held| held >= expires_at),
            Target::Subject { sub, threshold } => {
                let held = self.subjects.get(sub);
                held.is_some_and(|held| held.covers(Watermark { threshold: *threshold, expires_at }))
            }
            Target::ForeignSubject { subject, threshold } => {
                let held = self.foreign_subjects.get(subject);
                held.is_some_and(|held| held.covers(Watermark { threshold: *threshold, expires_at }))
            }
            Target::Claim { claim, threshold } => {
                let held = self.claims.get(claim);
                held.is_some_and(|held| held.mark.covers(Watermark { threshold: *threshold, expires_at }))
            }
            Target::All { threshold } => self.marks(partition).0 >= *threshold,
            Target::Key { kid } => self.keys.get(kid).is_some_and(|held| held.expires_at >= expires_at),
        }
    }

    /// Revokes tokens of `partition` with `iat` at or before `since`: their revocations may be
    /// missing.
    pub fn raise_complete_since(&self, partition: u16, since: UnixTime) -> Applied {
        if self.raise(partition, |marks| &marks.since, since) { Applied::New } else { Applied::Known }
    }

    fn raise(&self, partition: u16, which: impl Fn(&PartitionMarks) -> &AtomicU64, to: UnixTime) -> bool {
        let marks = self.partitions.get(usize::from(partition));
        marks.is_some_and(|marks| which(marks).fetch_max(to.0, Ordering::AcqRel) < to.0)
    }

    fn partition_of(&self, sub: &str) -> u16 {
        match self.partitions() {
            0 | 1 => 0,
            partitions => SubjectTag::of(sub).partition(partitions),
        }
    }

    /// True if the token with these claims, signed under `kid`, is revoked.
    pub fn revokes(&self, claims: &Claims, kid: &str) -> bool {
        let iat = claims.issued_at();
        let partition = self.partition_of(&claims.sub);
        // Before the number of partitions is known no list is proven, so no token passes anyway.
        let Some(marks) = self.partitions.get(usize::from(partition)) else { return false };
        self.unconfirmed.revokes(partition, claims, kid)
            || iat.0 <= marks.all.load(Ordering::Acquire)
            || iat.0 <= marks.since.load(Ordering::Acquire)
            || self.subjects.get(claims.sub.as_str()).is_some_and(|held| iat <= held.threshold)
            || self.keys.contains_key(kid)
            || Id::parse(&claims.sid).is_none_or(|sid| self.sessions.holds(&sid))
            || Id::parse(&claims.jti).is_none_or(|jti| self.tokens.holds(&jti))
    }

    /// True if this session is revoked.
    pub fn has_session(&self, sid: &Id) -> bool {
        self.unconfirmed.has_session(sid) || self.sessions.holds(sid)
    }

    /// True if this key is revoked.
    pub fn has_key(&self, kid: &str) -> bool {
        self.unconfirmed.has_key(kid) || self.keys.contains_key(kid)
    }

    /// True if a watermark revokes the user's tokens issued at `iat`, whatever their session: a
    /// logout of the user or of all users.
    pub fn has_logged_out(&self, sub: &str, iat: UnixTime) -> bool {
        let partition = self.partition_of(sub);
        self.unconfirmed.has_logged_out(partition, sub, iat)
            || iat <= self.marks(partition).0
            || self.subjects.get(sub).is_some_and(|held| iat <= held.threshold)
    }

    /// Drops and returns entries that no unexpired token can match. `now` is the time floor, never
    /// the bare wall clock.
    pub fn expire(&self, now: UnixTime) -> Expired {
        let mut expired = Expired::default();
        self.tokens.expire(now, |held| expired.tokens.push(held));
        self.sessions.expire(now, |held| expired.sessions.push(held));
        self.subjects.retain(|sub, held| {
            let keep = held.expires_at >= now;
            if !keep {
                expired.subjects.push(sub.clone());
            }
            keep
        });
        self.keys.retain(|_, held| held.expires_at >= now);
        self.foreign_subjects.retain(|_, held| held.expires_at >= now);
        self.claims.retain(|_, held| held.mark.expires_at >= now);
        expired
    }

    /// The number of entries of each kind.
    pub fn counts(&self) -> IndexCounts {
        IndexCounts {
            tokens: self.tokens.count(),
            sessions: self.sessions.count(),
            subjects: self.subjects.len() as u64,
            keys: self.keys.len() as u64,
            foreign_subjects: self.foreign_subjects.len() as u64,
            claims: self.claims.len() as u64,
        }
    }

    /// Visits every unconfirmed push with its partition. A caller that needs all entries must call
    /// this before [`Index::each`]: a push confirmed in between is then visited twice rather than
    /// missed.
    pub fn each_unconfirmed(&self, visit: impl FnMut(u16, &Revocation)) {
        self.unconfirmed.each(visit);
    }

    /// Visits every confirmed entry in no order, except partition watermarks ([`Index::marks`]).
    /// Entries added meanwhile may be missed.
    pub fn each(&self, mut visit: impl FnMut(Revocation)) {
        self.each_harmless(&mut visit);
        for item in &self.claims {
            visit(claim_entry(item.key(), item.value()));
        }
        for item in &self.keys {
            visit(Revocation { target: Target::Key { kid: item.key().clone() }, expires_at: item.expires_at });
        }
    }

    /// Visits the kinds of which a forged push revokes one user's tokens at most.
    fn each_harmless(&self, visit: &mut impl FnMut(Revocation)) {
        self.tokens.each(|HeldId { id, subject, expires_at }| {
            visit(Revocation { target: Target::Token { jti: id, subject }, expires_at });
        });
        self.sessions.each(|HeldId { id, subject, expires_at }| {
            visit(Revocation { target: Target::Session { sid: id, subject }, expires_at });
        });
        for item in &self.subjects {
            let target = Target::Subject { sub: item.key().clone(), threshold: item.threshold };
            visit(Revocation { target, expires_at: item.expires_at });
        }
        for item in &self.foreign_subjects {
            let target = Target::ForeignSubject { subject: *item.key(), threshold: item.threshold };
            visit(Revocation { target, expires_at: item.expires_at });
        }
    }

    /// Visits the entries that an issuer puts back into a log of `partition` that lost them,
    /// although another issuer wrote them: every entry, also unconfirmed pushes, and the
    /// partition's watermark as an entry with expiry zero, for as long as a token can live. Of
    /// `all`, `key` and `claim` only those that came from the log: anyone who may publish to the
    /// channel could otherwise forge one that revokes every token.
    pub fn each_to_replay(&self, partition: u16, mut visit: impl FnMut(Revocation)) {
        self.unconfirmed.each(|of, revocation| {
            let of_many = matches!(revocation.target, Target::All { .. } | Target::Key { .. } | Target::Claim { .. });
            if of == partition && !of_many {
                visit(revocation.clone());
            }
        });
        self.each_harmless(&mut visit);
        for item in self.claims.iter().filter(|item| item.in_log) {
            visit(claim_entry(item.key(), item.value()));
        }
        for item in self.keys.iter().filter(|item| item.in_log) {
            visit(Revocation { target: Target::Key { kid: item.key().clone() }, expires_at: item.expires_at });
        }
        let marks = self.partitions.get(usize::from(partition));
        let threshold = UnixTime(marks.map_or(0, |marks| marks.all_in_log.load(Ordering::Acquire)));
        if threshold > UnixTime(0) {
            visit(Revocation { target: Target::All { threshold }, expires_at: UnixTime(0) });
        }
    }

    /// True if the index has no entry but partition watermarks.
    pub fn is_empty(&self) -> bool {
        self.counts().total() == 0
    }

    /// The watermarks of a partition: the last `iat` revoked by `all`, and by `since`.
    pub fn marks(&self, partition: u16) -> (UnixTime, UnixTime) {
        self.partitions.get(usize::from(partition)).map_or_else(Default::default, |marks| {
            (UnixTime(marks.all.load(Ordering::Acquire)), UnixTime(marks.since.load(Ordering::Acquire)))
        })
    }
}

#[cfg(test)]
mod tests;
