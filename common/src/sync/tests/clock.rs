//! A clock that is behind the store's: what the log has forgotten must not be taken for living.

use super::*;
use crate::time::CLOCK_SKEW_SECONDS;

/// The store's clock, ahead of this host's by so many seconds.
fn ahead(seconds: u64, last: u64, desk: &Desk) -> Head {
    Head { now: UnixTime(at(desk.now).wall_ms / 1000 + seconds), ..head("e", "h", last) }
}

#[test]
fn a_list_read_whole_is_not_proven_while_the_wall_clock_is_behind() {
    let mut desk = Desk::new();
    desk.on(Event::Subscribed);
    let behind = ahead(2 * CLOCK_SKEW_SECONDS + 1, 0, &desk);
    desk.answer(behind);
    assert_eq!(desk.took(), [Action::Alarm(Some(Alarm::ClockBehind))]);
    assert_eq!(desk.machine.alarm().map(Alarm::name), Some("clock_behind"));
    desk.after(250);
    let within = ahead(2 * CLOCK_SKEW_SECONDS, 0, &desk);
    desk.answer(within.clone());
    let proven = [
        Action::Time(within.now),
        Action::Warning(Alarm::ClockBehind, false),
        Action::Since(UnixTime(1_000)),
        Action::Fresh(at(250)),
        Action::Alarm(None),
    ];
    assert_eq!(
        desk.done, proven,
        "as far as two machines may differ it is right; and the time is told before anything is fresh"
    );
}

/// At any time, and not only after the log was read whole: tokens are judged by this clock.
#[test]
fn a_clock_that_is_far_off_raises_an_alarm_and_the_list_is_proven_all_the_same() {
    let mut desk = Desk::live(3);
    let raised = |desk: &Desk| (desk.machine.raised(Alarm::ClockAhead), desk.machine.raised(Alarm::ClockBehind));
    for (seconds, expected) in [(10, (false, false)), (11, (false, true)), (-11, (true, false)), (-10, (false, false))]
    {
        desk.after(250);
        let now = UnixTime((at(desk.now).wall_ms / 1000).saturating_add_signed(seconds));
        desk.answer(Head { now, ..head("e", "h", 3) });
        assert_eq!(raised(&desk), expected, "{seconds} s");
        assert!(desk.freshened().is_some() && desk.machine.alarm().is_none());
        assert!(desk.done.contains(&Action::Time(now)));
    }
}

#[test]
fn one_that_has_missed_nothing_needs_no_clock() {
    let mut desk = Desk::live(3);
    desk.after(250);
    let hour = ahead(3_600, 3, &desk);
    desk.answer(hour);
    assert_eq!(desk.took(), [Action::Fresh(at(350))]);
    desk.on(Event::Disconnected).on(Event::Subscribed);
    let hour = ahead(3_600, 4, &desk);
    desk.answer(hour.clone()).page_only(vec![entry(3), entry(4)], true);
    desk.answer(hour);
    assert!(desk.freshened().is_some(), "it went on where it was");
}

#[test]
fn a_log_trimmed_past_the_newest_entry_held_needs_the_clock_again() {
    let mut desk = Desk::live(3);
    desk.after(250);
    let hour = ahead(3_600, 9, &desk);
    desk.answer(hour.clone()).page_only(vec![entry(8), entry(9)], true);
    desk.page_only(vec![entry(8), entry(9)], true);
    desk.answer(hour);
    assert!(desk.done.contains(&Action::Alarm(Some(Alarm::ClockBehind))));
    assert_eq!(desk.freshened(), None);
}

#[test]
fn one_that_goes_on_from_disk_has_missed_nothing() {
    let mut desk = Desk::live(3);
    let kept = desk.machine.checkpoint().expect("a whole list");
    desk.machine = Machine::resume(Timing::default(), 1, kept);
    desk.on(Event::Subscribed);
    let hour = ahead(3_600, 3, &desk);
    desk.answer(hour);
    assert_eq!(desk.freshened(), Some(desk.now));
}
