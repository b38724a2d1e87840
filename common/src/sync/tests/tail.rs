//! Pushes ahead of `last`: how they are kept and counted, and when the machine must be woken.

use super::*;

#[test]
fn chained_pushes_join_once_the_log_reaches_them() {
    let mut follower = Follower::live(3);
    follower.on(push("e", 5, 6)).on(push("e", 6, 7)).on(push("e", 5, 6)).on(push("e", 6, 7));
    let counters = follower.machine.counters();
    assert_eq!((counters.gaps, counters.duplicates), (2, 2), "each is ahead; those that are known are duplicates");
    follower.answer(head("e", "h", 7)).page(vec![entry(3), entry(4), entry(5)], false);
    assert_eq!(follower.machine.last(), p(7), "it need not read what it was pushed");
}

#[test]
fn unchained_push_starts_a_new_tail() {
    let mut follower = Follower::live(3);
    follower.on(push("e", 5, 6)).on(push("e", 8, 9));
    assert_eq!((follower.machine.counters().gaps, follower.machine.counters().duplicates), (2, 0));
    follower.answer(head("e", "h", 9)).page_only(vec![entry(3), entry(4), entry(5)], false);
    assert_eq!(follower.machine.last(), p(5), "6 was pushed, and what came between is not known");
    follower.page_only(vec![entry(6), entry(7), entry(8)], false);
    assert_eq!(follower.machine.last(), p(9));
}

#[test]
fn tail_of_another_log_is_dropped() {
    let mut follower = Follower::live(3);
    follower.on(push("other", 5, 6)).on(push("e", 6, 7));
    follower.answer(head("e", "h", 7)).page_only(vec![entry(3), entry(4), entry(5)], false);
    assert_eq!(follower.machine.last(), p(5), "that 6 was from another log");
    let mut follower = Follower::live(3);
    follower.on(push("other", 5, 7)).on(push("e", 5, 6));
    assert_eq!(follower.machine.counters().duplicates, 0, "nor is this one known");
}

#[test]
fn reads_are_counted_and_lineage_is_reported() {
    let follower = Follower::live(3);
    assert_eq!(follower.machine.lineage(), Some(&head("e", "h", 3).lineage));
    assert_eq!(follower.machine.fresh_as_of(), Some(at(100)));
    assert_eq!((follower.machine.counters().resyncs, follower.machine.counters().full_reads), (1, 1));
}

#[test]
fn unanswered_read_wakes_the_machine() {
    let timing = Timing { probe_interval_ms: 60_000, ..Timing::default() };
    let mut follower = Follower { machine: Machine::new(timing, 1), ..Follower::new() };
    follower.on(Event::Subscribed).answer(head("e", "h", 3));
    assert_eq!(follower.machine.wake_ms(), Some(timing.read_timeout_ms));
    follower.after(timing.read_timeout_ms);
    assert!(follower.done.contains(&Action::Reconnect));
}

#[test]
fn unreadable_entry_wakes_the_machine() {
    let timing = Timing { probe_interval_ms: 60_000, ..Timing::default() };
    let mut follower = Follower { machine: Machine::new(timing, 1), ..Follower::new() };
    follower.on(Event::Subscribed).answer(head("e", "h", 2));
    follower.page(vec![entry(1), unreadable(2)], true);
    for looked in 1..4 {
        assert_eq!(
            follower.machine.wake_ms(),
            Some(looked * timing.unreadable_retry_ms),
            "after a while, and only then"
        );
        follower.done.clear();
        follower.after(timing.unreadable_retry_ms);
        assert_eq!(follower.reading().map(|read| read.1), Some(ReadFrom::At(p(2))));
        follower.page_only(vec![unreadable(2)], true);
    }
}

#[test]
fn phases_have_stable_names() {
    let mut follower = Follower::new();
    let mut names = vec![follower.machine.phase().name()];
    follower.on(Event::Subscribed);
    names.push(follower.machine.phase().name());
    follower.answer(head("e", "h", 1));
    names.push(follower.machine.phase().name());
    follower.page(vec![entry(1)], true);
    names.push(follower.machine.phase().name());
    assert_eq!(names, ["disconnected", "probing", "reading", "live"]);
}

#[test]
fn checkpoint_has_the_time_of_the_last_proof() {
    let mut follower = Follower::live(3);
    let kept = follower.machine.checkpoint().expect("a whole list");
    follower.machine = Machine::resume(Timing::default(), 1, kept);
    let since = UnixTime(2_000 + 30);
    follower.on(Event::Subscribed).answer(Head { since, ..head("another", "h", 0) });
    assert_eq!(follower.took(), [Action::Fresh(at(follower.now))], "recent acknowledgements have been replayed");
}

#[test]
fn page_that_reaches_the_head_is_the_last() {
    let mut follower = Follower::new();
    follower.on(Event::Subscribed).answer(head("e", "h", 2));
    follower.page_only(vec![entry(1), entry(2)], false);
    assert_eq!(follower.reading(), None, "whatever has been appended since");
    assert_eq!(follower.machine.phase(), Phase::Live);
}
