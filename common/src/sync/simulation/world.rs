//! The world: virtual time, a network that keeps only the order within a connection, and the checks
//! against the truth.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::faults::{Among, Fault};
use super::issuer::{Done, Issuer};
use super::mutant::Mutant;
use super::random::Random;
use super::server::{Lineage, Server};
use super::store::{Appended, Store, epoch_name};
use super::truth::{ORIGIN_MS, Sid, Token, TokenId};
use super::verifier::{Snapshot, Verifier};
use crate::log_protocol::Message;
use crate::sync::{Action, Event, Timing};
use crate::time::{ClockReading, UnixTime};

/// In the usual schedule faults happen until this time, in milliseconds.
const FAULTS_UNTIL_MS: u64 = 60_000;
/// After that no fault happens for this long, and the verifier must become fresh.
const PEACE_MS: u64 = 20_000;
/// The longest interval between checks of the list, in milliseconds.
const LOOK_MS: u64 = 200;
/// The waits between attempts to connect: from the shortest to the longest of the follower's
/// back-off.
const BACKOFF_MS: std::ops::Range<u64> = 25..1_001;
/// How fresh the list must be at the end.
const FRESH_WITHIN_MS: u64 = 2_000;

/// The outcome of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub violation: Option<String>,
    pub faults: u64,
    pub revocations: u64,
    pub refreshes: u64,
    pub proofs: u64,
    /// From the end of the last fault to the next proof, in milliseconds.
    pub back_after_ms: Option<u64>,
    pub trimmed_alive: u64,
}

pub enum What {
    Client,
    HandOut {
        sid: Sid,
        issued: UnixTime,
        lifetime: u64,
    },
    /// An issuer's heartbeat, a step of its replay, and the store's answer to it.
    Beat {
        name: u64,
    },
    Replay {
        name: u64,
        lineage: Option<Lineage>,
    },
    Done(Done),
    /// A clean stop and start of an issuer.
    Restart {
        index: usize,
    },
    /// The promotion of a replica.
    Promote {
        old_one_lives_on: bool,
    },
    /// A step that a test has planned.
    Act(fn(&mut World)),
    Tick,
    Connect,
    /// The verifier's request reaches the server.
    Asked {
        connection: u64,
        question: Action,
    },
    /// An event reaches the verifier.
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

/// The verifier's connection: its server, and until when each direction is busy.
pub struct Connection {
    pub number: u64,
    pub server: usize,
    /// Packets are dropped without an error.
    pub black_hole: bool,
    to_server_at: u64,
    to_verifier_at: u64,
}

pub struct World {
    pub random: Random,
    pub now: u64,
    agenda: BinaryHeap<Reverse<Due>>,
    order: u64,
    /// When the verifier's timer fires; older timers are void.
    timer: u64,
    pub store: Store,
    pub issuers: Vec<Issuer>,
    pub refreshes: u64,
    /// Logouts of users, and of all users, happen here.
    pub watermarks: bool,
    pub verifier: Verifier,
    pub connection: Option<Connection>,
    connections: u64,
    /// The address that Sentinel would name is reachable; another server may still answer.
    pub reachable: bool,
    /// The server is frozen, or the verifier paused, until then.
    pub server_frozen_until: u64,
    pub verifier_paused_until: u64,
    /// The percentage of pushes that are lost.
    pub pushes_lost: u64,
    pub backup: Option<Server>,
    pub kept: Option<Snapshot>,
    pub faults: u64,
    pub last_fault_over: u64,
    /// An unreadable entry was written: until it is gone, the list cannot be fresh at the end.
    pub unreadable: bool,
    /// The faults that can happen.
    pub among: Among,
    /// The number of faults still to come.
    pub strikes_left: u64,
    /// Faults happen until then, in milliseconds.
    pub faults_until_ms: u64,
    /// How long no fault happens afterwards, in milliseconds.
    pub peace_ms: u64,
    /// The session that a scenario is about.
    pub planned: Option<usize>,
    /// How far the store's clock may be stepped, in milliseconds.
    pub store_steps_ms: u64,
    /// When the list was first proven after the last fault.
    back_at: Option<u64>,
    pub violation: Option<String>,
    /// Even a log whose replay is missing must be complete: every issuer that knows an entry can
    /// put it back.
    pub strict: bool,
    looked: (u64, u64),
}

impl World {
    pub fn new(seed: u64, mutant: Option<Mutant>, among: Among) -> Self {
        let mut random = Random::new(seed);
        let skew_ms = random.between(0, 10_001) as i64 - 5_000;
        let leeway = random.between(0, 61);
        let running = if random.chance(50) { 5_000 } else { 15_000 };
        let timing = Timing { replay_wait_running_ms: running, ..Timing::default() };
        let issuers = random.between(1, 4);
        let watermarks = random.chance(60);
        let start = ClockReading { wall_ms: ORIGIN_MS.saturating_add_signed(skew_ms), monotonic_ms: 0 };
        let mut world = Self {
            verifier: Verifier::new(mutant, timing, skew_ms, leeway, start),
            issuers: (0..issuers).map(|number| Issuer::start(1_000_000 + number, false)).collect(),
            refreshes: 0,
            watermarks,
            random,
            now: 0,
            agenda: BinaryHeap::new(),
            order: 0,
            timer: 0,
            store: Store::new(mutant),
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
            peace_ms: PEACE_MS,
            planned: None,
            store_steps_ms: 3_600_000,
            back_at: None,
            violation: None,
            strict: false,
            looked: (0, 0),
        };
        for number in 0..issuers {
            world.at(number * 200, What::Beat { name: 1_000_000 + number });
        }
        for (at, what) in [(5, What::Connect), (10, What::Client), (4_500, What::Strike)] {
            world.at(at, what);
        }
        world
    }

    pub fn at(&mut self, at: u64, what: What) {
        self.order += 1;
        self.agenda.push(Reverse(Due { at: at.max(self.now), order: self.order, what }));
    }

    pub fn reading(&self) -> ClockReading {
        let off = self.verifier.skew_ms + self.verifier.step_ms;
        ClockReading { wall_ms: (ORIGIN_MS + self.now).saturating_add_signed(off), monotonic_ms: self.now }
    }

    pub fn run(&mut self) -> Outcome {
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
            violation: self.violation.clone(),
            faults: self.faults,
            revocations: self.store.truth.entries.len() as u64,
            refreshes: self.refreshes,
            proofs: self.verifier.proofs,
            back_after_ms: self.back_at.map(|at| at - self.last_fault_over.max(self.faults_until_ms)),
            trimmed_alive: self.store.trimmed_alive,
        }
    }

    fn end(&self) -> u64 {
        self.faults_until_ms.max(self.last_fault_over) + self.peace_ms
    }

    fn step(&mut self, what: What) {
        match what {
            What::Client => self.client(),
            What::HandOut { sid, issued, lifetime } => self.hand_out(sid, issued, lifetime),
            What::Beat { name } => self.beat(name),
            What::Replay { name, lineage } => self.replay(name, lineage),
            What::Done(done) => self.done(done),
            What::Restart { index } => self.restart_issuer(index),
            What::Promote { old_one_lives_on } => self.promote(old_one_lives_on),
            What::Act(act) => act(self),
            What::Tick if self.now != self.timer => {}
            What::Tick if self.now < self.verifier_paused_until => self.set_timer(self.verifier_paused_until),
            What::Tick => self.deliver_event(Event::Tick),
            What::Connect => self.connect(),
            What::Asked { connection, question } => self.asked(connection, question),
            What::Arrived { connection, event } => {
                if self.now < self.verifier_paused_until {
                    self.at(self.verifier_paused_until, What::Arrived { connection, event });
                } else if self.connection.as_ref().is_some_and(|up| up.number == connection) {
                    self.deliver_event(event);
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

    /// Pushes an entry to the verifier if it is connected to the master.
    pub fn push(&mut self, appended: &Appended) {
        for index in 0..self.issuers.len() {
            let lost = self.random.chance(self.pushes_lost.max(5));
            if !lost && self.can_reach(index) {
                self.issuers[index].receive(appended.id);
            }
        }
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

    /// Sends an event to the verifier, after everything sent before.
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
            other => panic!("not a request: {other:?}"),
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
        self.deliver_event(Event::Subscribed);
    }

    /// Ends the connection; the verifier notices at once.
    pub fn cut(&mut self) {
        if self.connection.take().is_some() {
            self.deliver_event(Event::Disconnected);
            let again = self.now + self.random.between(BACKOFF_MS.start, BACKOFF_MS.end);
            self.at(again, What::Connect);
        }
    }

    /// Gives the verifier an event and sends its requests to the server.
    fn deliver_event(&mut self, event: Event) {
        let (now, proofs) = (self.reading(), self.verifier.proofs);
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
                Action::Alarm(_) | Action::Warning(..) => {}
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

    /// Compares the verifier's answers with the truth, after every proof and at intervals.
    fn watch(&mut self) {
        let look = (self.verifier.proofs, self.now / LOOK_MS);
        if std::mem::replace(&mut self.looked, look) == look {
            return;
        }
        let now = self.reading();
        self.verifier.expire(now);
        let Some(as_of) = self.verifier.fresh_as_of else { return };
        let tokens = &self.store.truth.tokens;
        let wrong = tokens.iter().enumerate().find(|(id, token)| {
            !token.dead_by.is_empty() && self.promised(token, as_of) && self.verifier.accepts(*id, token)
        });
        if let Some((id, token)) = wrong {
            self.violation = Some(self.wrongly_good(id, token, as_of));
        }
    }

    /// Whether a proof as of `as_of` promises that this token is known to be revoked.
    fn promised(&self, token: &Token, as_of: u64) -> bool {
        token.dead_by.iter().any(|id| {
            let entry = &self.store.truth.entries[*id];
            let excused = entry.lost_at(as_of).is_some_and(|lost| {
                let was_there = self.verifier.was_there_ms < lost.from;
                (lost.orphaned && (was_there || !lost.with_data)) || (self.verifier.unsettled && !self.strict)
            });
            entry.acknowledged_ms.is_some_and(|at| at < as_of) && !excused
        })
    }

    fn wrongly_good(&self, id: TokenId, token: &Token, as_of: u64) -> String {
        let entries: Vec<_> = token.dead_by.iter().map(|id| (*id, &self.store.truth.entries[*id])).collect();
        format!(
            "at {}: the list is called complete as of {as_of}, and token {id} is good: {token:?}, dead by {entries:?}",
            self.now
        )
    }
}
