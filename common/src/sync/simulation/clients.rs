//! The simulated clients: they log in, refresh (also with the refresh tokens of ended sessions) and
//! revoke.

use super::mutant::Mutant;
use super::store::Order;
use super::truth::{LIFETIME_MAX, Sid, TokenId, USERS, true_seconds};
use super::world::{What, World};
use crate::time::UnixTime;

/// Clients use only the newest sessions, this many.
const LATEST: usize = 12;

impl World {
    /// One random client action at one of the issuers.
    pub fn client(&mut self) {
        let next = self.now + self.random.between(20, 900);
        self.at(next, What::Client);
        let index = self.random.between(0, self.issuers.len() as u64) as usize;
        if !self.issuers[index].up || self.now < self.issuers[index].paused_until {
            return;
        }
        match self.random.between(0, 100) {
            0..25 => self.login(index),
            25..50 => {
                if let Some(sid) = self.some_session() {
                    self.refresh(index, sid);
                }
            }
            50..65 => {
                if let Some(sid) = self.some_session() {
                    self.carry_out(index, Order::Logout(sid), None);
                }
            }
            65..85 => {
                let token = self.old_token();
                self.carry_out(index, Order::Token(token), None);
            }
            // Watermarks hide the effect of single entries, so not every world has them.
            85.. if !self.watermarks => {}
            85..97 => {
                let user = self.random.between(0, USERS as u64) as usize;
                let keep = self.random.chance(30);
                self.carry_out(index, Order::User { user, keep }, None);
            }
            _ => self.carry_out(index, Order::All, None),
        }
    }

    fn some_session(&mut self) -> Option<Sid> {
        let sessions = self.store.truth.sessions.len();
        let first = sessions.saturating_sub(LATEST) as u64;
        (sessions > 0).then(|| self.random.between(first, sessions as u64) as usize)
    }

    /// A token of a session that the store no longer has.
    pub fn old_token(&mut self) -> TokenId {
        let age = self.random.between(0, 100);
        let lifetime = self.random.between(age + 1, LIFETIME_MAX + 1);
        let user = self.random.between(0, USERS as u64) as usize;
        let truth = &mut self.store.truth;
        let sid = truth.begin(user);
        truth.hand_out(self.now, sid, true_seconds(self.now).minus(age), lifetime)
    }

    /// Whether an issuer may create or rotate a session: it has seen that the log is settled, and
    /// the script checks it again.
    fn may_issue(&self, index: usize, mutant: Mutant) -> bool {
        let issuer = &self.issuers[index];
        let server = &self.store.servers[self.store.master];
        let settled = server.is_settled() && issuer.lineage == server.lineage();
        let gated = !issuer.old && self.store.mutant != Some(mutant);
        self.can_reach(index) && server.lineage().is_some() && (settled || !gated)
    }

    pub fn login(&mut self, index: usize) {
        if !self.may_issue(index, Mutant::CreatesUnsettled) {
            return;
        }
        let user = self.random.between(0, USERS as u64) as usize;
        let clock = self.store.seconds(self.now);
        let sid = self.store.truth.begin(user);
        let issued = self.store.master().create(sid, user, clock);
        self.issue(index, sid, issued);
    }

    pub fn refresh(&mut self, index: usize, sid: Sid) {
        if !self.may_issue(index, Mutant::RotatesUnsettled) {
            return;
        }
        let (clock, by_birth) =
            (self.store.seconds(self.now), self.store.mutant != Some(Mutant::SessionsByLastRotation));
        let Some(issued) = self.store.master().rotate(sid, clock, by_birth) else { return };
        self.refreshes += 1;
        let truth = &mut self.store.truth;
        let dead = truth.sessions[sid].dead_by.clone().into_iter().find(|id| {
            let open = truth.entries[*id].open_loss().copied();
            open.is_none_or(|open| !open.orphaned)
        });
        if let (Some(id), false) = (dead, self.issuers[index].old) {
            let entry = &self.store.truth.entries[id];
            self.violation = Some(format!(
                "at {}: session {sid} is refreshed although its end, entry {id} ({:?}), was acknowledged at {:?}; lost {:?}",
                self.now, entry.kill, entry.acknowledged_ms, entry.lost
            ));
        }
        self.issue(index, sid, issued);
    }

    /// The store has issued a token. If its `iat` is in the future, the client gets it at that
    /// time.
    fn issue(&mut self, index: usize, sid: Sid, issued: UnixTime) {
        self.issuers[index].newest = self.issuers[index].newest.max(issued);
        let ahead_ms = (issued.0 * 1000).saturating_sub(self.store.clock_ms(self.now));
        let lifetime = self.random.between(1, LIFETIME_MAX + 1);
        let session = &mut self.store.truth.sessions[sid];
        session.exp_max = session.exp_max.max(issued.plus(lifetime));
        self.at(self.now + ahead_ms, What::HandOut { sid, issued, lifetime });
        let user = self.store.truth.sessions[sid].user;
        let dead = self.store.truth.born_dead(self.now, user, issued);
        if let (Some(id), false, None) = (dead, self.issuers[index].old, &self.violation) {
            let entry = &self.store.truth.entries[id];
            self.violation = Some(format!(
                "at {}: a token of session {sid} is born dead: {issued:?} by entry {id} {:?}, given at {}, lost {:?}",
                self.now, entry.kill, entry.given_ms, entry.lost
            ));
        }
    }

    /// A client receives its token.
    pub fn hand_out(&mut self, sid: Sid, issued: UnixTime, lifetime: u64) {
        self.store.truth.hand_out(self.now, sid, issued, lifetime);
    }
}
