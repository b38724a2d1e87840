//! The revocations a verifier holds: it only grows until entries expire.

use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;

use crate::claims::Claims;
use crate::revocation::{Id, Revocation, SubjectTag, Target};
use crate::sync::Push;
use crate::time::UnixTime;

mod unconfirmed;

use unconfirmed::UnconfirmedSet;

/// Many small shards, so that sweeping one out never holds a check up for long.
const SHARDS: usize = 1024;
const SMALL_SHARDS: usize = 64;

/// How many entries of each kind are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens.
    pub tokens: u64,
    /// Sessions.
    pub sessions: u64,
    /// Users with a watermark.
    pub subjects: u64,
    /// Keys.
    pub keys: u64,
}

impl Counts {
    /// All of them.
    pub const fn total(self) -> u64 {
        self.tokens + self.sessions + self.subjects + self.keys
    }
}

/// An identifier that is revoked: which, whose, and until when; what the shared-memory table is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldId {
    /// The token or session.
    pub id: Id,
    /// Whose, where known.
    pub subject: Option<SubjectTag>,
    /// When it may be forgotten.
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

    /// Adds an identifier; true if it was not held.
    fn hold(&self, id: &Id, whose: Option<SubjectTag>, expires_at: UnixTime) -> bool {
        let value = pack(expires_at, whose);
        // The later expiry wins: replaying an old entry must not shorten a newer one.
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

#[derive(Clone, Copy, Debug)]
struct Watermark {
    threshold: UnixTime,
    expires_at: UnixTime,
}

/// Whole-partition watermarks: zero means none, since no token is that old.
#[derive(Debug, Default)]
struct PartitionMarks {
    all: AtomicU64,
    /// The part of `all` that a log has shown.
    all_in_log: AtomicU64,
    since: AtomicU64,
}

/// A key that is taken back.
#[derive(Clone, Copy, Debug)]
struct RevokedKey {
    expires_at: UnixTime,
    /// A log has shown it.
    in_log: bool,
}

/// The marks of every partition; none until their number is known.
#[derive(Debug, Default)]
struct Partitions(OnceLock<Box<[PartitionMarks]>>);

impl Deref for Partitions {
    type Target = [PartitionMarks];

    fn deref(&self) -> &[PartitionMarks] {
        self.0.get().map_or(&[], |marks| marks)
    }
}

/// The revocations a verifier holds, for many threads at once.
#[derive(Debug)]
pub struct Index {
    tokens: Ids,
    sessions: Ids,
    subjects: DashMap<Box<str>, Watermark>,
    keys: DashMap<Box<str>, RevokedKey>,
    partitions: Partitions,
    /// Asked before everything else: a push that is confirmed meanwhile is added there before it is removed here, so it
    /// is found in one of the two.
    unconfirmed: UnconfirmedSet,
}

/// What an entry changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Something is dead that was not.
    New,
    /// It was known.
    Known,
}

/// Identifiers that were dropped because no token that bears them can be alive.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Tokens.
    pub tokens: Vec<HeldId>,
    /// Sessions.
    pub sessions: Vec<HeldId>,
    /// Users whose watermark went.
    pub subjects: Vec<Box<str>>,
}

impl Index {
    /// An empty index over `partitions` (at least one).
    pub fn new(partitions: u16) -> Self {
        let index = Self::empty();
        index.begin(partitions);
        index
    }

    /// An empty index of a log whose partitions are not known yet.
    pub fn empty() -> Self {
        Self {
            tokens: Ids::new(),
            sessions: Ids::new(),
            subjects: DashMap::with_shard_amount(SHARDS),
            keys: DashMap::with_shard_amount(SMALL_SHARDS),
            partitions: Partitions::default(),
            unconfirmed: UnconfirmedSet::default(),
        }
    }

    /// The log has so many `partitions` (at least one). Only the first call counts: the number never changes.
    pub fn begin(&self, partitions: u16) {
        self.partitions.0.get_or_init(|| (0..partitions.max(1)).map(|_| PartitionMarks::default()).collect());
    }

    /// How many partitions it covers; zero until their number is known.
    pub fn partitions(&self) -> u16 {
        self.partitions.len() as u16
    }

    /// Takes an entry of `partition`'s log in. Idempotent, in any order.
    pub fn apply(&self, partition: u16, revocation: &Revocation) -> Applied {
        let expires_at = revocation.expires_at;
        let new = match &revocation.target {
            Target::Token { jti, subject } => self.tokens.hold(jti, *subject, expires_at),
            Target::Session { sid, subject } => self.sessions.hold(sid, *subject, expires_at),
            Target::Subject { sub, threshold } => {
                let mut raised = true;
                self.subjects
                    .entry(sub.clone())
                    .and_modify(|held| {
                        raised = held.threshold < *threshold;
                        held.threshold = held.threshold.max(*threshold);
                        held.expires_at = held.expires_at.max(expires_at);
                    })
                    .or_insert(Watermark { threshold: *threshold, expires_at });
                raised
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

    /// Takes in an entry of `partition`'s log that was only pushed: it counts like any other, but can be let go.
    pub fn apply_unconfirmed(&self, partition: u16, push: &Push) -> Applied {
        let known = self.holds(partition, &push.1) || !self.unconfirmed.add(partition, push);
        if known { Applied::Known } else { Applied::New }
    }

    /// Holds for good what was only pushed and is in the log, whether or not it still stands apart.
    pub fn confirm(&self, partition: u16, pushes: &[Push]) {
        for (_, revocation) in pushes {
            self.apply(partition, revocation);
        }
        self.unconfirmed.remove(partition, pushes);
    }

    /// Holds for good what was only pushed and may be in no log. Other than what [`Index::confirm`] takes, `all` and `key` are
    /// not put back into a log that lacks them.
    pub fn keep(&self, partition: u16, pushes: &[Push]) {
        for (_, revocation) in pushes {
            match &revocation.target {
                Target::All { threshold } => {
                    self.raise(partition, |marks| &marks.all, *threshold);
                }
                Target::Key { kid } => {
                    self.hold_key(kid, RevokedKey { expires_at: revocation.expires_at, in_log: false });
                }
                Target::Token { .. } | Target::Session { .. } | Target::Subject { .. } => {
                    self.apply(partition, revocation);
                }
            }
        }
        self.unconfirmed.remove(partition, pushes);
    }

    /// Lets go what was only pushed, and never was in the log.
    pub fn drop_unconfirmed(&self, partition: u16, pushes: &[Push]) {
        self.unconfirmed.remove(partition, pushes);
    }

    /// True if a log is known to have this `all` or `key`; the other kinds do not ask.
    pub fn has_in_log(&self, partition: u16, revocation: &Revocation) -> bool {
        match &revocation.target {
            Target::All { threshold } => {
                let marks = self.partitions.get(usize::from(partition));
                marks.is_some_and(|marks| marks.all_in_log.load(Ordering::Acquire) >= threshold.0)
            }
            Target::Key { kid } => {
                self.keys.get(kid).is_some_and(|held| held.in_log && held.expires_at >= revocation.expires_at)
            }
            Target::Token { .. } | Target::Session { .. } | Target::Subject { .. } => true,
        }
    }

    /// True if the entry would change nothing.
    fn holds(&self, partition: u16, revocation: &Revocation) -> bool {
        let expires_at = revocation.expires_at;
        match &revocation.target {
            Target::Token { jti, .. } => self.tokens.expiry_of(jti).is_some_and(|held| held >= expires_at),
            Target::Session { sid, .. } => self.sessions.expiry_of(sid).is_some_and(|held| held >= expires_at),
            Target::Subject { sub, threshold } => {
                let held = self.subjects.get(sub);
                held.is_some_and(|held| held.threshold >= *threshold && held.expires_at >= expires_at)
            }
            Target::All { threshold } => self.marks(partition).0 >= *threshold,
            Target::Key { kid } => self.keys.get(kid).is_some_and(|held| held.expires_at >= expires_at),
        }
    }

    /// From now on, tokens of `partition` with `iat` at or before `since` count as revoked: it cannot be known whether
    /// they are.
    pub fn raise_since(&self, partition: u16, since: UnixTime) -> Applied {
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

    /// True if the token with these claims, signed under `kid`, has been taken back.
    pub fn revokes(&self, claims: &Claims, kid: &str) -> bool {
        let iat = claims.issued_at();
        let partition = self.partition_of(&claims.sub);
        // Before their number is known nothing is proven either, and no token is found good.
        let Some(marks) = self.partitions.get(usize::from(partition)) else { return false };
        self.unconfirmed.revokes(partition, claims, kid)
            || iat.0 <= marks.all.load(Ordering::Acquire)
            || iat.0 <= marks.since.load(Ordering::Acquire)
            || self.subjects.get(claims.sub.as_str()).is_some_and(|held| iat <= held.threshold)
            || self.keys.contains_key(kid)
            || Id::parse(&claims.sid).is_none_or(|sid| self.sessions.holds(&sid))
            || Id::parse(&claims.jti).is_none_or(|jti| self.tokens.holds(&jti))
    }

    /// True if the revocation of this session is held.
    pub fn has_session(&self, sid: &Id) -> bool {
        self.unconfirmed.has_session(sid) || self.sessions.holds(sid)
    }

    /// True if the revocation of this key is held.
    pub fn has_key(&self, kid: &str) -> bool {
        self.unconfirmed.has_key(kid) || self.keys.contains_key(kid)
    }

    /// True if a user's tokens issued at `iat` are dead, whatever their session: the user, or everybody, was logged out.
    pub fn has_logged_out(&self, sub: &str, iat: UnixTime) -> bool {
        let partition = self.partition_of(sub);
        self.unconfirmed.has_logged_out(partition, sub, iat)
            || iat <= self.marks(partition).0
            || self.subjects.get(sub).is_some_and(|held| iat <= held.threshold)
    }

    /// Drops what no living token can bear, and says what that was. `now` is the floor, never the bare wall clock.
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
        expired
    }

    /// How many entries are held.
    pub fn counts(&self) -> Counts {
        Counts {
            tokens: self.tokens.count(),
            sessions: self.sessions.count(),
            subjects: self.subjects.len() as u64,
            keys: self.keys.len() as u64,
        }
    }

    /// Visits everything that stands apart, with its partition: pushes that the log has not confirmed. Who wants all that
    /// is held visits these first and [`Index::each`] then.
    pub fn each_unconfirmed(&self, visit: impl FnMut(u16, &Revocation)) {
        self.unconfirmed.each(visit);
    }

    /// Visits every entry held for good, in no order, but for what concerns a whole partition ([`Index::marks`]). Entries added
    /// meanwhile may be missed.
    pub fn each(&self, mut visit: impl FnMut(Revocation)) {
        self.each_but_keys(&mut visit);
        for item in &self.keys {
            visit(Revocation { target: Target::Key { kid: item.key().clone() }, expires_at: item.expires_at });
        }
    }

    fn each_but_keys(&self, visit: &mut impl FnMut(Revocation)) {
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
    }

    /// Visits what an issuer that only heard of it puts back into a log of `partition` that has lost it: every entry held, also those
    /// that were only pushed (but of `all` and `key` only what a log has shown: whoever may publish could forge one that
    /// reaches everybody), and the partition's watermark as an entry whose expiry is zero, for as long as a token can live.
    pub fn each_to_replay(&self, partition: u16, mut visit: impl FnMut(Revocation)) {
        self.unconfirmed.each(|of, revocation| {
            if of == partition && !matches!(revocation.target, Target::All { .. } | Target::Key { .. }) {
                visit(revocation.clone());
            }
        });
        self.each_but_keys(&mut visit);
        for item in self.keys.iter().filter(|item| item.in_log) {
            visit(Revocation { target: Target::Key { kid: item.key().clone() }, expires_at: item.expires_at });
        }
        let marks = self.partitions.get(usize::from(partition));
        let threshold = UnixTime(marks.map_or(0, |marks| marks.all_in_log.load(Ordering::Acquire)));
        if threshold > UnixTime(0) {
            visit(Revocation { target: Target::All { threshold }, expires_at: UnixTime(0) });
        }
    }

    /// True if nothing is held but for watermarks over whole partitions.
    pub fn is_empty(&self) -> bool {
        self.counts().total() == 0
    }

    /// The watermark over a whole partition: the last `iat` that is dead by `all`, and by `since`.
    pub fn marks(&self, partition: u16) -> (UnixTime, UnixTime) {
        self.partitions.get(usize::from(partition)).map_or_else(Default::default, |marks| {
            (UnixTime(marks.all.load(Ordering::Acquire)), UnixTime(marks.since.load(Ordering::Acquire)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::Audience;
    use crate::wire::Position;

    const JTI: &str = "AAECAwQFBgcICQoLDA0ODw";
    const SID: &str = "EBESExQVFhcYGRobHB0eHw";

    fn claims(iat: u64) -> Claims {
        Claims {
            iss: "i".into(),
            aud: Audience::One("a".into()),
            sub: "42".into(),
            client_id: "c".into(),
            iat,
            exp: iat + 3600,
            nbf: None,
            jti: JTI.into(),
            sid: SID.into(),
            scope: None,
        }
    }

    fn entry(target: Target, expires_at: u64) -> Revocation {
        Revocation { target, expires_at: UnixTime(expires_at) }
    }

    fn token(jti: &str) -> Target {
        Target::Token { jti: Id::parse(jti).unwrap(), subject: Some(SubjectTag::of("42")) }
    }

    fn session(sid: &str) -> Target {
        Target::Session { sid: Id::parse(sid).unwrap(), subject: None }
    }

    #[test]
    fn each_kind_kills_its_tokens_and_no_other() {
        let kills = |target: Target, iat: u64| {
            let index = Index::new(1);
            assert_eq!(index.apply(0, &entry(target, 9_999)), Applied::New);
            index.revokes(&claims(iat), "k1")
        };
        assert!(kills(token(JTI), 1000));
        assert!(!kills(token(SID), 1000), "kinds have separate name spaces");
        assert!(kills(session(SID), 1000));
        assert!(!kills(session(JTI), 1000));
        assert!(!kills(token("order-17"), 1000));
        assert!(kills(Target::Subject { sub: "42".into(), threshold: UnixTime(1000) }, 1000));
        assert!(!kills(Target::Subject { sub: "42".into(), threshold: UnixTime(999) }, 1000));
        assert!(!kills(Target::Subject { sub: "43".into(), threshold: UnixTime(1000) }, 1000));
        assert!(kills(Target::All { threshold: UnixTime(1000) }, 1000));
        assert!(!kills(Target::All { threshold: UnixTime(999) }, 1000));
        assert!(kills(Target::Key { kid: "k1".into() }, 1000));
        assert!(!kills(Target::Key { kid: "k2".into() }, 1000));
    }

    #[test]
    fn text_ids_are_held_too() {
        let index = Index::new(1);
        index.apply(0, &entry(session("order-17"), 5));
        let bearer = Claims { sid: "order-17".into(), ..claims(1) };
        assert!(index.revokes(&bearer, "k"));
        assert_eq!(index.expire(UnixTime(6)).sessions.len(), 1);
        assert!(!index.revokes(&bearer, "k"));
    }

    #[test]
    fn applying_again_changes_nothing_and_the_later_expiry_wins() {
        let index = Index::new(1);
        assert_eq!(index.apply(0, &entry(token(JTI), 100)), Applied::New);
        assert_eq!(index.apply(0, &entry(token(JTI), 200)), Applied::Known);
        assert_eq!(index.apply(0, &entry(token(JTI), 50)), Applied::Known);
        assert_eq!(index.expire(UnixTime(200)), Expired::default(), "held at its expiry");
        assert!(index.revokes(&claims(1), "k"));
        let expired = index.expire(UnixTime(201));
        assert_eq!(expired.tokens[0].subject, Some(SubjectTag::of("42")));
        assert!(!index.revokes(&claims(1), "k"));
        assert_eq!(index.counts().total(), 0);
    }

    #[test]
    fn watermarks_only_rise() {
        let index = Index::new(1);
        let at = |threshold| Target::Subject { sub: "42".into(), threshold: UnixTime(threshold) };
        assert_eq!(index.apply(0, &entry(at(1000), 5000)), Applied::New);
        assert_eq!(index.apply(0, &entry(at(900), 5000)), Applied::Known);
        assert!(index.revokes(&claims(1000), "k"));
        assert_eq!(index.apply(0, &entry(at(1001), 5000)), Applied::New);
        assert_eq!(index.apply(0, &entry(at(1001), 5000)), Applied::Known, "it stands there already");
        assert!(index.revokes(&claims(1001), "k"));
        assert_eq!(&*index.expire(UnixTime(5001)).subjects[0], "42");
    }

    #[test]
    fn partitions_have_their_own_marks() {
        let index = Index::new(7);
        let mine = SubjectTag::of("42").partition(7);
        index.apply((mine + 1) % 7, &entry(Target::All { threshold: UnixTime(1000) }, 9999));
        assert!(!index.revokes(&claims(1000), "k"));
        assert_eq!(index.raise_since(mine, UnixTime(500)), Applied::New);
        assert_eq!(index.raise_since(mine, UnixTime(500)), Applied::Known, "it stands there already");
        assert!(index.revokes(&claims(500), "k"));
        assert!(!index.revokes(&claims(501), "k"));
        assert_eq!(index.marks(mine), (UnixTime(0), UnixTime(500)));
        assert_eq!(index.raise_since(99, UnixTime(500)), Applied::Known, "no such partition");
        assert_eq!(index.partitions(), 7);
    }

    #[test]
    fn keys_and_users_are_held_until_they_expire() {
        let index = Index::new(1);
        index.apply(0, &entry(Target::Key { kid: "k".into() }, 100));
        index.apply(0, &entry(Target::Key { kid: "k".into() }, 50));
        index.apply(0, &entry(Target::Subject { sub: "42".into(), threshold: UnixTime(9) }, 100));
        index.expire(UnixTime(100));
        assert!(index.has_key("k") && index.has_logged_out("42", UnixTime(9)), "held at their expiry");
        index.expire(UnixTime(101));
        assert!(!index.has_key("k") && !index.has_logged_out("42", UnixTime(9)));
    }

    #[test]
    fn every_entry_is_visited() {
        let index = Index::new(1);
        let entries = [
            entry(token(JTI), 1),
            entry(session(SID), 2),
            entry(session("order-17"), 3),
            entry(Target::Subject { sub: "42".into(), threshold: UnixTime(9) }, 4),
            entry(Target::Key { kid: "k".into() }, 5),
        ];
        for entry in &entries {
            index.apply(0, entry);
        }
        let mut seen = Vec::new();
        index.each(|revocation| seen.push(revocation));
        seen.sort_by_key(|revocation| revocation.expires_at);
        assert_eq!(seen, entries);
        assert_eq!(index.counts(), Counts { tokens: 1, sessions: 2, subjects: 1, keys: 1 });
        assert_eq!(index.counts().total(), 5);
    }

    #[test]
    fn a_push_that_stands_apart_counts_until_it_is_let_go() {
        let index = Index::new(1);
        let all = (Position { ms: 9, sequence: 0 }, entry(Target::All { threshold: UnixTime(5_000) }, 9_999));
        let mine = (Position { ms: 8, sequence: 0 }, entry(session(SID), 9_999));
        let key = (Position { ms: 7, sequence: 0 }, entry(Target::Key { kid: "k".into() }, 9_999));
        for push in [&all, &mine, &key] {
            assert_eq!(index.apply_unconfirmed(0, push), Applied::New);
            assert_eq!(index.apply_unconfirmed(0, push), Applied::Known);
        }
        assert!(index.has_key("k") && index.has_session(&Id::parse(SID).unwrap()));
        assert!(index.revokes(&claims(5_000), "-") && index.has_logged_out("43", UnixTime(5_000)));
        assert_eq!(index.marks(0).0, UnixTime(0), "it is not held for good");
        index.drop_unconfirmed(0, &[all, key]);
        assert!(!index.has_key("k") && !index.has_logged_out("43", UnixTime(5_000)));
        index.confirm(0, std::slice::from_ref(&mine));
        let mut apart = 0;
        index.each_unconfirmed(|_, _| apart += 1);
        assert_eq!((apart, index.counts().sessions), (0, 1));
        assert!(index.revokes(&claims(1), "-"));
        assert_eq!(index.apply_unconfirmed(0, &mine), Applied::Known, "held for good already");
    }

    /// An issuer that only heard of `all` or `key` does not put it back, unless a log has shown it.
    #[test]
    fn kept_pushes_are_held_but_all_and_key_are_not_replayed_until_a_log_shows_them() {
        let push = |sequence, target| (Position { ms: 1, sequence }, entry(target, 9_999));
        let all = push(1, Target::All { threshold: UnixTime(5_000) });
        let key = push(2, Target::Key { kid: "k".into() });
        let mine = push(3, session(SID));
        let replayed = |index: &Index| {
            let mut kinds = vec![];
            index.each_to_replay(0, |revocation| kinds.push(std::mem::discriminant(&revocation.target)));
            kinds.len()
        };
        for unconfirmed_first in [true, false] {
            let index = Index::new(1);
            let pushes = [all.clone(), key.clone(), mine.clone()];
            if unconfirmed_first {
                pushes.iter().for_each(|push| assert_eq!(index.apply_unconfirmed(0, push), Applied::New));
            }
            index.keep(0, &pushes);
            let mut apart = 0;
            index.each_unconfirmed(|_, _| apart += 1);
            assert_eq!(apart, 0);
            assert!(index.has_key("k") && index.has_logged_out("43", UnixTime(5_000)), "held for good");
            assert_eq!(replayed(&index), 1, "the session's end");
            index.apply(0, &all.1);
            index.confirm(0, std::slice::from_ref(&key));
            assert_eq!(replayed(&index), 3);
        }
    }

    /// Found by a fault cycle: a look that saw neither the entry that was not there yet, nor the push that was gone.
    #[test]
    fn confirmed_push_is_revoked_at_every_moment() {
        const ROUNDS: u64 = 20_000;
        let index = Index::new(1);
        let pushed = AtomicU64::new(0);
        let sid = |number: u64| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            Id::Packed(id)
        };
        let look = || {
            let mut number = 0;
            while number < ROUNDS {
                number = pushed.load(Ordering::Acquire).max(1);
                let mut claims = claims(1_000);
                claims.sid = sid(number).to_string();
                while pushed.load(Ordering::Acquire) < number {}
                while pushed.load(Ordering::Acquire) == number {
                    assert!(index.revokes(&claims, "k1") && index.has_session(&sid(number)), "push {number}");
                    if number == ROUNDS {
                        break;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let reader = scope.spawn(look);
            for number in 1..=ROUNDS {
                let target = Target::Session { sid: sid(number), subject: None };
                let push = (Position { ms: 1, sequence: number }, entry(target, 9_999));
                index.apply_unconfirmed(0, &push);
                pushed.store(number, Ordering::Release);
                (0..number % 512).for_each(|_| std::hint::spin_loop());
                index.confirm(0, &[push]);
                (0..256).for_each(|_| std::hint::spin_loop());
            }
            reader.join().unwrap();
        });
    }

    #[test]
    fn what_is_held_can_be_asked_for() {
        let index = Index::new(1);
        let sid = Id::parse(SID).unwrap();
        assert!(!index.has_session(&sid) && !index.has_key("k1") && !index.has_logged_out("42", UnixTime(1)));
        let hold = |target| index.apply(0, &Revocation { target, expires_at: UnixTime(u64::from(u32::MAX)) });
        hold(Target::Session { sid: sid.clone(), subject: None });
        hold(Target::Key { kid: "k1".into() });
        hold(Target::Subject { sub: "42".into(), threshold: UnixTime(100) });
        assert!(index.has_session(&sid) && index.has_key("k1") && !index.has_key("k2"));
        assert!(index.has_logged_out("42", UnixTime(100)) && !index.has_logged_out("42", UnixTime(101)));
        assert!(!index.has_logged_out("43", UnixTime(100)));
        index.raise_since(0, UnixTime(200));
        assert!(!index.has_logged_out("43", UnixTime(100)), "not to be known is not to be logged out");
        hold(Target::All { threshold: UnixTime(150) });
        assert!(index.has_logged_out("43", UnixTime(150)) && !index.has_logged_out("42", UnixTime(151)));
    }
}
