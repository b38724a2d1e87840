//! A revocation as this issuer keeps it to do it again: a replay, or the delivery of one that Redis refused.

use sidegate_common::log_protocol::Position;
use sidegate_common::revocation::{Revocation, SubjectTag, Target};
use sidegate_common::time::{REVOCATION_MARGIN_SECONDS, UnixTime};

use crate::domain::session::{TokenLifetimes, UserSessions};

/// A revocation with what a replay has to know of it. Doing it twice is doing it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReplayEntry {
    pub(crate) partition: u16,
    pub(crate) revocation: Revocation,
    /// Where the log had it.
    pub(crate) position: Option<Position>,
    /// True if it is an order that kills a user's tokens and keeps the sessions.
    pub(crate) keep_sessions: bool,
    /// True if the data in Redis has changed since the order was given: it may lack sessions that the order was about.
    pub(crate) moved: bool,
}

impl ReplayEntry {
    /// One that the log took at `position`, or had already; `now` is the store's clock. The position tells when that was,
    /// by the store's clock as well: this host's may err.
    pub(super) fn done(
        partition: u16,
        target: Target,
        terms: &TokenLifetimes,
        position: Option<Position>,
        now: UnixTime,
    ) -> Self {
        let taken = position.map_or(now, |position| UnixTime(position.ms / 1000));
        let expires_at = longest(&target, terms, taken);
        Self { partition, revocation: Revocation { target, expires_at }, position, keep_sessions: false, moved: false }
    }

    /// One that the store refused. A threshold in it is the store's clock as near as it is known: an order keeps it, however
    /// late it is delivered. Until when it has to be kept the store says when it takes it.
    pub(super) const fn pending(partition: u16, target: Target) -> Self {
        let revocation = Revocation { target, expires_at: UnixTime(0) };
        Self { partition, revocation, position: None, keep_sessions: false, moved: false }
    }

    /// One that the feed has brought.
    pub(super) const fn received(partition: u16, revocation: Revocation) -> Self {
        Self { partition, revocation, position: None, keep_sessions: false, moved: false }
    }

    /// The same, once the log has taken it at `position`.
    pub(super) fn taken(self, position: Option<Position>, terms: &TokenLifetimes, now: UnixTime) -> Self {
        let (keep_sessions, moved) = (self.keep_sessions, self.moved);
        Self { keep_sessions, moved, ..Self::done(self.partition, self.revocation.target, terms, position, now) }
    }

    /// The same, with the user's sessions kept or not.
    pub(super) fn keeping(self, sessions: UserSessions) -> Self {
        Self { keep_sessions: sessions == UserSessions::Keep, ..self }
    }

    /// What it is the same as: another of its key kills the same tokens, but for the threshold.
    pub(super) fn key(&self) -> (u16, Vec<u8>) {
        let target = self.revocation.target.clone().with_threshold(UnixTime(0));
        let mut key = Revocation { target, expires_at: UnixTime(0) }.to_bytes();
        key.push(u8::from(self.keep_sessions));
        (self.partition, key)
    }

    /// True for an order that kills what was issued up to a moment.
    pub(super) const fn has_threshold(&self) -> bool {
        matches!(self.revocation.target, Target::Subject { .. } | Target::All { .. })
    }

    /// Its part of the arguments of `replay.lua`.
    pub(super) fn arguments(&self) -> [Vec<u8>; 5] {
        let (name, tag) = match &self.revocation.target {
            Target::Session { sid, .. } => (sid.to_string(), Vec::new()),
            Target::Subject { sub, .. } => (sub.to_string(), tag_bytes(SubjectTag::of(sub))),
            Target::Token { .. }
            | Target::All { .. }
            | Target::Key { .. }
            | Target::ForeignSubject { .. }
            | Target::Claim { .. } => (String::new(), Vec::new()),
        };
        let position = self.position.map(|position| position.to_string()).unwrap_or_default();
        let reach = match (self.keep_sessions, self.moved) {
            (true, _) => b'1',
            (false, true) => b'2',
            (false, false) => b'0',
        };
        [position.into_bytes(), vec![reach], name.into_bytes(), tag, self.revocation.to_bytes()]
    }
}

/// A subject's tag as entries have it: 6 bytes, big endian.
pub(super) fn tag_bytes(subject: SubjectTag) -> Vec<u8> {
    subject.value().to_be_bytes()[2..].to_vec()
}

/// The longest an entry for this target can matter that was taken at this moment of the store's clock: a replayed one may
/// live longer than the first did, never shorter.
fn longest(target: &Target, terms: &TokenLifetimes, taken: UnixTime) -> UnixTime {
    let spans = terms.lifetime_max + REVOCATION_MARGIN_SECONDS;
    taken.max(target.threshold().unwrap_or_default()).plus(spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// V6: a host whose clock is slow must not give a replayed entry a shorter life.
    #[test]
    fn an_acknowledged_revocation_lasts_by_the_clock_of_the_store() {
        let terms = TokenLifetimes { access_ttl: 1, idle_ttl: 1, absolute_ttl: 1, retry_window: 0, lifetime_max: 60 };
        let position = Some(Position { ms: 4_000_000_000_999, sequence: 0 });
        let target = || Target::Key { kid: "k".into() };
        let done = ReplayEntry::done(0, target(), &terms, position, UnixTime(5));
        assert_eq!(done.revocation.expires_at, UnixTime(4_000_000_000 + 60 + REVOCATION_MARGIN_SECONDS));
        let taken = ReplayEntry::pending(0, target()).taken(None, &terms, UnixTime(5));
        assert_eq!(taken.revocation.expires_at, UnixTime(5 + 60 + REVOCATION_MARGIN_SECONDS));
    }
}
