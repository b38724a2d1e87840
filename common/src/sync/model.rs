//! A small world, explored completely: every order of revocations, a failover that loses a suffix,
//! a cut, a lost push, a flush, and the verifier's requests, with the daemon's [`Machine`] (model
//! checking by stateright).
//!
//! Time counts the steps that matter to a promise: acknowledgements, losses and replays. A probe
//! sent at 5 is sent after the fifth step. Not modelled: expiry, trimming, split brain, timeouts;
//! the simulation has them.
//!
//! `SIDEGATE_MODEL=large` explores a larger world (`./tests/long model`).

use std::collections::VecDeque;

use stateright::{Checker as _, HasDiscoveries, Model, Property};

use super::simulation::Mutant;
use crate::log_protocol::{Message, Position};
use crate::revocation::{Id, Revocation, Target};
use crate::sync::{Action, Entry, Event, Head, Lineage, Machine, Phase, ProbeAnswer, ReadFrom, Role, Timing};
use crate::time::{ClockReading, UnixTime};

/// Entries of a page: fewer than the revocations, so that a read takes several pages.
const PAGE: usize = 1;
/// Only a cut ends a wait here.
const TIMING: Timing = Timing {
    probe_interval_ms: 0,
    probe_timeout_ms: 1_000_000,
    probes_lost_max: 2,
    read_timeout_ms: 1_000_000,
    unreadable_retry_ms: 1_000_000,
    replay_wait_ms: 1_000_000,
    replay_wait_running_ms: 1_000_000,
};

/// How often each step may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    revocations: u8,
    failovers: u8,
    cuts: u8,
    flushes: u8,
    pushes_lost: u8,
    /// Probes by the timer; those on connecting and on gaps come on top.
    ticks: u8,
    /// Crashes of the issuer, which then has nothing to put back.
    crashes: u8,
}

const SMALL: Budget =
    Budget { revocations: 2, failovers: 1, cuts: 1, flushes: 1, pushes_lost: 1, ticks: 1, crashes: 0 };
const LARGE: Budget = Budget { revocations: 3, ..SMALL };
/// Here revocations are lost for good: a log made anew must condemn what it may lack.
const LOSING: Budget = Budget { failovers: 0, crashes: 1, ..SMALL };

/// When a log was made after revocations were lost: longer after the one before than any issuer remembers.
const MADE_ANEW: UnixTime = UnixTime(1_000_000);
/// From then on the issuer of all tokens was enrolled: the first log covers them.
const ENROLLED_AT: UnixTime = UnixTime(0);

/// The store: the data of one server at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Log {
    epoch: Option<u8>,
    replication_id: u8,
    entries: Vec<(u8, u8)>,
    /// 0, or [`MADE_ANEW`].
    since: UnixTime,
}

impl Log {
    fn last(&self) -> u8 {
        self.entries.last().map_or(0, |(position, _)| *position)
    }
}

/// The true state of one revocation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct Truth {
    acknowledged: Option<u8>,
    held: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Connection {
    Down,
    Up,
    /// To a server that is gone: what it sent may still arrive, and then the end.
    Dying,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Question {
    Probe(u64),
    Read(u64, ReadFrom),
}

/// A message on its way to the verifier.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    Push { epoch: u8, previous: u8, position: u8, id: u8 },
    Head { token: u64, epoch: Option<u8>, replication_id: u8, last: u8, empty: bool, settled: bool, since: UnixTime },
    Page { request: u64, entries: Vec<(u8, u8)>, complete: bool },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    machine: Machine,
    proven: Option<u64>,
    /// Since when the list is complete.
    since: UnixTime,
    log: Log,
    truths: Vec<Truth>,
    /// `settled`: epoch and replication id of the log into which the issuer last replayed what it
    /// acknowledged.
    settled: Option<(u8, u8)>,
    /// The issuer has crashed and remembers nothing from before.
    forgot: Vec<u8>,
    names: u8,
    clock: u8,
    connection: Connection,
    to_store: VecDeque<Question>,
    to_verifier: VecDeque<Item>,
    left: Budget,
    /// Only for [`Mutant::ProvenByTheLastPage`]: when each probe was sent, and when the last
    /// answered one was.
    sent: Vec<(u64, u64)>,
    answered: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Revoke { pushed: bool },
    Failover { lacking: u8 },
    Flush,
    Crash,
    Heartbeat,
    Connect,
    Cut,
    Tick,
    Serve,
    Deliver,
}

struct World {
    budget: Budget,
    mutant: Option<Mutant>,
}

fn position(number: u8) -> Position {
    if number == 0 { Position::START } else { Position { ms: 1, sequence: u64::from(number) } }
}

fn revocation(id: u8) -> Revocation {
    let target = Target::Token { jti: Id::Packed([id; 16]), subject: None };
    Revocation { target, expires_at: UnixTime(u64::from(u32::MAX)) }
}

fn id_of(revocation: &Revocation) -> Option<usize> {
    match revocation.target {
        Target::Token { jti: Id::Packed(bytes), .. } => Some(usize::from(bytes[0])),
        _ => None,
    }
}

fn name(number: u8) -> Box<str> {
    number.to_string().into()
}

fn entry(&(at, id): &(u8, u8)) -> Entry {
    Entry { position: position(at), revocation: Ok(revocation(id)) }
}

impl State {
    fn new(budget: Budget) -> Self {
        Self {
            machine: Machine::new(TIMING, 1),
            proven: None,
            since: UnixTime(0),
            log: Log { epoch: None, replication_id: 1, entries: Vec::new(), since: UnixTime(0) },
            truths: vec![Truth::default(); usize::from(budget.revocations)],
            settled: None,
            forgot: Vec::new(),
            names: 1,
            clock: 0,
            connection: Connection::Down,
            to_store: VecDeque::new(),
            to_verifier: VecDeque::new(),
            left: budget,
            sent: Vec::new(),
            answered: 0,
        }
    }

    fn name(&mut self) -> u8 {
        self.names += 1;
        self.names
    }

    fn append(&mut self, id: u8, pushed: bool) {
        let Some(epoch) = self.log.epoch else { return };
        let previous = self.log.last();
        self.log.entries.push((previous + 1, id));
        if pushed && self.connection == Connection::Up {
            self.to_verifier.push_back(Item::Push { epoch, previous, position: previous + 1, id });
        }
    }

    /// What the issuer has acknowledged and remembers.
    fn acknowledged(&self) -> Vec<u8> {
        let knows = |id: &u8| self.truths[usize::from(*id)].acknowledged.is_some() && !self.forgot.contains(id);
        (0..self.truths.len() as u8).filter(knows).collect()
    }

    /// The issuer's regular check: it rebuilds a lost data set with what it acknowledged, or
    /// appends that again after a failover.
    fn heartbeat(&mut self) {
        let again = self.acknowledged();
        let new = self.log.epoch.is_none();
        if new {
            self.log.epoch = Some(self.name());
            if !self.forgot.is_empty() {
                self.log.since = MADE_ANEW;
            }
        }
        let replay = new || self.settled.is_some();
        self.settled = self.log.epoch.map(|epoch| (epoch, self.log.replication_id));
        if replay {
            again.iter().for_each(|id| self.append(*id, !new));
            self.clock += 1;
        }
    }

    fn fail_over(&mut self, lacking: u8) {
        self.clock += 1;
        let kept = self.log.entries.len().saturating_sub(usize::from(lacking));
        self.log.entries.truncate(kept);
        self.log.replication_id = self.name();
        self.die();
    }

    fn die(&mut self) {
        self.to_store.clear();
        if self.connection == Connection::Up {
            self.connection = Connection::Dying;
        }
    }

    fn is_settled(&self) -> bool {
        self.log.epoch.is_some_and(|epoch| self.settled == Some((epoch, self.log.replication_id)))
    }

    fn serve(&mut self) {
        let item = match self.to_store.pop_front() {
            Some(Question::Probe(token)) => Item::Head {
                token,
                epoch: self.log.epoch,
                replication_id: self.log.replication_id,
                last: self.log.last(),
                empty: self.log.entries.is_empty(),
                settled: self.is_settled(),
                since: self.log.since,
            },
            Some(Question::Read(request, from)) => {
                let rest = self.log.entries.iter().filter(|(at, _)| match from {
                    ReadFrom::Start => true,
                    ReadFrom::At(from) => position(*at) >= from,
                    ReadFrom::After(from) => position(*at) > from,
                });
                let entries: Vec<_> = rest.take(PAGE).copied().collect();
                let complete = entries.len() < PAGE;
                Item::Page { request, entries, complete }
            }
            None => return,
        };
        self.to_verifier.push_back(item);
    }

    fn deliver(&mut self, mutant: Option<Mutant>) {
        let event = match self.to_verifier.pop_front() {
            Some(Item::Push { epoch, previous, position: at, id }) => Event::Pushed(Message {
                epoch: name(epoch),
                previous: position(previous),
                position: position(at),
                revocation: Ok(revocation(id)),
            }),
            Some(Item::Head { token, epoch: None, .. }) => Event::Answered { token, answer: ProbeAnswer::NoEpoch },
            Some(Item::Head { token, epoch: Some(epoch), replication_id, last, empty, settled, since }) => {
                let head = Head {
                    lineage: Lineage { epoch: name(epoch), replication_id: name(replication_id) },
                    last: position(last),
                    empty,
                    since,
                    now: since.max(UnixTime(1)),
                    partitions: 1,
                    role: Role::ALONE,
                    settled,
                };
                Event::Answered { token, answer: ProbeAnswer::Head(head) }
            }
            Some(Item::Page { request, entries, complete }) => {
                Event::Page { request, entries: entries.iter().map(entry).collect(), complete }
            }
            None => return,
        };
        self.deliver_event(event, mutant);
    }

    fn deliver_event(&mut self, event: Event, mutant: Option<Mutant>) {
        let now = ClockReading { wall_ms: self.log.since.0 * 1000, monotonic_ms: u64::from(self.clock) };
        let event = match mutant {
            Some(mutant) => mutant.weaken(&self.machine, event, now),
            None => event,
        };
        let early = mutant == Some(Mutant::ProvenByTheLastPage);
        if let (true, Event::Answered { token, .. }) = (early, &event) {
            self.answered = self.sent.iter().find(|(sent, _)| sent == token).map_or(0, |(_, at)| *at);
        }
        let was_reading = self.machine.phase() == Phase::Reading;
        let page = matches!(event, Event::Page { .. });
        let actions = self.machine.on(event, now);
        if early && page && was_reading && self.machine.phase() == Phase::Live {
            self.proven = self.proven.max(Some(self.answered));
        }
        for action in actions {
            match action {
                Action::Probe { token } => {
                    if early {
                        self.sent.push((token, now.monotonic_ms));
                    }
                    self.to_store.push_back(Question::Probe(token));
                }
                Action::Read { request, from } => {
                    let from = mutant.map_or(from, |mutant| mutant.weaken_read(from));
                    self.to_store.push_back(Question::Read(request, from));
                }
                Action::Apply { revocation, .. } => self.hold(&revocation),
                Action::ApplyAll(revocations) => revocations.iter().for_each(|revocation| self.hold(revocation)),
                Action::Fresh(at) => {
                    let received = mutant == Some(Mutant::FreshOnReceipt);
                    self.proven = Some(if received { now.monotonic_ms } else { at.monotonic_ms });
                }
                Action::Reconnect => self.disconnect(),
                Action::Confirm(pushes) | Action::Keep(pushes) => {
                    pushes.iter().for_each(|(_, revocation)| self.hold(revocation))
                }
                Action::Drop(pushes) => assert!(mutant.is_some(), "no push is forged here: {pushes:?}"),
                Action::Since(moment) => self.since = self.since.max(moment),
                Action::Time(_) | Action::Alarm(_) | Action::Warning(..) => {}
            }
        }
        if self.connection != Connection::Up {
            self.to_store.clear();
        }
        // Counters do not affect later steps.
        self.machine.reset_counters();
    }

    fn hold(&mut self, revocation: &Revocation) {
        if let Some(truth) = id_of(revocation).and_then(|id| self.truths.get_mut(id)) {
            truth.held = true;
        }
    }

    fn disconnect(&mut self) {
        self.connection = Connection::Down;
        self.to_store.clear();
        self.to_verifier.clear();
    }

    /// Every revocation that the last proof covers is held, even one that a failover lost; or the list condemns every token
    /// from before its log.
    fn keeps_its_promise(&self, mutant: Option<Mutant>) -> bool {
        let Some(proven) = self.proven else { return true };
        if self.since > ENROLLED_AT && mutant != Some(Mutant::EnrolmentCoversEveryLog) {
            return true;
        }
        let promised = |truth: &Truth| truth.acknowledged.is_some_and(|at| u64::from(at) <= proven);
        self.truths.iter().all(|truth| truth.held || !promised(truth))
    }

    /// All steps are done, and the verifier has seen all of them.
    fn is_at_rest(&self) -> bool {
        let left = self.left;
        (left.revocations, left.failovers, left.flushes, left.crashes) == (0, 0, 0, 0)
            && self.proven == Some(u64::from(self.clock))
    }
}

impl Model for World {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.budget)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let left = state.left;
        let mut may = |step: Step, allowed: bool| {
            if allowed {
                steps.push(step);
            }
        };
        let up = state.connection == Connection::Up;
        let intact = state.log.epoch.is_some();
        may(Step::Revoke { pushed: true }, intact && left.revocations > 0);
        may(Step::Revoke { pushed: false }, intact && left.revocations > 0 && up && left.pushes_lost > 0);
        for lacking in 1..=2 {
            let has = state.log.entries.len() >= usize::from(lacking);
            may(Step::Failover { lacking }, intact && left.failovers > 0 && has);
        }
        may(Step::Flush, intact && left.flushes > 0);
        may(Step::Crash, left.crashes > 0);
        may(Step::Heartbeat, !state.is_settled());
        may(Step::Connect, state.connection == Connection::Down);
        may(Step::Cut, (up && left.cuts > 0) || state.connection == Connection::Dying);
        let due = state.machine.wake_ms().is_some_and(|due| due <= u64::from(state.clock));
        may(Step::Tick, up && due && left.ticks > 0);
        may(Step::Serve, up && !state.to_store.is_empty());
        may(Step::Deliver, !state.to_verifier.is_empty());
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut state = before.clone();
        match step {
            Step::Revoke { pushed } => {
                state.left.revocations -= 1;
                state.left.pushes_lost -= u8::from(!pushed);
                state.clock += 1;
                let id = state.left.revocations;
                state.truths[usize::from(id)].acknowledged = Some(state.clock);
                state.append(id, pushed);
            }
            Step::Failover { lacking } => {
                state.left.failovers -= 1;
                state.fail_over(lacking);
            }
            Step::Flush => {
                state.left.flushes -= 1;
                state.log.epoch = None;
                state.log.entries.clear();
            }
            Step::Crash => {
                state.left.crashes -= 1;
                state.forgot = state.acknowledged();
            }
            Step::Heartbeat => state.heartbeat(),
            Step::Connect => {
                state.connection = Connection::Up;
                state.deliver_event(Event::Subscribed, self.mutant);
            }
            Step::Cut => {
                state.left.cuts -= u8::from(state.connection == Connection::Up);
                state.disconnect();
                state.deliver_event(Event::Disconnected, self.mutant);
            }
            Step::Tick => {
                state.left.ticks -= 1;
                state.deliver_event(Event::Tick, self.mutant);
            }
            Step::Serve => state.serve(),
            Step::Deliver => state.deliver(self.mutant),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what is proven is held", |world: &Self, state: &State| {
                state.keeps_its_promise(world.mutant)
            }),
            Property::always("what was acknowledged is in a settled log", |_, state: &State| {
                let has = |id: &u8| state.log.entries.iter().any(|(_, held)| held == id);
                !state.is_settled() || state.acknowledged().iter().all(has)
            }),
            Property::sometimes("all is proven after everything has gone wrong", |_, state: &State| {
                state.is_at_rest()
                    && state.truths.iter().all(|truth| truth.held)
                    && (state.forgot.is_empty() || state.since > ENROLLED_AT)
            }),
        ]
    }
}

#[test]
fn small_world_keeps_its_promise() {
    let large = std::env::var("SIDEGATE_MODEL").is_ok_and(|size| size == "large");
    explore(if large { LARGE } else { SMALL });
}

/// Tokens of an enrolled issuer are not condemned by the log of that time; they are by one made after a loss.
#[test]
fn enrolled_issuers_tokens_are_condemned_after_a_loss() {
    explore(LOSING);
    assert_caught(LOSING, Mutant::EnrolmentCoversEveryLog);
}

fn explore(budget: Budget) {
    let started = std::time::Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let checked = World { budget, mutant: None }.checker().threads(threads).spawn_bfs().join();
    println!(
        "model: {} states, {} distinct, depth {}, in {:.1} s: {budget:?}",
        checked.state_count(),
        checked.unique_state_count(),
        checked.max_depth(),
        started.elapsed().as_secs_f64()
    );
    checked.assert_properties();
}

/// A model in which nothing can fail proves nothing: it must catch each of these mutants.
#[test]
fn model_catches_every_mutant_it_can() {
    let tellable = [
        Mutant::NoPredecessorCheck,
        Mutant::CounterOnly,
        Mutant::ProbeBeforePushes,
        Mutant::FreshOnReceipt,
        Mutant::ProvenByTheLastPage,
        Mutant::AcceptsUnsettled,
    ];
    tellable.into_iter().for_each(|mutant| assert_caught(SMALL, mutant));
}

fn assert_caught(budget: Budget, mutant: Mutant) {
    let world = World { budget, mutant: Some(mutant) };
    let checked = world.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let path = checked.discovery("what is proven is held").unwrap_or_else(|| panic!("{mutant:?} was not caught"));
    let steps: Vec<_> = path.into_actions();
    println!("{mutant:?} is caught in {} steps: {steps:?}", steps.len());
}
