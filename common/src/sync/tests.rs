//! Every transition of the machine. The F-numbers are the failures in docs/protocol.md.

mod clock;
mod forged;
mod settled;
mod tail;
mod unreadable;

use super::*;
use crate::revocation::{EntryError, Id, Target};

const MASTER: Role = Role::ALONE;

fn at(ms: u64) -> ClockReading {
    ClockReading { wall_ms: 1_700_000_000_000 + ms, monotonic_ms: ms }
}

fn p(sequence: u64) -> Position {
    Position { ms: if sequence == 0 { 0 } else { 1 }, sequence }
}

fn revocation(n: u64) -> Revocation {
    let jti = Id::parse(&format!("t{n}")).unwrap();
    Revocation { target: Target::Token { jti, subject: None }, expires_at: UnixTime(2_000_000_000) }
}

fn entry(n: u64) -> Entry {
    Entry { position: p(n), revocation: Ok(revocation(n)) }
}

fn unreadable(n: u64) -> Entry {
    Entry { position: p(n), revocation: Err(EntryError::Version(2)) }
}

fn push(epoch: &str, previous: u64, position: u64) -> Event {
    Event::Pushed(Message {
        epoch: epoch.into(),
        previous: p(previous),
        position: p(position),
        revocation: Ok(revocation(position)),
    })
}

fn apply(n: u64) -> Action {
    Action::Apply { position: p(n), revocation: revocation(n) }
}

fn head(epoch: &str, replication_id: &str, last: u64) -> Head {
    Head {
        lineage: Lineage { epoch: epoch.into(), replication_id: replication_id.into() },
        last: p(last),
        empty: last == 0,
        since: UnixTime(1_000),
        now: UnixTime(2_000),
        partitions: 1,
        role: MASTER,
        settled: true,
    }
}

/// A machine and its clock; actions are collected until a test takes them.
struct Follower {
    machine: Machine,
    now: u64,
    done: Vec<Action>,
    /// The head of the last answer.
    head: Option<Head>,
}

impl Follower {
    fn new() -> Self {
        Self { machine: Machine::new(Timing::default(), 1), now: 0, done: Vec::new(), head: None }
    }

    /// Subscribed to epoch `e`, replication id `h`, holding entries up to `last`, probed at 100 and
    /// live.
    fn live(last: u64) -> Self {
        let mut follower = Self::new();
        follower.now = 100;
        follower.on(Event::Subscribed);
        follower.answer(head("e", "h", last));
        if last > 0 {
            follower.page((1..=last).map(entry).collect(), true);
        }
        assert_eq!(follower.machine.phase(), Phase::Live);
        if follower.probing().is_some() {
            follower.answer(head("e", "h", last));
        }
        follower.done.clear();
        follower
    }

    fn on(&mut self, event: Event) -> &mut Self {
        let actions = self.machine.on(event, at(self.now));
        self.done.extend(actions);
        self
    }

    fn after(&mut self, ms: u64) -> &mut Self {
        self.now += ms;
        self.on(Event::Tick)
    }

    /// The token of the newest probe since the last `took`.
    fn probing(&self) -> Option<u64> {
        self.done.iter().rev().find_map(|action| match action {
            Action::Probe { token } => Some(*token),
            _ => None,
        })
    }

    fn reading(&self) -> Option<(u64, ReadFrom)> {
        self.done.iter().rev().find_map(|action| match action {
            Action::Read { request, from } => Some((*request, *from)),
            _ => None,
        })
    }

    /// Answers the newest probe.
    fn answer(&mut self, head: Head) -> &mut Self {
        self.head = Some(head.clone());
        self.answer_with(ProbeAnswer::Head(head))
    }

    fn answer_with(&mut self, answer: ProbeAnswer) -> &mut Self {
        let token = self.probing().expect("a probe is under way");
        self.done.clear();
        self.on(Event::Answered { token, answer })
    }

    /// Answers the newest read; after the last page also the probe that follows, with the same head
    /// as before.
    fn page(&mut self, entries: Vec<Entry>, complete: bool) -> &mut Self {
        self.page_only(entries, complete);
        if let (Phase::Live, Some(token), Some(head)) = (self.machine.phase(), self.probing(), self.head.clone()) {
            self.on(Event::Answered { token, answer: ProbeAnswer::Head(head) });
        }
        self
    }

    /// Answers the newest read.
    fn page_only(&mut self, entries: Vec<Entry>, complete: bool) -> &mut Self {
        let (request, _) = self.reading().expect("a read is under way");
        self.done.clear();
        self.on(Event::Page { request, entries, complete })
    }

    /// The actions since the last call, without those that have their own tests: the store's time,
    /// clock alarms, decisions about pushes.
    fn took(&mut self) -> Vec<Action> {
        let elsewhere = |action: &Action| match action {
            Action::Time(_) | Action::Confirm(_) | Action::Keep(_) => true,
            Action::Warning(alarm, _) => matches!(alarm, Alarm::ClockAhead | Alarm::ClockBehind),
            _ => false,
        };
        self.done.retain(|action| !elsewhere(action));
        std::mem::take(&mut self.done)
    }

    fn freshened(&self) -> Option<u64> {
        self.done.iter().rev().find_map(|action| match action {
            Action::Fresh(at) => Some(at.monotonic_ms),
            _ => None,
        })
    }
}

#[test]
fn start_reads_the_whole_log_and_proves_as_of_the_probe() {
    let mut follower = Follower::new();
    follower.now = 100;
    assert_eq!(follower.on(Event::Subscribed).took(), [Action::Probe { token: 1 }], "probed at once");
    follower.done.push(Action::Probe { token: 1 });
    follower.now = 120;
    follower.answer(head("e", "h", 3));
    assert_eq!(follower.reading(), Some((2, ReadFrom::Start)));
    assert_eq!(follower.freshened(), None, "nothing is proven before the log is read");
    follower.now = 150;
    follower.page(vec![entry(1), entry(2)], false);
    assert_eq!(
        follower.took(),
        [
            Action::Read { request: 3, from: ReadFrom::After(p(2)) },
            Action::ApplyAll(vec![revocation(1), revocation(2)])
        ]
    );
    follower.done.push(Action::Read { request: 3, from: ReadFrom::Start });
    follower.page_only(vec![entry(3)], true);
    assert_eq!(follower.took(), [Action::ApplyAll(vec![revocation(3)]), Action::Probe { token: 4 }], "not proven yet");
    follower.now = 160;
    follower.on(Event::Answered { token: 4, answer: ProbeAnswer::Head(head("e", "h", 3)) });
    assert_eq!(
        follower.took(),
        [Action::Since(UnixTime(1_000)), Action::Fresh(at(150))],
        "what cannot be known first; proven as of the probe that followed the last page"
    );
    assert_eq!(follower.machine.phase(), Phase::Live);
}

#[test]
fn empty_log_is_complete_at_once() {
    let mut follower = Follower::new();
    follower.on(Event::Subscribed).answer(head("e", "h", 0));
    assert_eq!(follower.took(), [Action::Since(UnixTime(1_000)), Action::Fresh(at(0))]);
}

#[test]
fn log_of_expired_entries_is_complete_at_once() {
    let mut follower = Follower::new();
    follower.on(Event::Subscribed).answer(Head { empty: true, ..head("e", "h", 7) });
    assert_eq!(follower.freshened(), Some(0));
    follower.on(push("e", 7, 8));
    assert_eq!(
        (follower.machine.last(), follower.machine.counters().gaps),
        (p(8), 0),
        "and goes on from its last position"
    );
}

#[test]
fn pushes_in_order_need_no_read() {
    let mut follower = Follower::live(3);
    assert_eq!(follower.on(push("e", 3, 4)).on(push("e", 4, 5)).took(), [apply(4), apply(5)]);
    follower.after(250).answer(head("e", "h", 5));
    assert_eq!(follower.took(), [Action::Fresh(at(350))]);
}

#[test]
fn probes_are_periodic_and_never_overlap() {
    let mut follower = Follower::live(0);
    assert_eq!(follower.after(249).took(), []);
    assert_eq!(follower.after(1).took().len(), 1);
    assert_eq!(follower.after(249).took(), [], "the first one is still under way");
    assert_eq!(follower.machine.wake_ms(), Some(350 + 500));
}

#[test]
fn pushes_beyond_the_head_do_not_prevent_the_proof() {
    let mut follower = Follower::live(3);
    follower.after(250).on(push("e", 3, 4)).on(push("e", 4, 5));
    follower.done.retain(|action| matches!(action, Action::Probe { .. }));
    follower.answer(head("e", "h", 4));
    assert_eq!(follower.took(), [Action::Fresh(at(350))], "the head was read before entry 5 was appended");
}

#[test]
fn f1_next_push_reveals_a_lost_one() {
    let mut follower = Follower::live(3);
    follower.on(push("e", 4, 5));
    assert_eq!(follower.done.first(), Some(&apply(5)), "obeyed whatever it follows");
    assert_eq!(follower.machine.counters().gaps, 1);
    follower.answer(head("e", "h", 5));
    assert_eq!(follower.reading().map(|read| read.1), Some(ReadFrom::At(p(3))));
    assert_eq!(follower.freshened(), None);
    follower.page(vec![entry(3), entry(4), entry(5)], true);
    assert_eq!(follower.freshened(), Some(100));
    assert_eq!(follower.machine.last(), p(5));
}

#[test]
fn f1_probe_reveals_a_lost_last_push() {
    let mut follower = Follower::live(3);
    follower.after(250).answer(head("e", "h", 4));
    assert_eq!(follower.freshened(), None);
    assert_eq!(follower.reading().map(|read| read.1), Some(ReadFrom::At(p(3))));
    follower.page(vec![entry(3), entry(4)], true);
    assert_eq!(follower.freshened(), Some(350));
}

#[test]
fn f1_reconnect_reads_only_the_delta() {
    let mut follower = Follower::live(3);
    follower.on(Event::Disconnected);
    assert_eq!(follower.machine.phase(), Phase::Disconnected);
    assert_eq!(follower.machine.wake_ms(), None);
    follower.now = 5_000;
    follower.on(Event::Subscribed).answer(head("e", "h", 4));
    assert_eq!(follower.reading().map(|read| read.1), Some(ReadFrom::At(p(3))));
}

#[test]
fn reconnect_to_an_unchanged_log_reads_nothing() {
    let mut follower = Follower::live(3);
    follower.on(Event::Disconnected);
    follower.now = 5_000;
    follower.on(Event::Subscribed).answer(head("e", "h", 3));
    assert_eq!(follower.took(), [Action::Fresh(at(5_000))]);
}

#[test]
fn f3_two_lost_probes_close_the_connection() {
    let mut follower = Follower::live(3);
    assert_eq!(follower.after(250).took().len(), 1);
    let again = follower.after(500).took();
    assert!(matches!(again[..], [Action::Probe { .. }]), "{again:?}");
    assert_eq!(follower.after(500).took(), [Action::Reconnect]);
    assert_eq!(follower.machine.counters().probes_lost, 2);
    assert_eq!(follower.after(60_000).took(), [], "and waits for a new connection");
}

#[test]
fn slow_store_still_proves() {
    let mut follower = Follower::live(3);
    follower.after(250);
    let first = follower.probing().unwrap();
    follower.after(500);
    follower.done.clear();
    follower.now += 100;
    follower.on(Event::Answered { token: first, answer: ProbeAnswer::Head(head("e", "h", 3)) });
    assert_eq!(follower.took(), [Action::Fresh(at(350))], "as of when it was sent");
    let second = follower.after(400).took();
    assert!(matches!(second[..], [Action::Probe { .. }]), "its answer clears the count of lost ones: {second:?}");
}

#[test]
fn answer_to_an_unknown_probe_proves_nothing() {
    let mut follower = Follower::live(3);
    follower.after(250);
    let stale = follower.probing().unwrap();
    follower.on(Event::Disconnected).on(Event::Subscribed).took();
    follower.on(Event::Answered { token: stale, answer: ProbeAnswer::Head(head("e", "h", 3)) });
    assert_eq!(follower.took(), []);
}

#[test]
fn f4_refused_probe_raises_an_alarm_and_reconnects() {
    let mut follower = Follower::live(3);
    follower.after(250).answer_with(ProbeAnswer::Refused);
    assert_eq!(follower.took(), [Action::Alarm(Some(Alarm::Refused))]);
    follower.after(250).answer_with(ProbeAnswer::Refused);
    assert_eq!(follower.took(), [Action::Reconnect], "the alarm is raised once");
    follower.on(Event::Subscribed).answer(head("e", "h", 3));
    assert_eq!(follower.took(), [Action::Fresh(at(600)), Action::Alarm(None)]);
}

#[test]
fn f4_connection_without_pushes_is_never_fresh() {
    let mut follower = Follower::live(3);
    for n in 4..8 {
        follower.after(250).answer(head("e", "h", n));
        assert_eq!(follower.freshened(), None, "no push arrived, and the head moved");
        follower.page((n - 1..=n).map(entry).collect(), true);
        assert!(follower.freshened().is_some());
        follower.answer(head("e", "h", n));
    }
}

#[test]
fn f5_restarted_store_is_read_whole_and_merged() {
    let mut follower = Follower::live(3);
    follower.on(Event::Disconnected).on(Event::Subscribed).answer(head("e", "other replication_id", 3));
    assert_eq!(follower.reading().map(|read| read.1), Some(ReadFrom::Start));
    follower.page(vec![entry(1), entry(2), entry(3)], true);
    assert!(follower.freshened().is_some());
    assert!(!follower.done.iter().any(|action| matches!(action, Action::Since(_))), "the same data set");
}

#[test]
fn f6_emptied_store_proves_nothing_until_rebuilt() {
    let mut follower = Follower::live(3);
    follower.after(250).answer_with(ProbeAnswer::NoEpoch);
    assert_eq!(follower.took(), [Action::Alarm(Some(Alarm::NoEpoch))]);
    assert_eq!(follower.machine.phase(), Phase::Probing);
    follower.after(250).answer_with(ProbeAnswer::NoEpoch);
    assert_eq!(follower.took(), [], "and is asked again at the usual pace, on the same connection");
    follower.after(250).answer(Head { since: UnixTime(2_010), now: UnixTime(2_012), ..head("f", "h", 1) });
    assert_eq!(follower.reading().map(|read| read.1), Some(ReadFrom::Start));
    follower.page(vec![entry(1)], true);
    assert!(!follower.done.iter().any(|action| matches!(action, Action::Since(_))), "it was there up to the loss");
    assert!(follower.freshened().is_some());
}

#[test]
fn f6_new_follower_rejects_tokens_before_since() {
    let mut follower = Follower::live(3);
    follower.on(Event::Disconnected);
    follower.now += 120_000;
    let rebuilt = Head { since: UnixTime(2_031), now: UnixTime(2_120), ..head("f", "h2", 0) };
    follower.on(Event::Subscribed).answer(rebuilt.clone());
    assert_eq!(follower.took(), [Action::Since(UnixTime(2_031)), Action::Fresh(at(120_100))]);
    follower.after(250).answer(rebuilt);
    assert_eq!(follower.took(), [Action::Fresh(at(120_350))], "said once");
}

#[test]
fn f6_deleted_log_is_damage() {
    let mut follower = Follower::live(3);
    follower.after(250).answer_with(ProbeAnswer::LogDamaged);
    assert_eq!(follower.took(), [Action::Alarm(Some(Alarm::LogDamaged))]);
    follower.after(250).answer(head("e", "h", 4));
    follower.page(vec![], true);
    assert_eq!(follower.took(), [], "the head has entries, the log none: still the same alarm");
    assert_eq!(follower.machine.alarm(), Some(Alarm::LogDamaged));
    assert_eq!(follower.machine.phase(), Phase::Probing, "no hot loop: the next probe decides");
}

#[test]
fn f7_log_that_went_back_is_read_whole() {
    let mut follower = Follower::live(5);
    follower.after(250).answer(head("e", "h", 3));
    assert_eq!(follower.reading().map(|read| read.1), Some(ReadFrom::Start), "even if it claims the same lineage");
    follower.page(vec![entry(1), entry(2), entry(3)], true);
    assert_eq!(follower.machine.last(), p(3));
    assert!(follower.freshened().is_some());
}

#[test]
fn f7_raised_since_counts_like_a_new_data_set() {
    let mut follower = Follower::live(3);
    follower.on(Event::Disconnected);
    follower.now += 600_000;
    follower.on(Event::Subscribed).answer(Head { since: UnixTime(2_500), now: UnixTime(2_600), ..head("e", "h2", 0) });
    assert_eq!(follower.took()[0], Action::Since(UnixTime(2_500)));
}

#[test]
fn f7_restored_backup_voids_its_own_proofs() {
    let mut follower = Follower::live(3);
    follower.on(Event::Disconnected);
    follower.now += 600_000;
    let restored = |since, now| Head { since: UnixTime(since), now: UnixTime(now), ..head("e", "restored", 0) };
    follower.on(Event::Subscribed).answer(restored(1_000, 2_600));
    assert_eq!(follower.took(), [Action::Fresh(at(600_100))], "not noticed yet");
    follower.after(250).answer(restored(2_601, 2_601));
    assert_eq!(follower.took()[0], Action::Since(UnixTime(2_601)), "the last proof that counts was by another log");
}

#[test]
fn f8_repeated_position_after_failover_is_another_entry() {
    let mut follower = Follower::live(5);
    follower.on(push("e", 5, 6)).on(push("e", 6, 7)).on(push("e", 7, 8));
    follower.on(Event::Disconnected).on(Event::Subscribed);
    follower.on(push("e", 5, 6)).on(push("e", 6, 7)).on(push("e", 7, 8));
    follower.answer(head("e", "promoted", 8));
    assert_eq!(follower.freshened(), None, "the position is the same, the log is not");
    assert_eq!(follower.reading().map(|read| read.1), Some(ReadFrom::Start));
}

#[test]
fn f9_isolated_master_and_replica_prove_nothing() {
    let isolated = Role::Master { replicas_needed: 1, replicas_good: 0 };
    for (role, alarm) in [(isolated, Alarm::Isolated), (Role::Replica, Alarm::Replica)] {
        let mut follower = Follower::live(3);
        follower.after(250).answer(Head { role, ..head("e", "h", 3) });
        assert_eq!(follower.took(), [Action::Alarm(Some(alarm))]);
        follower.after(250).answer(Head { role, ..head("e", "h", 3) });
        assert_eq!(follower.took(), [Action::Reconnect], "another address may be the master now");
    }
    let enough = Role::Master { replicas_needed: 1, replicas_good: 1 };
    let mut follower = Follower::live(3);
    follower.after(250).answer(Head { role: enough, ..head("e", "h", 3) });
    assert_eq!(follower.took(), [Action::Fresh(at(350))]);
}

#[test]
fn f13_log_trimmed_past_last_is_read_whole() {
    let mut follower = Follower::live(3);
    follower.after(250).answer(head("e", "h", 9));
    follower.page(vec![entry(8), entry(9)], true);
    assert_eq!(follower.reading().map(|read| read.1), Some(ReadFrom::Start));
    assert_eq!(follower.freshened(), None);
    assert!(follower.done.iter().any(|action| matches!(action, Action::ApplyAll(held) if held.len() == 2)));
    follower.page(vec![entry(8), entry(9)], true);
    assert_eq!(follower.freshened(), Some(350));
    assert_eq!(follower.machine.last(), p(9));
}

#[test]
fn f14_duplicates_and_garbage_change_nothing() {
    let mut follower = Follower::live(3);
    follower.on(push("e", 2, 3)).on(push("e", 0, 1)).on(Event::Garbled);
    assert_eq!(follower.took(), [], "the log has shown them");
    let counters = follower.machine.counters();
    assert_eq!((counters.duplicates, counters.foreign, counters.gaps), (2, 1, 0));
    follower.after(250).answer(head("e", "h", 3));
    assert_eq!(follower.took(), [Action::Fresh(at(350))]);
}

#[test]
fn f14_push_of_another_data_set_is_applied_and_probed() {
    let mut follower = Follower::live(3);
    follower.on(push("f", 3, 4));
    assert_eq!(follower.took()[0], apply(4));
    assert_eq!(follower.machine.last(), p(3));
    assert_eq!(follower.machine.counters().gaps, 1);
}

#[test]
fn f14_unreadable_push_is_read_from_the_log() {
    let mut follower = Follower::live(3);
    let Event::Pushed(message) = push("e", 3, 4) else { unreachable!() };
    follower.on(Event::Pushed(Message { revocation: Err(EntryError::Malformed), ..message }));
    assert_eq!(follower.took(), []);
    assert_eq!(follower.machine.last(), p(3));
    follower.after(250).answer(head("e", "h", 4));
    follower.page(vec![entry(3), entry(4)], true);
    assert_eq!(follower.freshened(), Some(350), "the log had it whole");
    assert_eq!(follower.machine.counters().unreadable, 1);
}

#[test]
fn catch_up_under_load_reports_no_gap() {
    let mut follower = Follower::new();
    follower.on(Event::Subscribed);
    follower.on(push("e", 3, 4)).on(push("e", 4, 5));
    follower.answer(head("e", "h", 5));
    let first = follower.reading().unwrap().0;
    follower.on(push("e", 5, 6)).on(push("e", 6, 7));
    follower.done = vec![Action::Read { request: first, from: ReadFrom::Start }];
    follower.on(Event::Page { request: first, entries: (1..=5).map(entry).collect(), complete: false });
    assert_eq!(follower.machine.last(), p(7), "the pushes that came meanwhile follow what was read");
    follower.answer(head("e", "h", 7));
    assert_eq!(follower.freshened(), Some(0));
    assert_eq!(follower.on(push("e", 7, 8)).machine.last(), p(8));
    assert_eq!(follower.machine.counters().gaps, 0);
}

#[test]
fn pushes_before_a_new_lineage_do_not_join_it() {
    let mut follower = Follower::live(3);
    follower.on(Event::Disconnected).on(Event::Subscribed).on(push("e", 3, 4));
    follower.answer(head("e", "promoted", 4));
    follower.page(vec![entry(1), entry(2), entry(3)], false);
    assert_eq!(follower.machine.last(), p(3), "entry 4 may have been pushed by the master that is gone");
    assert_eq!(follower.freshened(), None);
}

#[test]
fn page_requested_before_a_log_change_proves_nothing() {
    let mut follower = Follower::new();
    follower.on(Event::Subscribed).answer(head("e", "h", 9));
    let old = follower.reading().unwrap().0;
    follower.after(250).answer(head("f", "h", 3));
    let new = follower.reading().unwrap().0;
    follower.done.clear();
    follower.on(Event::Page { request: old, entries: (1..=9).map(entry).collect(), complete: true });
    assert!(matches!(follower.took()[..], [Action::ApplyAll(_)]), "held, but nothing proven");
    follower.on(Event::Page { request: new, entries: (1..=3).map(entry).collect(), complete: true });
    follower.answer(head("f", "h", 3));
    assert_eq!(follower.freshened(), Some(250));
}

#[test]
fn log_replaced_during_a_read_proves_nothing() {
    let mut follower = Follower::new();
    follower.on(Event::Subscribed).answer(head("e", "h", 9));
    follower.page_only((1..=4).map(entry).collect(), false);
    // FLUSHALL; then an issuer rebuilds the data set with what it remembers, at later positions by
    // its clock.
    follower.page_only(vec![entry(20), entry(21)], true);
    assert_eq!(follower.freshened(), None, "entries 5 to 9 have never been read");
    follower.answer(Head { since: UnixTime(2_500), ..head("f", "h", 21) });
    assert_eq!(follower.reading().map(|read| read.1), Some(ReadFrom::Start));
    follower.page(vec![entry(20), entry(21)], true);
    assert!(follower.done.contains(&Action::Since(UnixTime(2_500))), "it cannot know what 5 to 9 were");
}

#[test]
fn read_resumes_after_a_cut_connection() {
    let mut follower = Follower::new();
    follower.on(Event::Subscribed).answer(head("e", "h", 9));
    follower.page((1..=4).map(entry).collect(), false);
    follower.on(Event::Disconnected).on(Event::Subscribed).answer(head("e", "h", 9));
    assert_eq!(follower.reading().map(|read| read.1), Some(ReadFrom::At(p(4))));
}

#[test]
fn unanswered_read_closes_the_connection() {
    let mut follower = Follower::new();
    follower.on(Event::Subscribed).answer(head("e", "h", 9));
    for _ in 0..39 {
        follower.after(250).answer(head("e", "h", 9));
    }
    follower.done.clear();
    assert_eq!(follower.after(250).took(), [Action::Reconnect]);
}

#[test]
fn changed_partition_count_is_an_alarm() {
    let mut follower = Follower::live(3);
    follower.after(250).answer(Head { partitions: 2, ..head("e", "h", 3) });
    assert_eq!(follower.took(), [Action::Alarm(Some(Alarm::Partitions))]);
}

#[test]
fn resumed_list_is_stale_until_proven() {
    let kept = Follower::live(3).machine.checkpoint().unwrap();
    let mut follower = Follower { machine: Machine::resume(Timing::default(), 1, kept), now: 7, ..Follower::new() };
    assert_eq!(follower.machine.fresh_as_of(), None);
    follower.on(Event::Subscribed).answer(head("e", "h", 4));
    assert_eq!(follower.reading().map(|read| read.1), Some(ReadFrom::At(p(3))));
    follower.page(vec![entry(3), entry(4)], true);
    assert_eq!(follower.freshened(), Some(7));
    assert!(!follower.done.iter().any(|action| matches!(action, Action::Since(_))), "the list kept covers it");
}
