//! A user's live sessions: list them, end one.

use sidegate_common::token::Rejection;

use super::world::{ADA, BOB, LIFETIMES, World, ended, sid};
use crate::domain::logout::EndedSession;
use crate::domain::session::EndOutcome;

#[tokio::test]
async fn sessions_are_listed_most_recently_used_first() {
    let world = World::new();
    let mut pair = Vec::new();
    for _ in 0..3 {
        pair.push(world.login(ADA).await);
        world.clock.advance(10);
    }
    world.login(BOB).await;
    world.auth.refresh(&pair[0].refresh_token).await.unwrap();
    let page = world.auth.sessions("1", None, 100).await.unwrap();
    let listed: Vec<_> = page.sessions.iter().map(|session| session.sid.to_string()).collect();
    assert_eq!(listed, [&*pair[0].sid, &*pair[2].sid, &*pair[1].sid]);
    assert_eq!(page.next, None);
    assert_eq!(page.sessions[0].refreshed, world.clock.now());
    assert!(world.auth.sessions("3", None, 100).await.unwrap().sessions.is_empty());
}

#[tokio::test]
async fn sessions_are_listed_in_pages() {
    let world = World::new();
    for _ in 0..5 {
        world.login(ADA).await;
    }
    let (mut after, mut sizes) = (None, Vec::new());
    loop {
        let page = world.auth.sessions("1", after.as_ref(), 2).await.unwrap();
        sizes.push(page.sessions.len());
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [2, 2, 1]);
}

#[tokio::test]
async fn ended_sessions_are_not_listed() {
    let world = World::new();
    world.login(ADA).await;
    world.clock.advance(LIFETIMES.idle_ttl);
    assert!(world.auth.sessions("1", None, 100).await.unwrap().sessions.is_empty());
}

#[tokio::test]
async fn listing_sessions_without_a_store_is_unavailable() {
    let world = World::new();
    world.faults.fail("sessions");
    assert_eq!(world.auth.sessions("1", None, 100).await.unwrap_err().dependency, "sessions");
}

#[tokio::test]
async fn an_own_session_is_ended() {
    let world = World::new();
    let (own, other) = (world.login(ADA).await, world.login(ADA).await);
    let expected = EndedSession { sid: Some(other.sid.clone()), sub: Some("1".to_owned()), outcome: EndOutcome::Now };
    assert_eq!(world.auth.end_own_session("1", &other.sid).await, Ok(Some(expected)));
    assert_eq!(world.store().targets(), [ended(&other)]);
    assert_eq!(world.denied(&other.access_token), Some(Rejection::Revoked));
    assert_eq!(world.denied(&own.access_token), None);
    assert_eq!(world.auth.end_own_session("1", &other.sid).await, Ok(None), "the session has already ended");
}

#[tokio::test]
async fn a_foreign_session_is_not_ended() {
    let world = World::new();
    let bob = world.login(BOB).await;
    for other in [bob.sid.as_str(), "AAECAwQFBgcICQoLDA0ODw", "", "a b", &"x".repeat(300)] {
        assert_eq!(world.auth.end_own_session("1", other).await, Ok(None), "{other}");
    }
    assert!(world.session(&bob).is_some());
    assert!(world.store().targets().is_empty());
    world.store().change_session("2", &sid(&bob), |session| session.sub = "1".to_owned());
    assert_eq!(world.auth.end_own_session("2", &bob.sid).await, Ok(None), "the record names another user");
}

#[tokio::test]
async fn ending_an_own_session_without_a_store_is_unavailable() {
    let world = World::new();
    let pair = world.login(ADA).await;
    for call in ["read_session", "end"] {
        world.faults.fail(call);
        let failed = world.auth.end_own_session("1", &pair.sid).await;
        assert_eq!(failed.unwrap_err().dependency, call);
    }
    assert!(world.session(&pair).is_some());
}
