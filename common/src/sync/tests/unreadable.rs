//! An entry in the log that this build cannot read: nothing is proven while it stands there.

use super::*;

#[test]
fn an_unreadable_entry_in_the_log_withholds_every_proof() {
    let mut desk = Desk::live(1);
    desk.after(250).answer(head("e", "h", 3));
    desk.page(vec![entry(1), unreadable(2), entry(3)], true);
    assert_eq!(desk.freshened(), None);
    assert!(desk.done.contains(&Action::Alarm(Some(Alarm::UnreadableEntry))));
    assert!(desk.done.contains(&Action::ApplyAll(vec![revocation(1), revocation(3)])), "the readable ones are held");
    assert_eq!(desk.machine.checkpoint(), None, "a list with a hole is not kept");
    desk.answer(head("e", "h", 3));
    assert_eq!(desk.took(), [], "probed as ever, without a proof and without noise");
    for _ in 0..19 {
        desk.after(250).answer(head("e", "h", 3));
        assert_eq!(desk.took(), [], "looked at again only after a while");
    }
    desk.after(250);
    assert_eq!(desk.reading().map(|read| read.1), Some(ReadFrom::At(p(2))));
    desk.page(vec![unreadable(2), entry(3)], true);
    assert_eq!(desk.freshened(), None);
    assert_eq!(desk.machine.counters().unreadable, 1, "counted once");
}

#[test]
fn an_unreadable_entry_that_is_gone_leads_to_a_whole_reading() {
    let mut desk = Desk::live(1);
    desk.after(250).answer(head("e", "h", 3));
    desk.page(vec![entry(1), unreadable(2), entry(3)], true).answer(head("e", "h", 3));
    for _ in 0..19 {
        desk.after(250).answer(head("e", "h", 3));
    }
    desk.after(250);
    let probe = desk.probing().unwrap();
    desk.on(Event::Answered { token: probe, answer: Answer::Head(head("e", "h", 3)) });
    desk.page(vec![entry(3)], true);
    desk.answer(head("e", "h", 3));
    assert_eq!(desk.reading().map(|read| read.1), Some(ReadFrom::Start), "there may be more of them");
    desk.page(vec![entry(1), entry(3)], true);
    assert!(desk.freshened().is_some());
    assert!(desk.done.contains(&Action::Alarm(None)));
}

#[test]
fn an_answer_to_another_question_does_not_speak_of_the_entry() {
    let mut desk = Desk::live(1);
    desk.after(250).answer(head("e", "h", 2));
    desk.page(vec![entry(1), unreadable(2)], true);
    for _ in 0..20 {
        desk.after(250);
        if desk.reading().is_some() {
            break;
        }
        desk.answer(head("e", "h", 2));
    }
    let (request, _) = desk.reading().expect("it is looked at again");
    desk.done.clear();
    desk.on(Event::Page { request: request + 100, entries: vec![entry(2)], complete: true });
    assert_eq!(desk.took(), [Action::ApplyAll(vec![revocation(2)])], "held, and no more than that");
    desk.on(Event::Page { request, entries: vec![unreadable(2)], complete: true });
    assert_eq!(desk.machine.alarm(), Some(Alarm::UnreadableEntry));
}
