//! Pushes that the log does not have: any client that may publish can forge them.

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

fn dropped(follower: &Follower) -> Vec<Push> {
    let drops = follower.done.iter().filter_map(|action| match action {
        Action::Drop(pushes) => Some(pushes.clone()),
        _ => None,
    });
    drops.flatten().collect()
}

fn confirmed(follower: &Follower) -> Vec<Push> {
    let confirms = follower.done.iter().filter_map(|action| match action {
        Action::Confirm(pushes) => Some(pushes.clone()),
        _ => None,
    });
    confirms.flatten().collect()
}

fn kept(follower: &Follower) -> Vec<Push> {
    let kept = follower.done.iter().filter_map(|action| match action {
        Action::Keep(pushes) => Some(pushes.clone()),
        _ => None,
    });
    kept.flatten().collect()
}

/// Answers the read that looks for the push, from its position on, with these entries.
fn look(follower: &mut Follower, last: u64, entries: Vec<Entry>) {
    follower.after(250).answer(head("e", "h", last));
    if follower.reading().is_none() {
        follower.after(250).answer(head("e", "h", last));
    }
    follower.page_only(entries, true);
}

#[test]
fn forged_push_is_applied_until_the_log_lacks_it() {
    for (previous, position) in [(3, 4), (3, 900), (0, 2), (70, 80)] {
        let mut follower = Follower::live(3);
        let (event, push) = forged(previous, position);
        follower.on(event);
        assert!(follower.done.iter().any(|action| matches!(action, Action::Apply { .. })), "obeyed at once");
        let rest = (position..=3).map(entry).collect();
        look(&mut follower, 3, rest);
        assert!(dropped(&follower).is_empty(), "the log may be another one by now");
        follower.after(250).answer(head("e", "h", 3));
        assert_eq!(dropped(&follower), [push], "{previous} {position}");
        assert_eq!((follower.freshened(), follower.machine.last()), (Some(follower.now), p(3)));
        assert_eq!(follower.machine.counters().forged, 1);
    }
}

#[test]
fn chained_pushes_are_confirmed_by_the_head() {
    let mut follower = Follower::live(3);
    follower.on(push("e", 3, 4)).on(push("e", 4, 5));
    follower.after(250).answer(head("e", "h", 5));
    assert_eq!(confirmed(&follower), [(p(4), revocation(4)), (p(5), revocation(5))]);
    assert_eq!(follower.reading(), None);
}

/// It claims the position of an entry, and arrives before or after the true push.
#[test]
fn forged_push_at_an_entrys_position_is_dropped() {
    for forged_first in [true, false] {
        let mut follower = Follower::live(3);
        let (event, false_one) = forged(3, 4);
        let (first, second) = if forged_first { (event, push("e", 3, 4)) } else { (push("e", 3, 4), event) };
        follower.on(first).on(second);
        look(&mut follower, 4, vec![entry(4)]);
        assert_eq!(confirmed(&follower), [(p(4), revocation(4))]);
        follower.after(250).answer(head("e", "h", 4));
        assert_eq!(dropped(&follower), [false_one]);
    }
}

/// A forged push chained onto the log does not make the machine skip later entries.
#[test]
fn forged_push_hides_no_later_entry() {
    let mut follower = Follower::live(3);
    let (event, _) = forged(3, 4);
    follower.on(event).on(push("e", 3, 5));
    follower.after(250).answer(head("e", "h", 5));
    assert_eq!(follower.reading().map(|(_, from)| from), Some(ReadFrom::At(p(4))));
    follower.page_only(vec![entry(5)], true);
    assert_eq!(
        follower.reading().map(|(_, from)| from),
        Some(ReadFrom::At(p(3))),
        "from what the log itself has shown"
    );
    follower.page_only(vec![entry(3), entry(5)], true);
    assert_eq!(confirmed(&follower), [(p(5), revocation(5))]);
}

/// A push lost by a failover stays applied: the log that it came from cannot be read any more.
#[test]
fn push_is_kept_when_log_changes_or_connection_ends() {
    let (event, push) = forged(3, 4);
    let mut failed_over = Follower::live(3);
    failed_over.on(event.clone()).after(250).answer(head("e", "h2", 3));
    assert_eq!(kept(&failed_over), std::slice::from_ref(&push));
    let mut cut = Follower::live(3);
    cut.on(event.clone()).on(Event::Disconnected);
    assert_eq!(kept(&cut), std::slice::from_ref(&push));
    let mut read_then_changed = Follower::live(3);
    read_then_changed.on(event);
    look(&mut read_then_changed, 3, vec![]);
    read_then_changed.after(250).answer(head("f", "h", 3));
    assert_eq!((kept(&read_then_changed), dropped(&read_then_changed)), (vec![push], vec![]));
}
