//! A clock behind the store's: tokens whose revocations the log has trimmed must not be accepted.

use super::*;
use crate::time::CLOCK_SKEW_SECONDS;

/// The head of a store whose clock is `seconds` ahead of this host's.
fn ahead(seconds: u64, last: u64, follower: &Follower) -> Head {
    Head { now: UnixTime(at(follower.now).wall_ms / 1000 + seconds), ..head("e", "h", last) }
}

#[test]
fn list_read_whole_is_not_proven_while_clock_is_behind() {
    let mut follower = Follower::new();
    follower.on(Event::Subscribed);
    let behind = ahead(2 * CLOCK_SKEW_SECONDS + 1, 0, &follower);
    follower.answer(behind);
    assert_eq!(follower.took(), [Action::Alarm(Some(Alarm::ClockBehind))]);
    assert_eq!(follower.machine.alarm().map(Alarm::name), Some("clock_behind"));
    follower.after(250);
    let within = ahead(2 * CLOCK_SKEW_SECONDS, 0, &follower);
    follower.answer(within.clone());
    let proven = [
        Action::Time(within.now),
        Action::Warning(Alarm::ClockBehind, false),
        Action::Since(UnixTime(1_000)),
        Action::Fresh(at(250)),
        Action::Alarm(None),
    ];
    assert_eq!(follower.done, proven, "within the skew the clock is right; and the store's time precedes the proof");
}

/// At any time, not only after a complete read: tokens are checked by this clock.
#[test]
fn clock_far_off_raises_an_alarm_but_proves() {
    let mut follower = Follower::live(3);
    let raised =
        |follower: &Follower| (follower.machine.raised(Alarm::ClockAhead), follower.machine.raised(Alarm::ClockBehind));
    for (seconds, expected) in [(10, (false, false)), (11, (false, true)), (-11, (true, false)), (-10, (false, false))]
    {
        follower.after(250);
        let now = UnixTime((at(follower.now).wall_ms / 1000).saturating_add_signed(seconds));
        follower.answer(Head { now, ..head("e", "h", 3) });
        assert_eq!(raised(&follower), expected, "{seconds} s");
        assert!(follower.freshened().is_some() && follower.machine.alarm().is_none());
        assert!(follower.done.contains(&Action::Time(now)));
    }
}

#[test]
fn follower_without_a_gap_proves_despite_its_clock() {
    let mut follower = Follower::live(3);
    follower.after(250);
    let hour = ahead(3_600, 3, &follower);
    follower.answer(hour);
    assert_eq!(follower.took(), [Action::Fresh(at(350))]);
    follower.on(Event::Disconnected).on(Event::Subscribed);
    let hour = ahead(3_600, 4, &follower);
    follower.answer(hour.clone()).page_only(vec![entry(3), entry(4)], true);
    follower.answer(hour);
    assert!(follower.freshened().is_some(), "it went on where it was");
}

#[test]
fn log_trimmed_past_last_needs_a_right_clock() {
    let mut follower = Follower::live(3);
    follower.after(250);
    let hour = ahead(3_600, 9, &follower);
    follower.answer(hour.clone()).page_only(vec![entry(8), entry(9)], true);
    follower.page_only(vec![entry(8), entry(9)], true);
    follower.answer(hour);
    assert!(follower.done.contains(&Action::Alarm(Some(Alarm::ClockBehind))));
    assert_eq!(follower.freshened(), None);
}

#[test]
fn resumed_follower_proves_despite_its_clock() {
    let mut follower = Follower::live(3);
    let kept = follower.machine.checkpoint().expect("a whole list");
    follower.machine = Machine::resume(Timing::default(), 1, kept);
    follower.on(Event::Subscribed);
    let hour = ahead(3_600, 3, &follower);
    follower.answer(hour);
    assert_eq!(follower.freshened(), Some(follower.now));
}
