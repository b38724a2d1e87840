//! The requirements for every session store, as tests.

use std::sync::atomic::{AtomicU64, Ordering};

use sidegate_common::log_protocol::Position;
use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::time::{REVOCATION_MARGIN_SECONDS, UnixTime};
use sidegate_issuer::domain::session::{
    EndOutcome, EndSession, NewSession, Refusal, Reuse, Rotated, Rotation, Session, Standing, TokenLifetimes,
    UserSessions,
};
use sidegate_issuer::domain::traits::Store;

pub const LIFETIMES: TokenLifetimes =
    TokenLifetimes { access_ttl: 600, idle_ttl: 3600, absolute_ttl: 7200, retry_window: 30, lifetime_max: 86_400 };

/// A store under test, with a clock that can be moved.
pub trait Bench {
    type Store: Store;
    fn store(&self) -> &Self::Store;
    /// The store's time before anything has elapsed.
    fn now(&self) -> UnixTime {
        sidegate_runtime::clock::unix_now()
    }
    async fn elapse(&self, seconds: u64);
    /// Sets a user's watermark, like a replay after a failover.
    async fn put_back_watermark(&self, sub: &str, threshold: UnixTime);
    /// Turns a session's record into one of the previous version, which kept the clock's time in
    /// `created`.
    async fn downgrade_record(&self, session: &NewSession);
    /// Makes a session look as if its last use was `seconds` earlier.
    async fn age(&self, session: &NewSession, seconds: u64);
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

async fn log_in<B: Bench>(bench: &B, new: &NewSession) -> UnixTime {
    bench.store().create(new).await.unwrap().issued
}

/// All of a user's live sessions.
async fn sessions<B: Bench>(bench: &B, sub: &str) -> Vec<Session> {
    let page = bench.store().sessions(sub, None, 1000).await.unwrap();
    assert_eq!(page.next, None);
    page.sessions
}

async fn rotate<B: Bench>(bench: &B, new: &NewSession, presented: u32) -> Rotated {
    let rotation = Rotation { sid: new.sid.clone(), sub: new.sub.clone(), presented };
    bench.store().rotate(&rotation).await.unwrap()
}

fn ending<B: Bench>(bench: &B, new: &NewSession) -> EndSession {
    EndSession {
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

pub async fn a_session_is_stored_as_created<B: Bench>(bench: &B) {
    let new = new_session("1");
    let issued = log_in(bench, &new).await;
    let session = read(bench, &new).await.unwrap();
    assert_eq!(session, Session::new(&new, session.refreshed, issued, &LIFETIMES));
    assert_eq!(session.created, issued, "nothing was ever revoked");
    assert_eq!(sessions(bench, "1").await, [session]);
    assert_eq!(sessions(bench, "2").await, []);
    assert_eq!(bench.log(partition(bench, "1")).await, []);
    let twice = bench.store().create(&new).await;
    assert!(twice.is_err() || read(bench, &new).await.is_some(), "an id is never used twice");
}

pub async fn a_refresh_token_is_traded_once_and_may_be_retried<B: Bench>(bench: &B) {
    let new = new_session("1");
    log_in(bench, &new).await;
    assert_eq!(traded(rotate(bench, &new, 0).await), (1, false));
    assert_eq!(traded(rotate(bench, &new, 0).await), (1, true), "the answer was lost: the same child again");
    assert_eq!(traded(rotate(bench, &new, 1).await), (2, false));
    assert_eq!(traded(rotate(bench, &new, 1).await), (2, true));
    assert_eq!(bench.log(partition(bench, "1")).await, []);
    assert!(
        matches!(rotate(bench, &new, 0).await, Rotated::Reused(Reuse { generations_old: 2, .. })),
        "the child was used"
    );
}

pub async fn an_old_refresh_token_kills_the_session<B: Bench>(bench: &B) {
    let new = new_session("1");
    log_in(bench, &new).await;
    rotate(bench, &new, 0).await;
    bench.elapse(LIFETIMES.retry_window + 1).await;
    let exp_max = read(bench, &new).await.unwrap().exp_max;
    let reused = rotate(bench, &new, 0).await;
    assert!(matches!(reused, Rotated::Reused(Reuse { generations_old: 1, rotated_ago: 31..=60 })), "{reused:?}");
    assert_eq!(read(bench, &new).await, None);
    assert_eq!(sessions(bench, "1").await, []);
    let log = bench.log(partition(bench, "1")).await;
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].1.target, session_target(&new));
    assert_eq!(log[0].1.expires_at, exp_max.plus(REVOCATION_MARGIN_SECONDS));
    assert_eq!(rotate(bench, &new, 1).await, Rotated::Refused(Refusal::Gone), "its last token is dead too");
}

pub async fn the_retry_window_does_not_slide<B: Bench>(bench: &B) {
    let new = new_session("1");
    log_in(bench, &new).await;
    rotate(bench, &new, 0).await;
    bench.elapse(20).await;
    assert_eq!(traded(rotate(bench, &new, 0).await), (1, true));
    bench.elapse(20).await;
    assert!(matches!(rotate(bench, &new, 0).await, Rotated::Reused(_)));
}

pub async fn a_generation_ahead_of_the_store_is_authentic<B: Bench>(bench: &B) {
    let new = new_session("1");
    log_in(bench, &new).await;
    assert_eq!(traded(rotate(bench, &new, 5).await), (6, false), "a failover lost rotations");
    assert_eq!(read(bench, &new).await.unwrap().generation, 6);
    assert_eq!(traded(rotate(bench, &new, u32::MAX).await).0, u32::MAX, "the last generation there is");
}

pub async fn many_refreshes_of_one_token_have_one_child<B: Bench>(bench: &B) {
    let new = new_session("1");
    log_in(bench, &new).await;
    let answers = futures_util::future::join_all((0..64).map(|_| rotate(bench, &new, 0))).await;
    let traded: Vec<_> = answers.into_iter().map(traded).collect();
    assert!(traded.iter().all(|(generation, _)| *generation == 1), "{traded:?}");
    assert_eq!(traded.iter().filter(|(_, retried)| !retried).count(), 1);
    assert_eq!(sessions(bench, "1").await.len(), 1);
}

pub async fn ending_appends_and_may_be_repeated<B: Bench>(bench: &B) {
    let new = new_session("1");
    log_in(bench, &new).await;
    let of = partition(bench, "1");
    assert_eq!(bench.store().end(&ending(bench, &new)).await.unwrap(), EndOutcome::Now);
    assert_eq!(read(bench, &new).await, None);
    assert_eq!(bench.log(of).await.len(), 1);
    let known = EndSession { known: true, ..ending(bench, &new) };
    assert_eq!(bench.store().end(&known).await.unwrap(), EndOutcome::Before);
    assert_eq!(bench.log(of).await.len(), 1, "the log has it");
    assert_eq!(bench.store().end(&ending(bench, &new)).await.unwrap(), EndOutcome::Before);
    let log = bench.log(of).await;
    assert_eq!(log.len(), 2, "not known to be in the log: appended, to be sure");
    assert_eq!(log[1].1.target, session_target(&new));
    assert!(log[1].1.expires_at > log[0].1.expires_at, "for as long as any token can live");
    assert_eq!(rotate(bench, &new, 0).await, Rotated::Refused(Refusal::Gone));
}

pub async fn ending_covers_the_last_token_of_the_session<B: Bench>(bench: &B) {
    let (refreshed, seen) = (new_session("1"), new_session("1"));
    log_in(bench, &refreshed).await;
    let issued = log_in(bench, &seen).await;
    bench.elapse(100).await;
    rotate(bench, &refreshed, 0).await;
    let exp_max = read(bench, &refreshed).await.unwrap().exp_max;
    bench.store().end(&ending(bench, &refreshed)).await.unwrap();
    let later = issued.plus(5000);
    bench.store().end(&EndSession { exp_seen: later, ..ending(bench, &seen) }).await.unwrap();
    let log = bench.log(partition(bench, "1")).await;
    assert_eq!(log[0].1.expires_at, exp_max.plus(REVOCATION_MARGIN_SECONDS));
    assert_eq!(log[1].1.expires_at, later.plus(REVOCATION_MARGIN_SECONDS), "a token that the store had lost");
}

pub async fn a_user_can_be_logged_out_everywhere<B: Bench>(bench: &B) {
    let (first, second, other) = (new_session("1"), new_session("1"), new_session("2"));
    for new in [&first, &second, &other] {
        log_in(bench, new).await;
    }
    let threshold = bench.store().revoke_subject("1").await.unwrap();
    assert_eq!(sessions(bench, "1").await, []);
    assert!(matches!(rotate(bench, &first, 0).await, Rotated::Refused(_)));
    assert!(matches!(rotate(bench, &second, 0).await, Rotated::Refused(_)));
    assert_eq!(traded(rotate(bench, &other, 0).await), (1, false), "another user is not affected");
    let log = bench.log(partition(bench, "1")).await;
    assert_eq!(log.last().unwrap().1.target, Target::Subject { sub: "1".into(), threshold });
    let expires_at = threshold.plus(LIFETIMES.lifetime_max + REVOCATION_MARGIN_SECONDS);
    assert_eq!(log.last().unwrap().1.expires_at, expires_at);
    let again = new_session("1");
    assert!(log_in(bench, &again).await > threshold, "a new token is valid");
    assert_eq!(traded(rotate(bench, &again, 0).await), (1, false));
}

pub async fn every_revocation_within_one_second_counts<B: Bench>(bench: &B) {
    let mut last = UnixTime(0);
    for _ in 0..3 {
        let new = new_session("1");
        let issued = log_in(bench, &new).await;
        assert!(issued > last);
        let threshold = bench.store().revoke_subject("1").await.unwrap();
        assert!(threshold >= issued, "the token issued since the last revocation is dead as well");
        last = threshold;
    }
    let issued = log_in(bench, &new_session("1")).await;
    assert!(bench.store().revoke_all(partition(bench, "1")).await.unwrap() >= issued);
}

pub async fn repeated_revocations_do_not_run_ahead_of_the_clock<B: Bench>(bench: &B) {
    let of = partition(bench, "1");
    for _ in 0..20 {
        bench.store().revoke_subject("1").await.unwrap();
        bench.store().revoke_all(of).await.unwrap();
    }
    let new = new_session("1");
    let issued = log_in(bench, &new).await;
    assert!(issued <= bench.now(), "a token is returned once it is valid");
    let killed = bench.store().revoke_subject("1").await.unwrap();
    assert!(killed >= issued);
    assert!(log_in(bench, &new_session("1")).await <= bench.now());
    for _ in 0..3 {
        let other = new_session("2");
        log_in(bench, &other).await;
        let killed = bench.store().revoke_all(partition(bench, "2")).await.unwrap();
        assert!(matches!(rotate(bench, &other, 0).await, Rotated::Refused(_)));
        assert!(killed <= bench.now());
    }
}

pub async fn all_users_can_be_logged_out<B: Bench>(bench: &B) {
    let new = new_session("1");
    let of = partition(bench, "1");
    log_in(bench, &new).await;
    let threshold = bench.store().revoke_all(of).await.unwrap();
    assert_eq!(rotate(bench, &new, 0).await, Rotated::Refused(Refusal::Revoked));
    assert_eq!(sessions(bench, "1").await, []);
    assert_eq!(bench.log(of).await.last().unwrap().1.target, Target::All { threshold });
    let after = new_session("1");
    assert!(log_in(bench, &after).await > threshold);
    assert_eq!(sessions(bench, "1").await.len(), 1);
    assert!(bench.store().revoke_all(of).await.unwrap() > threshold);
}

pub async fn sessions_end_by_idling_and_by_age<B: Bench>(bench: &B) {
    let (idle, busy) = (new_session("1"), new_session("1"));
    log_in(bench, &idle).await;
    log_in(bench, &busy).await;
    bench.elapse(3000).await;
    assert_eq!(traded(rotate(bench, &busy, 0).await), (1, false));
    bench.elapse(700).await;
    let refused = rotate(bench, &idle, 0).await;
    assert!(matches!(refused, Rotated::Refused(Refusal::Expired | Refusal::Gone)), "idle too long: {refused:?}");
    assert_eq!(sessions(bench, "1").await.len(), 1);
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

pub async fn expired_entries_are_not_appended<B: Bench>(bench: &B) {
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
    assert!(log[1].1.expires_at > UnixTime(1_700_000_000 + LIFETIMES.lifetime_max));
}

pub async fn a_refresh_does_not_make_a_session_younger<B: Bench>(bench: &B) {
    // A failover brings the session back after the revocation that ended it; a refresh must not
    // change its creation time.
    let (old, of) = (new_session("1"), partition(bench, "1"));
    log_in(bench, &old).await;
    let before = read(bench, &old).await.unwrap();
    bench.elapse(100).await;
    assert_eq!(traded(rotate(bench, &old, 0).await), (1, false));
    let after = read(bench, &old).await.unwrap();
    assert!(after.issued.0 >= after.created.0 + 100, "{after:?}");
    assert!(after.created.0 <= before.created.0, "its creation time is not later");
    bench.put_back_watermark("1", after.issued.minus(50)).await;
    assert_eq!(rotate(bench, &old, 1).await, Rotated::Refused(Refusal::Revoked));
    assert_eq!(rotation_standing(bench, &old, 1).await, Standing::Refused(Refusal::Revoked));
    assert_eq!(sessions(bench, "1").await, [], "nor is it listed");
    let new = new_session("1");
    assert!(log_in(bench, &new).await > after.issued.minus(50));
    bench.downgrade_record(&new).await;
    assert_eq!(traded(rotate(bench, &new, 0).await), (1, false), "a session created after the revocation continues");
    assert_eq!(bench.log(of).await, []);
}

async fn rotation_standing<B: Bench>(bench: &B, new: &NewSession, presented: u32) -> Standing {
    let rotation = Rotation { sid: new.sid.clone(), sub: new.sub.clone(), presented };
    bench.store().examine(&rotation).await.unwrap()
}

pub async fn sessions_can_be_kept<B: Bench>(bench: &B) {
    let (kept, of) = (new_session("1"), partition(bench, "1"));
    let issued = log_in(bench, &kept).await;
    let revoked = bench.store().revoke_user("1", UserSessions::Keep).await.unwrap();
    assert!(revoked.threshold >= issued, "its access token is dead");
    assert_eq!(revoked.sessions_ended, 0);
    let log = bench.log(of).await;
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].1.target, Target::Subject { sub: "1".into(), threshold: revoked.threshold });
    assert_eq!(sessions(bench, "1").await.len(), 1);
    match rotate(bench, &kept, 0).await {
        Rotated::Traded { generation: 1, issued, retried: false } => {
            assert!(issued > revoked.threshold, "the new token is valid");
        }
        other => panic!("the session continues: {other:?}"),
    }
    assert!(log_in(bench, &new_session("1")).await > revoked.threshold);
    let again = bench.store().revoke_user("1", UserSessions::Keep).await.unwrap();
    assert_eq!(sessions(bench, "1").await.len(), 2);
    let ended = bench.store().revoke_user("1", UserSessions::End).await.unwrap();
    assert!(ended.threshold >= again.threshold);
    assert_eq!(ended.sessions_ended, 2);
    assert!(matches!(rotate(bench, &kept, 1).await, Rotated::Refused(_)));
    let none = bench.store().revoke_user("1", UserSessions::End).await.unwrap();
    assert_eq!(none.sessions_ended, 0);
    let all = bench.store().revoke_all(of).await.unwrap();
    assert!(bench.store().revoke_user("1", UserSessions::Keep).await.unwrap().threshold >= all);
}

pub async fn a_refresh_token_is_examined_without_being_traded<B: Bench>(bench: &B) {
    let (new, of) = (new_session("1"), partition(bench, "1"));
    assert_eq!(rotation_standing(bench, &new, 0).await, Standing::Refused(Refusal::Gone));
    log_in(bench, &new).await;
    let before = read(bench, &new).await;
    assert_eq!(rotation_standing(bench, &new, 0).await, Standing::Current);
    assert_eq!(read(bench, &new).await, before, "nothing changes");
    rotate(bench, &new, 0).await;
    assert_eq!(rotation_standing(bench, &new, 0).await, Standing::Current, "in its retry window");
    assert_eq!(rotation_standing(bench, &new, 7).await, Standing::Current, "a failover lost rotations");
    rotate(bench, &new, 1).await;
    let reused = rotation_standing(bench, &new, 0).await;
    assert!(matches!(reused, Standing::Reused(Reuse { generations_old: 2, .. })), "{reused:?}");
    assert_eq!(read(bench, &new).await, None, "its session has ended");
    assert_eq!(bench.log(of).await.last().unwrap().1.target, session_target(&new));
    let (expired, others) = (new_session("1"), new_session("2"));
    log_in(bench, &expired).await;
    log_in(bench, &others).await;
    bench.elapse(LIFETIMES.idle_ttl + 1).await;
    let refused = rotation_standing(bench, &expired, 0).await;
    assert!(matches!(refused, Standing::Refused(Refusal::Expired | Refusal::Gone)), "{refused:?}");
}

/// For a store with a limit of 5 sessions per user.
pub async fn login_over_the_limit_ends_the_first_session_to_expire<B: Bench>(bench: &B) {
    let of = partition(bench, "1");
    let all: Vec<_> = (0..5).map(|_| new_session("1")).collect();
    let other = new_session("2");
    log_in(bench, &other).await;
    for new in &all {
        assert_eq!(bench.store().create(new).await.unwrap().displaced, []);
    }
    bench.age(&all[3], 100).await;
    let exp_max = read(bench, &all[3]).await.unwrap().exp_max;
    let (text, last) = (new_session("1"), NewSession { sid: Id::Text("a-sid.of-text".into()), ..new_session("1") });
    assert_eq!(bench.store().create(&last).await.unwrap().displaced, std::slice::from_ref(&all[3].sid));
    assert_eq!(read(bench, &all[3]).await, None);
    let log = bench.log(of).await;
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].1.target, session_target(&all[3]));
    assert_eq!(log[0].1.expires_at, exp_max.plus(REVOCATION_MARGIN_SECONDS));
    assert_eq!(sessions(bench, "1").await.len(), 5);
    bench.age(&last, 200).await;
    assert_eq!(bench.store().create(&text).await.unwrap().displaced, std::slice::from_ref(&last.sid));
    assert_eq!(bench.log(of).await.last().unwrap().1.target, session_target(&last), "an id that is text as well");
    assert_eq!(traded(rotate(bench, &other, 0).await), (1, false), "another user is not affected");
    assert!(matches!(rotate(bench, &all[3], 0).await, Rotated::Refused(_)));
}

pub async fn sessions_come_in_pages<B: Bench>(bench: &B) {
    let all: Vec<_> = (0..7).map(|_| new_session("1")).collect();
    for new in &all {
        log_in(bench, new).await;
    }
    bench.age(&all[0], 500).await;
    let (mut seen, mut after, mut sizes) = (Vec::new(), None, Vec::new());
    loop {
        let page = bench.store().sessions("1", after.as_ref(), 3).await.unwrap();
        sizes.push(page.sessions.len());
        seen.extend(page.sessions.into_iter().map(|session| session.sid));
        // A session that ends in the meantime does not shift the pages that follow.
        if seen.len() == 3 {
            bench.store().end(&ending(bench, all.iter().find(|new| new.sid == seen[2]).unwrap())).await.unwrap();
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(seen.last(), Some(&all[0].sid), "the first to expire comes last");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 7, "each is seen: {sizes:?}");
    let mut ids = bench.store().session_ids("1").await.unwrap();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 6);
    assert_eq!(bench.store().session_ids("2").await.unwrap(), []);
}

pub async fn a_threshold_far_ahead_of_the_clock_is_refused<B: Bench>(bench: &B) {
    let of = partition(bench, "1");
    let ahead =
        |seconds| Revocation { target: Target::All { threshold: bench.now().plus(seconds) }, expires_at: UnixTime(0) };
    assert!(bench.store().append(of, &ahead(3600)).await.is_err());
    let one = Target::Subject { sub: "1".into(), threshold: bench.now().plus(3600) };
    assert!(bench.store().append(of, &Revocation { target: one, expires_at: UnixTime(0) }).await.is_err());
    assert_eq!(bench.log(of).await, []);
    bench.store().append(of, &ahead(30)).await.unwrap();
    bench.put_back_watermark("1", bench.now().plus(3600)).await;
    assert!(bench.store().revoke_subject("1").await.is_err(), "503, and never done for what was not");
    assert!(bench.store().create(&new_session("1")).await.is_err());
    bench.put_back_watermark("2", bench.now().plus(30)).await;
    assert!(bench.store().create(&new_session("2")).await.is_err(), "no client waits that long");
    bench.store().revoke_subject("2").await.unwrap();
}
