//! The index's look-ups for tokens of other issuers, and their claims.

use std::sync::atomic::Ordering;

use super::watermark::Watermark;
use super::{Ids, Index};
use crate::foreign::ids::{ClaimId, ForeignId, ForeignToken};
use crate::revocation::{Revocation, SubjectTag, Target};
use crate::time::UnixTime;

/// A watermark of a claim's value.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimMark {
    pub(super) mark: Watermark,
    /// The entry came from the log.
    pub(super) in_log: bool,
}

impl Index {
    pub(super) fn hold_claim(&self, claim: ClaimId, mark: Watermark, in_log: bool) -> bool {
        match self.claims.entry(claim) {
            dashmap::Entry::Occupied(mut there) => {
                there.get_mut().in_log |= in_log;
                there.get_mut().mark.raise(mark)
            }
            dashmap::Entry::Vacant(place) => {
                place.insert(ClaimMark { mark, in_log });
                true
            }
        }
    }

    /// True if a token of another issuer is revoked. The home issuer's keys and its watermark for all
    /// users do not concern it.
    pub fn revokes_foreign(&self, token: &ForeignToken, iat: UnixTime) -> bool {
        let ids = token.ids();
        let holds = |held: &Ids, id: &Option<ForeignId>| id.is_some_and(|id| held.packed.contains_key(&id));
        self.unconfirmed.revokes_foreign(ids, iat)
            || self.foreign_subjects.get(&ids.subject).is_some_and(|held| iat <= held.threshold)
            || holds(&self.sessions, &ids.session)
            || holds(&self.tokens, &ids.token)
            || (!self.claims.is_empty()
                && ids.claims.iter().any(|claim| self.claims.get(claim).is_some_and(|held| iat <= held.mark.threshold)))
    }

    /// True if the log may lack the revocation of a token of another issuer.
    pub fn may_lack_foreign(&self, token: &ForeignToken, iat: UnixTime) -> bool {
        let partition = SubjectTag::of_foreign(&token.ids().subject).partition(self.partitions());
        let marks = self.partitions.get(usize::from(partition));
        marks.is_some_and(|marks| token.is_older_than_log(iat, UnixTime(marks.since.load(Ordering::Acquire))))
    }

    /// True if `which` holds for a claim that has an entry.
    pub fn any_claim(&self, which: impl Fn(&ClaimId) -> bool) -> bool {
        self.unconfirmed.any_claim(&which) || self.claims.iter().any(|item| which(item.key()))
    }
}

pub(super) fn claim_entry(claim: &ClaimId, held: &ClaimMark) -> Revocation {
    let Watermark { threshold, expires_at } = held.mark;
    Revocation { target: Target::Claim { claim: *claim, threshold }, expires_at }
}
