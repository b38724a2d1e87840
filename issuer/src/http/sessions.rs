//! GET /auth/sessions and DELETE /auth/sessions/{sid}

use std::sync::Arc;

use serde_json::{Value, json};

use super::api::Api;
use super::audit;
use super::bearer::required_bearer;
use super::call::Call;
use super::error::Failure;
use super::response::{Answer, json as ok, no_content};
use crate::domain::session::{PageCursor, Session, SessionPage};
use crate::domain::traits::{Passwords, Store, Users};

/// The longest page of sessions, and the default.
const PAGE_MAX: u32 = 100;

pub(super) async fn list<U: Users, S: Store, P: Passwords>(api: Arc<Api<U, S, P>>, call: Call) -> Answer {
    let good = api.check(required_bearer(&call.head.headers)?)?;
    let claims = good.claims();
    let query = Query::read(call.head.uri.query())?;
    let page = api.auth.sessions(&claims.sub, query.after.as_ref(), query.limit).await?;
    let current = |session: &Session| session.sid.to_string() == claims.sid;
    Ok(ok(&shown(&page, |session| describe(session, Some(current(session))))))
}

/// Query parameters of a list of sessions.
pub(super) struct Query {
    pub(super) user: Option<String>,
    pub(super) after: Option<PageCursor>,
    pub(super) limit: u32,
}

impl Query {
    pub(super) fn read(query: Option<&str>) -> Result<Self, Failure> {
        let invalid = |detail: &str| Failure::Invalid(detail.to_owned());
        let pairs: Vec<(String, String)> =
            serde_urlencoded::from_str(query.unwrap_or_default()).map_err(|_| invalid("the query is malformed"))?;
        let mut read = Self { user: None, after: None, limit: PAGE_MAX };
        for (name, value) in pairs {
            match name.as_str() {
                "user" => read.user = Some(value),
                "after" => {
                    let cursor = PageCursor::parse(&value);
                    read.after = Some(cursor.ok_or_else(|| invalid("after must be `next` of the previous page"))?);
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
                    read.limit = limit.ok_or_else(|| invalid("limit must be 1 to 100"))?;
                }
                _ => {}
            }
        }
        Ok(read)
    }
}

/// A page for its user or the operator; `next` only if there are more.
pub(super) fn shown(page: &SessionPage, describe: impl Fn(&Session) -> Value) -> Value {
    let sessions: Vec<Value> = page.sessions.iter().map(describe).collect();
    let mut body = json!({ "sessions": sessions });
    if let Some(next) = &page.next {
        body["next"] = Value::from(next.to_string());
    }
    body
}

pub(super) async fn end<U: Users, S: Store, P: Passwords>(api: Arc<Api<U, S, P>>, call: Call) -> Answer {
    let client = call.client(&api.proxies);
    let good = api.check(required_bearer(&call.head.headers)?)?;
    let sid = call.head.uri.path().rsplit('/').next().unwrap_or_default();
    let ended = api.auth.end_own_session(&good.claims().sub, sid).await?.ok_or(Failure::NotFound)?;
    audit::session_ended(&api.metrics, &client, &ended);
    Ok(no_content())
}

/// A session for its user or the operator.
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
