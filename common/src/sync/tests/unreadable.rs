//! An entry in the log that this build cannot decode: nothing is proven while the log has it.

use super::*;

#[test]
fn unreadable_entry_prevents_every_proof() {
    let mut follower = Follower::live(1);
    follower.after(250).answer(head("e", "h", 3));
    follower.page(vec![entry(1), unreadable(2), entry(3)], true);
    assert_eq!(follower.freshened(), None);
    assert!(follower.done.contains(&Action::Alarm(Some(Alarm::UnreadableEntry))));
    assert!(
        follower.done.contains(&Action::ApplyAll(vec![revocation(1), revocation(3)])),
        "the readable ones are held"
    );
    assert_eq!(follower.machine.checkpoint(), None, "a list with a hole is not kept");
    follower.answer(head("e", "h", 3));
    assert_eq!(follower.took(), [], "probed as ever, without a proof and without noise");
    for _ in 0..19 {
        follower.after(250).answer(head("e", "h", 3));
        assert_eq!(follower.took(), [], "looked at again only after a while");
    }
    follower.after(250);
    assert_eq!(follower.reading().map(|read| read.1), Some(ReadFrom::At(p(2))));
    follower.page(vec![unreadable(2), entry(3)], true);
    assert_eq!(follower.freshened(), None);
    assert_eq!(follower.machine.counters().unreadable, 1, "counted once");
}

#[test]
fn vanished_unreadable_entry_causes_a_full_read() {
    let mut follower = Follower::live(1);
    follower.after(250).answer(head("e", "h", 3));
    follower.page(vec![entry(1), unreadable(2), entry(3)], true).answer(head("e", "h", 3));
    for _ in 0..19 {
        follower.after(250).answer(head("e", "h", 3));
    }
    follower.after(250);
    let probe = follower.probing().unwrap();
    follower.on(Event::Answered { token: probe, answer: ProbeAnswer::Head(head("e", "h", 3)) });
    follower.page(vec![entry(3)], true);
    follower.answer(head("e", "h", 3));
    assert_eq!(follower.reading().map(|read| read.1), Some(ReadFrom::Start), "there may be more of them");
    follower.page(vec![entry(1), entry(3)], true);
    assert!(follower.freshened().is_some());
    assert!(follower.done.contains(&Action::Alarm(None)));
}

#[test]
fn answer_to_another_read_decides_nothing() {
    let mut follower = Follower::live(1);
    follower.after(250).answer(head("e", "h", 2));
    follower.page(vec![entry(1), unreadable(2)], true);
    for _ in 0..20 {
        follower.after(250);
        if follower.reading().is_some() {
            break;
        }
        follower.answer(head("e", "h", 2));
    }
    let (request, _) = follower.reading().expect("it is looked at again");
    follower.done.clear();
    follower.on(Event::Page { request: request + 100, entries: vec![entry(2)], complete: true });
    assert_eq!(follower.took(), [Action::ApplyAll(vec![revocation(2)])], "held, and no more than that");
    follower.on(Event::Page { request, entries: vec![unreadable(2)], complete: true });
    assert_eq!(follower.machine.alarm(), Some(Alarm::UnreadableEntry));
}
