//! What every session store must do, whatever it is made of.

use std::sync::atomic::{AtomicU64, Ordering};

use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::time::{REVOCATION_MARGIN_SECONDS, UnixTime};
use sidegate_common::wire::Position;
use sidegate_issuer::domain::ports::Store;
use sidegate_issuer::domain::session::{Ended, Ending, NewSession, Refusal, Rotated, Rotation, Session, Terms};

pub const TERMS: Terms =
    Terms { access_ttl: 600, idle_ttl: 3600, absolute_ttl: 7200, retry_window: 30, lifetime_max: 86_400 };

/// A store on a bench, with a clock that can be moved.
pub trait Bench {
    type Store: Store;
    fn store(&self) -> &Self::Store;
    async fn elapse(&self, seconds: u64);
    async fn log(&self, partition: u16) -> Vec<(Position, Revocation)>;
}

pub fn new_session(sub: &str) -> NewSession {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let mut sid = [7; 16];
    sid[8..].copy_from_slice(&COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    let agent = "agent \u{1F600} \"' OR 1=1; --".to_owned();
    NewSession { sid: Id::Packed(sid), sub: sub.to_owned(), address: "192.0.2.1".to_owned(), agent }
}

fn partition<B: Bench>(bench: &B, sub: &str) -> u16 {
    SubjectTag::of(sub).partition(bench.store().partitions())
}

async fn read<B: Bench>(bench: &B, new: &NewSession) -> Option<Session> {
    bench.store().read(partition(bench, &new.sub), &new.sid).await.unwrap()
}

async fn rotate<B: Bench>(bench: &B, new: &NewSession, presented: u32) -> Rotated {
    let rotation = Rotation { sid: new.sid.clone(), sub: new.sub.clone(), presented };
    bench.store().rotate(&rotation).await.unwrap()
}

fn ending<B: Bench>(bench: &B, new: &NewSession) -> Ending {
    Ending {
        sid: new.sid.clone(),
        partition: partition(bench, &new.sub),
        sub: Some(new.sub.clone()),
        subject: Some(SubjectTag::of(&new.sub)),
        exp_seen: UnixTime(0),
        known: false,
    }
}

/// The child's generation and whether it was a retry.
fn traded(rotated: Rotated) -> (u32, bool) {
    match rotated {
        Rotated::Traded { generation, retried, .. } => (generation, retried),
        other => panic!("not traded: {other:?}"),
    }
}

fn session_target(new: &NewSession) -> Target {
    Target::Session { sid: new.sid.clone(), subject: Some(SubjectTag::of(&new.sub)) }
}

pub async fn a_session_is_kept_as_it_was_made<B: Bench>(bench: &B) {
    let new = new_session("1");
    let issued = bench.store().create(&new).await.unwrap();
    let session = read(bench, &new).await.unwrap();
    assert_eq!(session, Session::new(&new, session.created, issued, &TERMS));
    assert_eq!(session.created, issued, "nothing was ever revoked");
    assert_eq!(bench.store().sessions("1").await.unwrap(), [session]);
    assert_eq!(bench.store().sessions("2").await.unwrap(), []);
    assert_eq!(bench.log(partition(bench, "1")).await, []);
    let twice = bench.store().create(&new).await;
    assert!(twice.is_err() || read(bench, &new).await.is_some(), "an id is never given to two sessions by chance");
}

pub async fn a_refresh_token_is_traded_once_and_may_be_retried<B: Bench>(bench: &B) {
    let new = new_session("1");
    bench.store().create(&new).await.unwrap();
    assert_eq!(traded(rotate(bench, &new, 0).await), (1, false));
    assert_eq!(traded(rotate(bench, &new, 0).await), (1, true), "the answer was lost: the same child again");
    assert_eq!(traded(rotate(bench, &new, 1).await), (2, false));
    assert_eq!(traded(rotate(bench, &new, 1).await), (2, true));
    assert_eq!(bench.log(partition(bench, "1")).await, []);
    assert!(matches!(rotate(bench, &new, 0).await, Rotated::Reused { generations_old: 2, .. }), "the child was used");
}

pub async fn an_old_refresh_token_kills_the_session<B: Bench>(bench: &B) {
    let new = new_session("1");
    bench.store().create(&new).await.unwrap();
    rotate(bench, &new, 0).await;
    bench.elapse(TERMS.retry_window + 1).await;
    let exp_max = read(bench, &new).await.unwrap().exp_max;
    let reused = rotate(bench, &new, 0).await;
    assert!(matches!(reused, Rotated::Reused { generations_old: 1, rotated_ago: 31..=60 }), "{reused:?}");
    assert_eq!(read(bench, &new).await, None);
    assert_eq!(bench.store().sessions("1").await.unwrap(), []);
    let log = bench.log(partition(bench, "1")).await;
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].1.target, session_target(&new));
    assert_eq!(log[0].1.expires_at, exp_max.plus(REVOCATION_MARGIN_SECONDS));
    assert_eq!(rotate(bench, &new, 1).await, Rotated::Refused(Refusal::Gone), "its last token is dead too");
}

pub async fn the_retry_window_does_not_slide<B: Bench>(bench: &B) {
    let new = new_session("1");
    bench.store().create(&new).await.unwrap();
    rotate(bench, &new, 0).await;
    bench.elapse(20).await;
    assert_eq!(traded(rotate(bench, &new, 0).await), (1, true));
    bench.elapse(20).await;
    assert!(matches!(rotate(bench, &new, 0).await, Rotated::Reused { .. }));
}

pub async fn a_generation_ahead_of_the_store_is_authentic<B: Bench>(bench: &B) {
    let new = new_session("1");
    bench.store().create(&new).await.unwrap();
    assert_eq!(traded(rotate(bench, &new, 5).await), (6, false), "a failover lost rotations");
    assert_eq!(read(bench, &new).await.unwrap().generation, 6);
    assert_eq!(traded(rotate(bench, &new, u32::MAX).await).0, u32::MAX, "the last generation there is");
}

pub async fn many_refreshes_of_one_token_have_one_child<B: Bench>(bench: &B) {
    let new = new_session("1");
    bench.store().create(&new).await.unwrap();
    let answers = futures_util::future::join_all((0..64).map(|_| rotate(bench, &new, 0))).await;
    let traded: Vec<_> = answers.into_iter().map(traded).collect();
    assert!(traded.iter().all(|(generation, _)| *generation == 1), "{traded:?}");
    assert_eq!(traded.iter().filter(|(_, retried)| !retried).count(), 1);
    assert_eq!(bench.store().sessions("1").await.unwrap().len(), 1);
}

pub async fn ending_appends_and_may_be_repeated<B: Bench>(bench: &B) {
    let new = new_session("1");
    bench.store().create(&new).await.unwrap();
    let of = partition(bench, "1");
    assert_eq!(bench.store().end(&ending(bench, &new)).await.unwrap(), Ended::Now);
    assert_eq!(read(bench, &new).await, None);
    assert_eq!(bench.log(of).await.len(), 1);
    let known = Ending { known: true, ..ending(bench, &new) };
    assert_eq!(bench.store().end(&known).await.unwrap(), Ended::Before);
    assert_eq!(bench.log(of).await.len(), 1, "the log has it");
    assert_eq!(bench.store().end(&ending(bench, &new)).await.unwrap(), Ended::Before);
    let log = bench.log(of).await;
    assert_eq!(log.len(), 2, "not known to be in the log: appended, to be sure");
    assert_eq!(log[1].1.target, session_target(&new));
    assert!(log[1].1.expires_at > log[0].1.expires_at, "for as long as any token can live");
    assert_eq!(rotate(bench, &new, 0).await, Rotated::Refused(Refusal::Gone));
}

pub async fn ending_covers_the_last_token_of_the_session<B: Bench>(bench: &B) {
    let (refreshed, seen) = (new_session("1"), new_session("1"));
    bench.store().create(&refreshed).await.unwrap();
    let issued = bench.store().create(&seen).await.unwrap();
    bench.elapse(100).await;
    rotate(bench, &refreshed, 0).await;
    let exp_max = read(bench, &refreshed).await.unwrap().exp_max;
    bench.store().end(&ending(bench, &refreshed)).await.unwrap();
    let later = issued.plus(5000);
    bench.store().end(&Ending { exp_seen: later, ..ending(bench, &seen) }).await.unwrap();
    let log = bench.log(partition(bench, "1")).await;
    assert_eq!(log[0].1.expires_at, exp_max.plus(REVOCATION_MARGIN_SECONDS));
    assert_eq!(log[1].1.expires_at, later.plus(REVOCATION_MARGIN_SECONDS), "a token the store had forgotten");
}

pub async fn a_user_can_be_logged_out_everywhere<B: Bench>(bench: &B) {
    let (first, second, other) = (new_session("1"), new_session("1"), new_session("2"));
    for new in [&first, &second, &other] {
        bench.store().create(new).await.unwrap();
    }
    let threshold = bench.store().revoke_subject("1").await.unwrap();
    assert_eq!(bench.store().sessions("1").await.unwrap(), []);
    assert!(matches!(rotate(bench, &first, 0).await, Rotated::Refused(_)));
    assert!(matches!(rotate(bench, &second, 0).await, Rotated::Refused(_)));
    assert_eq!(traded(rotate(bench, &other, 0).await), (1, false), "another user is not concerned");
    let log = bench.log(partition(bench, "1")).await;
    assert_eq!(log.last().unwrap().1.target, Target::Subject { sub: "1".into(), threshold });
    let expires_at = threshold.plus(TERMS.lifetime_max + REVOCATION_MARGIN_SECONDS);
    assert_eq!(log.last().unwrap().1.expires_at, expires_at);
    let again = new_session("1");
    assert!(bench.store().create(&again).await.unwrap() > threshold, "a new token is not born dead");
    assert_eq!(traded(rotate(bench, &again, 0).await), (1, false));
}

pub async fn kills_within_one_second_all_count<B: Bench>(bench: &B) {
    let mut last = UnixTime(0);
    for _ in 0..3 {
        let new = new_session("1");
        let issued = bench.store().create(&new).await.unwrap();
        assert!(issued > last);
        let threshold = bench.store().revoke_subject("1").await.unwrap();
        assert!(threshold >= issued, "the token made since the last kill is dead as well");
        last = threshold;
    }
    let issued = bench.store().create(&new_session("1")).await.unwrap();
    assert!(bench.store().revoke_all(partition(bench, "1")).await.unwrap() >= issued);
}

pub async fn killing_again_and_again_puts_nothing_into_the_future<B: Bench>(bench: &B) {
    let of = partition(bench, "1");
    for _ in 0..20 {
        bench.store().revoke_subject("1").await.unwrap();
        bench.store().revoke_all(of).await.unwrap();
    }
    let new = new_session("1");
    let now = || sidegate_runtime::clock::unix_now();
    let issued = bench.store().create(&new).await.unwrap();
    assert!(issued <= now(), "a token is handed out once it is valid");
    let killed = bench.store().revoke_subject("1").await.unwrap();
    assert!(killed >= issued);
    assert!(bench.store().create(&new_session("1")).await.unwrap() <= now());
    for _ in 0..3 {
        let other = new_session("2");
        bench.store().create(&other).await.unwrap();
        let killed = bench.store().revoke_all(partition(bench, "2")).await.unwrap();
        assert!(matches!(rotate(bench, &other, 0).await, Rotated::Refused(_)));
        assert!(killed <= now());
    }
}

pub async fn everybody_can_be_logged_out<B: Bench>(bench: &B) {
    let new = new_session("1");
    let of = partition(bench, "1");
    bench.store().create(&new).await.unwrap();
    let threshold = bench.store().revoke_all(of).await.unwrap();
    assert_eq!(rotate(bench, &new, 0).await, Rotated::Refused(Refusal::Revoked));
    assert_eq!(bench.store().sessions("1").await.unwrap(), []);
    assert_eq!(bench.log(of).await.last().unwrap().1.target, Target::All { threshold });
    let after = new_session("1");
    assert!(bench.store().create(&after).await.unwrap() > threshold);
    assert_eq!(bench.store().sessions("1").await.unwrap().len(), 1);
    assert!(bench.store().revoke_all(of).await.unwrap() > threshold);
}

pub async fn sessions_end_by_idling_and_by_age<B: Bench>(bench: &B) {
    let (idle, busy) = (new_session("1"), new_session("1"));
    bench.store().create(&idle).await.unwrap();
    bench.store().create(&busy).await.unwrap();
    bench.elapse(3000).await;
    assert_eq!(traded(rotate(bench, &busy, 0).await), (1, false));
    bench.elapse(700).await;
    let refused = rotate(bench, &idle, 0).await;
    assert!(matches!(refused, Rotated::Refused(Refusal::Expired | Refusal::Gone)), "idle too long: {refused:?}");
    assert_eq!(bench.store().sessions("1").await.unwrap().len(), 1);
    assert_eq!(traded(rotate(bench, &busy, 1).await), (2, false));
    bench.elapse(3400).await;
    assert_eq!(traded(rotate(bench, &busy, 2).await), (3, false));
    bench.elapse(200).await;
    let refused = rotate(bench, &busy, 3).await;
    assert!(matches!(refused, Rotated::Refused(Refusal::Expired | Refusal::Gone)), "too old: {refused:?}");
}

pub async fn entries_are_appended_in_order<B: Bench>(bench: &B) {
    for user in 0..20 {
        bench.store().revoke_subject(&user.to_string()).await.unwrap();
    }
    let mut entries = 0;
    for of in 0..bench.store().partitions() {
        let log = bench.log(of).await;
        assert!(log.windows(2).all(|pair| pair[0].0 < pair[1].0));
        entries += log.len();
    }
    assert_eq!(entries, 20);
}

pub async fn what_has_expired_is_not_appended<B: Bench>(bench: &B) {
    let key = || Target::Key { kid: "k1".into() };
    let append = async |expires_at| {
        bench.store().append(0, &Revocation { target: key(), expires_at }).await.unwrap();
    };
    append(UnixTime(1_000_000_000)).await;
    assert_eq!(bench.log(0).await, []);
    let far = UnixTime(4_000_000_000);
    append(far).await;
    append(UnixTime(0)).await;
    let log = bench.log(0).await;
    assert_eq!(log[0].1, Revocation { target: key(), expires_at: far });
    assert_eq!(log[1].1.target, key());
    assert!(log[1].1.expires_at > UnixTime(1_700_000_000 + TERMS.lifetime_max));
}
