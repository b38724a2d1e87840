//! The simulated verifier: the real machine, a list with expiry, clocks that err.

use std::collections::BTreeMap;

use super::mutant::Mutant;
use super::store::{LIFETIME_MAX, Truth, id_of};
use crate::sync::{Action, Checkpoint, Event, Machine, Timing};
use crate::time::{CLOCK_SKEW_SECONDS, Instants, LEEWAY_MAX_SECONDS, TimeFloor, UnixTime};

/// What a verifier keeps on disk.
#[derive(Clone, Debug)]
pub struct Snapshot {
    held: BTreeMap<usize, UnixTime>,
    since: UnixTime,
    checkpoint: Checkpoint,
    /// What had expired by then, by a clock that may have been wrong, is not in it.
    expired_by: UnixTime,
}

pub struct Verifier {
    pub machine: Machine,
    pub mutant: Option<Mutant>,
    held: BTreeMap<usize, UnixTime>,
    since: UnixTime,
    pub fresh_as_of: Option<u64>,
    pub proofs: u64,
    /// How far the wall clock is off, in milliseconds, and by how much it has been stepped.
    pub skew_ms: i64,
    pub step_ms: i64,
    leeway: u64,
    floor: TimeFloor,
}

impl Verifier {
    pub fn new(mutant: Option<Mutant>, skew_ms: i64, leeway: u64, now: Instants) -> Self {
        Self {
            machine: Machine::new(Timing::default(), 1),
            mutant,
            held: BTreeMap::new(),
            since: UnixTime(0),
            fresh_as_of: None,
            proofs: 0,
            skew_ms,
            step_ms: 0,
            leeway: leeway.min(LEEWAY_MAX_SECONDS),
            floor: TimeFloor::new(now),
        }
    }

    pub fn snapshot(&self) -> Option<Snapshot> {
        let checkpoint = self.machine.checkpoint()?;
        let expired_by = self.floor.seconds();
        Some(Snapshot { held: self.held.clone(), since: self.since, checkpoint, expired_by })
    }

    /// Dies and starts again, with what it kept or with nothing.
    pub fn restart(&mut self, kept: Option<Snapshot>, now: Instants) {
        let mut fresh = Self::new(self.mutant, self.skew_ms, self.leeway, now);
        (fresh.step_ms, fresh.proofs) = (self.step_ms, self.proofs);
        if let Some(Snapshot { held, since, checkpoint, expired_by }) = kept {
            (fresh.held, fresh.since) = (held, since);
            // Written by a clock that was ahead of this one: what it dropped may still matter, so the log is read whole.
            let whole = expired_by <= fresh.floor.seconds().plus(2 * CLOCK_SKEW_SECONDS);
            if whole || self.mutant == Some(Mutant::TrustsAnySnapshot) {
                fresh.machine = Machine::resume(Timing::default(), 1, checkpoint);
            }
        }
        *self = fresh;
    }

    /// Gives an event to the machine and does what concerns the list; returns the rest.
    pub fn on(&mut self, event: Event, now: Instants) -> Vec<Action> {
        let event = match self.mutant {
            Some(mutant) => mutant.weaken(&self.machine, event, now),
            None => event,
        };
        let actions = self.machine.on(event, now);
        let mut rest = Vec::new();
        for action in actions {
            match action {
                Action::Apply { revocation, .. } => {
                    self.held.insert(id_of(&revocation), revocation.expires_at);
                }
                Action::ApplyAll(revocations) => {
                    let held = revocations.iter().map(|revocation| (id_of(revocation), revocation.expires_at));
                    self.held.extend(held);
                }
                Action::Time(store) => {
                    self.floor.confirm(store, now);
                }
                Action::Since(_) if self.mutant == Some(Mutant::NoSince) => {}
                Action::Since(moment) => self.since = self.since.max(moment),
                Action::Fresh(at) => {
                    let received = self.mutant == Some(Mutant::FreshOnReceipt);
                    let as_of = if received { now.monotonic_ms } else { at.monotonic_ms };
                    assert!(self.fresh_as_of.is_none_or(|before| before <= as_of), "freshness went back");
                    self.fresh_as_of = Some(as_of);
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

    /// Drops what has expired; entries are kept by the floor under this host's clock.
    pub fn expire(&mut self, now: Instants) {
        let floor = self.floor.advance(now);
        let early = if self.mutant == Some(Mutant::ForgetsAtExpiry) { 70 } else { 0 };
        self.held.retain(|_, expires_at| floor <= expires_at.minus(early));
    }

    /// Whether the token of a revocation would be answered good, if the list is taken for complete.
    pub fn accepts(&self, id: usize, truth: &Truth) -> bool {
        let now = self.floor.seconds();
        let alive = now <= truth.token_expires.plus(self.leeway);
        debug_assert!(truth.token_expires.0 <= truth.issued.0 + LIFETIME_MAX, "no token lives longer");
        alive && !self.held.contains_key(&id) && truth.issued > self.since
    }
}
