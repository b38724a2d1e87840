//! Login.

use sidegate_common::token::SignError;

use super::world::{ADA, BOB, LIFETIMES, PASSWORD, Setup, World, claims, ended, sid};
use crate::domain::NoRandomness;
use crate::domain::login::{LoginError, Refused};
use crate::domain::token_signer::MintError;
use crate::domain::traits::Users as _;

#[tokio::test]
async fn login_opens_a_session_with_a_pair_of_tokens() {
    let world = World::new();
    let pair = world.login(ADA).await;
    assert_eq!(world.denied(&pair.access_token), None);
    assert_eq!((pair.sub.as_str(), pair.expires_in), ("1", LIFETIMES.access_ttl));
    let claims = claims(&pair);
    assert_eq!((claims.sub.as_str(), claims.scope.as_deref()), ("1", Some("read write")));
    assert_eq!((&claims.sid, &claims.jti), (&pair.sid, &pair.jti));
    assert_eq!((claims.iat, claims.exp), (world.clock.now().0, world.clock.now().0 + LIFETIMES.access_ttl));
    let session = world.session(&pair).unwrap();
    assert_eq!((session.sub.as_str(), session.generation), ("1", 0));
    assert_eq!((session.address.as_str(), session.agent.as_str()), ("192.0.2.7", "a browser"));
    assert!(pair.displaced.is_empty());
    let refreshed = world.auth.refresh(&pair.refresh_token).await.unwrap();
    assert_eq!(refreshed.pair.sid, pair.sid);
}

#[tokio::test]
async fn login_refusals_name_their_reason_and_open_no_session() {
    let world = World::new();
    let users = world.users();
    users.add("3", "disabled@example.org", |account| account.active = false);
    users.add("4", "no-password@example.org", |account| account.password_hash = None);
    users.add("5", "malformed@example.org", |account| account.password_hash = Some("hunter2".to_owned()));
    users.add("6", "sha@example.org", |account| account.password_hash = Some("$6$salt$hash".to_owned()));
    users.add("7", "twice@example.org", |_| {});
    users.add("8", "twice@example.org", |_| {});
    let (long, nul) = (format!("{PASSWORD}{}", "x".repeat(73)), format!("{PASSWORD}\0"));
    for (email, password, reason, sub) in [
        ("unknown@example.org", PASSWORD, Refused::UnknownUser, None),
        ("twice@example.org", PASSWORD, Refused::SeveralUsers, None),
        ("disabled@example.org", PASSWORD, Refused::Disabled, Some("3")),
        ("disabled@example.org", "wrong", Refused::WrongPassword, Some("3")),
        ("no-password@example.org", PASSWORD, Refused::NoPassword, Some("4")),
        ("malformed@example.org", PASSWORD, Refused::MalformedHash, Some("5")),
        ("sha@example.org", PASSWORD, Refused::UnsupportedHash, Some("6")),
        (ADA, long.as_str(), Refused::UnfitPassword, Some("1")),
        (ADA, nul.as_str(), Refused::UnfitPassword, Some("1")),
        (ADA, "wrong", Refused::WrongPassword, Some("1")),
        (ADA, "", Refused::WrongPassword, Some("1")),
        ("", "", Refused::UnknownUser, None),
    ] {
        world.faults.calls();
        let refused = world.try_login(email, password).await.err();
        let sub = sub.map(str::to_owned);
        assert_eq!(refused, Some(LoginError::Refused { reason, sub }), "{email}");
        assert_eq!(world.faults.calls(), ["acquire_slot", "find_by_email", "check"], "{email}: the same work for each");
    }
}

#[tokio::test]
async fn login_with_a_full_queue_asks_no_database() {
    let world = World::new();
    world.faults.fail("acquire_slot");
    assert!(matches!(world.try_login(ADA, PASSWORD).await, Err(LoginError::Overloaded(_))));
    assert_eq!(world.faults.calls(), ["acquire_slot"]);
    world.faults.fail("check");
    assert!(matches!(world.try_login(ADA, PASSWORD).await, Err(LoginError::Overloaded(_))));
    assert_eq!(world.faults.calls(), ["acquire_slot", "find_by_email", "check"]);
}

#[tokio::test]
async fn login_without_users_or_store_is_unavailable() {
    let world = World::new();
    for call in ["find_by_email", "create"] {
        world.faults.fail(call);
        match world.try_login(ADA, PASSWORD).await {
            Err(LoginError::Unavailable(error)) => assert_eq!(error.dependency, call),
            _ => panic!("{call} failed, and the login did not say so"),
        }
    }
}

#[tokio::test]
async fn login_of_a_user_that_fits_no_token_opens_no_session() {
    let world = World::new();
    let long = "x".repeat(256);
    world.users().add("3", "space@example.org", |account| account.id = "a b".to_owned());
    world.users().add("4", "long@example.org", |account| account.id.clone_from(&long));
    world.users().add("5", "scope@example.org", |account| account.scope = Some("a  b".to_owned()));
    for (email, value) in [("space@example.org", "id"), ("long@example.org", "id"), ("scope@example.org", "scope")] {
        world.faults.calls();
        let refused = world.try_login(email, PASSWORD).await.err();
        assert_eq!(refused, Some(LoginError::Mint(MintError::Unfit(value))), "{email}");
        assert!(!world.faults.calls().contains(&"create"), "{email}");
    }
}

#[test]
fn signing_errors_map_to_their_login_errors() {
    assert_eq!(MintError::from(SignError::Unfit("sub")), MintError::Unfit("sub"));
    assert_eq!(MintError::from(SignError::TooLong), MintError::Unfit("scope"));
    assert_eq!(MintError::from(SignError::Key), MintError::Key);
    assert_eq!(MintError::from(NoRandomness), MintError::NoRandomness);
}

#[tokio::test]
async fn login_replaces_a_hash_of_low_cost() {
    let mut world = World::with(&Setup { cost: 5, ..Setup::default() });
    world.try_login(ADA, "wrong").await.err().unwrap();
    world.login(ADA).await;
    let rehashed = world.rehashed.recv().await.unwrap();
    let (old, new) = (rehashed.old.expose_str().unwrap(), rehashed.new.expose_str().unwrap());
    assert_eq!((rehashed.id.as_str(), &old[..7], &new[..7]), ("1", "$2b$04$", "$2b$05$"));
    world.users().rehash("1", old, new).await.unwrap();
    world.login(ADA).await;
    assert!(world.rehashed.try_recv().is_err(), "once, and not for a wrong password");
}

#[tokio::test]
async fn login_over_the_limit_ends_the_oldest_session() {
    let world = World::with(&Setup { sessions_max: 2, ..Setup::default() });
    let first = world.login(ADA).await;
    world.clock.advance(1);
    let second = world.login(ADA).await;
    let of_bob = world.login(BOB).await;
    let third = world.login(ADA).await;
    assert_eq!(third.displaced, std::slice::from_ref(&first.sid));
    assert_eq!(world.store().targets(), [ended(&first)]);
    assert!(world.denied(&first.access_token).is_some());
    for pair in [&second, &third, &of_bob] {
        assert_eq!(world.denied(&pair.access_token), None);
    }
}

#[tokio::test]
async fn login_right_after_a_global_logout_is_valid() {
    let world = World::new();
    world.login(ADA).await;
    let before = world.clock.now();
    world.store().put_back_watermark("1", before);
    let pair = world.login(ADA).await;
    assert_eq!(claims(&pair).iat, before.0 + 1);
    assert_eq!(world.denied(&pair.access_token), None);
}

#[tokio::test]
async fn login_with_a_store_clock_far_behind_is_unavailable() {
    let world = World::new();
    world.store().put_back_watermark("1", world.clock.now().plus(60));
    assert!(matches!(world.try_login(ADA, PASSWORD).await, Err(LoginError::Unavailable(_))));
    assert_eq!(world.login(BOB).await.sub, "2", "another user is not affected");
}

#[tokio::test]
async fn two_logins_are_two_sessions() {
    let world = World::new();
    let (one, other) = (world.login(ADA).await, world.login(ADA).await);
    assert_ne!(sid(&one), sid(&other));
    assert_ne!(one.jti, other.jti);
    assert_ne!(one.refresh_token, other.refresh_token);
}
