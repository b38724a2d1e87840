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
fn readings_are_counted() {
    let desk = Desk::live(3);
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
