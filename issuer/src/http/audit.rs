//! Audit events: user, time (of the log line), client, result. Never a token, password or email.

use crate::domain::login::LoginError;
use crate::domain::logout::{EndedSession, LogoutError, Scope};
use crate::domain::refresh::{RefreshError, Refreshed};
use crate::domain::revoke::{RevokeError, RevokeRequest, Revoked};
use crate::domain::session::{EndOutcome, Refusal, UserSessions};
use crate::domain::{ClientInfo, TokenPair};
use crate::metrics::Metrics;

/// Fields of an event besides name and result.
#[derive(Default)]
struct Who<'a> {
    sub: &'a str,
    sid: &'a str,
    jti: &'a str,
}

macro_rules! event {
    ($level:ident, $event:literal, $result:expr, $client:expr, $who:expr $(, $name:ident = $value:expr)* $(,)?) => {
        tracing::$level!(
            target: "audit",
            event = $event,
            result = $result,
            sub = $who.sub,
            sid = $who.sid,
            jti = $who.jti,
            address = $client.address.as_str(),
            agent = $client.agent.as_str(),
            $($name = $value,)*
        )
    };
}

pub(super) fn login(metrics: &Metrics, client: &ClientInfo, outcome: Result<&TokenPair, &LoginError>) {
    let (result, who) = match outcome {
        Ok(pair) => {
            displaced(metrics, client, pair);
            ("ok", Who { sub: &pair.sub, sid: &pair.sid, jti: &pair.jti })
        }
        Err(LoginError::Refused { reason, sub }) => {
            (reason.name(), Who { sub: sub.as_deref().unwrap_or_default(), ..Who::default() })
        }
        Err(LoginError::Overloaded(_)) => ("overloaded", Who::default()),
        Err(LoginError::Unavailable(_)) => ("unavailable", Who::default()),
        Err(LoginError::Mint(_)) => ("unmintable", Who::default()),
    };
    metrics.login(result);
    match result {
        "ok" => event!(info, "login", result, client, who),
        // The application's table needs repair.
        "malformed_hash" | "unsupported_hash" | "several_users" | "unmintable" => {
            event!(error, "login", result, client, who)
        }
        _ => event!(warn, "login", result, client, who),
    }
}

/// Sessions that a login ended, because the user had too many.
fn displaced(metrics: &Metrics, client: &ClientInfo, pair: &TokenPair) {
    for sid in &pair.displaced {
        metrics.revoked("session");
        let who = Who { sub: &pair.sub, sid, jti: "" };
        event!(warn, "session_ended", "too_many_sessions", client, who);
    }
}

pub(super) fn refresh(metrics: &Metrics, client: &ClientInfo, outcome: Result<&Refreshed, &RefreshError>) {
    let mut ages = (0, 0);
    let (result, who) = match outcome {
        Ok(Refreshed { pair, retried }) => {
            let who = Who { sub: &pair.sub, sid: &pair.sid, jti: &pair.jti };
            (if *retried { "retried" } else { "ok" }, who)
        }
        Err(RefreshError::NotAuthentic(_)) => ("not_authentic", Who::default()),
        Err(RefreshError::Refused { why, sid, sub }) => {
            let result = match why {
                Refusal::Gone => "gone",
                Refusal::Expired => "expired",
                Refusal::Revoked => "revoked",
            };
            (result, Who { sub: sub.as_deref().unwrap_or_default(), sid, jti: "" })
        }
        Err(RefreshError::UserGone { sid, sub }) => ("user_gone", Who { sub, sid, jti: "" }),
        Err(RefreshError::Reused { sid, sub, reuse }) => {
            ages = (reuse.generations_old, reuse.rotated_ago);
            ("reused", Who { sub, sid, jti: "" })
        }
        Err(RefreshError::Unavailable(_)) => ("unavailable", Who::default()),
        Err(RefreshError::Mint(_)) => ("unmintable", Who::default()),
    };
    metrics.refresh(result);
    match result {
        "ok" | "retried" => event!(info, "refresh", result, client, who),
        "reused" => {
            metrics.revoked("session");
            event!(error, "refresh", result, client, who, generations_old = ages.0, rotated_ago_seconds = ages.1);
        }
        "user_gone" => {
            metrics.revoked("session");
            event!(warn, "refresh", result, client, who);
        }
        _ => event!(warn, "refresh", result, client, who),
    }
}

pub(super) fn logout(
    metrics: &Metrics,
    client: &ClientInfo,
    scope: Scope,
    outcome: Result<&Vec<EndedSession>, &LogoutError>,
) {
    match outcome {
        Ok(sessions) => {
            metrics.logout(scope.name(), "ok");
            for ended in sessions {
                metrics.revoked(if ended.sid.is_some() { "session" } else { "user" });
                event!(info, "logout", result_of(ended), client, who_of(ended), scope = scope.name());
            }
            if sessions.is_empty() {
                event!(info, "logout", "nothing_to_end", client, Who::default(), scope = scope.name());
            }
        }
        Err(error) => {
            let mut ages = (0, 0);
            let (result, who) = match error {
                LogoutError::Access(_) | LogoutError::Refresh(_) => ("refused", Who::default()),
                LogoutError::Refused { sid, sub, .. } => ("refused", Who { sub, sid, jti: "" }),
                LogoutError::Reused { sid, sub, reuse } => {
                    ages = (reuse.generations_old, reuse.rotated_ago);
                    ("reused", Who { sub, sid, jti: "" })
                }
                LogoutError::Unavailable(_) => ("unavailable", Who::default()),
            };
            metrics.logout(scope.name(), result);
            if result == "reused" {
                metrics.revoked("session");
                event!(
                    error,
                    "logout",
                    result,
                    client,
                    who,
                    scope = scope.name(),
                    generations_old = ages.0,
                    rotated_ago_seconds = ages.1,
                );
            } else {
                event!(warn, "logout", result, client, who, scope = scope.name());
            }
        }
    }
}

/// A login whose body is malformed.
pub(super) fn unreadable_login(metrics: &Metrics, client: &ClientInfo) {
    metrics.login("invalid");
    event!(warn, "login", "invalid", client, Who::default());
}

/// A refresh whose body is malformed.
pub(super) fn unreadable_refresh(metrics: &Metrics, client: &ClientInfo) {
    metrics.refresh("invalid");
    event!(warn, "refresh", "invalid", client, Who::default());
}

/// A logout whose token or body is malformed: its client may assume that it is logged out.
pub(super) fn unreadable_logout(metrics: &Metrics, client: &ClientInfo) {
    metrics.logout("unknown", "invalid");
    event!(warn, "logout", "invalid", client, Who::default(), scope = "unknown");
}

fn result_of(ended: &EndedSession) -> &'static str {
    match ended.outcome {
        EndOutcome::Now => "ok",
        EndOutcome::Before => "already_ended",
    }
}

fn who_of(ended: &EndedSession) -> Who<'_> {
    Who { sub: ended.sub.as_deref().unwrap_or_default(), sid: ended.sid.as_deref().unwrap_or_default(), jti: "" }
}

pub(super) fn session_ended(metrics: &Metrics, client: &ClientInfo, ended: &EndedSession) {
    metrics.revoked("session");
    event!(info, "session_ended", result_of(ended), client, who_of(ended));
}

pub(super) fn revocation(
    metrics: &Metrics,
    client: &ClientInfo,
    request: &RevokeRequest,
    outcome: Result<&Revoked, &RevokeError>,
) {
    let (result, named) = match outcome {
        Ok(revoked) => ("ok", revoked.named.as_str()),
        Err(RevokeError::Unfit(_) | RevokeError::Foreign(_)) => ("unfit", ""),
        Err(RevokeError::Unavailable(_)) => ("unavailable", ""),
    };
    if result == "ok" {
        metrics.revoked(request.kind());
    }
    let kept = matches!(request, RevokeRequest::User { sessions: UserSessions::Keep, .. });
    event!(
        warn,
        "revocation",
        result,
        client,
        Who::default(),
        kind = request.kind(),
        target_id = named,
        sessions_kept = kept
    );
}
