//! A revocation as this issuer keeps it to do it again: a replay, or the delivery of one that Redis refused.

use sidegate_common::revocation::{Revocation, Target};
use sidegate_common::time::{REVOCATION_MARGIN_SECONDS, UnixTime};
use sidegate_common::wire::Position;

use crate::domain::session::Terms;

/// A revocation with what a replay has to know of it. Doing it twice is doing it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deed {
    pub(crate) partition: u16,
    pub(crate) revocation: Revocation,
    /// Where the log had it.
    pub(crate) position: Option<Position>,
    /// True if the threshold is an estimate: the store never said one.
    pub(crate) estimated: bool,
}

impl Deed {
    /// One that the log took at `position`.
    pub(super) fn done(partition: u16, target: Target, terms: &Terms, position: Option<Position>) -> Self {
        let expires_at = longest(&target, terms);
        Self { partition, revocation: Revocation { target, expires_at }, position, estimated: false }
    }

    /// One that the store refused. A threshold in it is the store's clock as near as it is known.
    pub(super) fn owed(partition: u16, target: Target, terms: &Terms) -> Self {
        Self { estimated: true, ..Self::done(partition, target, terms, None) }
    }

    /// What it is the same as: another of its key kills the same tokens, but for the threshold.
    pub(super) fn key(&self) -> (u16, Vec<u8>) {
        let mut target = self.revocation.target.clone();
        if let Target::Subject { threshold, .. } | Target::All { threshold } = &mut target {
            *threshold = UnixTime(0);
        }
        (self.partition, Revocation { target, expires_at: UnixTime(0) }.to_bytes())
    }

    /// Its part of the arguments of `replay.lua`.
    pub(super) fn arguments(&self) -> [Vec<u8>; 4] {
        let name = match &self.revocation.target {
            Target::Session { sid, .. } => sid.to_string(),
            Target::Subject { sub, .. } => sub.to_string(),
            Target::Token { .. } | Target::All { .. } | Target::Key { .. } => String::new(),
        };
        let position = self.position.map(|position| position.to_string()).unwrap_or_default();
        [position.into_bytes(), vec![b'0' + u8::from(self.estimated)], name.into_bytes(), self.revocation.to_bytes()]
    }
}

/// The longest an entry for this target can matter: a replayed one may live longer than the first did, never shorter.
fn longest(target: &Target, terms: &Terms) -> UnixTime {
    let spans = terms.lifetime_max + REVOCATION_MARGIN_SECONDS;
    let threshold = match target {
        Target::Subject { threshold, .. } | Target::All { threshold } => *threshold,
        _ => UnixTime(0),
    };
    sidegate_runtime::clock::unix_now().max(threshold).plus(spans)
}
