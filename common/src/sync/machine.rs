//! The state machine of one partition: which entries of which log are held, and how to obtain the
//! rest.

use std::collections::VecDeque;

use crate::log_protocol::{Message, Position};
use crate::revocation::Revocation;
use crate::sync::unconfirmed::{Decided, Unconfirmed};
use crate::sync::{
    Action, Alarm, Checkpoint, Counters, Entry, Event, Head, Lineage, Phase, ProbeAnswer, ReadFrom, Timing,
};
use crate::time::{CLOCK_SKEW_SECONDS, ClockReading, UnixTime};

/// How much older than the log's `since` the last proof may be without a gap: issuers replay what
/// they acknowledged in the last minute into a rebuilt log; the other half is margin for clock
/// skew.
const REPLAYED_SECONDS: u64 = 30;
/// Probes kept after they counted as lost, so that a slow store's answers still prove something.
const PROBES_KEPT_MAX: usize = 4;

/// The state machine of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    timing: Timing,
    partitions: u16,
    lineage: Option<Lineage>,
    last: Position,
    /// The part of `last` that the log itself has shown, not only pushes.
    sure: Position,
    unconfirmed: Unconfirmed,
    /// A head was answered on this connection, so the next one can show whether the log has changed
    /// since.
    answered: bool,
    tail: Option<Tail>,
    skipped: Option<Skipped>,
    since: Option<UnixTime>,
    proven: Option<UnixTime>,
    /// `proven` when the lineage was adopted: if the log turns out to have lost entries, its own
    /// proofs are void.
    known_until: Option<UnixTime>,
    proven_at: Option<ClockReading>,
    /// The log has been read from its start since the last proof, or there was no proof: entries
    /// that it trimmed earlier were never seen.
    whole: bool,
    state: State,
    probes: VecDeque<Probe>,
    probe_due_ms: u64,
    lost: u32,
    issued: u64,
    alarm: Option<Alarm>,
    /// The lineage that is not settled, when it was first seen, and whether the wait for it is
    /// over.
    unsettled: Option<(Lineage, u64, bool)>,
    warnings: Warnings,
    counters: Counters,
}

/// Pushes that arrived ahead of `last` and are chained: the entries after `from` up to `to`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Tail {
    epoch: Box<str>,
    from: Position,
    to: Position,
}

/// The first entry of the log that this build cannot decode. While the log has it, nothing is
/// proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Skipped {
    at: Position,
    retry_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Probe {
    token: u64,
    sent: ClockReading,
    /// `sure` when the probe was sent: the log had that much, so a lower head belongs to another
    /// log.
    floor: Position,
    /// `last` when the probe was sent: a lower head shows that a push was not from this log.
    last: Position,
    lost: bool,
}

/// Alarms that do not keep the list from being proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Warnings {
    clock: Option<Alarm>,
    replay_missing: bool,
}

/// What an answer proves once everything up to `last` is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Aim {
    last: Position,
    sent: ClockReading,
    since: UnixTime,
    now: UnixTime,
    /// The lineage is settled, or accepted after a wait.
    accepted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Down,
    Probing,
    Reading { request: u64, from: ReadFrom, asked_ms: u64, to: Position },
    Live { check: Option<u64> },
}

impl Machine {
    /// A machine without entries, for a data set of `partitions`.
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

    /// A machine that resumes from a snapshot. The list is not fresh until a probe proves it.
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

    /// What a snapshot must store beside the list; `None` while the list has never been complete or
    /// has a gap.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let (Some(lineage), Some(since), Some(proven), None) = (&self.lineage, self.since, self.proven, self.skipped)
        else {
            return None;
        };
        Some(Checkpoint { lineage: lineage.clone(), last: self.last.min(self.sure), since, proven })
    }

    /// The phase, for people.
    pub const fn phase(&self) -> Phase {
        match self.state {
            State::Down => Phase::Disconnected,
            State::Probing => Phase::Probing,
            State::Reading { .. } => Phase::Reading,
            State::Live { .. } => Phase::Live,
        }
    }

    /// The log that the machine follows.
    pub const fn lineage(&self) -> Option<&Lineage> {
        self.lineage.as_ref()
    }

    /// The position up to which every entry of that log is held.
    pub const fn last(&self) -> Position {
        self.last
    }

    /// When the list was last proven complete.
    pub const fn fresh_as_of(&self) -> Option<ClockReading> {
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

    /// The counters.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// For the model checker: machines that differ only in their counters are equal.
    #[cfg(test)]
    pub(super) fn reset_counters(&mut self) {
        self.counters = Counters::default();
    }

    /// When, in monotonic milliseconds, the next [`Event::Tick`] is due; `None` without a
    /// connection.
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

    /// Handles one event and returns the actions, in order.
    pub fn on(&mut self, event: Event, now: ClockReading) -> Vec<Action> {
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
                self.reset_log();
                self.proven_at = None;
                if self.state != State::Down {
                    self.state = State::Probing;
                    self.probe(now, &mut out);
                }
            }
        }
        let Decided { confirmed, kept, dropped } = self.unconfirmed.take_decided();
        // Before all other actions, but after the push that is confirmed at once.
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

    fn on_subscribed(&mut self, now: ClockReading, out: &mut Vec<Action>) {
        self.disconnect();
        self.state = State::Probing;
        self.probe(now, out);
    }

    fn disconnect(&mut self) {
        self.state = State::Down;
        self.probes.clear();
        self.lost = 0;
        // A push from the server before says nothing about the log of the next one.
        self.tail = None;
        self.unconfirmed.keep();
        self.answered = false;
    }

    fn on_pushed(&mut self, message: Message, now: ClockReading, out: &mut Vec<Action>) {
        let Message { epoch, previous, position, revocation } = message;
        let Ok(revocation) = revocation else {
            // Its position breaks the chain for the next push, and the log decides.
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
            // An outstanding answer was made after this push, and will show the gap.
            if self.probe_under_way().is_none() {
                self.probe(now, out);
            }
        }
    }

    fn on_answered(&mut self, token: u64, answer: ProbeAnswer, now: ClockReading, out: &mut Vec<Action>) {
        let Some(index) = self.probes.iter().position(|probe| probe.token == token) else {
            return; // from a closed connection
        };
        let probe = self.probes[index];
        self.probes.drain(..=index);
        self.probe_due_ms = now.monotonic_ms + self.timing.probe_interval_ms;
        match answer {
            ProbeAnswer::Head(head) => match head.objection(self.partitions) {
                None => self.on_head(head, probe, now, out),
                Some(alarm @ Alarm::Partitions) => self.raise(alarm, out),
                Some(alarm) => self.reject_server(alarm, out),
            },
            ProbeAnswer::Refused => self.reject_server(Alarm::Refused, out),
            ProbeAnswer::NewerLayout => self.reject_server(Alarm::NewerLayout, out),
            ProbeAnswer::NoEpoch | ProbeAnswer::LogDamaged => {
                // The next head is of another log, even if its lineage is the same.
                self.reset_log();
                self.lost = 0;
                self.state = State::Probing;
                let empty = answer == ProbeAnswer::NoEpoch;
                self.raise(if empty { Alarm::NoEpoch } else { Alarm::LogDamaged }, out);
            }
        }
    }

    fn on_head(&mut self, head: Head, probe: Probe, now: ClockReading, out: &mut Vec<Action>) {
        self.lost = 0;
        let known = self.lineage.as_ref() == Some(&head.lineage) && head.last >= probe.floor;
        if known {
            self.confirm_pushes(head.last, probe);
        } else {
            self.reset_log();
            self.lineage = Some(head.lineage);
        }
        self.answered = true;
        if head.empty {
            self.last = self.last.max(head.last);
            self.sure = self.sure.max(head.last);
            self.join_tail();
        }
        self.compare_clocks(head.now, probe.sent, now, out);
        let accepted = self.accepts_lineage(head.settled, now, out);
        let aim = Aim { last: head.last, sent: probe.sent, since: head.since, now: head.now, accepted };
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

    /// The log has not changed since the previous answer, and ends with `last`.
    fn confirm_pushes(&mut self, last: Position, probe: Probe) {
        self.unconfirmed.drop_absent(probe.token);
        let ends = self.unconfirmed.chain_ends(last);
        if self.last > last && probe.last > last {
            // A push that was not from this log moved `last`.
            self.last = if ends { last } else { self.sure };
        }
        if self.last >= last {
            self.sure = self.sure.max(last);
        }
    }

    fn on_page(&mut self, request: u64, entries: Vec<Entry>, complete: bool, now: ClockReading, out: &mut Vec<Action>) {
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
            // Requested before the log changed: the entries are valid, but prove nothing.
            _ => hold(entries, out),
        }
    }

    fn on_log_page(
        &mut self,
        from: ReadFrom,
        to: Position,
        entries: Vec<Entry>,
        complete: bool,
        now: ClockReading,
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
            // The newest entry held is no longer in the log, so later ones may be gone too.
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
            // Requested before the page is applied, so that the store works in parallel.
            self.read(ReadFrom::After(self.last), to, now, out);
            hold(entries, out);
            return;
        }
        hold(entries, out);
        if self.last >= to {
            // Not proven yet: another log may have replaced this one during the read. An
            // outstanding answer was made after the last page, and shows which log that page was
            // from.
            self.state = State::Live { check: None };
            if self.probe_under_way().is_none() {
                self.probe(now, out);
            }
        } else {
            self.state = State::Probing;
            self.raise(Alarm::LogDamaged, out);
        }
    }

    /// Checks whether the undecodable entry is still in the log. If not, reads the log again from
    /// its start: there may be more of them.
    fn on_check_page(&mut self, entries: Vec<Entry>, now: ClockReading, out: &mut Vec<Action>) {
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

    fn on_tick(&mut self, now: ClockReading, out: &mut Vec<Action>) {
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

    /// Records a proof: every entry that was in the log when the probe was sent is held, unless one
    /// was undecodable.
    fn prove(&mut self, aim: Aim, now: ClockReading, out: &mut Vec<Action>) {
        if self.skipped.is_some() {
            self.raise(Alarm::UnreadableEntry, out);
            return;
        }
        if !aim.accepted {
            return;
        }
        if self.whole {
            // The log trims by the store's clock. If this host's clock is behind, it would accept
            // tokens whose revocations were trimmed.
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
        debug_assert!(aim.sent.monotonic_ms <= now.monotonic_ms, "proof older than its probe");
        // The newest head's time, not the latest: a store clock that was ahead for a while must not
        // count for later.
        self.proven = Some(aim.now);
        self.proven_at = Some(aim.sent);
        out.push(Action::Fresh(aim.sent));
        if self.alarm.take().is_some() {
            out.push(Action::Alarm(None));
        }
    }

    /// Emits the store's clock, and whether this host's wall clock differs from it by more than the
    /// permitted skew. The store read its clock, in whole seconds, between the sending of the probe
    /// and now.
    fn compare_clocks(&mut self, store: UnixTime, sent: ClockReading, now: ClockReading, out: &mut Vec<Action>) {
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

    /// Whether a head of the adopted lineage may prove anything: its replay is marked as done, or
    /// the wait for it is over.
    fn accepts_lineage(&mut self, settled: bool, now: ClockReading, out: &mut Vec<Action>) -> bool {
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

    fn read(&mut self, from: ReadFrom, to: Position, now: ClockReading, out: &mut Vec<Action>) {
        if from == ReadFrom::Start {
            self.whole = true;
            self.counters.full_reads += 1;
        }
        let request = self.number();
        self.state = State::Reading { request, from, asked_ms: now.monotonic_ms, to };
        out.push(Action::Read { request, from });
    }

    fn probe(&mut self, now: ClockReading, out: &mut Vec<Action>) {
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

    /// Handles an answer that does not count; another connection may find a better server.
    fn reject_server(&mut self, alarm: Alarm, out: &mut Vec<Action>) {
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

    /// Voids what is known of the log. The entries stay.
    fn reset_log(&mut self) {
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
