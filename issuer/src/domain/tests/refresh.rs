//! Refresh.

use std::sync::Arc;

use sidegate_common::token::Rejection;

use super::world::{ADA, BOB, LIFETIMES, World, claims, ended, refresh_keys, sid};
use crate::domain::refresh::RefreshError;
use crate::domain::refresh_token::RefreshTokenError;
use crate::domain::session::{Refusal, Reuse};
use crate::domain::token_signer::MintError;
use crate::domain::{TokenPair, refresh::Refreshed};

impl World {
    async fn refresh(&self, pair: &TokenPair) -> Result<Refreshed, RefreshError> {
        self.auth.refresh(&pair.refresh_token).await
    }
}

fn refused(pair: &TokenPair, why: Refusal) -> RefreshError {
    RefreshError::Refused { why, sid: pair.sid.clone(), sub: Some(pair.sub.clone()) }
}

#[tokio::test]
async fn refresh_gives_a_new_pair_for_the_same_session() {
    let world = World::new();
    let first = world.login(ADA).await;
    world.clock.advance(60);
    let Refreshed { pair: second, retried } = world.refresh(&first).await.unwrap();
    assert!(!retried);
    assert_eq!((&second.sid, &second.sub), (&first.sid, &first.sub));
    assert_ne!(second.jti, first.jti);
    assert_ne!(second.refresh_token, first.refresh_token);
    assert_eq!(claims(&second).iat, claims(&first).iat + 60);
    assert_eq!(world.denied(&first.access_token), None, "a refresh revokes nothing");
    assert_eq!(world.denied(&second.access_token), None);
    assert_eq!(world.session(&first).unwrap().generation, 1);
    assert!(world.store().targets().is_empty());
}

#[tokio::test]
async fn refresh_retried_in_its_window_returns_the_same_child() {
    let world = World::new();
    let first = world.login(ADA).await;
    let second = world.refresh(&first).await.unwrap();
    world.clock.advance(LIFETIMES.retry_window);
    let again = world.refresh(&first).await.unwrap();
    assert!(again.retried);
    assert_eq!(again.pair.refresh_token, second.pair.refresh_token);
    assert_eq!(world.denied(&again.pair.access_token), None);
}

#[tokio::test]
async fn refresh_after_the_retry_window_revokes_the_session() {
    let world = World::new();
    let first = world.login(ADA).await;
    let second = world.refresh(&first).await.unwrap().pair;
    world.clock.advance(LIFETIMES.retry_window + 1);
    let reused = RefreshError::Reused {
        sid: first.sid.clone(),
        sub: "1".to_owned(),
        reuse: Reuse { generations_old: 1, rotated_ago: LIFETIMES.retry_window + 1 },
    };
    assert_eq!(world.refresh(&first).await.err(), Some(reused));
    assert_eq!(world.store().targets(), [ended(&first)]);
    assert_eq!(world.denied(&second.access_token), Some(Rejection::Revoked));
    let gone = RefreshError::Refused { why: Refusal::Gone, sid: first.sid.clone(), sub: None };
    assert_eq!(world.refresh(&second).await.err(), Some(gone));
}

#[tokio::test]
async fn reuse_is_detected_without_the_users_database() {
    let world = World::new();
    let first = world.login(ADA).await;
    let second = world.refresh(&first).await.unwrap().pair;
    world.refresh(&second).await.unwrap();
    world.faults.fail("read_user");
    let reused = world.refresh(&first).await.err();
    assert!(matches!(reused, Some(RefreshError::Reused { reuse: Reuse { generations_old: 2, .. }, .. })), "{reused:?}");
    assert_eq!(world.session(&first), None);
}

#[tokio::test]
async fn unknown_refresh_tokens_are_refused_without_the_store() {
    let world = World::new();
    let pair = world.login(ADA).await;
    let token = pair.refresh_token;
    let foreign = refresh_keys("another session secret, of more than thirty-two bytes");
    let unknown = foreign.write(&foreign.first(sidegate_common::revocation::SubjectTag::of("1"), [7; 16])).unwrap();
    // This character of the MAC encodes six whole bits, so the changed text is canonical base64url
    // as well.
    let (head, tail) = token.split_at(token.len() - 4);
    let forged = format!("{head}{}{}", if tail.starts_with('A') { 'B' } else { 'A' }, &tail[1..]);
    world.faults.calls();
    for (presented, why) in [
        ("", RefreshTokenError::Malformed),
        (&token[1..], RefreshTokenError::Malformed),
        (pair.access_token.as_str(), RefreshTokenError::Malformed),
        (&"*".repeat(token.len()), RefreshTokenError::Malformed),
        (&unknown, RefreshTokenError::UnknownKey),
        (&forged, RefreshTokenError::Forged),
    ] {
        assert_eq!(world.auth.refresh(presented).await.err(), Some(RefreshError::NotAuthentic(why)), "{presented}");
    }
    assert!(world.faults.calls().is_empty());
}

#[tokio::test]
async fn ended_sessions_are_not_refreshed() {
    let world = World::new();
    let idle = world.login(ADA).await;
    world.clock.advance(LIFETIMES.idle_ttl);
    assert_eq!(world.refresh(&idle).await.err(), Some(refused(&idle, Refusal::Expired)));
    let revoked = world.login(ADA).await;
    world.store().put_back_watermark("1", world.clock.now());
    assert_eq!(world.refresh(&revoked).await.err(), Some(refused(&revoked, Refusal::Revoked)));
    let gone = world.login(BOB).await;
    world.store().lose_session("2", &sid(&gone));
    let error = RefreshError::Refused { why: Refusal::Gone, sid: gone.sid.clone(), sub: None };
    assert_eq!(world.refresh(&gone).await.err(), Some(error));
    assert!(world.store().targets().is_empty());
}

#[tokio::test]
async fn refresh_for_a_missing_or_disabled_user_ends_the_session() {
    let world = World::new();
    let (ada, bob) = (world.login(ADA).await, world.login(BOB).await);
    world.users().change("1", |account| account.active = false);
    world.users().remove("2");
    for pair in [ada, bob] {
        let error = RefreshError::UserGone { sid: pair.sid.clone(), sub: pair.sub.clone() };
        assert_eq!(world.refresh(&pair).await.err(), Some(error));
        assert_eq!(world.session(&pair), None);
        assert!(world.store().targets().contains(&ended(&pair)));
        assert_eq!(world.denied(&pair.access_token), Some(Rejection::Revoked));
    }
}

#[tokio::test]
async fn refresh_for_a_disabled_user_ends_the_session_first() {
    let world = World::new();
    let pair = world.login(ADA).await;
    world.users().change("1", |account| account.active = false);
    world.faults.fail("end");
    assert!(matches!(world.refresh(&pair).await, Err(RefreshError::Unavailable(_))));
    world.faults.heal();
    assert!(matches!(world.refresh(&pair).await, Err(RefreshError::UserGone { .. })));
}

#[tokio::test]
async fn refresh_without_users_or_store_does_not_rotate() {
    let world = World::new();
    let pair = world.login(ADA).await;
    for call in ["read_session", "read_user", "rotate"] {
        world.faults.fail(call);
        match world.refresh(&pair).await {
            Err(RefreshError::Unavailable(error)) => assert_eq!(error.dependency, call),
            _ => panic!("{call} failed, and the refresh did not say so"),
        }
    }
    world.faults.heal();
    assert!(!world.refresh(&pair).await.unwrap().retried);
}

#[tokio::test]
async fn refresh_never_returns_another_users_token() {
    let world = World::new();
    let pair = world.login(ADA).await;
    world.users().change("1", |account| account.id = "2".to_owned());
    match world.refresh(&pair).await {
        Err(RefreshError::Unavailable(error)) => assert_eq!(error.dependency, "the users database"),
        _ => panic!("the row is of another user"),
    }
    assert!(world.session(&pair).is_some());
}

#[tokio::test]
async fn refresh_reads_the_scope_again() {
    let world = World::new();
    let pair = world.login(ADA).await;
    world.users().change("1", |account| account.scope = Some("read".to_owned()));
    let read = world.refresh(&pair).await.unwrap().pair;
    assert_eq!(claims(&read).scope.as_deref(), Some("read"));
    world.users().change("1", |account| account.scope = None);
    let none = world.refresh(&read).await.unwrap().pair;
    assert_eq!(claims(&none).scope, None);
    world.users().change("1", |account| account.scope = Some("a\"b".to_owned()));
    world.faults.calls();
    let unfit = world.refresh(&none).await.err();
    assert_eq!(unfit, Some(RefreshError::Mint(MintError::Unfit("scope"))));
    assert!(!world.faults.calls().contains(&"rotate"), "the token is not spent");
}

#[tokio::test]
async fn refresh_of_a_session_ended_concurrently_is_refused() {
    let world = World::new();
    let pair = world.login(ADA).await;
    let (auth, gone) = (Arc::clone(&world.auth), sid(&pair));
    world.faults.before("rotate", move || auth.store.inner.lose_session("1", &gone));
    assert_eq!(world.refresh(&pair).await.err(), Some(refused(&pair, Refusal::Gone)));
}

#[tokio::test]
async fn an_old_token_made_current_by_a_failover_is_refused() {
    let world = World::new();
    let first = world.login(ADA).await;
    let second = world.refresh(&first).await.unwrap().pair;
    world.refresh(&second).await.unwrap();
    let (auth, lost) = (Arc::clone(&world.auth), sid(&first));
    world
        .faults
        .before("rotate", move || auth.store.inner.change_session("1", &lost, |session| session.generation = 0));
    assert_eq!(world.refresh(&first).await.err(), Some(refused(&first, Refusal::Gone)));
}

#[tokio::test]
async fn refresh_under_a_key_removed_concurrently_fails() {
    let world = World::new();
    let pair = world.login(ADA).await;
    let auth = Arc::clone(&world.auth);
    let other = refresh_keys("another session secret, of more than thirty-two bytes");
    world.faults.before("rotate", move || auth.refresh_keys.replace(&other));
    assert_eq!(world.refresh(&pair).await.err(), Some(RefreshError::Mint(MintError::Key)));
}
