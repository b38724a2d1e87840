//! Logout, in each scope.

use std::sync::Arc;

use sidegate_common::revocation::Target;
use sidegate_common::token::Rejection;

use super::world::{ADA, BOB, LIFETIMES, World, claims, ended, sid};
use crate::domain::TokenPair;
use crate::domain::logout::{EndedSession, LogoutError, PresentedTokens, Scope};
use crate::domain::refresh_token::RefreshTokenError;
use crate::domain::session::{EndOutcome, Refusal, Reuse, UserSessions};
use crate::domain::traits::Store as _;

impl World {
    pub async fn logout(
        &self,
        access: Option<&str>,
        refresh: Option<&str>,
        scope: Scope,
    ) -> Result<Vec<EndedSession>, LogoutError> {
        self.auth.logout(PresentedTokens { access, refresh }, scope, self.at()).await
    }

    async fn logout_by_access(&self, pair: &TokenPair, scope: Scope) -> Result<Vec<EndedSession>, LogoutError> {
        self.logout(Some(&pair.access_token), None, scope).await
    }

    async fn logout_by_refresh(&self, pair: &TokenPair, scope: Scope) -> Result<Vec<EndedSession>, LogoutError> {
        self.logout(None, Some(&pair.refresh_token), scope).await
    }

    async fn refreshed(&self, pair: &TokenPair) -> TokenPair {
        self.auth.refresh(&pair.refresh_token).await.unwrap().pair
    }
}

/// The result of a logout for one session.
fn one(pair: &TokenPair, outcome: EndOutcome) -> EndedSession {
    EndedSession { sid: Some(pair.sid.clone()), sub: Some(pair.sub.clone()), outcome }
}

/// The result of a logout for all sessions of a user.
fn all_of(sub: &str, outcome: EndOutcome) -> EndedSession {
    EndedSession { sid: None, sub: Some(sub.to_owned()), outcome }
}

fn by_sid(mut sessions: Vec<EndedSession>) -> Vec<EndedSession> {
    sessions.sort_by(|a, b| a.sid.cmp(&b.sid));
    sessions
}

#[tokio::test]
async fn local_logout_ends_the_session_of_the_access_token() {
    let world = World::new();
    let (pair, other) = (world.login(ADA).await, world.login(ADA).await);
    assert_eq!(world.logout_by_access(&pair, Scope::Local).await, Ok(vec![one(&pair, EndOutcome::Now)]));
    assert_eq!(world.store().targets(), [ended(&pair)]);
    assert_eq!(world.denied(&pair.access_token), Some(Rejection::Revoked));
    assert!(world.auth.refresh(&pair.refresh_token).await.is_err());
    assert_eq!(world.denied(&other.access_token), None);
}

#[tokio::test]
async fn local_logout_repeated_appends_until_the_feed_has_the_entry() {
    let world = World::new();
    let pair = world.login(ADA).await;
    world.logout_by_access(&pair, Scope::Local).await.unwrap();
    let again = Ok(vec![one(&pair, EndOutcome::Before)]);
    assert_eq!(world.logout_by_access(&pair, Scope::Local).await, again);
    assert_eq!(world.store().targets().len(), 2, "not known to be in the log");
    world.feed();
    assert_eq!(world.logout_by_access(&pair, Scope::Local).await, again);
    assert_eq!(world.store().targets().len(), 2);
}

#[tokio::test]
async fn local_logout_takes_an_expired_access_token() {
    let world = World::new();
    let pair = world.login(ADA).await;
    world.clock.advance(LIFETIMES.access_ttl + 60);
    world.feed();
    assert_eq!(world.denied(&pair.access_token), Some(Rejection::Expired));
    assert_eq!(world.logout_by_access(&pair, Scope::Local).await, Ok(vec![one(&pair, EndOutcome::Now)]));
    assert!(world.auth.refresh(&pair.refresh_token).await.is_err());
}

#[tokio::test]
async fn local_logout_covers_an_access_token_newer_than_the_record() {
    let world = World::new();
    let pair = world.login(ADA).await;
    world.store().change_session("1", &sid(&pair), |session| session.exp_max = session.created);
    world.logout_by_access(&pair, Scope::Local).await.unwrap();
    let partition = sidegate_common::revocation::SubjectTag::of("1").partition(world.store().partitions());
    let [(_, entry)] = &world.store().log(partition)[..] else { panic!("one entry") };
    assert!(entry.expires_at > claims(&pair).expires_at());
}

#[tokio::test]
async fn local_logout_ends_the_session_of_the_refresh_token_however_old() {
    let world = World::new();
    let first = world.login(ADA).await;
    let second = world.refreshed(&first).await;
    let third = world.refreshed(&second).await;
    assert_eq!(world.logout_by_refresh(&first, Scope::Local).await, Ok(vec![one(&first, EndOutcome::Now)]));
    assert_eq!(world.denied(&third.access_token), Some(Rejection::Revoked));
}

#[tokio::test]
async fn local_logout_of_a_session_that_is_gone_stores_its_revocation() {
    let world = World::new();
    let pair = world.login(ADA).await;
    world.store().lose_session("1", &sid(&pair));
    let unknown = EndedSession { sub: None, ..one(&pair, EndOutcome::Before) };
    assert_eq!(world.logout_by_refresh(&pair, Scope::Local).await, Ok(vec![unknown]));
    assert_eq!(world.store().targets(), [ended(&pair)]);
    assert_eq!(world.denied(&pair.access_token), Some(Rejection::Revoked));
}

#[tokio::test]
async fn local_logout_with_two_tokens_ends_the_session_of_each() {
    let world = World::new();
    let (ada, bob) = (world.login(ADA).await, world.login(BOB).await);
    let same = world.logout(Some(&ada.access_token), Some(&ada.refresh_token), Scope::Local).await;
    assert_eq!(same, Ok(vec![one(&ada, EndOutcome::Now)]), "both of one session");
    let again = world.login(ADA).await;
    let both = world.logout(Some(&again.access_token), Some(&bob.refresh_token), Scope::Local).await;
    assert_eq!(both, Ok(vec![one(&again, EndOutcome::Now), one(&bob, EndOutcome::Now)]));
}

#[tokio::test]
async fn logout_of_others_keeps_the_own_session() {
    let world = World::new();
    let own = world.login(ADA).await;
    let others = [world.login(ADA).await, world.login(ADA).await];
    let bob = world.login(BOB).await;
    let expected = by_sid(others.iter().map(|pair| one(pair, EndOutcome::Now)).collect());
    assert_eq!(world.logout_by_access(&own, Scope::Others).await.map(by_sid), Ok(expected));
    assert_eq!(world.store().targets().len(), 2, "one entry a session");
    assert!(others.iter().all(|pair| world.denied(&pair.access_token) == Some(Rejection::Revoked)));
    assert_eq!((world.denied(&own.access_token), world.denied(&bob.access_token)), (None, None));
    assert_eq!(world.logout_by_refresh(&own, Scope::Others).await, Ok(Vec::new()), "nothing is left to end");
}

#[tokio::test]
async fn global_logout_ends_every_session_of_the_user() {
    for by_refresh in [false, true] {
        let world = World::new();
        let (own, other, bob) = (world.login(ADA).await, world.login(ADA).await, world.login(BOB).await);
        let done = match by_refresh {
            false => world.logout_by_access(&own, Scope::Global).await,
            true => world.logout_by_refresh(&own, Scope::Global).await,
        };
        assert_eq!(done, Ok(vec![all_of("1", EndOutcome::Now)]));
        assert!(matches!(&world.store().targets()[..], [Target::Subject { sub, .. }] if &**sub == "1"));
        for pair in [&own, &other] {
            assert_eq!(world.denied(&pair.access_token), Some(Rejection::Revoked));
            assert_eq!(world.session(pair), None);
        }
        assert_eq!(world.denied(&bob.access_token), None);
    }
}

#[tokio::test]
async fn global_logout_repeated_changes_nothing() {
    let world = World::new();
    let pair = world.login(ADA).await;
    world.logout_by_access(&pair, Scope::Global).await.unwrap();
    world.feed();
    let again = world.logout_by_access(&pair, Scope::Global).await;
    assert_eq!(again, Ok(vec![all_of("1", EndOutcome::Before)]), "the answer was lost");
    assert_eq!(world.store().targets().len(), 1);
}

#[tokio::test]
async fn global_logout_of_two_users_ends_both() {
    let world = World::new();
    let (ada, bob) = (world.login(ADA).await, world.login(BOB).await);
    let both = world.logout(Some(&ada.access_token), Some(&bob.refresh_token), Scope::Global).await;
    assert_eq!(both, Ok(vec![all_of("1", EndOutcome::Now), all_of("2", EndOutcome::Now)]));
}

#[tokio::test]
async fn a_refresh_token_whose_session_is_gone_ends_only_that_session() {
    for scope in [Scope::Others, Scope::Global] {
        let world = World::new();
        let (gone, other) = (world.login(ADA).await, world.login(ADA).await);
        world.store().lose_session("1", &sid(&gone));
        let done = world.logout_by_refresh(&gone, scope).await.unwrap();
        let expected = match scope {
            Scope::Global => vec![EndedSession { sub: None, ..one(&gone, EndOutcome::Before) }],
            _ => Vec::new(),
        };
        assert_eq!(done, expected);
        assert_eq!(world.denied(&other.access_token), None);
    }
}

#[tokio::test]
async fn a_session_ended_concurrently_counts_as_gone() {
    let world = World::new();
    let (own, other) = (world.login(ADA).await, world.login(ADA).await);
    let (auth, gone) = (Arc::clone(&world.auth), sid(&own));
    world.faults.before("examine", move || auth.store.inner.lose_session("1", &gone));
    let done = world.logout_by_refresh(&own, Scope::Global).await;
    assert_eq!(done, Ok(vec![EndedSession { sub: None, ..one(&own, EndOutcome::Before) }]));
    assert_eq!(world.denied(&other.access_token), None);
}

#[tokio::test]
async fn only_a_valid_access_token_ends_other_sessions() {
    for scope in [Scope::Others, Scope::Global] {
        let world = World::new();
        let (own, other) = (world.login(ADA).await, world.login(ADA).await);
        world.logout_by_access(&own, Scope::Local).await.unwrap();
        world.feed();
        let revoked = world.logout_by_access(&own, scope).await;
        assert_eq!(revoked, Err(LogoutError::Access(Rejection::Revoked)));
        world.clock.advance(LIFETIMES.access_ttl + 60);
        world.feed();
        let expired = world.logout_by_access(&other, scope).await;
        assert_eq!(expired, Err(LogoutError::Access(Rejection::Expired)));
        assert!(world.session(&other).is_some());
    }
}

#[tokio::test]
async fn others_after_a_global_logout_are_refused() {
    let world = World::new();
    let pair = world.login(ADA).await;
    world.logout_by_access(&pair, Scope::Global).await.unwrap();
    world.feed();
    let refused = world.logout_by_access(&pair, Scope::Others).await;
    assert_eq!(refused, Err(LogoutError::Access(Rejection::Revoked)));
}

#[tokio::test]
async fn logout_succeeds_while_the_own_list_is_stale() {
    for scope in [Scope::Others, Scope::Global] {
        let world = World::new();
        let (own, other) = (world.login(ADA).await, world.login(ADA).await);
        world.clock.advance(300);
        let done = world.logout_by_access(&own, scope).await;
        assert_eq!(done.map(|sessions| sessions.len()), Ok(1));
        assert_eq!(world.denied(&other.access_token), Some(Rejection::Revoked));
    }
}

#[tokio::test]
async fn only_a_current_refresh_token_ends_other_sessions() {
    for scope in [Scope::Others, Scope::Global] {
        let world = World::new();
        let (own, other) = (world.login(ADA).await, world.login(ADA).await);
        let refreshed = world.refreshed(&own).await;
        world.clock.advance(LIFETIMES.retry_window + 1);
        let reused = LogoutError::Reused {
            sid: own.sid.clone(),
            sub: "1".to_owned(),
            reuse: Reuse { generations_old: 1, rotated_ago: LIFETIMES.retry_window + 1 },
        };
        assert_eq!(world.logout_by_refresh(&own, scope).await, Err(reused));
        assert_eq!(world.store().targets(), [ended(&own)], "its own session, and no other");
        assert_eq!(world.denied(&refreshed.access_token), Some(Rejection::Revoked));
        assert_eq!(world.denied(&other.access_token), None);
    }
}

#[tokio::test]
async fn a_refresh_token_of_an_ended_session_ends_no_others() {
    for scope in [Scope::Others, Scope::Global] {
        let world = World::new();
        let (expired, refused) = (world.login(ADA).await, |pair: &TokenPair, why| {
            Err(LogoutError::Refused { why, sid: pair.sid.clone(), sub: pair.sub.clone() })
        });
        world.clock.advance(LIFETIMES.idle_ttl);
        assert_eq!(world.logout_by_refresh(&expired, scope).await, refused(&expired, Refusal::Expired));
        let revoked = world.login(ADA).await;
        world.store().put_back_watermark("1", world.clock.now());
        assert_eq!(world.logout_by_refresh(&revoked, scope).await, refused(&revoked, Refusal::Revoked));
        assert!(world.store().targets().is_empty());
    }
}

#[tokio::test]
async fn logout_ends_nothing_unless_every_token_is_valid() {
    let world = World::new();
    let pair = world.login(ADA).await;
    let forged = format!("{}A", &pair.access_token[..pair.access_token.len() - 1]);
    let forged = if forged == pair.access_token { format!("{}Q", &forged[..forged.len() - 1]) } else { forged };
    for scope in [Scope::Local, Scope::Others, Scope::Global] {
        assert_eq!(world.logout(None, None, scope).await, Err(LogoutError::Access(Rejection::Missing)));
        let bad_access = world.logout(Some(&forged), Some(&pair.refresh_token), scope).await;
        assert!(matches!(bad_access, Err(LogoutError::Access(_))), "{bad_access:?}");
        let bad_refresh = world.logout(Some(&pair.access_token), Some("x"), scope).await;
        assert_eq!(bad_refresh, Err(LogoutError::Refresh(RefreshTokenError::Malformed)));
        let swapped = world.logout(Some(&pair.refresh_token), Some(&pair.access_token), scope).await;
        assert!(matches!(swapped, Err(LogoutError::Access(Rejection::NotCompact))), "{swapped:?}");
    }
    assert!(world.store().targets().is_empty());
    assert_eq!(world.denied(&pair.access_token), None);
}

#[tokio::test]
async fn an_unreadable_store_still_gets_the_end_request() {
    let world = World::new();
    let pair = world.login(ADA).await;
    world.faults.fail("read_session");
    let failed = world.logout_by_refresh(&pair, Scope::Local).await;
    assert!(matches!(failed, Err(LogoutError::Unavailable(_))), "503, although it was done: {failed:?}");
    assert_eq!(world.denied(&pair.access_token), Some(Rejection::Revoked));
}

#[tokio::test]
async fn global_logout_by_an_unreadable_refresh_token_ends_nothing() {
    let world = World::new();
    let (own, other) = (world.login(ADA).await, world.login(ADA).await);
    world.faults.fail("read_session");
    let failed = world.logout_by_refresh(&own, Scope::Global).await;
    assert!(matches!(failed, Err(LogoutError::Unavailable(_))), "{failed:?}");
    world.faults.heal();
    assert_eq!(world.logout_by_refresh(&own, Scope::Global).await, Ok(vec![all_of("1", EndOutcome::Now)]));
    assert_eq!(world.denied(&other.access_token), Some(Rejection::Revoked));
}

#[tokio::test]
async fn a_session_that_cannot_be_ended_does_not_block_others() {
    let world = World::new();
    let own = world.login(ADA).await;
    let others = [world.login(ADA).await, world.login(ADA).await, world.login(ADA).await];
    // Call 0 is `session_ids`.
    world.faults.fail_number(1, super::faulty::Fault::Refused);
    let failed = world.logout_by_access(&own, Scope::Others).await;
    assert!(matches!(failed, Err(LogoutError::Unavailable(_))));
    assert_eq!(world.store().targets().len(), 2);
    let again = world.logout_by_access(&own, Scope::Others).await;
    assert_eq!(again.map(|sessions| sessions.len()), Ok(1), "a retry does the rest");
    assert!(others.iter().all(|pair| world.session(pair).is_none()));
}

#[tokio::test]
async fn sessions_kept_by_a_revocation_can_be_logged_out() {
    let world = World::new();
    let pair = world.login(ADA).await;
    world.store().revoke_user("1", UserSessions::Keep).await.unwrap();
    world.feed();
    let done = world.logout_by_access(&pair, Scope::Local).await;
    assert_eq!(done, Ok(vec![one(&pair, EndOutcome::Now)]));
}
