//! Logs whose replay is not marked as done.

use super::*;

/// A head that is not settled, with `n` entries.
fn unsettled(replication_id: &str, n: u64) -> Head {
    Head { settled: false, ..head("e", replication_id, n) }
}

#[test]
fn unsettled_log_proves_nothing() {
    let mut follower = Follower::live(3);
    follower.after(250).answer(unsettled("h2", 4));
    follower.page((1..=4).map(entry).collect(), true);
    assert_eq!((follower.freshened(), follower.machine.phase()), (None, Phase::Live), "held, and not proven");
    follower.after(250).answer(unsettled("h2", 4));
    assert_eq!(follower.freshened(), None);
    assert_eq!(follower.machine.fresh_as_of(), Some(at(100)), "what was proven stays proven");
    follower.after(250).answer(head("e", "h2", 4));
    assert_eq!(follower.freshened(), Some(follower.now));
    assert!(!follower.machine.raised(Alarm::ReplayMissing));
}

#[test]
fn unsettled_log_is_accepted_after_the_wait() {
    for (mut follower, wait) in [(Follower::new(), 5_000), (Follower::live(0), 15_000)] {
        follower.on(Event::Disconnected).on(Event::Subscribed).answer(unsettled("h2", 0));
        let first = follower.now;
        while follower.now < first + wait - 250 {
            follower.after(250).answer(unsettled("h2", 0));
            assert_eq!(
                (follower.freshened(), follower.machine.raised(Alarm::ReplayMissing)),
                (None, false),
                "{}",
                follower.now
            );
        }
        follower.after(250).answer(unsettled("h2", 0));
        assert_eq!(follower.freshened(), Some(first + wait));
        assert!(follower.done.contains(&Action::Warning(Alarm::ReplayMissing, true)));
        follower.on(Event::Disconnected).on(Event::Subscribed).answer(unsettled("h2", 0));
        assert_eq!(follower.freshened(), Some(follower.now), "the wait counts from the first sight");
        follower.after(250).answer(head("e", "h2", 0));
        assert!(follower.done.contains(&Action::Warning(Alarm::ReplayMissing, false)), "it is settled after all");
    }
}

/// Another unsettled log during the wait: the wait starts again.
#[test]
fn each_unsettled_log_starts_a_new_wait() {
    let mut follower = Follower::new();
    follower.on(Event::Subscribed).answer(unsettled("h2", 0));
    follower.now += 4_900;
    follower.on(Event::Tick).answer(unsettled("h3", 0));
    follower.now += 200;
    follower.on(Event::Disconnected).on(Event::Subscribed).answer(unsettled("h3", 0));
    assert_eq!(follower.freshened(), None);
}

#[test]
fn read_whole_proves_nothing_before_the_read() {
    let mut follower = Follower::live(3);
    follower.on(Event::ReadWhole);
    assert_eq!(follower.machine.fresh_as_of(), None);
    follower.answer(head("e", "h", 3));
    assert_eq!(follower.reading().map(|(_, from)| from), Some(ReadFrom::Start));
    assert_eq!(follower.freshened(), None);
    follower.page((1..=3).map(entry).collect(), true);
    assert!(follower.freshened().is_some());
}
