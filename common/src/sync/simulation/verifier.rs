//! The simulated verifier: the real machine, a list with expiry, and clocks with errors.

use std::collections::BTreeMap;

use super::mutant::Mutant;
use super::truth::{ENROLLED_AT, FOREIGN_FROM, Token, TokenId, USERS, number_of};
use crate::revocation::{Revocation, Target};
use crate::sync::{Action, Alarm, Checkpoint, Event, Machine, Push, Timing};
use crate::time::{CLOCK_SKEW_SECONDS, ClockReading, LEEWAY_MAX_SECONDS, TimeFloor, UnixTime};

/// The revocations.
#[derive(Clone, Debug, Default)]
pub struct Held {
    tokens: BTreeMap<TokenId, UnixTime>,
    sessions: BTreeMap<usize, UnixTime>,
    /// Threshold and expiry of each user.
    users: [(UnixTime, UnixTime); USERS],
    all: UnixTime,
    since: UnixTime,
}

impl Held {
    fn hold(&mut self, revocation: &Revocation) {
        let expires = revocation.expires_at;
        match &revocation.target {
            Target::Token { jti, .. } => later(self.tokens.entry(number_of(jti)).or_default(), expires),
            Target::Session { sid, .. } => later(self.sessions.entry(number_of(sid)).or_default(), expires),
            Target::Subject { sub, threshold } => {
                let user: usize = sub.parse().expect("a user's number");
                later(&mut self.users[user].0, *threshold);
                later(&mut self.users[user].1, expires);
            }
            Target::All { threshold } => later(&mut self.all, *threshold),
            Target::Key { .. } | Target::ForeignSubject { .. } | Target::Claim { .. } => {}
        }
    }

    fn expire(&mut self, floor: UnixTime, early: u64) {
        self.tokens.retain(|_, expires| floor <= expires.minus(early));
        self.sessions.retain(|_, expires| floor <= expires.minus(early));
        for user in &mut self.users {
            if floor > user.1.minus(early) {
                *user = Default::default();
            }
        }
    }

    /// The last revoked `iat` for all users.
    pub fn everybody(&self) -> UnixTime {
        self.all
    }

    fn revokes(&self, id: TokenId, token: &Token) -> bool {
        let marks = self.users[token.user].0.max(self.all);
        token.issued <= marks || self.tokens.contains_key(&id) || self.sessions.contains_key(&token.sid)
    }
}

fn later(held: &mut UnixTime, at: UnixTime) {
    *held = (*held).max(at);
}

/// A verifier's snapshot.
#[derive(Clone, Debug)]
pub struct Snapshot {
    held: Held,
    checkpoint: Checkpoint,
    /// It lacks what had expired by then, by a clock that may have been wrong.
    expired_by: UnixTime,
    was_there_ms: u64,
}

pub struct Verifier {
    pub machine: Machine,
    pub mutant: Option<Mutant>,
    pub held: Held,
    /// Unconfirmed pushes.
    apart: Vec<Push>,
    pub fresh_as_of: Option<u64>,
    /// The last proof was from a log whose replay is missing.
    pub unsettled: bool,
    /// Since then it has missed nothing.
    pub was_there_ms: u64,
    pub proofs: u64,
    /// The offset of the wall clock in milliseconds, and by how much it has been stepped.
    pub skew_ms: i64,
    pub step_ms: i64,
    pub timing: Timing,
    leeway: u64,
    floor: TimeFloor,
    lowered: u64,
    /// The number of pushes that the log never had.
    pub dropped: usize,
}

impl Verifier {
    pub fn new(mutant: Option<Mutant>, timing: Timing, skew_ms: i64, leeway: u64, now: ClockReading) -> Self {
        Self {
            machine: Machine::new(timing, 1),
            mutant,
            held: Held::default(),
            apart: Vec::new(),
            fresh_as_of: None,
            unsettled: false,
            was_there_ms: now.monotonic_ms,
            proofs: 0,
            skew_ms,
            step_ms: 0,
            timing,
            leeway: leeway.min(LEEWAY_MAX_SECONDS),
            floor: TimeFloor::new(now),
            lowered: 0,
            dropped: 0,
        }
    }

    pub fn snapshot(&self) -> Option<Snapshot> {
        let (checkpoint, expired_by) = (self.machine.checkpoint()?, self.floor.seconds());
        let was_there_ms = self.was_there_ms;
        Some(Snapshot { held: self.held.clone(), checkpoint, expired_by, was_there_ms })
    }

    /// Stops and starts again, with its snapshot or without.
    pub fn restart(&mut self, kept: Option<Snapshot>, now: ClockReading) {
        let mut fresh = Self::new(self.mutant, self.timing, self.skew_ms, self.leeway, now);
        (fresh.step_ms, fresh.proofs) = (self.step_ms, self.proofs);
        if let Some(Snapshot { held, checkpoint, expired_by, was_there_ms }) = kept {
            fresh.held = held;
            // Written by a clock that was ahead of this one: dropped entries may still matter, so
            // the log is read completely.
            let whole = expired_by <= fresh.floor.seconds().plus(2 * CLOCK_SKEW_SECONDS);
            if whole || self.mutant == Some(Mutant::TrustsAnySnapshot) {
                fresh.machine = Machine::resume(self.timing, 1, checkpoint);
                fresh.was_there_ms = was_there_ms;
            }
        }
        *self = fresh;
    }

    /// Gives an event to the machine and applies the actions that concern the list; returns the
    /// others.
    pub fn on(&mut self, event: Event, now: ClockReading) -> Vec<Action> {
        let event = match self.mutant {
            Some(mutant) => mutant.weaken(&self.machine, event, now),
            None => event,
        };
        let actions = self.machine.on(event, now);
        let mut rest = Vec::new();
        for action in actions {
            match action {
                Action::Apply { position, revocation } => self.apart.push((position, revocation)),
                Action::Confirm(pushes) | Action::Keep(pushes) => {
                    pushes.iter().for_each(|(_, revocation)| self.held.hold(revocation));
                    self.apart.retain(|push| !pushes.contains(push));
                }
                Action::Drop(pushes) => {
                    self.dropped += pushes.len();
                    self.apart.retain(|push| !pushes.contains(push));
                }
                Action::ApplyAll(revocations) => revocations.iter().for_each(|revocation| self.held.hold(revocation)),
                Action::Time(store) => {
                    let lowered = self.floor.confirm(store, now);
                    if lowered != self.lowered {
                        self.lowered = lowered;
                        self.fresh_as_of = None;
                        rest.extend(self.on(Event::ReadWhole, now));
                        return rest;
                    }
                }
                Action::Since(_) if self.mutant == Some(Mutant::NoSince) => {}
                Action::Since(moment) => later(&mut self.held.since, moment),
                Action::Fresh(at) => {
                    let received = self.mutant == Some(Mutant::FreshOnReceipt);
                    let as_of = if received { now.monotonic_ms } else { at.monotonic_ms };
                    assert!(self.fresh_as_of.is_none_or(|before| before <= as_of), "freshness went back");
                    self.fresh_as_of = Some(as_of);
                    self.unsettled = self.machine.raised(Alarm::ReplayMissing);
                    self.proofs += 1;
                }
                Action::Read { request, from } => {
                    let from = self.mutant.map_or(from, |mutant| mutant.weaken_read(from));
                    rest.push(Action::Read { request, from });
                }
                other => rest.push(other),
            }
        }
        rest
    }

    /// Drops expired entries by the floor under this host's clock.
    pub fn expire(&mut self, now: ClockReading) {
        let floor = self.floor.advance(now);
        let early = if self.mutant == Some(Mutant::DropsAtExpiry) { 70 } else { 0 };
        self.held.expire(floor, early);
    }

    /// Whether a token would be answered good if the list were complete.
    pub fn accepts(&self, id: TokenId, token: &Token) -> bool {
        let apart = || {
            let mut apart = Held::default();
            self.apart.iter().for_each(|(_, revocation)| apart.hold(revocation));
            apart.revokes(id, token)
        };
        let may_be_lacking = token.issued <= self.held.since && !self.is_covered(token);
        let expired = self.floor.seconds() > token.expires.plus(self.leeway);
        !expired && !may_be_lacking && !self.held.revokes(id, token) && !apart()
    }

    /// Of an issuer that was enrolled before the log began.
    fn is_covered(&self, token: &Token) -> bool {
        let all_logs = self.mutant == Some(Mutant::EnrolmentCoversEveryLog);
        token.user >= FOREIGN_FROM && (self.held.since <= ENROLLED_AT || all_logs)
    }
}
