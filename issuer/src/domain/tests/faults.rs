//! Fails every dependency at every call of every service method, before and after the call's work:
//! the caller gets a retryable error, and a retry completes the work.

use super::faulty::Fault;
use super::world::{ADA, BOB, PASSWORD, World};
use crate::domain::TokenPair;
use crate::domain::login::LoginError;
use crate::domain::logout::{LogoutError, Scope};
use crate::domain::refresh::RefreshError;
use crate::domain::revoke::{RevokeError, RevokeRequest};
use crate::domain::session::UserSessions;

/// A service method with its arguments.
#[derive(Clone, Copy, Debug)]
enum Method {
    Login,
    Refresh,
    /// A refresh for a user who has been disabled.
    RefreshOfDisabled,
    /// By access token, by refresh token, or by both.
    Logout(Scope, bool, bool),
    RevokeToken,
    RevokeSession,
    RevokeUser(UserSessions),
    RevokeKey,
    RevokeAll,
    Sessions,
    EndOwnSession,
}

/// Outcome of a call: done, or a retryable error. A session that was found needs no other
/// partition.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    Done,
    Retry,
}

/// Two sessions of one user, and one of another.
struct Sessions {
    own: TokenPair,
    other: TokenPair,
    bob: TokenPair,
}

impl Method {
    async fn prepare(self, world: &World) -> Sessions {
        let sessions =
            Sessions { own: world.login(ADA).await, other: world.login(ADA).await, bob: world.login(BOB).await };
        if matches!(self, Self::RefreshOfDisabled) {
            world.users().change("1", |account| account.active = false);
        }
        sessions
    }

    async fn call(self, world: &World, Sessions { own, other, .. }: &Sessions) -> Came {
        match self {
            Self::Login => match world.try_login(ADA, PASSWORD).await {
                Ok(_) => Came::Done,
                Err(LoginError::Unavailable(_) | LoginError::Overloaded(_)) => Came::Retry,
                Err(error) => panic!("{error}"),
            },
            Self::Refresh | Self::RefreshOfDisabled => match world.auth.refresh(&own.refresh_token).await {
                Ok(_) | Err(RefreshError::UserGone { .. }) => Came::Done,
                // The session ended, and the answer was lost.
                Err(RefreshError::Refused { .. }) if matches!(self, Self::RefreshOfDisabled) => Came::Done,
                Err(RefreshError::Unavailable(_)) => Came::Retry,
                Err(error) => panic!("{error}"),
            },
            Self::Logout(scope, access, refresh) => {
                let access = access.then_some(own.access_token.as_str());
                let refresh = refresh.then_some(own.refresh_token.as_str());
                match world.logout(access, refresh, scope).await {
                    Ok(_) => Came::Done,
                    Err(LogoutError::Unavailable(_)) => Came::Retry,
                    Err(error) => panic!("{error}"),
                }
            }
            Self::Sessions => world.auth.sessions("1", None, 10).await.map_or(Came::Retry, |_| Came::Done),
            Self::EndOwnSession => {
                world.auth.end_own_session("1", &other.sid).await.map_or(Came::Retry, |_| Came::Done)
            }
            _ => match world.revoke(self.request(world, own)).await {
                Ok(_) => Came::Done,
                Err(RevokeError::Unavailable(_)) => Came::Retry,
                Err(error) => panic!("{error}"),
            },
        }
    }

    fn request(self, world: &World, own: &TokenPair) -> RevokeRequest {
        match self {
            Self::RevokeToken => RevokeRequest::Token(own.access_token.clone()),
            Self::RevokeSession => RevokeRequest::Session(own.sid.clone()),
            Self::RevokeUser(sessions) => RevokeRequest::User { sub: "1".to_owned(), sessions },
            Self::RevokeKey => RevokeRequest::Key(world.auth.signer.kid()),
            _ => RevokeRequest::All,
        }
    }

    /// Which access tokens are revoked afterwards: of the own session, the user's other one,
    /// another user's.
    const fn dead(self) -> [bool; 3] {
        match self {
            Self::Login | Self::Refresh | Self::Sessions => [false, false, false],
            Self::RefreshOfDisabled | Self::Logout(Scope::Local, ..) | Self::RevokeToken | Self::RevokeSession => {
                [true, false, false]
            }
            Self::Logout(Scope::Others, ..) | Self::EndOwnSession => [false, true, false],
            Self::Logout(Scope::Global, ..) | Self::RevokeUser(_) => [true, true, false],
            Self::RevokeKey | Self::RevokeAll => [true, true, true],
        }
    }
}

fn methods() -> Vec<Method> {
    let mut methods = vec![
        Method::Login,
        Method::Refresh,
        Method::RefreshOfDisabled,
        Method::RevokeToken,
        Method::RevokeSession,
        Method::RevokeUser(UserSessions::End),
        Method::RevokeUser(UserSessions::Keep),
        Method::RevokeKey,
        Method::RevokeAll,
        Method::Sessions,
        Method::EndOwnSession,
    ];
    for scope in [Scope::Local, Scope::Others, Scope::Global] {
        methods.extend([(true, false), (false, true), (true, true)].map(|(a, r)| Method::Logout(scope, a, r)));
    }
    methods
}

fn assert_done(world: &World, method: Method, sessions: &Sessions, context: &str) {
    let tokens = [&sessions.own, &sessions.other, &sessions.bob];
    let dead = tokens.map(|pair| world.denied(&pair.access_token).is_some());
    assert_eq!(dead, method.dead(), "{method:?} {context}");
}

#[tokio::test]
async fn a_call_failing_anywhere_is_completed_by_a_retry() {
    let mut tried = 0;
    for method in methods() {
        let world = World::new();
        let sessions = method.prepare(&world).await;
        world.faults.heal();
        assert_eq!(method.call(&world, &sessions).await, Came::Done, "{method:?}");
        let calls = world.faults.calls();
        assert!(!calls.is_empty(), "{method:?} calls no dependency");
        assert_done(&world, method, &sessions, "without faults");
        for (number, call) in calls.iter().enumerate() {
            for fault in [Fault::Refused, Fault::AnswerLost] {
                let context = format!("with {call} (call {number}) {fault:?}");
                let world = World::new();
                let sessions = method.prepare(&world).await;
                world.faults.fail_number(number, fault);
                let came = method.call(&world, &sessions).await;
                world.faults.heal();
                world.feed();
                if came == Came::Done {
                    let elsewhere = matches!(method, Method::RevokeSession) && *call == "read_session";
                    assert!(elsewhere, "{method:?} {context}: done, although a dependency failed");
                    assert_done(&world, method, &sessions, &context);
                }
                assert_eq!(method.call(&world, &sessions).await, Came::Done, "{method:?} {context}: retried");
                assert_done(&world, method, &sessions, &context);
                tried += 1;
            }
        }
    }
    assert!(tried > 80, "only {tried} faults were tried");
}
