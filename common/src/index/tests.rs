//! Tests of the index: each kind of entry, expiry, unconfirmed pushes.

use super::*;
use crate::claims::Audience;
use crate::log_protocol::Position;

const JTI: &str = "AAECAwQFBgcICQoLDA0ODw";
const SID: &str = "EBESExQVFhcYGRobHB0eHw";

fn claims(iat: u64) -> Claims {
    Claims {
        iss: "i".into(),
        aud: Audience::One("a".into()),
        sub: "42".into(),
        client_id: "c".into(),
        iat,
        exp: iat + 3600,
        nbf: None,
        jti: JTI.into(),
        sid: SID.into(),
        scope: None,
    }
}

fn entry(target: Target, expires_at: u64) -> Revocation {
    Revocation { target, expires_at: UnixTime(expires_at) }
}

fn token(jti: &str) -> Target {
    Target::Token { jti: Id::parse(jti).unwrap(), subject: Some(SubjectTag::of("42")) }
}

fn session(sid: &str) -> Target {
    Target::Session { sid: Id::parse(sid).unwrap(), subject: None }
}

#[test]
fn each_kind_revokes_only_its_tokens() {
    let revokes_with = |target: Target, iat: u64| {
        let index = Index::new(1);
        assert_eq!(index.apply(0, &entry(target, 9_999)), Applied::New);
        index.revokes(&claims(iat), "k1")
    };
    assert!(revokes_with(token(JTI), 1000));
    assert!(!revokes_with(token(SID), 1000), "kinds have separate name spaces");
    assert!(revokes_with(session(SID), 1000));
    assert!(!revokes_with(session(JTI), 1000));
    assert!(!revokes_with(token("order-17"), 1000));
    assert!(revokes_with(Target::Subject { sub: "42".into(), threshold: UnixTime(1000) }, 1000));
    assert!(!revokes_with(Target::Subject { sub: "42".into(), threshold: UnixTime(999) }, 1000));
    assert!(!revokes_with(Target::Subject { sub: "43".into(), threshold: UnixTime(1000) }, 1000));
    assert!(revokes_with(Target::All { threshold: UnixTime(1000) }, 1000));
    assert!(!revokes_with(Target::All { threshold: UnixTime(999) }, 1000));
    assert!(revokes_with(Target::Key { kid: "k1".into() }, 1000));
    assert!(!revokes_with(Target::Key { kid: "k2".into() }, 1000));
}

#[test]
fn text_ids_are_revoked() {
    let index = Index::new(1);
    index.apply(0, &entry(session("order-17"), 5));
    let bearer = Claims { sid: "order-17".into(), ..claims(1) };
    assert!(index.revokes(&bearer, "k"));
    assert_eq!(index.expire(UnixTime(6)).sessions.len(), 1);
    assert!(!index.revokes(&bearer, "k"));
}

#[test]
fn reapplying_keeps_the_later_expiry() {
    let index = Index::new(1);
    assert_eq!(index.apply(0, &entry(token(JTI), 100)), Applied::New);
    assert_eq!(index.apply(0, &entry(token(JTI), 200)), Applied::Known);
    assert_eq!(index.apply(0, &entry(token(JTI), 50)), Applied::Known);
    assert_eq!(index.expire(UnixTime(200)), Expired::default(), "held at its expiry");
    assert!(index.revokes(&claims(1), "k"));
    let expired = index.expire(UnixTime(201));
    assert_eq!(expired.tokens[0].subject, Some(SubjectTag::of("42")));
    assert!(!index.revokes(&claims(1), "k"));
    assert_eq!(index.counts().total(), 0);
}

#[test]
fn watermarks_only_rise() {
    let index = Index::new(1);
    let at = |threshold| Target::Subject { sub: "42".into(), threshold: UnixTime(threshold) };
    assert_eq!(index.apply(0, &entry(at(1000), 5000)), Applied::New);
    assert_eq!(index.apply(0, &entry(at(900), 5000)), Applied::Known);
    assert!(index.revokes(&claims(1000), "k"));
    assert_eq!(index.apply(0, &entry(at(1001), 5000)), Applied::New);
    assert_eq!(index.apply(0, &entry(at(1001), 5000)), Applied::Known, "known already");
    assert!(index.revokes(&claims(1001), "k"));
    assert_eq!(&*index.expire(UnixTime(5001)).subjects[0], "42");
}

#[test]
fn partitions_have_their_own_watermarks() {
    let index = Index::new(7);
    let mine = SubjectTag::of("42").partition(7);
    index.apply((mine + 1) % 7, &entry(Target::All { threshold: UnixTime(1000) }, 9999));
    assert!(!index.revokes(&claims(1000), "k"));
    assert_eq!(index.raise_complete_since(mine, UnixTime(500)), Applied::New);
    assert_eq!(index.raise_complete_since(mine, UnixTime(500)), Applied::Known, "known already");
    assert!(index.revokes(&claims(500), "k"));
    assert!(!index.revokes(&claims(501), "k"));
    assert_eq!(index.marks(mine), (UnixTime(0), UnixTime(500)));
    assert_eq!(index.raise_complete_since(99, UnixTime(500)), Applied::Known, "no such partition");
    assert_eq!(index.partitions(), 7);
}

#[test]
fn keys_and_users_are_revoked_until_expiry() {
    let index = Index::new(1);
    index.apply(0, &entry(Target::Key { kid: "k".into() }, 100));
    index.apply(0, &entry(Target::Key { kid: "k".into() }, 50));
    index.apply(0, &entry(Target::Subject { sub: "42".into(), threshold: UnixTime(9) }, 100));
    index.expire(UnixTime(100));
    assert!(index.has_key("k") && index.has_logged_out("42", UnixTime(9)), "held at their expiry");
    index.expire(UnixTime(101));
    assert!(!index.has_key("k") && !index.has_logged_out("42", UnixTime(9)));
}

#[test]
fn each_visits_every_entry() {
    let index = Index::new(1);
    let entries = [
        entry(token(JTI), 1),
        entry(session(SID), 2),
        entry(session("order-17"), 3),
        entry(Target::Subject { sub: "42".into(), threshold: UnixTime(9) }, 4),
        entry(Target::Key { kid: "k".into() }, 5),
    ];
    for entry in &entries {
        index.apply(0, entry);
    }
    let mut seen = Vec::new();
    index.each(|revocation| seen.push(revocation));
    seen.sort_by_key(|revocation| revocation.expires_at);
    assert_eq!(seen, entries);
    assert_eq!(index.counts(), IndexCounts { tokens: 1, sessions: 2, subjects: 1, keys: 1, ..IndexCounts::default() });
    assert_eq!(index.counts().total(), 5);
}

#[test]
fn unconfirmed_push_revokes_until_dropped() {
    let index = Index::new(1);
    let all = (Position { ms: 9, sequence: 0 }, entry(Target::All { threshold: UnixTime(5_000) }, 9_999));
    let mine = (Position { ms: 8, sequence: 0 }, entry(session(SID), 9_999));
    let key = (Position { ms: 7, sequence: 0 }, entry(Target::Key { kid: "k".into() }, 9_999));
    for push in [&all, &mine, &key] {
        assert_eq!(index.apply_unconfirmed(0, push), Applied::New);
        assert_eq!(index.apply_unconfirmed(0, push), Applied::Known);
    }
    assert!(index.has_key("k") && index.has_session(&Id::parse(SID).unwrap()));
    assert!(index.revokes(&claims(5_000), "-") && index.has_logged_out("43", UnixTime(5_000)));
    assert_eq!(index.marks(0).0, UnixTime(0), "not permanent");
    index.drop_unconfirmed(0, &[all, key]);
    assert!(!index.has_key("k") && !index.has_logged_out("43", UnixTime(5_000)));
    index.confirm(0, std::slice::from_ref(&mine));
    let mut apart = 0;
    index.each_unconfirmed(|_, _| apart += 1);
    assert_eq!((apart, index.counts().sessions), (0, 1));
    assert!(index.revokes(&claims(1), "-"));
    assert_eq!(index.apply_unconfirmed(0, &mine), Applied::Known, "permanent already");
}

/// Unless the log has shown an `all` or `key`, the issuer does not put it back.
#[test]
fn kept_all_and_key_are_replayed_only_once_logged() {
    let push = |sequence, target| (Position { ms: 1, sequence }, entry(target, 9_999));
    let all = push(1, Target::All { threshold: UnixTime(5_000) });
    let key = push(2, Target::Key { kid: "k".into() });
    let mine = push(3, session(SID));
    let replayed = |index: &Index| {
        let mut kinds = vec![];
        index.each_to_replay(0, |revocation| kinds.push(std::mem::discriminant(&revocation.target)));
        kinds.len()
    };
    for unconfirmed_first in [true, false] {
        let index = Index::new(1);
        let pushes = [all.clone(), key.clone(), mine.clone()];
        if unconfirmed_first {
            pushes.iter().for_each(|push| assert_eq!(index.apply_unconfirmed(0, push), Applied::New));
        }
        index.keep(0, &pushes);
        let mut apart = 0;
        index.each_unconfirmed(|_, _| apart += 1);
        assert_eq!(apart, 0);
        assert!(index.has_key("k") && index.has_logged_out("43", UnixTime(5_000)), "permanent");
        assert_eq!(replayed(&index), 1, "the session entry");
        index.apply(0, &all.1);
        index.confirm(0, std::slice::from_ref(&key));
        assert_eq!(replayed(&index), 3);
    }
}

/// Regression: a look-up missed both the index entry that was not there yet, and the push that
/// was gone already.
#[test]
fn push_stays_revoked_while_it_is_confirmed() {
    const ROUNDS: u64 = 20_000;
    let index = Index::new(1);
    let pushed = AtomicU64::new(0);
    let sid = |number: u64| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        Id::Packed(id)
    };
    let look = || {
        let mut number = 0;
        while number < ROUNDS {
            number = pushed.load(Ordering::Acquire).max(1);
            let mut claims = claims(1_000);
            claims.sid = sid(number).to_string();
            while pushed.load(Ordering::Acquire) < number {}
            while pushed.load(Ordering::Acquire) == number {
                assert!(index.revokes(&claims, "k1") && index.has_session(&sid(number)), "push {number}");
                if number == ROUNDS {
                    break;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let reader = scope.spawn(look);
        for number in 1..=ROUNDS {
            let target = Target::Session { sid: sid(number), subject: None };
            let push = (Position { ms: 1, sequence: number }, entry(target, 9_999));
            index.apply_unconfirmed(0, &push);
            pushed.store(number, Ordering::Release);
            (0..number % 512).for_each(|_| std::hint::spin_loop());
            index.confirm(0, &[push]);
            (0..256).for_each(|_| std::hint::spin_loop());
        }
        reader.join().unwrap();
    });
}

#[test]
fn has_finds_each_kind() {
    let index = Index::new(1);
    let sid = Id::parse(SID).unwrap();
    assert!(!index.has_session(&sid) && !index.has_key("k1") && !index.has_logged_out("42", UnixTime(1)));
    let hold = |target| index.apply(0, &Revocation { target, expires_at: UnixTime(u64::from(u32::MAX)) });
    hold(Target::Session { sid: sid.clone(), subject: None });
    hold(Target::Key { kid: "k1".into() });
    hold(Target::Subject { sub: "42".into(), threshold: UnixTime(100) });
    assert!(index.has_session(&sid) && index.has_key("k1") && !index.has_key("k2"));
    assert!(index.has_logged_out("42", UnixTime(100)) && !index.has_logged_out("42", UnixTime(101)));
    assert!(!index.has_logged_out("43", UnixTime(100)));
    index.raise_complete_since(0, UnixTime(200));
    assert!(!index.has_logged_out("43", UnixTime(100)), "an unknown user is not logged out");
    hold(Target::All { threshold: UnixTime(150) });
    assert!(index.has_logged_out("43", UnixTime(150)) && !index.has_logged_out("42", UnixTime(151)));
}
