//! A log whose replay is not marked as done.

use super::*;

/// A head that is not settled, `n` entries long.
fn unsettled(history: &str, n: u64) -> Head {
    Head { settled: false, ..head("e", history, n) }
}

#[test]
fn an_unsettled_log_proves_nothing_until_it_is_settled() {
    let mut desk = Desk::live(3);
    desk.after(250).answer(unsettled("h2", 4));
    desk.page((1..=4).map(entry).collect(), true);
    assert_eq!((desk.freshened(), desk.machine.phase()), (None, Phase::Live), "held, and not proven");
    desk.after(250).answer(unsettled("h2", 4));
    assert_eq!(desk.freshened(), None);
    assert_eq!(desk.machine.fresh_as_of(), Some(at(100)), "what was proven stays proven");
    desk.after(250).answer(head("e", "h2", 4));
    assert_eq!(desk.freshened(), Some(desk.now));
    assert!(!desk.machine.raised(Alarm::ReplayMissing));
}

#[test]
fn an_unsettled_log_is_believed_after_the_wait_with_an_alarm() {
    for (mut desk, wait) in [(Desk::new(), 5_000), (Desk::live(0), 15_000)] {
        desk.on(Event::Disconnected).on(Event::Subscribed).answer(unsettled("h2", 0));
        let first = desk.now;
        while desk.now < first + wait - 250 {
            desk.after(250).answer(unsettled("h2", 0));
            assert_eq!((desk.freshened(), desk.machine.raised(Alarm::ReplayMissing)), (None, false), "{}", desk.now);
        }
        desk.after(250).answer(unsettled("h2", 0));
        assert_eq!(desk.freshened(), Some(first + wait));
        assert!(desk.done.contains(&Action::Warning(Alarm::ReplayMissing, true)));
        desk.on(Event::Disconnected).on(Event::Subscribed).answer(unsettled("h2", 0));
        assert_eq!(desk.freshened(), Some(desk.now), "the wait counts from the first sight");
        desk.after(250).answer(head("e", "h2", 0));
        assert!(desk.done.contains(&Action::Warning(Alarm::ReplayMissing, false)), "it is settled after all");
    }
}

/// Another log while one is waited for: the wait begins anew.
#[test]
fn every_unsettled_log_is_waited_for() {
    let mut desk = Desk::new();
    desk.on(Event::Subscribed).answer(unsettled("h2", 0));
    desk.now += 4_900;
    desk.on(Event::Tick).answer(unsettled("h3", 0));
    desk.now += 200;
    desk.on(Event::Disconnected).on(Event::Subscribed).answer(unsettled("h3", 0));
    assert_eq!(desk.freshened(), None);
}

#[test]
fn reading_whole_proves_nothing_before_the_log_was_read() {
    let mut desk = Desk::live(3);
    desk.on(Event::ReadWhole);
    assert_eq!(desk.machine.fresh_as_of(), None);
    desk.answer(head("e", "h", 3));
    assert_eq!(desk.reading().map(|(_, from)| from), Some(ReadFrom::Start));
    assert_eq!(desk.freshened(), None);
    desk.page((1..=3).map(entry).collect(), true);
    assert!(desk.freshened().is_some());
}
