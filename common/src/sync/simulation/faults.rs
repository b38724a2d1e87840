//! What can befall the world, and what undoes it.

use super::store::{Server, Store};
use super::world::{What, World};
use crate::revocation::EntryError;
use crate::sync::Event;
use crate::wire::{Message, Position};

/// What may befall a world.
pub type Among = &'static [Fault];

/// Something that goes wrong for a while, or once.
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
}

/// All but the store's own clock, which has a test of its own.
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
];

impl World {
    /// Something goes wrong.
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
        // These end a schedule's usefulness or its brevity, so they are rare among others.
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
            Fault::FlushAll => self.store.lose_everything(),
            Fault::DeleteLog => {
                self.store.empty_log();
                self.store.master().log_is_there = false;
            }
            Fault::Failover | Fault::IsolatedMaster => self.fail_over(fault == Fault::IsolatedMaster),
            Fault::RestoreBackup => {
                if let Some(backup) = self.backup.take() {
                    self.store.replace(self.now, backup);
                    self.cut();
                }
            }
            Fault::RestartVerifier => self.restart_verifier(),
            Fault::Garbage => self.garbage(),
            Fault::Trim => self.store.trim(self.now),
            Fault::StepClock => self.verifier.step_ms = self.random.between(0, 7_200_000) as i64 - 3_600_000,
            Fault::Unreadable => self.revoke_unreadably(),
            Fault::StepStoreClock => {
                let most = self.store_steps_ms;
                self.store.step_ms = self.random.between(0, 2 * most + 1) as i64 - most as i64;
            }
        }
        let over = self.now + if fault == Fault::LongOutage { 600_000 } else { lasts };
        self.last_fault_over = self.last_fault_over.max(over);
        self.at(over, What::End(fault));
    }

    /// It is over.
    pub fn over(&mut self, fault: Fault) {
        match fault {
            Fault::LosePushes => self.pushes_lost = 0,
            Fault::Outage | Fault::LongOutage | Fault::RestartEmpty => {
                self.reachable = true;
                let history = self.store.number();
                self.store.master().history = history;
                if fault == Fault::RestartEmpty {
                    self.store.lose_everything();
                }
            }
            // The clock is put right.
            Fault::StepClock => self.verifier.step_ms = 0,
            Fault::StepStoreClock => self.store.step_ms = 0,
            // The old master hears that it is none, and cuts its clients off.
            Fault::IsolatedMaster => {
                let master = self.store.master;
                if self.connection.as_ref().is_some_and(|up| up.server != master) {
                    self.cut();
                }
            }
            _ => {}
        }
    }

    /// A replica that lacks the newest entries becomes the master.
    fn fail_over(&mut self, old_one_lives_on: bool) {
        let lacking = self.random.between(0, 6) as usize;
        let mut promoted = self.store.master().clone();
        let kept = promoted.log.len().saturating_sub(lacking);
        promoted.log.truncate(kept);
        if kept > 0 {
            promoted.last = promoted.log[kept - 1].0;
        } else if promoted.last != Position::START {
            promoted.log_is_there = false;
        }
        if old_one_lives_on {
            let old = Server { isolated: true, ..self.store.master().clone() };
            self.store.servers.push(old);
            let isolated = self.store.servers.len() - 1;
            let master = self.store.master;
            if let Some(up) = self.connection.as_mut().filter(|up| up.server == master) {
                up.server = isolated;
            }
            self.store.replace(self.now, promoted);
        } else {
            self.store.replace(self.now, promoted);
            self.cut();
        }
    }

    fn restart_verifier(&mut self) {
        self.connection = None;
        let kept = if self.random.chance(50) { self.kept.clone() } else { None };
        let now = self.instants();
        self.verifier.restart(kept, now);
        let again = self.now + self.random.between(10, 3_000);
        self.at(again, What::Connect);
    }

    /// Old pushes again, pushes cut short, pushes of nobody's.
    fn garbage(&mut self) {
        let old = self.store.master().log.first().copied();
        if let Some((position, id)) = old {
            let epoch = super::store::epoch_name(self.store.master().epoch.unwrap_or(0));
            let revocation = self.store.entry(position, id).revocation;
            let again = Message { epoch: epoch.clone(), previous: Position::START, position, revocation };
            self.send(Event::Pushed(again.clone()));
            self.send(Event::Pushed(Message { revocation: Err(EntryError::Malformed), ..again.clone() }));
            self.send(Event::Pushed(Message { epoch: "nobody".into(), ..again }));
        }
        self.send(Event::Garbled);
    }
}

impl Store {
    fn lose_everything(&mut self) {
        self.empty_log();
        let master = self.master();
        (master.epoch, master.last) = (None, Position::START);
        master.log_is_there = true;
    }

    fn empty_log(&mut self) {
        let gone: Vec<_> = self.master().log.drain(..).map(|(_, id)| id).collect();
        self.emptied.extend(gone);
    }

    /// All but the newest entries go. What is gone early is lost for who did not have it.
    fn trim(&mut self, now: u64) {
        let gone = self.master().log.len().saturating_sub(1).min(3);
        let gone: Vec<_> = self.master().log.drain(..gone).collect();
        gone.iter().for_each(|(_, id)| self.truths[*id].lost.push((now, u64::MAX)));
    }
}
