//! Revocation by the operator or the application, of each kind.

use sidegate_common::foreign::file::{FileLimits, parse};
use sidegate_common::foreign::ids::{ALL, ClaimId, ClaimPath, SUBJECT, TOKEN, foreign_id};
use sidegate_common::revocation::{Id, SubjectTag, Target};
use sidegate_common::time::{REVOCATION_MARGIN_SECONDS, UnixTime};
use sidegate_common::token::Rejection;

use super::faulty::Fault;
use super::world::{ADA, BOB, LIFETIMES, World, claims, ended};
use crate::domain::foreign_request::{ForeignError, ForeignRequest, ForeignTarget};
use crate::domain::revoke::{RevokeError, RevokeRequest, Revoked};
use crate::domain::session::UserSessions;
use crate::domain::traits::Store as _;

impl World {
    pub async fn revoke(&self, request: RevokeRequest) -> Result<Revoked, RevokeError> {
        self.auth.revoke(&request, self.clock.now()).await
    }
}

fn revoked(named: &str, sessions_ended: u64) -> Result<Revoked, RevokeError> {
    Ok(Revoked { named: named.to_owned(), sessions_ended: Some(sessions_ended) })
}

fn user(sub: &str, sessions: UserSessions) -> RevokeRequest {
    RevokeRequest::User { sub: sub.to_owned(), sessions }
}

#[tokio::test]
async fn a_token_is_revoked_by_jwt_or_by_jti() {
    let world = World::new();
    let (by_token, by_jti, other) = (world.login(ADA).await, world.login(ADA).await, world.login(ADA).await);
    assert_eq!(world.revoke(RevokeRequest::Token(by_token.access_token.clone())).await, revoked(&by_token.jti, 0));
    assert_eq!(world.revoke(RevokeRequest::Token(by_jti.jti.clone())).await, revoked(&by_jti.jti, 0));
    let target = |jti: &str, subject| Target::Token { jti: Id::parse(jti).unwrap(), subject };
    let subject = SubjectTag::of("1");
    let of = subject.partition(world.store().partitions());
    let log = world.store().log(of);
    let bound = target(&by_token.jti, Some(subject));
    let (_, entry) = log.iter().find(|(_, entry)| entry.target == bound).expect("an entry in the user's partition");
    assert_eq!(entry.expires_at, claims(&by_token).expires_at().plus(REVOCATION_MARGIN_SECONDS));
    assert!(world.store().targets().contains(&target(&by_jti.jti, None)));
    for pair in [&by_token, &by_jti] {
        assert_eq!(world.denied(&pair.access_token), Some(Rejection::Revoked));
        assert!(world.session(pair).is_some(), "its session continues");
    }
    assert_eq!(world.denied(&other.access_token), None);
}

#[tokio::test]
async fn an_expired_token_can_be_revoked() {
    let world = World::new();
    let pair = world.login(ADA).await;
    world.clock.advance(LIFETIMES.access_ttl + 10);
    assert_eq!(world.revoke(RevokeRequest::Token(pair.access_token.clone())).await, revoked(&pair.jti, 0));
}

#[tokio::test]
async fn a_session_is_revoked_in_any_partition() {
    let world = World::new();
    for email in [ADA, BOB] {
        let (pair, other) = (world.login(email).await, world.login(email).await);
        assert_eq!(world.revoke(RevokeRequest::Session(pair.sid.clone())).await, revoked(&pair.sid, 1));
        assert!(world.store().targets().contains(&ended(&pair)));
        assert_eq!(world.denied(&pair.access_token), Some(Rejection::Revoked));
        assert_eq!(world.denied(&other.access_token), None);
        world.revoke(RevokeRequest::Session(pair.sid.clone())).await.unwrap();
    }
}

#[tokio::test]
async fn a_session_in_no_partition_is_revoked_nevertheless() {
    let world = World::new();
    let sid = "AAECAwQFBgcICQoLDA0ODw";
    assert_eq!(world.revoke(RevokeRequest::Session(sid.to_owned())).await, revoked(sid, 0));
    assert_eq!(world.store().targets(), [Target::Session { sid: Id::parse(sid).unwrap(), subject: None }]);
}

#[tokio::test]
async fn a_user_is_revoked_with_or_without_sessions() {
    let world = World::new();
    let (one, other, bob) = (world.login(ADA).await, world.login(ADA).await, world.login(BOB).await);
    assert_eq!(world.revoke(user("1", UserSessions::Keep)).await, revoked("1", 0));
    for pair in [&one, &other] {
        assert_eq!(world.denied(&pair.access_token), Some(Rejection::Revoked));
    }
    let refreshed = world.auth.refresh(&one.refresh_token).await.unwrap().pair;
    assert_eq!(world.denied(&refreshed.access_token), None, "its session continues");
    assert_eq!(world.revoke(user("1", UserSessions::End)).await, revoked("1", 2));
    assert_eq!(world.denied(&refreshed.access_token), Some(Rejection::Revoked));
    assert!(world.auth.refresh(&refreshed.refresh_token).await.is_err());
    assert_eq!(world.denied(&bob.access_token), None);
}

#[tokio::test]
async fn a_key_is_revoked_in_every_partition() {
    let world = World::new();
    let pair = world.login(ADA).await;
    let kid = world.auth.signer.kid();
    assert!(!world.auth.knows_retired(&kid));
    assert_eq!(world.revoke(RevokeRequest::Key(kid.clone())).await, revoked(&kid, 0));
    for partition in 0..world.store().partitions() {
        let [(_, entry)] = &world.store().log(partition)[..] else { panic!("one entry in each") };
        assert_eq!(entry.target, Target::Key { kid: kid.as_str().into() });
    }
    assert_eq!(world.denied(&pair.access_token), Some(Rejection::Revoked));
    assert!(world.auth.knows_retired(&kid));
}

#[tokio::test]
async fn everything_is_revoked_in_every_partition() {
    let world = World::new();
    let pair = [world.login(ADA).await, world.login(BOB).await];
    let all = Revoked { named: "*".to_owned(), sessions_ended: None };
    assert_eq!(world.revoke(RevokeRequest::All).await, Ok(all));
    assert_eq!(world.store().targets().len(), usize::from(world.store().partitions()));
    for pair in &pair {
        assert_eq!(world.denied(&pair.access_token), Some(Rejection::Revoked));
        assert!(world.auth.refresh(&pair.refresh_token).await.is_err());
    }
    let after = world.login(ADA).await;
    assert_eq!(world.denied(&after.access_token), None);
}

#[tokio::test]
async fn values_that_no_token_can_have_are_refused() {
    let world = World::new();
    let pair = world.login(ADA).await;
    let forged = pair.access_token.replace(|_| true, "A");
    let long = "x".repeat(256);
    for (request, field) in [
        (RevokeRequest::Token(String::new()), "token"),
        (RevokeRequest::Token("a b".to_owned()), "token"),
        (RevokeRequest::Token("a.b.c".to_owned()), "token"),
        (RevokeRequest::Token(forged), "token"),
        (RevokeRequest::Session(String::new()), "session"),
        (RevokeRequest::Session("a b".to_owned()), "session"),
        (user("", UserSessions::End), "user"),
        (user("-", UserSessions::Keep), "user"),
        (user(&long, UserSessions::End), "user"),
        (RevokeRequest::Key("a b".to_owned()), "key"),
        (RevokeRequest::Key(long.clone()), "key"),
    ] {
        world.faults.calls();
        assert_eq!(world.revoke(request.clone()).await, Err(RevokeError::Unfit(field)), "{request:?}");
        assert!(world.faults.calls().is_empty(), "{request:?}");
    }
    assert!(world.store().targets().is_empty());
}

#[tokio::test]
async fn a_revocation_that_cannot_be_stored_is_unavailable() {
    let world = World::new();
    let pair = world.login(ADA).await;
    for (request, call) in [
        (RevokeRequest::Token(pair.access_token.clone()), "append"),
        (RevokeRequest::Token(pair.jti.clone()), "append"),
        (RevokeRequest::Session(pair.sid.clone()), "read_session"),
        (RevokeRequest::Session(pair.sid.clone()), "end"),
        (RevokeRequest::Session("AAECAwQFBgcICQoLDA0ODw".to_owned()), "end"),
        (user("1", UserSessions::End), "revoke_user"),
        (user("1", UserSessions::Keep), "revoke_user"),
        (RevokeRequest::Key("k".to_owned()), "append"),
        (RevokeRequest::All, "revoke_all"),
    ] {
        world.faults.fail(call);
        match world.revoke(request.clone()).await {
            Err(RevokeError::Unavailable(error)) => assert_eq!(error.dependency, call, "{request:?}"),
            other => panic!("{request:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_failing_partition_does_not_block_the_others() {
    for (request, partitions) in [(RevokeRequest::All, 4), (RevokeRequest::Key("k".to_owned()), 4)] {
        let world = World::new();
        world.faults.fail_number(0, Fault::Refused);
        assert!(matches!(world.revoke(request).await, Err(RevokeError::Unavailable(_))));
        assert_eq!(world.store().targets().len(), partitions - 1);
    }
}

#[tokio::test]
async fn a_session_in_an_unreadable_partition_is_ended() {
    let world = World::new();
    let pair = world.login(ADA).await;
    world.faults.fail("read_session");
    let failed = world.revoke(RevokeRequest::Session(pair.sid.clone())).await;
    assert!(matches!(failed, Err(RevokeError::Unavailable(_))), "503, although it was done: {failed:?}");
    assert_eq!(world.denied(&pair.access_token), Some(Rejection::Revoked));
}

#[tokio::test]
async fn tokens_of_other_issuers_are_revoked_by_what_they_contain() {
    let world = World::new();
    let text = "[[issuer]]\nname = \"corp\"\niss = \"https://a\"\naudiences = [\"x\"]\nclock_slack = \"90s\"\npreset = \"auth0\"\n\
                [issuer.claims]\nrevocable = [\"azp\"]";
    let entries = || parse(text, FileLimits { home: None, lifetime_max: 3600, now: UnixTime(0) }).unwrap();
    let order = |target| RevokeRequest::Foreign(ForeignRequest { issuer: "corp".to_owned(), target });
    let of_user = || order(ForeignTarget::User("ada".to_owned()));
    let refused = |why| Err(RevokeError::Foreign(why));
    assert_eq!(world.revoke(of_user()).await, refused(ForeignError::UnknownIssuer));
    world.auth.issuers.replace(entries(), false);
    assert_eq!(world.revoke(of_user()).await, refused(ForeignError::EntriesOff));
    assert_eq!(world.revoke(user("corp:ada", UserSessions::End)).await, refused(ForeignError::PrefixedUser));
    let session = order(ForeignTarget::Session("s".to_owned()));
    assert_eq!(world.revoke(session).await, refused(ForeignError::NoSuchClaim("session")));
    let claim = order(ForeignTarget::Claim(ClaimPath::top("sub"), "ada".to_owned()));
    assert_eq!(world.revoke(claim).await, refused(ForeignError::NotRevocable));
    assert!(world.revoke(order(ForeignTarget::Token("j".to_owned()))).await.is_ok(), "verifiers of N-1 can read it");
    world.auth.issuers.replace(entries(), true);
    assert!(world.revoke(of_user()).await.is_ok());
    assert!(world.revoke(order(ForeignTarget::All)).await.is_ok());
    let threshold = world.clock.now().plus(90);
    let subject = foreign_id("https://a", SUBJECT, "ada");
    let of = SubjectTag::of_foreign(&subject).partition(world.store().partitions());
    let holds =
        |partition: u16, target: &Target| world.store().log(partition).iter().any(|(_, entry)| entry.target == *target);
    assert!(holds(of, &Target::ForeignSubject { subject, threshold }));
    let all = Target::Claim { claim: ClaimId::of("https://a", ALL, "https://a"), threshold };
    let jti = Target::Token { jti: Id::Packed(foreign_id("https://a", TOKEN, "j")), subject: None };
    for partition in 0..world.store().partitions() {
        assert!(holds(partition, &all) && holds(partition, &jti), "partition {partition}");
    }
}
