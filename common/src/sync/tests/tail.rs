//! Pushes ahead of what is held, how they are remembered and counted, and when the machine wants to be woken.

use super::*;

#[test]
fn pushes_that_follow_each_other_are_joined_once_the_log_reaches_them() {
    let mut desk = Desk::live(3);
    desk.on(push("e", 5, 6)).on(push("e", 6, 7)).on(push("e", 5, 6)).on(push("e", 6, 7));
    let counters = desk.machine.counters();
    assert_eq!((counters.gaps, counters.duplicates), (2, 2), "each is ahead; those that are known are duplicates");
    desk.answer(head("e", "h", 7)).page(vec![entry(3), entry(4), entry(5)], false);
    assert_eq!(desk.machine.last(), p(7), "it need not read what it was pushed");
}

#[test]
fn a_push_that_does_not_follow_begins_another_tail() {
    let mut desk = Desk::live(3);
    desk.on(push("e", 5, 6)).on(push("e", 8, 9));
    assert_eq!((desk.machine.counters().gaps, desk.machine.counters().duplicates), (2, 0));
    desk.answer(head("e", "h", 9)).page_only(vec![entry(3), entry(4), entry(5)], false);
    assert_eq!(desk.machine.last(), p(5), "6 was pushed, and what came between is not known");
    desk.page_only(vec![entry(6), entry(7), entry(8)], false);
    assert_eq!(desk.machine.last(), p(9));
}

#[test]
fn a_tail_of_another_log_is_not_added_to() {
    let mut desk = Desk::live(3);
    desk.on(push("other", 5, 6)).on(push("e", 6, 7));
    desk.answer(head("e", "h", 7)).page_only(vec![entry(3), entry(4), entry(5)], false);
    assert_eq!(desk.machine.last(), p(5), "that 6 was not ours");
    let mut desk = Desk::live(3);
    desk.on(push("other", 5, 7)).on(push("e", 5, 6));
    assert_eq!(desk.machine.counters().duplicates, 0, "nor is this one known");
}

#[test]
fn readings_are_counted_and_the_log_is_named() {
    let desk = Desk::live(3);
    assert_eq!(desk.machine.lineage(), Some(&head("e", "h", 3).lineage));
    assert_eq!(desk.machine.fresh_as_of(), Some(at(100)));
    assert_eq!((desk.machine.counters().resyncs, desk.machine.counters().full_reads), (1, 1));
}

#[test]
fn an_unanswered_reading_wakes_it_even_between_rare_probes() {
    let timing = Timing { probe_interval_ms: 60_000, ..Timing::default() };
    let mut desk = Desk { machine: Machine::new(timing, 1), ..Desk::new() };
    desk.on(Event::Subscribed).answer(head("e", "h", 3));
    assert_eq!(desk.machine.wake_ms(), Some(timing.read_timeout_ms));
    desk.after(timing.read_timeout_ms);
    assert!(desk.done.contains(&Action::Reconnect));
}

#[test]
fn an_unreadable_entry_wakes_it_even_between_rare_probes() {
    let timing = Timing { probe_interval_ms: 60_000, ..Timing::default() };
    let mut desk = Desk { machine: Machine::new(timing, 1), ..Desk::new() };
    desk.on(Event::Subscribed).answer(head("e", "h", 2));
    desk.page(vec![entry(1), unreadable(2)], true);
    for looked in 1..4 {
        assert_eq!(desk.machine.wake_ms(), Some(looked * timing.unreadable_retry_ms), "after a while, and only then");
        desk.done.clear();
        desk.after(timing.unreadable_retry_ms);
        assert_eq!(desk.reading().map(|read| read.1), Some(ReadFrom::At(p(2))));
        desk.page_only(vec![unreadable(2)], true);
    }
}

#[test]
fn each_phase_has_its_name() {
    let mut desk = Desk::new();
    let mut names = vec![desk.machine.phase().name()];
    desk.on(Event::Subscribed);
    names.push(desk.machine.phase().name());
    desk.answer(head("e", "h", 1));
    names.push(desk.machine.phase().name());
    desk.page(vec![entry(1)], true);
    names.push(desk.machine.phase().name());
    assert_eq!(names, ["disconnected", "probing", "reading", "live"]);
}

#[test]
fn one_that_goes_on_from_disk_knows_until_when_it_knew_everything() {
    let mut desk = Desk::live(3);
    let kept = desk.machine.checkpoint().expect("a whole list");
    desk.machine = Machine::resume(Timing::default(), 1, kept);
    let since = UnixTime(2_000 + 30);
    desk.on(Event::Subscribed).answer(Head { since, ..head("another", "h", 0) });
    assert_eq!(desk.took(), [Action::Fresh(at(desk.now))], "what was acknowledged lately has been replayed");
}

#[test]
fn a_page_that_reaches_the_head_is_the_last_one() {
    let mut desk = Desk::new();
    desk.on(Event::Subscribed).answer(head("e", "h", 2));
    desk.page_only(vec![entry(1), entry(2)], false);
    assert_eq!(desk.reading(), None, "whatever has been appended since");
    assert_eq!(desk.machine.phase(), Phase::Live);
}
