//! The world: virtual time, a network that keeps the order of one connection and nothing else, and the watcher.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::faults::{Among, Fault};
use super::mutant::Mutant;
use super::random::Random;
use super::store::{Appended, LIFETIME_MAX, ORIGIN_MS, Server, Store, Truth, epoch_name, true_seconds};
use super::verifier::{Snapshot, Verifier};
use crate::sync::{Action, Event};
use crate::time::{Instants, REVOCATION_MARGIN_SECONDS};
use crate::wire::Message;

/// Faults come until here in the usual schedule, in milliseconds.
const FAULTS_UNTIL_MS: u64 = 60_000;
/// And then there is peace for this long, in which the verifier must become fresh.
const PEACE_MS: u64 = 12_000;
/// The longest time without a look at the list, in milliseconds.
const LOOK_MS: u64 = 200;
/// The waits between attempts to connect: the shortest and the longest of the follower's back-off.
const BACKOFF_MS: std::ops::Range<u64> = 25..1_001;
/// How fresh it must be at the end.
const FRESH_WITHIN_MS: u64 = 2_000;

/// What became of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub violation: Option<String>,
    pub faults: u64,
    pub revocations: u64,
    pub proofs: u64,
    /// From the end of the last fault to the next proof, in milliseconds.
    pub back_after_ms: Option<u64>,
    pub trimmed_alive: u64,
}

pub enum What {
    Revoke,
    Heartbeat,
    Tick,
    Connect,
    /// The verifier's question reaches the server.
    Asked {
        connection: u64,
        question: Action,
    },
    /// Something reaches the verifier.
    Arrived {
        connection: u64,
        event: Event,
    },
    Strike,
    End(Fault),
}

struct Due {
    at: u64,
    order: u64,
    what: What,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The verifier's connection: to which server, and until when each direction is busy.
pub struct Connection {
    pub number: u64,
    pub server: usize,
    /// Nothing goes through, and nobody is told.
    pub black_hole: bool,
    to_server_at: u64,
    to_verifier_at: u64,
}

pub struct World {
    pub random: Random,
    pub now: u64,
    agenda: BinaryHeap<Reverse<Due>>,
    order: u64,
    /// When the verifier's timer goes off; older timers are void.
    timer: u64,
    pub store: Store,
    pub verifier: Verifier,
    pub connection: Option<Connection>,
    connections: u64,
    /// The server that Sentinel would name; another may still answer.
    pub reachable: bool,
    /// Nothing moves at the server, or at the verifier, before this.
    pub server_frozen_until: u64,
    pub verifier_paused_until: u64,
    /// Percent of pushes that get lost.
    pub pushes_lost: u64,
    pub backup: Option<Server>,
    pub kept: Option<Snapshot>,
    pub faults: u64,
    pub last_fault_over: u64,
    /// When an unreadable entry was written, if ever: then no end is fresh until it is gone.
    pub unreadable: bool,
    /// What may befall it.
    pub among: Among,
    /// How many more faults there are to come.
    pub strikes_left: u64,
    /// Faults come until here, in milliseconds.
    pub faults_until_ms: u64,
    /// How far the store's clock may be stepped, in milliseconds.
    pub store_steps_ms: u64,
    /// When the list was first proven after the last fault.
    back_at: Option<u64>,
    violation: Option<String>,
    looked: (u64, u64),
}

impl World {
    pub fn new(seed: u64, mutant: Option<Mutant>, among: Among) -> Self {
        let mut random = Random::new(seed);
        let skew_ms = random.between(0, 10_001) as i64 - 5_000;
        let leeway = random.between(0, 61);
        let start = Instants { wall_ms: ORIGIN_MS.saturating_add_signed(skew_ms), monotonic_ms: 0 };
        let mut world = Self {
            verifier: Verifier::new(mutant, skew_ms, leeway, start),
            random,
            now: 0,
            agenda: BinaryHeap::new(),
            order: 0,
            timer: 0,
            store: Store::new(),
            connection: None,
            connections: 0,
            reachable: true,
            server_frozen_until: 0,
            verifier_paused_until: 0,
            pushes_lost: 0,
            backup: None,
            kept: None,
            faults: 0,
            last_fault_over: 0,
            unreadable: false,
            among,
            strikes_left: u64::MAX,
            faults_until_ms: FAULTS_UNTIL_MS,
            store_steps_ms: 3_600_000,
            back_at: None,
            violation: None,
            looked: (0, 0),
        };
        for (at, what) in [(0, What::Heartbeat), (5, What::Connect), (10, What::Revoke), (2_000, What::Strike)] {
            world.at(at, what);
        }
        world
    }

    pub fn at(&mut self, at: u64, what: What) {
        self.order += 1;
        self.agenda.push(Reverse(Due { at: at.max(self.now), order: self.order, what }));
    }

    pub fn instants(&self) -> Instants {
        let off = self.verifier.skew_ms + self.verifier.step_ms;
        Instants { wall_ms: (ORIGIN_MS + self.now).saturating_add_signed(off), monotonic_ms: self.now }
    }

    pub fn run(mut self) -> Outcome {
        while let Some(Reverse(due)) = self.agenda.pop() {
            self.now = due.at;
            if self.violation.is_some() || self.now > self.end() {
                break;
            }
            self.step(due.what);
        }
        self.now = self.end();
        let stale = self.verifier.fresh_as_of.is_none_or(|at| self.now - at > FRESH_WITHIN_MS);
        if self.violation.is_none() && stale && !self.unreadable {
            let machine = &self.verifier.machine;
            self.violation = Some(format!("never fresh again: {:?} {:?}", self.verifier.fresh_as_of, machine));
        }
        Outcome {
            violation: self.violation,
            faults: self.faults,
            revocations: self.store.truths.len() as u64,
            proofs: self.verifier.proofs,
            back_after_ms: self.back_at.map(|at| at - self.last_fault_over.max(self.faults_until_ms)),
            trimmed_alive: self.store.trimmed_alive,
        }
    }

    fn end(&self) -> u64 {
        self.faults_until_ms.max(self.last_fault_over) + PEACE_MS
    }

    fn step(&mut self, what: What) {
        match what {
            What::Revoke => self.revoke(),
            What::Heartbeat => {
                if self.reachable && self.now >= self.server_frozen_until {
                    let appended = self.store.heartbeat(self.now);
                    appended.iter().for_each(|one| self.push(one));
                }
                self.at(self.now + 1_000, What::Heartbeat);
            }
            What::Tick if self.now != self.timer => {}
            What::Tick if self.now < self.verifier_paused_until => self.set_timer(self.verifier_paused_until),
            What::Tick => self.tell(Event::Tick),
            What::Connect => self.connect(),
            What::Asked { connection, question } => self.asked(connection, question),
            What::Arrived { connection, event } => {
                if self.now < self.verifier_paused_until {
                    self.at(self.verifier_paused_until, What::Arrived { connection, event });
                } else if self.connection.as_ref().is_some_and(|up| up.number == connection) {
                    self.tell(event);
                }
            }
            What::Strike => {
                if self.now < self.faults_until_ms && self.strikes_left > 0 {
                    self.strikes_left -= 1;
                    self.strike();
                    let next = self.now + self.random.between(500, 7_000);
                    self.at(next, What::Strike);
                }
            }
            What::End(fault) => self.over(fault),
        }
        self.watch();
    }

    fn revoke(&mut self) {
        let next = self.now + self.random.between(20, 1_500);
        self.at(next, What::Revoke);
        if !self.reachable || self.now < self.server_frozen_until {
            return;
        }
        let age = self.random.between(0, 100);
        let issued = true_seconds(self.now).minus(age);
        let lifetime = self.random.between(age + 1, LIFETIME_MAX + 1);
        let token_expires = issued.plus(lifetime);
        let truth = Truth {
            acknowledged_ms: self.now,
            issued,
            token_expires,
            entry_expires: token_expires.plus(REVOCATION_MARGIN_SECONDS),
            readable: true,
            lost: Vec::new(),
        };
        if let Some(appended) = self.store.revoke(self.now, truth) {
            self.push(&appended);
        }
    }

    /// Revokes in a format that this verifier does not know yet.
    pub fn revoke_unreadably(&mut self) {
        let issued = true_seconds(self.now);
        let truth = Truth {
            acknowledged_ms: self.now,
            issued,
            token_expires: issued.plus(LIFETIME_MAX),
            entry_expires: issued.plus(LIFETIME_MAX + REVOCATION_MARGIN_SECONDS),
            readable: false,
            lost: Vec::new(),
        };
        if let Some(appended) = self.store.revoke(self.now, truth) {
            self.unreadable = true;
            self.push(&appended);
        }
    }

    /// Pushes an entry of the master to the verifier, if it is connected there.
    fn push(&mut self, appended: &Appended) {
        let lost = self.random.chance(self.pushes_lost);
        let master = self.store.master;
        if lost || self.connection.as_ref().is_none_or(|up| up.server != master) {
            return;
        }
        let message = Message {
            epoch: epoch_name(appended.epoch),
            previous: appended.previous,
            position: appended.position,
            revocation: self.store.entry(appended.position, appended.id).revocation,
        };
        self.send(Event::Pushed(message));
    }

    /// Sends something to the verifier, behind everything that was sent before it.
    pub fn send(&mut self, event: Event) {
        let delay = self.random.between(0, 20);
        let frozen = self.server_frozen_until;
        let Some(up) = self.connection.as_mut().filter(|up| !up.black_hole) else { return };
        let at = up.to_verifier_at.max(self.now.max(frozen) + delay);
        up.to_verifier_at = at;
        let connection = up.number;
        self.at(at, What::Arrived { connection, event });
    }

    fn asked(&mut self, connection: u64, question: Action) {
        let Some(server) = self.connection.as_ref().filter(|up| up.number == connection).map(|up| up.server) else {
            return;
        };
        if self.now < self.server_frozen_until {
            self.at(self.server_frozen_until, What::Asked { connection, question });
            return;
        }
        match question {
            Action::Probe { token } => {
                let answer = self.store.head(server, self.now);
                self.send(Event::Answered { token, answer });
            }
            Action::Read { request, from } => {
                let (entries, complete) = self.store.page(server, from);
                self.send(Event::Page { request, entries, complete });
            }
            other => panic!("no question: {other:?}"),
        }
    }

    fn connect(&mut self) {
        if self.connection.is_some() {
            return;
        }
        if !self.reachable || self.now < self.server_frozen_until || self.now < self.verifier_paused_until {
            let again = self.now + self.random.between(BACKOFF_MS.start, BACKOFF_MS.end);
            self.at(again, What::Connect);
            return;
        }
        self.connections += 1;
        let (number, server) = (self.connections, self.store.master);
        self.connection =
            Some(Connection { number, server, black_hole: false, to_server_at: 0, to_verifier_at: self.now });
        self.tell(Event::Subscribed);
    }

    /// The connection ends, and the verifier hears of it at once.
    pub fn cut(&mut self) {
        if self.connection.take().is_some() {
            self.tell(Event::Disconnected);
            let again = self.now + self.random.between(BACKOFF_MS.start, BACKOFF_MS.end);
            self.at(again, What::Connect);
        }
    }

    /// Gives the verifier an event and carries its questions to the server.
    fn tell(&mut self, event: Event) {
        let (now, proofs) = (self.instants(), self.verifier.proofs);
        for action in self.verifier.on(event, now) {
            match action {
                Action::Probe { .. } | Action::Read { .. } => {
                    let delay = self.random.between(0, 20);
                    let Some(up) = self.connection.as_mut().filter(|up| !up.black_hole) else { continue };
                    let at = up.to_server_at.max(self.now + delay);
                    up.to_server_at = at;
                    let connection = up.number;
                    self.at(at, What::Asked { connection, question: action });
                }
                Action::Reconnect => {
                    self.connection = None;
                    let again = self.now + self.random.between(BACKOFF_MS.start, BACKOFF_MS.end);
                    self.at(again, What::Connect);
                }
                Action::Alarm(_) => {}
                other => panic!("not for the network: {other:?}"),
            }
        }
        let over = self.last_fault_over.max(self.faults_until_ms);
        if self.verifier.proofs > proofs && self.now >= over {
            self.back_at.get_or_insert(self.now);
        }
        if let Some(wake) = self.verifier.machine.wake_ms() {
            self.set_timer(wake.max(self.now + 1));
        }
    }

    fn set_timer(&mut self, at: u64) {
        if self.timer != at {
            self.timer = at;
            self.at(at, What::Tick);
        }
    }

    /// Compares what the verifier would answer with the truth: after every proof, and now and then.
    fn watch(&mut self) {
        let look = (self.verifier.proofs, self.now / LOOK_MS);
        if std::mem::replace(&mut self.looked, look) == look {
            return;
        }
        let now = self.instants();
        self.verifier.expire(now);
        let Some(as_of) = self.verifier.fresh_as_of else { return };
        let wrong = self
            .store
            .truths
            .iter()
            .enumerate()
            .find(|(id, truth)| truth.promised(as_of) && self.verifier.accepts(*id, truth));
        if let Some((id, truth)) = wrong {
            self.violation = Some(format!(
                "at {}: revocation {id} was acknowledged at {}, the list is called complete as of {as_of}, and its token is good",
                self.now, truth.acknowledged_ms
            ));
        }
    }
}
