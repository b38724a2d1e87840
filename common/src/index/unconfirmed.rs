//! Pushed revocations that the log has not confirmed: few, and each can be dropped.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::claims::Claims;
use crate::foreign::ids::{ClaimId, ForeignId, ForeignIds};
use crate::revocation::{Id, Revocation, Target};
use crate::sync::Push;
use crate::time::UnixTime;

/// The unconfirmed pushes of all partitions.
#[derive(Debug, Default)]
pub(super) struct UnconfirmedSet {
    /// The number of pushes. Usually zero, and then look-ups take no lock.
    count: AtomicUsize,
    held: RwLock<Held>,
}

#[derive(Debug, Default)]
struct Held {
    pushes: Vec<(u16, Push)>,
    tokens: HashSet<Id>,
    sessions: HashSet<Id>,
    subjects: HashMap<Box<str>, UnixTime>,
    all: HashMap<u16, UnixTime>,
    keys: HashSet<Box<str>>,
    foreign_subjects: HashMap<ForeignId, UnixTime>,
    claims: HashMap<ClaimId, UnixTime>,
}

impl Held {
    fn look_up(&mut self, partition: u16, revocation: &Revocation) {
        match &revocation.target {
            Target::Token { jti, .. } => {
                self.tokens.insert(jti.clone());
            }
            Target::Session { sid, .. } => {
                self.sessions.insert(sid.clone());
            }
            Target::Subject { sub, threshold } => later(self.subjects.entry(sub.clone()).or_default(), *threshold),
            Target::All { threshold } => later(self.all.entry(partition).or_default(), *threshold),
            Target::Key { kid } => {
                self.keys.insert(kid.clone());
            }
            Target::ForeignSubject { subject, threshold } => {
                later(self.foreign_subjects.entry(*subject).or_default(), *threshold);
            }
            Target::Claim { claim, threshold } => later(self.claims.entry(*claim).or_default(), *threshold),
        }
    }
}

fn later(held: &mut UnixTime, at: UnixTime) {
    *held = (*held).max(at);
}

impl UnconfirmedSet {
    /// Adds a push; false if the same push is here already.
    pub(super) fn add(&self, partition: u16, push: &Push) -> bool {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        // A repeated push comes soon after the first, so only the newest are compared.
        if held.pushes.iter().rev().take(16).any(|(of, known)| *of == partition && known == push) {
            return false;
        }
        held.look_up(partition, &push.1);
        held.pushes.push((partition, push.clone()));
        self.count.store(held.pushes.len(), Ordering::Release);
        true
    }

    /// Removes pushes: the index holds them now, or they are to be dropped.
    pub(super) fn remove(&self, partition: u16, pushes: &[Push]) {
        if pushes.is_empty() || self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let gone: HashSet<&Push> = pushes.iter().collect();
        let before = std::mem::take(&mut *held);
        for (of, push) in before.pushes.into_iter().filter(|(of, push)| *of != partition || !gone.contains(push)) {
            held.look_up(of, &push.1);
            held.pushes.push((of, push));
        }
        self.count.store(held.pushes.len(), Ordering::Release);
    }

    fn with<T: Default>(&self, look: impl FnOnce(&Held) -> T) -> T {
        if self.count.load(Ordering::Acquire) == 0 {
            return T::default();
        }
        look(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn revokes(&self, partition: u16, claims: &Claims, kid: &str) -> bool {
        self.with(|held| {
            let iat = claims.issued_at();
            held.all.get(&partition).is_some_and(|threshold| iat <= *threshold)
                || held.subjects.get(claims.sub.as_str()).is_some_and(|threshold| iat <= *threshold)
                || held.keys.contains(kid)
                || Id::parse(&claims.sid).is_none_or(|sid| held.sessions.contains(&sid))
                || Id::parse(&claims.jti).is_none_or(|jti| held.tokens.contains(&jti))
        })
    }

    pub(super) fn revokes_foreign(&self, ids: &ForeignIds, iat: UnixTime) -> bool {
        self.with(|held| {
            let holds = |held: &HashSet<Id>, id: Option<ForeignId>| id.is_some_and(|id| held.contains(&Id::Packed(id)));
            held.foreign_subjects.get(&ids.subject).is_some_and(|threshold| iat <= *threshold)
                || holds(&held.sessions, ids.session)
                || holds(&held.tokens, ids.token)
                || ids.claims.iter().any(|claim| held.claims.get(claim).is_some_and(|threshold| iat <= *threshold))
        })
    }

    pub(super) fn any_claim(&self, which: impl Fn(&ClaimId) -> bool) -> bool {
        self.with(|held| held.claims.keys().any(which))
    }

    pub(super) fn has_session(&self, sid: &Id) -> bool {
        self.with(|held| held.sessions.contains(sid))
    }

    pub(super) fn has_key(&self, kid: &str) -> bool {
        self.with(|held| held.keys.contains(kid))
    }

    pub(super) fn has_logged_out(&self, partition: u16, sub: &str, iat: UnixTime) -> bool {
        self.with(|held| {
            held.all.get(&partition).is_some_and(|threshold| iat <= *threshold)
                || held.subjects.get(sub).is_some_and(|threshold| iat <= *threshold)
        })
    }

    pub(super) fn each(&self, mut visit: impl FnMut(u16, &Revocation)) {
        self.with(|held| held.pushes.iter().for_each(|(partition, (_, revocation))| visit(*partition, revocation)));
    }
}
