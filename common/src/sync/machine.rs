//! The state machine of one partition: what is held of which log, and what is being done to hold all of it.

use std::collections::VecDeque;

use crate::revocation::Revocation;
use crate::sync::{Action, Alarm, Answer, Entry, Event, Head, Lineage, ReadFrom};
use crate::time::{CLOCK_SKEW_SECONDS, Instants, UnixTime};
use crate::wire::{Message, Position};

/// How much older than the log's `since` the last proof may be for the verifier to have missed nothing: issuers replay
/// what they acknowledged in the last minute into a rebuilt log, and half of that is left for clocks and luck.
const REPLAYED_SECONDS: u64 = 30;
/// Probes remembered after they counted as lost, so that a slow store's answers still prove something.
const PROBES_KEPT_MAX: usize = 4;

/// How long the machine waits for what, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Between a probe and the next.
    pub probe_interval_ms: u64,
    /// Until an unanswered probe counts as lost.
    pub probe_timeout_ms: u64,
    /// Lost probes in a row, or answers that cannot be used, until the connection is given up.
    pub probes_lost_max: u32,
    /// Until an unanswered read gives the connection up.
    pub read_timeout_ms: u64,
    /// Between looks at an entry that this build cannot read.
    pub unreadable_retry_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            probe_interval_ms: 250,
            probe_timeout_ms: 500,
            probes_lost_max: 2,
            read_timeout_ms: 10_000,
            unreadable_retry_ms: 5_000,
        }
    }
}

/// What the machine has counted since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Counters {
    /// Pushes that did not follow the newest entry held: one before them was lost.
    pub gaps: u64,
    /// Times the log was read because a proof had failed; the first reading included.
    pub resyncs: u64,
    /// Resyncs that had to begin at the start of the log.
    pub full_reads: u64,
    /// Pushes of entries already held.
    pub duplicates: u64,
    /// Pushes that were no message of ours.
    pub foreign: u64,
    /// Entries that this build cannot read, pushed or read.
    pub unreadable: u64,
    /// Probes that were not answered in time.
    pub probes_lost: u64,
}

/// Where the machine stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No connection.
    Disconnected,
    /// Connected, and nothing to compare with yet.
    Probing,
    /// Reading the log.
    Reading,
    /// Holding everything that the last probe saw.
    Live,
}

impl Phase {
    /// Its stable name, for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Probing => "probing",
            Self::Reading => "reading",
            Self::Live => "live",
        }
    }
}

/// What a restarted verifier needs to go on from a list it has kept: everything of the log up to `last` is in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    /// Which log.
    pub lineage: Lineage,
    /// Up to where.
    pub last: Position,
    /// The log's `since` at that time.
    pub since: UnixTime,
    /// The store's clock when the list was last proven complete.
    pub proven: UnixTime,
}

/// The state machine of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    timing: Timing,
    partitions: u16,
    lineage: Option<Lineage>,
    last: Position,
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
    /// `last` when it was sent: the log had that much, so a head below it is another log's.
    floor: Position,
    lost: bool,
}

/// What an answer proves if everything up to `last` is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Aim {
    last: Position,
    sent: Instants,
    since: UnixTime,
    now: UnixTime,
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
            counters: Counters::default(),
        }
    }

    /// A machine that goes on from a list kept on disk. It is not fresh until a probe says so.
    pub fn resume(timing: Timing, partitions: u16, checkpoint: Checkpoint) -> Self {
        Self {
            lineage: Some(checkpoint.lineage),
            last: checkpoint.last,
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
        Some(Checkpoint { lineage: lineage.clone(), last: self.last, since, proven })
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
    }

    fn on_pushed(&mut self, message: Message, now: Instants, out: &mut Vec<Action>) {
        let Message { epoch, previous, position, revocation } = message;
        let Ok(revocation) = revocation else {
            // Its position breaks the chain for the next one, and the log decides.
            self.counters.unreadable += 1;
            return;
        };
        out.push(Action::Apply { position, revocation });
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
        if !known {
            self.forget_log();
            self.lineage = Some(head.lineage);
        }
        if head.empty {
            self.last = self.last.max(head.last);
            self.join_tail();
        }
        let aim = Aim { last: head.last, sent: probe.sent, since: head.since, now: head.now };
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
    }

    fn on_page(&mut self, request: u64, entries: Vec<Entry>, complete: bool, now: Instants, out: &mut Vec<Action>) {
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
            // The newest entry held no longer stands in the log, so what came after it may be gone as well.
            hold(entries, out);
            self.last = Position::START;
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
                self.last = Position::START;
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
        if self.whole {
            // The log forgets by the store's clock. Who takes what it has forgotten for living would call it good.
            if now.wall_ms / 1000 + 2 * CLOCK_SKEW_SECONDS < aim.now.0 {
                self.raise(Alarm::ClockBehind, out);
                return;
            }
            self.whole = false;
            out.push(Action::Time(aim.now));
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
        self.probes.push_back(Probe { token, sent: now, floor: self.last, lost: false });
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
        self.last = Position::START;
        self.whole = true;
        self.tail = None;
        self.skipped = None;
        self.probes.iter_mut().for_each(|probe| probe.floor = Position::START);
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
