//! Faults, and how each ends.

use super::server::Server;
use super::store::Order;
use super::world::{What, World};
use crate::log_protocol::{Message, Position};
use crate::revocation::EntryError;
use crate::sync::Event;

/// The faults that can happen in a world.
pub type Among = &'static [Fault];

/// A fault that lasts a while, or happens once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Cut,
    LosePushes,
    BlackHole,
    FreezeServer,
    PauseVerifier,
    Outage,
    RestartEmpty,
    FlushAll,
    DeleteLog,
    Failover,
    IsolatedMaster,
    RestoreBackup,
    RestartVerifier,
    Garbage,
    Trim,
    StepClock,
    Unreadable,
    LongOutage,
    StepStoreClock,
    CrashIssuer,
    PauseIssuer,
    RestartIssuer,
    RollingRestart,
    StepIssuerClock,
}

/// All but the clocks of the store and of issuers, which have their own tests.
pub const ALL: &[Fault] = &[
    Fault::Cut,
    Fault::LosePushes,
    Fault::BlackHole,
    Fault::FreezeServer,
    Fault::PauseVerifier,
    Fault::Outage,
    Fault::RestartEmpty,
    Fault::FlushAll,
    Fault::DeleteLog,
    Fault::Failover,
    Fault::IsolatedMaster,
    Fault::RestoreBackup,
    Fault::RestartVerifier,
    Fault::Garbage,
    Fault::Trim,
    Fault::StepClock,
    Fault::Unreadable,
    Fault::LongOutage,
    Fault::CrashIssuer,
    Fault::PauseIssuer,
    Fault::RestartIssuer,
    Fault::RollingRestart,
];

impl World {
    /// Starts a random fault.
    pub fn strike(&mut self) {
        self.faults += 1;
        if self.random.chance(10) {
            self.backup = Some(self.store.master().clone());
        }
        if self.random.chance(20) {
            self.kept = self.verifier.snapshot().or(self.kept.take());
        }
        let pick = self.random.between(0, self.among.len() as u64) as usize;
        let mut fault = self.among[pick];
        // These make a schedule useless or long, so they are rare among others.
        let rare = matches!(fault, Fault::Unreadable | Fault::LongOutage) && self.among.len() > 1;
        if rare && !self.random.chance(15) {
            fault = Fault::Cut;
        }
        let lasts = self.random.between(50, 6_000);
        match fault {
            Fault::Cut => self.cut(),
            Fault::LosePushes => self.pushes_lost = self.random.between(20, 101),
            Fault::BlackHole => {
                if let Some(up) = &mut self.connection {
                    up.black_hole = true;
                }
            }
            Fault::FreezeServer => self.server_frozen_until = self.now + lasts,
            Fault::PauseVerifier => self.verifier_paused_until = self.now + lasts,
            Fault::Outage | Fault::LongOutage | Fault::RestartEmpty => {
                self.reachable = false;
                self.cut();
            }
            Fault::FlushAll => {
                self.store.lose_everything(self.now);
                self.note_orphans();
            }
            Fault::DeleteLog => {
                self.store.lose_log(self.now);
                self.note_orphans();
            }
            Fault::Failover | Fault::IsolatedMaster => {
                let after = self.random.between(0, 1_500);
                self.fall_behind(after, fault == Fault::IsolatedMaster);
            }
            Fault::RestoreBackup => {
                if let Some(backup) = self.backup.take() {
                    self.replace(backup);
                    self.cut();
                }
            }
            Fault::RestartVerifier => self.restart_verifier(),
            Fault::Garbage => self.garbage(),
            Fault::Trim => self.store.trim(self.now),
            Fault::StepClock => self.verifier.step_ms = self.random.between(0, 7_200_000) as i64 - 3_600_000,
            Fault::Unreadable => {
                let (index, token) = (self.some_issuer(), self.old_token());
                self.unreadable = true;
                self.carry_out(index, Order::Unreadable(token), None);
            }
            Fault::CrashIssuer => {
                let index = self.some_issuer();
                self.crash_issuer(index);
            }
            Fault::PauseIssuer => {
                let index = self.some_issuer();
                self.issuers[index].paused_until = self.now + lasts;
            }
            Fault::RestartIssuer => {
                let index = self.some_issuer();
                self.restart_issuer(index);
            }
            Fault::RollingRestart => {
                for index in 0..self.issuers.len() {
                    let at = self.now + index as u64 * 700;
                    self.at(at, What::Restart { index });
                }
            }
            Fault::StepIssuerClock => {
                let index = self.some_issuer();
                self.issuers[index].step_ms = -300_000;
            }
            Fault::StepStoreClock => {
                let most = self.store_steps_ms;
                self.store.step_ms = self.random.between(0, 2 * most + 1) as i64 - most as i64;
            }
        }
        let over = self.now + if fault == Fault::LongOutage { 600_000 } else { lasts };
        self.last_fault_over = self.last_fault_over.max(over);
        self.at(over, What::End(fault));
    }

    /// Ends a fault.
    pub fn over(&mut self, fault: Fault) {
        match fault {
            Fault::LosePushes => self.pushes_lost = 0,
            Fault::Outage | Fault::LongOutage | Fault::RestartEmpty => {
                self.reachable = true;
                let replication_id = self.store.number();
                self.store.master().replication_id = replication_id;
                self.store.lagging = None;
                if fault == Fault::RestartEmpty {
                    self.store.lose_everything(self.now);
                    self.note_orphans();
                }
                self.reconnect_issuers(500);
            }
            // The clock is corrected.
            Fault::StepClock => self.verifier.step_ms = 0,
            Fault::StepStoreClock => self.store.step_ms = 0,
            Fault::StepIssuerClock => self.issuers.iter_mut().for_each(|issuer| issuer.step_ms = 0),
            Fault::CrashIssuer => {
                for index in 0..self.issuers.len() {
                    if !self.issuers[index].up {
                        let name = Some(self.issuers[index].name).filter(|_| self.random.chance(50));
                        self.start_issuer(index, name);
                    }
                }
            }
            // The old master learns that it is a replica now, and closes its connections.
            Fault::IsolatedMaster => {
                let master = self.store.master;
                if self.connection.as_ref().is_some_and(|up| up.server != master) {
                    self.cut();
                }
            }
            _ => {}
        }
    }

    /// The replica that will be promoted `after` so many milliseconds stops following: later writes
    /// will be lost.
    pub fn fall_behind(&mut self, after: u64, old_one_lives_on: bool) {
        if self.store.lagging.is_none() {
            self.store.lagging = Some(Box::new(self.store.master().clone()));
            self.at(self.now + after, What::Promote { old_one_lives_on });
        }
    }

    /// Promotes a replica that lacks the newest writes.
    pub fn promote(&mut self, old_one_lives_on: bool) {
        let Some(promoted) = self.store.lagging.take() else { return };
        if old_one_lives_on {
            let old = Server { isolated: true, ..self.store.master().clone() };
            self.store.servers.push(old);
            let isolated = self.store.servers.len() - 1;
            let master = self.store.master;
            if let Some(up) = self.connection.as_mut().filter(|up| up.server == master) {
                up.server = isolated;
            }
            self.replace(*promoted);
            self.reconnect_issuers(1_500);
            let noticed = self.now + self.random.between(50, 6_000);
            self.at(noticed, What::End(Fault::IsolatedMaster));
        } else {
            self.replace(*promoted);
            self.cut();
            self.reconnect_issuers(500);
        }
    }

    /// A copy takes the master's place. An issuer that saw the log after a loss makes it say so; if
    /// none did, the loss is forgotten (docs/operations.md: `revoke all`).
    pub fn replace(&mut self, with: Server) {
        let known = self.issuers.iter().any(|issuer| issuer.up && issuer.saw_loss_after(with.since));
        self.store.replace(self.now, with);
        if !known {
            let open = self.store.truth.entries.iter_mut().filter_map(|entry| entry.open_loss());
            open.for_each(|open| open.with_data = false);
        }
        self.note_orphans();
    }

    /// Issuers have lost their connections; each reconnects to the master within so many
    /// milliseconds.
    fn reconnect_issuers(&mut self, within: u64) {
        for index in 0..self.issuers.len() {
            let after = self.random.between(0, within);
            self.issuers[index].connected_from = self.now + after;
        }
    }

    fn some_issuer(&mut self) -> usize {
        self.random.between(0, self.issuers.len() as u64) as usize
    }

    /// A clean stop, and a new process in its place.
    pub fn restart_issuer(&mut self, index: usize) {
        if self.issuers[index].up && self.now >= self.issuers[index].paused_until {
            self.stop_issuer(index);
            self.start_issuer(index, None);
        }
    }

    pub fn restart_verifier(&mut self) {
        self.connection = None;
        let kept = if self.random.chance(50) { self.kept.clone() } else { None };
        let now = self.reading();
        self.verifier.restart(kept, now);
        let again = self.now + self.random.between(10, 3_000);
        self.at(again, What::Connect);
    }

    /// Sends old pushes again, truncated pushes, and pushes of an unknown data set.
    fn garbage(&mut self) {
        let old = self.store.master().log.first().copied();
        if let Some((position, id)) = old {
            let epoch = super::store::epoch_name(self.store.master().epoch.unwrap_or(0));
            let revocation = self.store.entry(position, id).revocation;
            let again = Message { epoch: epoch.clone(), previous: Position::START, position, revocation };
            self.send(Event::Pushed(again.clone()));
            self.send(Event::Pushed(Message { revocation: Err(EntryError::Malformed), ..again.clone() }));
            self.send(Event::Pushed(Message { epoch: "unknown".into(), ..again }));
        }
        self.send(Event::Garbled);
    }
}
