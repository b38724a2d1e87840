//! Every transition of the machine; F-numbers are the failures of docs/protocol.md.

mod clock;
mod forged;
mod settled;
mod tail;
mod unreadable;

use super::*;
use crate::revocation::{EntryError, Id, Target};

const MASTER: Role = Role::ALONE;

fn at(ms: u64) -> Instants {
    Instants { wall_ms: 1_700_000_000_000 + ms, monotonic_ms: ms }
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

fn head(epoch: &str, history: &str, last: u64) -> Head {
    Head {
        lineage: Lineage { epoch: epoch.into(), history: history.into() },
        last: p(last),
        empty: last == 0,
        since: UnixTime(1_000),
        now: UnixTime(2_000),
        partitions: 1,
        role: MASTER,
        settled: true,
    }
}

/// A machine and its clock; what it does is kept until looked at.
struct Desk {
    machine: Machine,
    now: u64,
    done: Vec<Action>,
    /// The head that was answered last.
    head: Option<Head>,
}

impl Desk {
    fn new() -> Self {
        Self { machine: Machine::new(Timing::default(), 1), now: 0, done: Vec::new(), head: None }
    }

    /// Subscribed to epoch `e`, history `h`, holding entries up to `last`, probed at 100 and live.
    fn live(last: u64) -> Self {
        let mut desk = Self::new();
        desk.now = 100;
        desk.on(Event::Subscribed);
        desk.answer(head("e", "h", last));
        if last > 0 {
            desk.page((1..=last).map(entry).collect(), true);
        }
        assert_eq!(desk.machine.phase(), Phase::Live);
        if desk.probing().is_some() {
            desk.answer(head("e", "h", last));
        }
        desk.done.clear();
        desk
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

    /// The token of the newest probe asked for since the last look.
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
        self.answer_with(Answer::Head(head))
    }

    fn answer_with(&mut self, answer: Answer) -> &mut Self {
        let token = self.probing().expect("a probe is under way");
        self.done.clear();
        self.on(Event::Answered { token, answer })
    }

    /// Answers the newest read; and where that was all, the probe that follows, with the same head as before.
    fn page(&mut self, entries: Vec<Entry>, complete: bool) -> &mut Self {
        self.page_only(entries, complete);
        if let (Phase::Live, Some(token), Some(head)) = (self.machine.phase(), self.probing(), self.head.clone()) {
            self.on(Event::Answered { token, answer: Answer::Head(head) });
        }
        self
    }

    /// Answers the newest read.
    fn page_only(&mut self, entries: Vec<Entry>, complete: bool) -> &mut Self {
        let (request, _) = self.reading().expect("a read is under way");
        self.done.clear();
        self.on(Event::Page { request, entries, complete })
    }

    /// What it did since the last look, but for what has tests of its own: the time it told, clocks that differ, and what became
    /// of pushes.
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
fn start_reads_the_whole_log_then_proves_as_of_the_probe() {
    let mut desk = Desk::new();
    desk.now = 100;
    assert_eq!(desk.on(Event::Subscribed).took(), [Action::Probe { token: 1 }], "probed at once");
    desk.done.push(Action::Probe { token: 1 });
    desk.now = 120;
    desk.answer(head("e", "h", 3));
    assert_eq!(desk.reading(), Some((2, ReadFrom::Start)));
    assert_eq!(desk.freshened(), None, "nothing is proven before the log is read");
    desk.now = 150;
    desk.page(vec![entry(1), entry(2)], false);
    assert_eq!(
        desk.took(),
        [
            Action::Read { request: 3, from: ReadFrom::After(p(2)) },
            Action::ApplyAll(vec![revocation(1), revocation(2)])
        ]
    );
    desk.done.push(Action::Read { request: 3, from: ReadFrom::Start });
    desk.page_only(vec![entry(3)], true);
    assert_eq!(desk.took(), [Action::ApplyAll(vec![revocation(3)]), Action::Probe { token: 4 }], "not proven yet");
    desk.now = 160;
    desk.on(Event::Answered { token: 4, answer: Answer::Head(head("e", "h", 3)) });
    assert_eq!(
        desk.took(),
        [Action::Since(UnixTime(1_000)), Action::Fresh(at(150))],
        "what cannot be known first; proven as of the probe that followed the last page"
    );
    assert_eq!(desk.machine.phase(), Phase::Live);
}

#[test]
fn an_empty_log_is_complete_at_once() {
    let mut desk = Desk::new();
    desk.on(Event::Subscribed).answer(head("e", "h", 0));
    assert_eq!(desk.took(), [Action::Since(UnixTime(1_000)), Action::Fresh(at(0))]);
}

#[test]
fn a_log_whose_entries_have_all_expired_is_complete_at_once() {
    let mut desk = Desk::new();
    desk.on(Event::Subscribed).answer(Head { empty: true, ..head("e", "h", 7) });
    assert_eq!(desk.freshened(), Some(0));
    desk.on(push("e", 7, 8));
    assert_eq!((desk.machine.last(), desk.machine.counters().gaps), (p(8), 0), "and goes on from its last position");
}

#[test]
fn pushes_in_order_need_no_reading() {
    let mut desk = Desk::live(3);
    assert_eq!(desk.on(push("e", 3, 4)).on(push("e", 4, 5)).took(), [apply(4), apply(5)]);
    desk.after(250).answer(head("e", "h", 5));
    assert_eq!(desk.took(), [Action::Fresh(at(350))]);
}

#[test]
fn a_probe_follows_every_interval_and_only_one_is_under_way() {
    let mut desk = Desk::live(0);
    assert_eq!(desk.after(249).took(), []);
    assert_eq!(desk.after(1).took().len(), 1);
    assert_eq!(desk.after(249).took(), [], "the first one is still under way");
    assert_eq!(desk.machine.wake_ms(), Some(350 + 500));
}

#[test]
fn pushes_behind_the_head_that_were_already_taken_do_not_spoil_the_proof() {
    let mut desk = Desk::live(3);
    desk.after(250).on(push("e", 3, 4)).on(push("e", 4, 5));
    desk.done.retain(|action| matches!(action, Action::Probe { .. }));
    desk.answer(head("e", "h", 4));
    assert_eq!(desk.took(), [Action::Fresh(at(350))], "the head was read before entry 5 was appended");
}

#[test]
fn f1_a_lost_push_is_seen_in_the_next_one_and_read_from_the_log() {
    let mut desk = Desk::live(3);
    desk.on(push("e", 4, 5));
    assert_eq!(desk.done.first(), Some(&apply(5)), "obeyed whatever it follows");
    assert_eq!(desk.machine.counters().gaps, 1);
    desk.answer(head("e", "h", 5));
    assert_eq!(desk.reading().map(|read| read.1), Some(ReadFrom::At(p(3))));
    assert_eq!(desk.freshened(), None);
    desk.page(vec![entry(3), entry(4), entry(5)], true);
    assert_eq!(desk.freshened(), Some(100));
    assert_eq!(desk.machine.last(), p(5));
}

#[test]
fn f1_a_lost_last_push_is_seen_by_the_probe() {
    let mut desk = Desk::live(3);
    desk.after(250).answer(head("e", "h", 4));
    assert_eq!(desk.freshened(), None);
    assert_eq!(desk.reading().map(|read| read.1), Some(ReadFrom::At(p(3))));
    desk.page(vec![entry(3), entry(4)], true);
    assert_eq!(desk.freshened(), Some(350));
}

#[test]
fn f1_a_reset_connection_to_the_same_log_costs_a_delta() {
    let mut desk = Desk::live(3);
    desk.on(Event::Disconnected);
    assert_eq!(desk.machine.phase(), Phase::Disconnected);
    assert_eq!(desk.machine.wake_ms(), None);
    desk.now = 5_000;
    desk.on(Event::Subscribed).answer(head("e", "h", 4));
    assert_eq!(desk.reading().map(|read| read.1), Some(ReadFrom::At(p(3))));
}

#[test]
fn a_reset_connection_to_an_unchanged_log_costs_nothing() {
    let mut desk = Desk::live(3);
    desk.on(Event::Disconnected);
    desk.now = 5_000;
    desk.on(Event::Subscribed).answer(head("e", "h", 3));
    assert_eq!(desk.took(), [Action::Fresh(at(5_000))]);
}

#[test]
fn f3_two_lost_probes_give_the_connection_up() {
    let mut desk = Desk::live(3);
    assert_eq!(desk.after(250).took().len(), 1);
    let again = desk.after(500).took();
    assert!(matches!(again[..], [Action::Probe { .. }]), "{again:?}");
    assert_eq!(desk.after(500).took(), [Action::Reconnect]);
    assert_eq!(desk.machine.counters().probes_lost, 2);
    assert_eq!(desk.after(60_000).took(), [], "and waits for a new connection");
}

#[test]
fn a_slow_store_still_proves() {
    let mut desk = Desk::live(3);
    desk.after(250);
    let first = desk.probing().unwrap();
    desk.after(500);
    desk.done.clear();
    desk.now += 100;
    desk.on(Event::Answered { token: first, answer: Answer::Head(head("e", "h", 3)) });
    assert_eq!(desk.took(), [Action::Fresh(at(350))], "as of when it was sent");
    let second = desk.after(400).took();
    assert!(matches!(second[..], [Action::Probe { .. }]), "its answer clears the count of lost ones: {second:?}");
}

#[test]
fn an_answer_to_no_probe_of_this_connection_proves_nothing() {
    let mut desk = Desk::live(3);
    desk.after(250);
    let stale = desk.probing().unwrap();
    desk.on(Event::Disconnected).on(Event::Subscribed).took();
    desk.on(Event::Answered { token: stale, answer: Answer::Head(head("e", "h", 3)) });
    assert_eq!(desk.took(), []);
}

#[test]
fn f4_a_store_that_refuses_the_question_is_an_alarm_and_a_reconnect() {
    let mut desk = Desk::live(3);
    desk.after(250).answer_with(Answer::Refused);
    assert_eq!(desk.took(), [Action::Alarm(Some(Alarm::Refused))]);
    desk.after(250).answer_with(Answer::Refused);
    assert_eq!(desk.took(), [Action::Reconnect], "the alarm is told once");
    desk.on(Event::Subscribed).answer(head("e", "h", 3));
    assert_eq!(desk.took(), [Action::Fresh(at(600)), Action::Alarm(None)]);
}

#[test]
fn f4_deaf_but_connected_is_never_healthy() {
    let mut desk = Desk::live(3);
    for n in 4..8 {
        desk.after(250).answer(head("e", "h", n));
        assert_eq!(desk.freshened(), None, "no push arrived, and the head moved");
        desk.page((n - 1..=n).map(entry).collect(), true);
        assert!(desk.freshened().is_some());
        desk.answer(head("e", "h", n));
    }
}

#[test]
fn f5_a_restarted_store_is_read_whole_and_united() {
    let mut desk = Desk::live(3);
    desk.on(Event::Disconnected).on(Event::Subscribed).answer(head("e", "other history", 3));
    assert_eq!(desk.reading().map(|read| read.1), Some(ReadFrom::Start));
    desk.page(vec![entry(1), entry(2), entry(3)], true);
    assert!(desk.freshened().is_some());
    assert!(!desk.done.iter().any(|action| matches!(action, Action::Since(_))), "the same data set");
}

#[test]
fn f6_an_emptied_store_proves_nothing_until_it_is_rebuilt() {
    let mut desk = Desk::live(3);
    desk.after(250).answer_with(Answer::NoEpoch);
    assert_eq!(desk.took(), [Action::Alarm(Some(Alarm::NoEpoch))]);
    assert_eq!(desk.machine.phase(), Phase::Probing);
    desk.after(250).answer_with(Answer::NoEpoch);
    assert_eq!(desk.took(), [], "and is asked again at the usual pace, on the same connection");
    desk.after(250).answer(Head { since: UnixTime(2_010), now: UnixTime(2_012), ..head("f", "h", 1) });
    assert_eq!(desk.reading().map(|read| read.1), Some(ReadFrom::Start));
    desk.page(vec![entry(1)], true);
    assert!(!desk.done.iter().any(|action| matches!(action, Action::Since(_))), "it was there up to the loss");
    assert!(desk.freshened().is_some());
}

#[test]
fn f6_one_that_was_not_there_condemns_what_it_cannot_know() {
    let mut desk = Desk::live(3);
    desk.on(Event::Disconnected);
    desk.now += 120_000;
    let rebuilt = Head { since: UnixTime(2_031), now: UnixTime(2_120), ..head("f", "h2", 0) };
    desk.on(Event::Subscribed).answer(rebuilt.clone());
    assert_eq!(desk.took(), [Action::Since(UnixTime(2_031)), Action::Fresh(at(120_100))]);
    desk.after(250).answer(rebuilt);
    assert_eq!(desk.took(), [Action::Fresh(at(120_350))], "said once");
}

#[test]
fn f6_a_deleted_log_is_damage() {
    let mut desk = Desk::live(3);
    desk.after(250).answer_with(Answer::LogDamaged);
    assert_eq!(desk.took(), [Action::Alarm(Some(Alarm::LogDamaged))]);
    desk.after(250).answer(head("e", "h", 4));
    desk.page(vec![], true);
    assert_eq!(desk.took(), [], "the head has entries, the log none: still the same alarm");
    assert_eq!(desk.machine.alarm(), Some(Alarm::LogDamaged));
    assert_eq!(desk.machine.phase(), Phase::Probing, "no hot loop: the next probe decides");
}

#[test]
fn f7_a_log_that_went_back_is_read_whole() {
    let mut desk = Desk::live(5);
    desk.after(250).answer(head("e", "h", 3));
    assert_eq!(desk.reading().map(|read| read.1), Some(ReadFrom::Start), "even if it claims the same lineage");
    desk.page(vec![entry(1), entry(2), entry(3)], true);
    assert_eq!(desk.machine.last(), p(3));
    assert!(desk.freshened().is_some());
}

#[test]
fn f7_a_since_that_rose_in_the_same_data_set_counts_like_a_new_one() {
    let mut desk = Desk::live(3);
    desk.on(Event::Disconnected);
    desk.now += 600_000;
    desk.on(Event::Subscribed).answer(Head { since: UnixTime(2_500), now: UnixTime(2_600), ..head("e", "h2", 0) });
    assert_eq!(desk.took()[0], Action::Since(UnixTime(2_500)));
}

#[test]
fn f7_proofs_by_a_restored_backup_do_not_cover_what_it_had_lost() {
    let mut desk = Desk::live(3);
    desk.on(Event::Disconnected);
    desk.now += 600_000;
    let restored = |since, now| Head { since: UnixTime(since), now: UnixTime(now), ..head("e", "restored", 0) };
    desk.on(Event::Subscribed).answer(restored(1_000, 2_600));
    assert_eq!(desk.took(), [Action::Fresh(at(600_100))], "nobody has noticed yet");
    desk.after(250).answer(restored(2_601, 2_601));
    assert_eq!(desk.took()[0], Action::Since(UnixTime(2_601)), "the last proof that counts was by another log");
}

#[test]
fn f8_positions_used_again_after_a_failover_are_not_taken_for_the_old_ones() {
    let mut desk = Desk::live(5);
    desk.on(push("e", 5, 6)).on(push("e", 6, 7)).on(push("e", 7, 8));
    desk.on(Event::Disconnected).on(Event::Subscribed);
    desk.on(push("e", 5, 6)).on(push("e", 6, 7)).on(push("e", 7, 8));
    desk.answer(head("e", "promoted", 8));
    assert_eq!(desk.freshened(), None, "the position is the same, the log is not");
    assert_eq!(desk.reading().map(|read| read.1), Some(ReadFrom::Start));
}

#[test]
fn f9_an_isolated_master_and_a_replica_prove_nothing() {
    let isolated = Role::Master { replicas_needed: 1, replicas_good: 0 };
    for (role, alarm) in [(isolated, Alarm::Isolated), (Role::Replica, Alarm::Replica)] {
        let mut desk = Desk::live(3);
        desk.after(250).answer(Head { role, ..head("e", "h", 3) });
        assert_eq!(desk.took(), [Action::Alarm(Some(alarm))]);
        desk.after(250).answer(Head { role, ..head("e", "h", 3) });
        assert_eq!(desk.took(), [Action::Reconnect], "another address may be the master now");
    }
    let enough = Role::Master { replicas_needed: 1, replicas_good: 1 };
    let mut desk = Desk::live(3);
    desk.after(250).answer(Head { role: enough, ..head("e", "h", 3) });
    assert_eq!(desk.took(), [Action::Fresh(at(350))]);
}

#[test]
fn f13_a_log_trimmed_past_the_last_entry_held_is_read_whole() {
    let mut desk = Desk::live(3);
    desk.after(250).answer(head("e", "h", 9));
    desk.page(vec![entry(8), entry(9)], true);
    assert_eq!(desk.reading().map(|read| read.1), Some(ReadFrom::Start));
    assert_eq!(desk.freshened(), None);
    assert!(desk.done.iter().any(|action| matches!(action, Action::ApplyAll(held) if held.len() == 2)));
    desk.page(vec![entry(8), entry(9)], true);
    assert_eq!(desk.freshened(), Some(350));
    assert_eq!(desk.machine.last(), p(9));
}

#[test]
fn f14_duplicates_strays_and_garbage_change_nothing() {
    let mut desk = Desk::live(3);
    desk.on(push("e", 2, 3)).on(push("e", 0, 1)).on(Event::Garbled);
    assert_eq!(desk.took(), [], "the log has shown them");
    let counters = desk.machine.counters();
    assert_eq!((counters.duplicates, counters.foreign, counters.gaps), (2, 1, 0));
    desk.after(250).answer(head("e", "h", 3));
    assert_eq!(desk.took(), [Action::Fresh(at(350))]);
}

#[test]
fn f14_a_push_of_another_data_set_is_obeyed_and_probed() {
    let mut desk = Desk::live(3);
    desk.on(push("f", 3, 4));
    assert_eq!(desk.took()[0], apply(4));
    assert_eq!(desk.machine.last(), p(3));
    assert_eq!(desk.machine.counters().gaps, 1);
}

#[test]
fn f14_an_unreadable_push_is_left_to_the_log() {
    let mut desk = Desk::live(3);
    let Event::Pushed(message) = push("e", 3, 4) else { unreachable!() };
    desk.on(Event::Pushed(Message { revocation: Err(EntryError::Malformed), ..message }));
    assert_eq!(desk.took(), []);
    assert_eq!(desk.machine.last(), p(3));
    desk.after(250).answer(head("e", "h", 4));
    desk.page(vec![entry(3), entry(4)], true);
    assert_eq!(desk.freshened(), Some(350), "the log had it whole");
    assert_eq!(desk.machine.counters().unreadable, 1);
}

#[test]
fn catch_up_under_constant_load_ends_live_without_a_false_gap() {
    let mut desk = Desk::new();
    desk.on(Event::Subscribed);
    desk.on(push("e", 3, 4)).on(push("e", 4, 5));
    desk.answer(head("e", "h", 5));
    let first = desk.reading().unwrap().0;
    desk.on(push("e", 5, 6)).on(push("e", 6, 7));
    desk.done = vec![Action::Read { request: first, from: ReadFrom::Start }];
    desk.on(Event::Page { request: first, entries: (1..=5).map(entry).collect(), complete: false });
    assert_eq!(desk.machine.last(), p(7), "the pushes that came meanwhile follow what was read");
    desk.answer(head("e", "h", 7));
    assert_eq!(desk.freshened(), Some(0));
    assert_eq!(desk.on(push("e", 7, 8)).machine.last(), p(8));
    assert_eq!(desk.machine.counters().gaps, 0);
}

#[test]
fn pushes_before_a_new_lineage_was_known_do_not_join_it() {
    let mut desk = Desk::live(3);
    desk.on(Event::Disconnected).on(Event::Subscribed).on(push("e", 3, 4));
    desk.answer(head("e", "promoted", 4));
    desk.page(vec![entry(1), entry(2), entry(3)], false);
    assert_eq!(desk.machine.last(), p(3), "entry 4 may have been pushed by the master that is gone");
    assert_eq!(desk.freshened(), None);
}

#[test]
fn a_page_asked_for_before_the_log_changed_does_not_count() {
    let mut desk = Desk::new();
    desk.on(Event::Subscribed).answer(head("e", "h", 9));
    let old = desk.reading().unwrap().0;
    desk.after(250).answer(head("f", "h", 3));
    let new = desk.reading().unwrap().0;
    desk.done.clear();
    desk.on(Event::Page { request: old, entries: (1..=9).map(entry).collect(), complete: true });
    assert!(matches!(desk.took()[..], [Action::ApplyAll(_)]), "held, but nothing proven");
    desk.on(Event::Page { request: new, entries: (1..=3).map(entry).collect(), complete: true });
    desk.answer(head("f", "h", 3));
    assert_eq!(desk.freshened(), Some(250));
}

#[test]
fn a_log_that_is_replaced_while_it_is_read_is_not_taken_for_the_one_that_was_asked_about() {
    let mut desk = Desk::new();
    desk.on(Event::Subscribed).answer(head("e", "h", 9));
    desk.page_only((1..=4).map(entry).collect(), false);
    // FLUSHALL, and an issuer makes the data set anew with what it remembers, at positions that are later by its clock.
    desk.page_only(vec![entry(20), entry(21)], true);
    assert_eq!(desk.freshened(), None, "entries 5 to 9 have never been read");
    desk.answer(Head { since: UnixTime(2_500), ..head("f", "h", 21) });
    assert_eq!(desk.reading().map(|read| read.1), Some(ReadFrom::Start));
    desk.page(vec![entry(20), entry(21)], true);
    assert!(desk.done.contains(&Action::Since(UnixTime(2_500))), "it cannot know what 5 to 9 were");
}

#[test]
fn a_reading_goes_on_where_a_cut_connection_left_it() {
    let mut desk = Desk::new();
    desk.on(Event::Subscribed).answer(head("e", "h", 9));
    desk.page((1..=4).map(entry).collect(), false);
    desk.on(Event::Disconnected).on(Event::Subscribed).answer(head("e", "h", 9));
    assert_eq!(desk.reading().map(|read| read.1), Some(ReadFrom::At(p(4))));
}

#[test]
fn a_read_that_is_never_answered_gives_the_connection_up() {
    let mut desk = Desk::new();
    desk.on(Event::Subscribed).answer(head("e", "h", 9));
    for _ in 0..39 {
        desk.after(250).answer(head("e", "h", 9));
    }
    desk.done.clear();
    assert_eq!(desk.after(250).took(), [Action::Reconnect]);
}

#[test]
fn another_number_of_partitions_is_an_alarm() {
    let mut desk = Desk::live(3);
    desk.after(250).answer(Head { partitions: 2, ..head("e", "h", 3) });
    assert_eq!(desk.took(), [Action::Alarm(Some(Alarm::Partitions))]);
}

#[test]
fn a_restart_from_disk_goes_on_from_there_and_is_stale_until_proven() {
    let kept = Desk::live(3).machine.checkpoint().unwrap();
    let mut desk = Desk { machine: Machine::resume(Timing::default(), 1, kept), now: 7, ..Desk::new() };
    assert_eq!(desk.machine.fresh_as_of(), None);
    desk.on(Event::Subscribed).answer(head("e", "h", 4));
    assert_eq!(desk.reading().map(|read| read.1), Some(ReadFrom::At(p(3))));
    desk.page(vec![entry(3), entry(4)], true);
    assert_eq!(desk.freshened(), Some(7));
    assert!(!desk.done.iter().any(|action| matches!(action, Action::Since(_))), "the list kept covers it");
}
