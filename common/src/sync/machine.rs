//! The state machine of one partition: what is held of which log, and what is being done to hold all of it.

use std::collections::VecDeque;

use crate::revocation::Revocation;
use crate::sync::unconfirmed::{Decided, Unconfirmed};
use crate::sync::{Action, Alarm, Answer, Checkpoint, Counters, Entry, Event, Head, Lineage, Phase, ReadFrom, Timing};
use crate::time::{CLOCK_SKEW_SECONDS, Instants, UnixTime};
use crate::wire::{Message, Position};

/// How much older than the log's `since` the last proof may be for the verifier to have missed nothing: issuers replay
/// what they acknowledged in the last minute into a rebuilt log, and half of that is left for clocks and luck.
const REPLAYED_SECONDS: u64 = 30;
/// Probes remembered after they counted as lost, so that a slow store's answers still prove something.
const PROBES_KEPT_MAX: usize = 4;

/// The state machine of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    timing: Timing,
    partitions: u16,
    lineage: Option<Lineage>,
    last: Position,
    /// How much of that the log itself has shown, and not only pushes.
    sure: Position,
    unconfirmed: Unconfirmed,
    /// A head was answered on this connection, so that another one can say whether the log has changed since.
    answered: bool,
    tail: Option<Tail>,
    skipped: Option<Skipped>,
    since: Option<UnixTime>,
    proven: Option<UnixTime>,
    /// `proven` when the lineage was adopted: a log that turns out to have lost entries takes its own proofs with it.
    known_until: Option<UnixTime>,
    proven_at: Option<Instants>,
    /// The log has been read from its start since the last proof, or there was none: what it has forgotten was never seen.
    whole: bool,
    state: State,
    probes: VecDeque<Probe>,
    probe_due_ms: u64,
    lost: u32,
    issued: u64,
    alarm: Option<Alarm>,
    /// The lineage that is not settled, when it was first seen, and whether it has been waited for.
    unsettled: Option<(Lineage, u64, bool)>,
    warnings: Warnings,
    counters: Counters,
}

/// Pushes that arrived ahead of `last` and follow each other: the entries behind `from` up to `to`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Tail {
    epoch: Box<str>,
    from: Position,
    to: Position,
}

/// The first entry of the log that this build cannot read. While it stands there, nothing is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Skipped {
    at: Position,
    retry_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Probe {
    token: u64,
    sent: Instants,
    /// `sure` when it was sent: the log had that much, so a head below it is another log's.
    floor: Position,
    /// `last` when it was sent: a head below it says that a push was none of this log's.
    last: Position,
    lost: bool,
}

/// Alarms that do not keep the list from being proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Warnings {
    clock: Option<Alarm>,
    replay_missing: bool,
}

/// What an answer proves if everything up to `last` is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Aim {
    last: Position,
    sent: Instants,
    since: UnixTime,
    now: UnixTime,
    /// The lineage is settled, or believed after a wait.
    believed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Down,
    Probing,
    Reading { request: u64, from: ReadFrom, asked_ms: u64, to: Position },
    Live { check: Option<u64> },
}

impl Machine {
    /// A machine that holds nothing, for a data set of `partitions`.
    pub fn new(timing: Timing, partitions: u16) -> Self {
        Self {
            timing,
            partitions,
            lineage: None,
            last: Position::START,
            sure: Position::START,
            unconfirmed: Unconfirmed::default(),
            answered: false,
            tail: None,
            skipped: None,
            since: None,
            proven: None,
            known_until: None,
            proven_at: None,
            whole: true,
            state: State::Down,
            probes: VecDeque::new(),
            probe_due_ms: 0,
            lost: 0,
            issued: 0,
            alarm: None,
            unsettled: None,
            warnings: Warnings::default(),
            counters: Counters::default(),
        }
    }

    /// A machine that goes on from a list kept on disk. It is not fresh until a probe says so.
    pub fn resume(timing: Timing, partitions: u16, checkpoint: Checkpoint) -> Self {
        Self {
            lineage: Some(checkpoint.lineage),
            last: checkpoint.last,
            sure: checkpoint.last,
            since: Some(checkpoint.since),
            proven: Some(checkpoint.proven),
            whole: false,
            ..Self::new(timing, partitions)
        }
    }

    /// What to keep on disk beside the list; none while the list has never been complete or has a hole.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let (Some(lineage), Some(since), Some(proven), None) = (&self.lineage, self.since, self.proven, self.skipped)
        else {
            return None;
        };
        Some(Checkpoint { lineage: lineage.clone(), last: self.last.min(self.sure), since, proven })
    }

    /// Where it stands.
    pub const fn phase(&self) -> Phase {
        match self.state {
            State::Down => Phase::Disconnected,
            State::Probing => Phase::Probing,
            State::Reading { .. } => Phase::Reading,
            State::Live { .. } => Phase::Live,
        }
    }

    /// The log it follows.
    pub const fn lineage(&self) -> Option<&Lineage> {
        self.lineage.as_ref()
    }

    /// The position up to which every entry of that log is held.
    pub const fn last(&self) -> Position {
        self.last
    }

    /// When the list was last proven complete.
    pub const fn fresh_as_of(&self) -> Option<Instants> {
        self.proven_at
    }

    /// True while this alarm is raised, whether or not it keeps the list from being proven.
    pub fn raised(&self, alarm: Alarm) -> bool {
        let Warnings { clock, replay_missing } = self.warnings;
        self.alarm == Some(alarm) || clock == Some(alarm) || (replay_missing && alarm == Alarm::ReplayMissing)
    }

    /// What keeps the list from being proven.
    pub const fn alarm(&self) -> Option<Alarm> {
        self.alarm
    }

    /// What it has counted.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// For the model checker: machines that differ in what they have counted only are the same.
    #[cfg(test)]
    pub(super) fn forget_counters(&mut self) {
        self.counters = Counters::default();
    }

    /// When, in monotonic milliseconds, the next [`Event::Tick`] has something to do; none without a connection.
    pub fn wake_ms(&self) -> Option<u64> {
        let probe = match self.probe_under_way() {
            Some(probe) => probe.sent.monotonic_ms + self.timing.probe_timeout_ms,
            None => self.probe_due_ms,
        };
        let other = match (self.state, self.skipped) {
            (State::Down, _) => return None,
            (State::Reading { asked_ms, .. }, _) => asked_ms + self.timing.read_timeout_ms,
            (State::Live { check: None }, Some(skipped)) => skipped.retry_ms,
            _ => u64::MAX,
        };
        Some(probe.min(other))
    }

    /// Takes one event and says what to do, in order.
    pub fn on(&mut self, event: Event, now: Instants) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Subscribed => self.on_subscribed(now, &mut out),
            Event::Disconnected => self.disconnect(),
            Event::Pushed(message) => self.on_pushed(message, now, &mut out),
            Event::Garbled => self.counters.foreign += 1,
            Event::Answered { token, answer } => self.on_answered(token, answer, now, &mut out),
            Event::Page { request, entries, complete } => self.on_page(request, entries, complete, now, &mut out),
            Event::Tick => self.on_tick(now, &mut out),
            Event::ReadWhole => {
                self.forget_log();
                self.proven_at = None;
                if self.state != State::Down {
                    self.state = State::Probing;
                    self.probe(now, &mut out);
                }
            }
        }
        let Decided { confirmed, kept, dropped } = self.unconfirmed.take_decided();
        // Before whatever else is to be done, but behind the push that is confirmed at once.
        let at = usize::from(matches!(out.first(), Some(Action::Apply { .. })));
        if !confirmed.is_empty() {
            out.insert(at, Action::Confirm(confirmed));
        }
        if !kept.is_empty() {
            out.insert(at, Action::Keep(kept));
        }
        if !dropped.is_empty() {
            self.counters.forged += dropped.len() as u64;
            out.insert(at, Action::Drop(dropped));
        }
        out
    }

    fn on_subscribed(&mut self, now: Instants, out: &mut Vec<Action>) {
        self.disconnect();
        self.state = State::Probing;
        self.probe(now, out);
    }

    fn disconnect(&mut self) {
        self.state = State::Down;
        self.probes.clear();
        self.lost = 0;
        // What was pushed by a server that is gone says nothing about the log of the next one.
        self.tail = None;
        self.unconfirmed.keep();
        self.answered = false;
    }

    fn on_pushed(&mut self, message: Message, now: Instants, out: &mut Vec<Action>) {
        let Message { epoch, previous, position, revocation } = message;
        let Ok(revocation) = revocation else {
            // Its position breaks the chain for the next one, and the log decides.
            self.counters.unreadable += 1;
            return;
        };
        if self.unconfirmed.is_known(position, &revocation) {
            self.counters.duplicates += 1;
            return;
        }
        let number = self.number();
        out.push(Action::Apply { position, revocation: revocation.clone() });
        let chained = self.lineage.as_ref().is_some_and(|lineage| lineage.epoch == epoch) && previous == self.last;
        self.unconfirmed.add(number, position, revocation, chained && position > previous);
        if !self.answered {
            self.unconfirmed.keep();
        }
        let ours = self.lineage.as_ref().is_some_and(|lineage| lineage.epoch == epoch);
        if ours && position <= self.last {
            self.counters.duplicates += 1;
            return;
        }
        if ours && previous == self.last {
            self.last = position;
            self.join_tail();
            return;
        }
        match &mut self.tail {
            Some(tail) if tail.epoch == epoch && tail.to == previous => tail.to = position,
            Some(tail) if tail.epoch == epoch && (tail.from..=tail.to).contains(&position) => {
                self.counters.duplicates += 1;
                return;
            }
            tail => *tail = Some(Tail { epoch, from: previous, to: position }),
        }
        if matches!(self.state, State::Live { .. }) {
            self.counters.gaps += 1;
            // An answer that is still to come was made after this push, and will show the gap.
            if self.probe_under_way().is_none() {
                self.probe(now, out);
            }
        }
    }

    fn on_answered(&mut self, token: u64, answer: Answer, now: Instants, out: &mut Vec<Action>) {
        let Some(index) = self.probes.iter().position(|probe| probe.token == token) else {
            return; // of a connection that is gone
        };
        let probe = self.probes[index];
        self.probes.drain(..=index);
        self.probe_due_ms = now.monotonic_ms + self.timing.probe_interval_ms;
        match answer {
            Answer::Head(head) => match head.objection(self.partitions) {
                None => self.on_head(head, probe, now, out),
                Some(alarm @ Alarm::Partitions) => self.raise(alarm, out),
                Some(alarm) => self.useless(alarm, out),
            },
            Answer::Refused => self.useless(Alarm::Refused, out),
            Answer::NewerLayout => self.useless(Alarm::NewerLayout, out),
            Answer::NoEpoch | Answer::LogDamaged => {
                // Whatever comes after this is another log, whatever it calls itself.
                self.forget_log();
                self.lost = 0;
                self.state = State::Probing;
                let empty = answer == Answer::NoEpoch;
                self.raise(if empty { Alarm::NoEpoch } else { Alarm::LogDamaged }, out);
            }
        }
    }

    fn on_head(&mut self, head: Head, probe: Probe, now: Instants, out: &mut Vec<Action>) {
        self.lost = 0;
        let known = self.lineage.as_ref() == Some(&head.lineage) && head.last >= probe.floor;
        if known {
            self.confirm_pushes(head.last, probe);
        } else {
            self.forget_log();
            self.lineage = Some(head.lineage);
        }
        self.answered = true;
        if head.empty {
            self.last = self.last.max(head.last);
            self.sure = self.sure.max(head.last);
            self.join_tail();
        }
        self.compare_clocks(head.now, probe.sent, now, out);
        let believed = self.believes(head.settled, now, out);
        let aim = Aim { last: head.last, sent: probe.sent, since: head.since, now: head.now, believed };
        match self.state {
            State::Reading { .. } if known => {}
            State::Live { .. } if known && self.last >= aim.last => self.prove(aim, now, out),
            _ if self.last >= aim.last => {
                self.state = State::Live { check: None };
                self.prove(aim, now, out);
            }
            _ => {
                self.counters.resyncs += 1;
                let from = if self.last == Position::START { ReadFrom::Start } else { ReadFrom::At(self.last) };
                self.read(from, aim.last, now, out);
            }
        }
        if matches!(self.state, State::Live { .. }) {
            let request = self.issued + 1;
            if let Some(from) = self.unconfirmed.look(probe.token, request) {
                self.issued = request;
                out.push(Action::Read { request, from });
            }
        }
    }

    /// The log is the one it was when the probe before was answered, and ends with `last`.
    fn confirm_pushes(&mut self, last: Position, probe: Probe) {
        self.unconfirmed.drop_absent(probe.token);
        let ends = self.unconfirmed.chain_ends(last);
        if self.last > last && probe.last > last {
            // A push moved it that was none of this log's.
            self.last = if ends { last } else { self.sure };
        }
        if self.last >= last {
            self.sure = self.sure.max(last);
        }
    }

    fn on_page(&mut self, request: u64, entries: Vec<Entry>, complete: bool, now: Instants, out: &mut Vec<Action>) {
        if self.unconfirmed.found(request, &entries, complete, self.issued) {
            hold(entries, out);
            return;
        }
        match self.state {
            State::Reading { request: awaited, from, to, .. } if awaited == request => {
                self.on_log_page(from, to, entries, complete, now, out);
            }
            State::Live { check: Some(awaited) } if awaited == request => {
                self.on_check_page(entries, now, out);
            }
            // Asked before the log changed: true all the same, and no more than that.
            _ => hold(entries, out),
        }
    }

    fn on_log_page(
        &mut self,
        from: ReadFrom,
        to: Position,
        entries: Vec<Entry>,
        complete: bool,
        now: Instants,
        out: &mut Vec<Action>,
    ) {
        if let ReadFrom::At(asked) = from
            && entries.first().is_none_or(|entry| entry.position != asked)
        {
            hold(entries, out);
            if asked > self.sure && self.sure > Position::START {
                // It was only pushed: perhaps the log never had it.
                self.last = self.sure;
                self.read(ReadFrom::At(self.sure), to, now, out);
                return;
            }
            // The newest entry held no longer stands in the log, so what came after it may be gone as well.
            (self.last, self.sure) = (Position::START, Position::START);
            self.skipped = None;
            self.read(ReadFrom::Start, to, now, out);
            return;
        }
        let empty = entries.is_empty();
        for entry in &entries {
            let new = from != ReadFrom::At(entry.position);
            if entry.revocation.is_err() && new {
                self.counters.unreadable += 1;
                let retry_ms = now.monotonic_ms + self.timing.unreadable_retry_ms;
                self.skipped.get_or_insert(Skipped { at: entry.position, retry_ms });
            }
            self.last = self.last.max(entry.position);
        }
        if let Some(entry) = entries.last() {
            self.sure = self.sure.max(entry.position);
        }
        self.unconfirmed.shown(&entries);
        self.join_tail();
        if self.last < to && !complete && !empty {
            // Asked for before these are held, so that the store works meanwhile.
            self.read(ReadFrom::After(self.last), to, now, out);
            hold(entries, out);
            return;
        }
        hold(entries, out);
        if self.last >= to {
            // Not proven yet: another log may have taken this one's place while it was read. An answer that is still to
            // come was made after the last page, and says which log that was of.
            self.state = State::Live { check: None };
            if self.probe_under_way().is_none() {
                self.probe(now, out);
            }
        } else {
            self.state = State::Probing;
            self.raise(Alarm::LogDamaged, out);
        }
    }

    /// Looks whether the entry that could not be read still stands there. If not, the log is read again from its start:
    /// there may be more of them.
    fn on_check_page(&mut self, entries: Vec<Entry>, now: Instants, out: &mut Vec<Action>) {
        let first = entries.first().map(|entry| (entry.position, entry.revocation.is_err()));
        let still = self.skipped.filter(|skipped| first == Some((skipped.at, true)));
        hold(entries, out);
        match still {
            Some(Skipped { at, .. }) => {
                let retry_ms = now.monotonic_ms + self.timing.unreadable_retry_ms;
                self.skipped = Some(Skipped { at, retry_ms });
                self.state = State::Live { check: None };
            }
            None => {
                self.skipped = None;
                (self.last, self.sure) = (Position::START, Position::START);
                self.state = State::Probing;
                self.probe(now, out);
            }
        }
    }

    fn on_tick(&mut self, now: Instants, out: &mut Vec<Action>) {
        if self.state == State::Down {
            return;
        }
        if let State::Reading { asked_ms, .. } = self.state
            && now.monotonic_ms >= asked_ms + self.timing.read_timeout_ms
        {
            self.reconnect(out);
            return;
        }
        match self.probe_under_way() {
            Some(probe) if now.monotonic_ms >= probe.sent.monotonic_ms + self.timing.probe_timeout_ms => {
                self.probes.iter_mut().for_each(|probe| probe.lost = true);
                self.counters.probes_lost += 1;
                self.lost += 1;
                if self.lost >= self.timing.probes_lost_max {
                    self.reconnect(out);
                    return;
                }
                self.probe(now, out);
            }
            None if now.monotonic_ms >= self.probe_due_ms => self.probe(now, out),
            _ => {}
        }
        if let (State::Live { check: None }, Some(skipped)) = (self.state, self.skipped)
            && now.monotonic_ms >= skipped.retry_ms
        {
            let request = self.number();
            self.state = State::Live { check: Some(request) };
            out.push(Action::Read { request, from: ReadFrom::At(skipped.at) });
        }
    }

    /// Every entry that was in the log when the probe was sent is held, if none of them was unreadable.
    fn prove(&mut self, aim: Aim, now: Instants, out: &mut Vec<Action>) {
        if self.skipped.is_some() {
            self.raise(Alarm::UnreadableEntry, out);
            return;
        }
        if !aim.believed {
            return;
        }
        if self.whole {
            // The log forgets by the store's clock. Who takes what it has forgotten for living would call it good.
            if now.wall_ms / 1000 + 2 * CLOCK_SKEW_SECONDS < aim.now.0 {
                self.raise(Alarm::ClockBehind, out);
                return;
            }
            self.whole = false;
        }
        if self.since != Some(aim.since) {
            let covered = self.known_until.is_some_and(|known| known.plus(REPLAYED_SECONDS) >= aim.since);
            if !covered {
                out.push(Action::Since(aim.since));
            }
            self.since = Some(aim.since);
        }
        debug_assert!(aim.sent.monotonic_ms <= now.monotonic_ms, "proven before it was asked");
        // The newest, not the latest: a clock of the store that was ahead for a while must not speak for later times.
        self.proven = Some(aim.now);
        self.proven_at = Some(aim.sent);
        out.push(Action::Fresh(aim.sent));
        if self.alarm.take().is_some() {
            out.push(Action::Alarm(None));
        }
    }

    /// Tells the store's clock, and whether this host's wall clock differs from it by more than two machines may. The store
    /// read its clock, in whole seconds, between the sending of the probe and now.
    fn compare_clocks(&mut self, store: UnixTime, sent: Instants, now: Instants, out: &mut Vec<Action>) {
        out.push(Action::Time(store));
        const FAR_SECONDS: u64 = 2 * CLOCK_SKEW_SECONDS;
        let clock = if now.wall_ms / 1000 + FAR_SECONDS < store.0 {
            Some(Alarm::ClockBehind)
        } else if sent.wall_ms.min(now.wall_ms) / 1000 > store.0 + FAR_SECONDS {
            Some(Alarm::ClockAhead)
        } else {
            None
        };
        let before = std::mem::replace(&mut self.warnings.clock, clock);
        if before != clock {
            out.extend(before.map(|alarm| Action::Warning(alarm, false)));
            out.extend(clock.map(|alarm| Action::Warning(alarm, true)));
        }
    }

    /// Whether a head of the adopted lineage may prove anything: its replay is marked as done, or that has been waited for.
    fn believes(&mut self, settled: bool, now: Instants, out: &mut Vec<Action>) -> bool {
        let running = self.proven_at.is_some();
        let wait_ms = if running { self.timing.replay_wait_running_ms } else { self.timing.replay_wait_ms };
        let mut missing = false;
        if settled || wait_ms == 0 {
            self.unsettled = None;
        } else if let Some(lineage) = &self.lineage {
            let (first, waited) = match &self.unsettled {
                Some((known, first, waited)) if known == lineage => (*first, *waited),
                _ => (now.monotonic_ms, false),
            };
            missing = waited || now.monotonic_ms.saturating_sub(first) >= wait_ms;
            self.unsettled = Some((lineage.clone(), first, missing));
        }
        if std::mem::replace(&mut self.warnings.replay_missing, missing) != missing {
            out.push(Action::Warning(Alarm::ReplayMissing, missing));
        }
        settled || missing || wait_ms == 0
    }

    fn read(&mut self, from: ReadFrom, to: Position, now: Instants, out: &mut Vec<Action>) {
        if from == ReadFrom::Start {
            self.whole = true;
            self.counters.full_reads += 1;
        }
        let request = self.number();
        self.state = State::Reading { request, from, asked_ms: now.monotonic_ms, to };
        out.push(Action::Read { request, from });
    }

    fn probe(&mut self, now: Instants, out: &mut Vec<Action>) {
        let token = self.number();
        if self.probes.len() == PROBES_KEPT_MAX {
            self.probes.pop_front();
        }
        self.probes.push_back(Probe { token, sent: now, floor: self.sure, last: self.last, lost: false });
        out.push(Action::Probe { token });
    }

    fn probe_under_way(&self) -> Option<&Probe> {
        self.probes.back().filter(|probe| !probe.lost)
    }

    /// An answer from a server whose word does not count; another connection may find a better one.
    fn useless(&mut self, alarm: Alarm, out: &mut Vec<Action>) {
        self.raise(alarm, out);
        self.lost += 1;
        if self.lost >= self.timing.probes_lost_max {
            self.reconnect(out);
        }
    }

    fn reconnect(&mut self, out: &mut Vec<Action>) {
        self.disconnect();
        out.push(Action::Reconnect);
    }

    /// Voids what is known of the log. What is held stays held.
    fn forget_log(&mut self) {
        if self.lineage.take().is_some() {
            self.known_until = self.proven;
        }
        (self.last, self.sure) = (Position::START, Position::START);
        self.unconfirmed.keep();
        self.answered = false;
        self.whole = true;
        self.tail = None;
        self.skipped = None;
        self.probes.iter_mut().for_each(|probe| (probe.floor, probe.last) = (Position::START, Position::START));
    }

    fn join_tail(&mut self) {
        let (Some(lineage), Some(tail)) = (&self.lineage, &self.tail) else { return };
        if lineage.epoch == tail.epoch && tail.from <= self.last {
            self.last = self.last.max(tail.to);
            self.tail = None;
        }
    }

    fn raise(&mut self, alarm: Alarm, out: &mut Vec<Action>) {
        if self.alarm.replace(alarm) != Some(alarm) {
            out.push(Action::Alarm(Some(alarm)));
        }
    }

    fn number(&mut self) -> u64 {
        self.issued += 1;
        self.issued
    }
}

fn hold(entries: Vec<Entry>, out: &mut Vec<Action>) {
    let readable: Vec<Revocation> = entries.into_iter().filter_map(|entry| entry.revocation.ok()).collect();
    if !readable.is_empty() {
        out.push(Action::ApplyAll(readable));
    }
}
