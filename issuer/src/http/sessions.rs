//! GET /auth/sessions and DELETE /auth/sessions/{sid}

use std::sync::Arc;

use serde_json::{Value, json};

use super::api::Api;
use super::audit;
use super::bearer::required_bearer;
use super::call::Call;
use super::error::Failure;
use super::login::json as ok;
use super::logout::no_content;
use super::router::Answer;
use crate::domain::ports::{Passwords, Store, Users};
use crate::domain::session::Session;

pub(super) async fn list<U: Users, S: Store, P: Passwords>(api: Arc<Api<U, S, P>>, call: Call) -> Answer {
    let good = api.judge(required_bearer(&call.head.headers)?)?;
    let claims = good.claims();
    let sessions = api.auth.sessions(&claims.sub).await?;
    let current = |session: &Session| session.sid.to_string() == claims.sid;
    let shown: Vec<_> = sessions.iter().map(|session| describe(session, Some(current(session)))).collect();
    Ok(ok(&json!({ "sessions": shown })))
}

pub(super) async fn end<U: Users, S: Store, P: Passwords>(api: Arc<Api<U, S, P>>, call: Call) -> Answer {
    let client = call.client(&api.proxies);
    let good = api.judge(required_bearer(&call.head.headers)?)?;
    let sid = call.head.uri.path().rsplit('/').next().unwrap_or_default();
    let ended = api.auth.end_own_session(&good.claims().sub, sid).await?.ok_or(Failure::NotFound)?;
    audit::session_ended(&api.metrics, &client, &ended);
    Ok(no_content())
}

/// A session as its user, or the operator, sees it.
pub(super) fn describe(session: &Session, current: Option<bool>) -> Value {
    let mut shown = json!({
        "sid": session.sid.to_string(),
        "created": session.created.0,
        "refreshed": session.refreshed.0,
        "ends": session.idle_ends.min(session.ends).0,
        "address": session.address,
        "agent": session.agent,
    });
    if let Some(current) = current {
        shown["current"] = Value::Bool(current);
    }
    shown
}
