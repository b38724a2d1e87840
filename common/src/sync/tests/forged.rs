//! Pushes that the log does not have: who may publish can forge one.

use super::*;

fn forged(previous: u64, position: u64) -> (Event, Push) {
    let revocation = Revocation {
        target: Target::All { threshold: UnixTime(u64::from(u32::MAX)) },
        expires_at: UnixTime(u64::from(u32::MAX)),
    };
    let message =
        Message { epoch: "e".into(), previous: p(previous), position: p(position), revocation: Ok(revocation.clone()) };
    (Event::Pushed(message), (p(position), revocation))
}

fn dropped(desk: &Desk) -> Vec<Push> {
    let drops = desk.done.iter().filter_map(|action| match action {
        Action::Drop(pushes) => Some(pushes.clone()),
        _ => None,
    });
    drops.flatten().collect()
}

fn confirmed(desk: &Desk) -> Vec<Push> {
    let confirms = desk.done.iter().filter_map(|action| match action {
        Action::Confirm(pushes) => Some(pushes.clone()),
        _ => None,
    });
    confirms.flatten().collect()
}

fn kept(desk: &Desk) -> Vec<Push> {
    let kept = desk.done.iter().filter_map(|action| match action {
        Action::Keep(pushes) => Some(pushes.clone()),
        _ => None,
    });
    kept.flatten().collect()
}

/// Looks for the push in the log, from its position on, and finds these entries.
fn look(desk: &mut Desk, last: u64, entries: Vec<Entry>) {
    desk.after(250).answer(head("e", "h", last));
    if desk.reading().is_none() {
        desk.after(250).answer(head("e", "h", last));
    }
    desk.page_only(entries, true);
}

#[test]
fn a_forged_push_is_obeyed_until_the_log_does_not_have_it() {
    for (previous, position) in [(3, 4), (3, 900), (0, 2), (70, 80)] {
        let mut desk = Desk::live(3);
        let (event, push) = forged(previous, position);
        desk.on(event);
        assert!(desk.done.iter().any(|action| matches!(action, Action::Apply { .. })), "obeyed at once");
        let rest = (position..=3).map(entry).collect();
        look(&mut desk, 3, rest);
        assert!(dropped(&desk).is_empty(), "the log may be another one by now");
        desk.after(250).answer(head("e", "h", 3));
        assert_eq!(dropped(&desk), [push], "{previous} {position}");
        assert_eq!((desk.freshened(), desk.machine.last()), (Some(desk.now), p(3)));
        assert_eq!(desk.machine.counters().forged, 1);
    }
}

#[test]
fn pushes_that_lead_to_the_head_are_confirmed_without_reading() {
    let mut desk = Desk::live(3);
    desk.on(push("e", 3, 4)).on(push("e", 4, 5));
    desk.after(250).answer(head("e", "h", 5));
    assert_eq!(confirmed(&desk), [(p(4), revocation(4)), (p(5), revocation(5))]);
    assert_eq!(desk.reading(), None);
}

/// It claims the place of an entry, and comes before the true push or after it.
#[test]
fn a_forged_push_in_the_place_of_an_entry_is_told_from_it() {
    for forged_first in [true, false] {
        let mut desk = Desk::live(3);
        let (event, false_one) = forged(3, 4);
        let (first, second) = if forged_first { (event, push("e", 3, 4)) } else { (push("e", 3, 4), event) };
        desk.on(first).on(second);
        look(&mut desk, 4, vec![entry(4)]);
        assert_eq!(confirmed(&desk), [(p(4), revocation(4))]);
        desk.after(250).answer(head("e", "h", 4));
        assert_eq!(dropped(&desk), [false_one]);
    }
}

/// A forged push that hangs itself onto the log moves nothing over the entries that come after it.
#[test]
fn a_forged_push_does_not_hide_the_entry_behind_it() {
    let mut desk = Desk::live(3);
    let (event, _) = forged(3, 4);
    desk.on(event).on(push("e", 3, 5));
    desk.after(250).answer(head("e", "h", 5));
    assert_eq!(desk.reading().map(|(_, from)| from), Some(ReadFrom::At(p(4))));
    desk.page_only(vec![entry(5)], true);
    assert_eq!(desk.reading().map(|(_, from)| from), Some(ReadFrom::At(p(3))), "from what the log itself has shown");
    desk.page_only(vec![entry(3), entry(5)], true);
    assert_eq!(confirmed(&desk), [(p(5), revocation(5))]);
}

/// What a failover took away stays held: the log that the push came from cannot be asked any more.
#[test]
fn a_push_is_kept_when_the_log_changes_or_the_connection_ends() {
    let (event, push) = forged(3, 4);
    let mut failed_over = Desk::live(3);
    failed_over.on(event.clone()).after(250).answer(head("e", "h2", 3));
    assert_eq!(kept(&failed_over), std::slice::from_ref(&push));
    let mut cut = Desk::live(3);
    cut.on(event.clone()).on(Event::Disconnected);
    assert_eq!(kept(&cut), std::slice::from_ref(&push));
    let mut read_then_changed = Desk::live(3);
    read_then_changed.on(event);
    look(&mut read_then_changed, 3, vec![]);
    read_then_changed.after(250).answer(head("f", "h", 3));
    assert_eq!((kept(&read_then_changed), dropped(&read_then_changed)), (vec![push], vec![]));
}
