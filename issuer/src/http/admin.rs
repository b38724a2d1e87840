//! The admin listener: probes, metrics, and, if `ADMIN_TOKEN` is set, revocations and sessions.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use sidegate_common::foreign::ids::ClaimPath;
use sidegate_common::revocation_state::Unavailable;
use sidegate_common::token::Rejection;

use super::api::Api;
use super::audit;
use super::bearer::required_bearer;
use super::call::Call;
use super::error::Failure;
use super::fields::{Fields, Invalid};
use super::origin::CorsOrigins;
use super::response::{Answer, json as ok, no_content};
use super::router::{handler, with_middleware};
use super::sessions::{Query, describe, shown};
use crate::domain::foreign_request::{ForeignRequest, ForeignTarget};
use crate::domain::revoke::RevokeRequest;
use crate::domain::session::UserSessions;
use crate::domain::traits::{Passwords, Store, Users};

const PLAIN: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The admin listener's routes.
pub fn admin<U: Users, S: Store, P: Passwords>(api: &Arc<Api<U, S, P>>) -> Router {
    let mut router = Router::new()
        .route("/livez", get(handler(api, |_, _| async { Ok(text("ok\n".to_owned(), PLAIN)) })))
        .route("/readyz", get(handler(api, readyz)))
        .route("/metrics", get(handler(api, metrics)));
    if api.admin_token.is_set() {
        router = router
            .route("/admin/revocations", post(handler(api, revoke)))
            .route("/admin/sessions", get(handler(api, sessions)));
    }
    // No web page may call the admin listener, whatever CORS_ORIGINS says.
    with_middleware(api, &CorsOrigins::default(), router)
}

fn text(body: String, media_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Whether users could log in, refresh and log out now, and the errors of the users' database, the
/// store and the feed. A stale feed is reported, but only routes that check access tokens need it.
fn readiness<U, S, P>(api: &Api<U, S, P>) -> (bool, [(&'static str, Option<String>); 3]) {
    let now = (api.clock)();
    let [users, store] = api.readiness.errors(now.monotonic_ms);
    let feed = api.auth.tokens.ensure_ready(now).err();
    let stale_at_most = matches!(feed, None | Some(Unavailable::Stale(_)));
    let ready = users.1.is_none() && store.1.is_none() && stale_at_most;
    (ready, [users, store, ("feed", feed.map(|why| why.to_string()))])
}

async fn readyz<U: Users, S: Store, P: Passwords>(api: Arc<Api<U, S, P>>, _call: Call) -> Answer {
    let (ready, errors) = readiness(&api);
    let shown = |error: &Option<String>| error.as_deref().map_or(Value::from("ok"), Value::from);
    let body: Map<String, Value> = errors.iter().map(|(part, error)| ((*part).to_owned(), shown(error))).collect();
    let mut response = ok(&Value::from(body));
    if !ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

async fn metrics<U: Users, S: Store, P: Passwords>(api: Arc<Api<U, S, P>>, _call: Call) -> Answer {
    let (ready, _) = readiness(&api);
    api.metrics.render(ready).map(|metrics| text(metrics, OPEN_METRICS)).ok_or(Failure::Internal)
}

fn authorise<U, S, P>(api: &Api<U, S, P>, headers: &HeaderMap) -> Result<(), Rejection> {
    let presented = required_bearer(headers)?;
    let known = api.admin_token.matches(presented.as_bytes());
    if known { Ok(()) } else { Err(Rejection::Signature) }
}

async fn revoke<U: Users, S: Store, P: Passwords>(api: Arc<Api<U, S, P>>, call: Call) -> Answer {
    authorise(&api, &call.head.headers)?;
    let client = call.client(&api.proxies);
    let wants_result = prefers_representation(&call.head.headers);
    let order = order(call.fields().await?)?;
    let outcome = api.auth.revoke(&order, (api.clock)().now).await;
    audit::revocation(&api.metrics, &client, &order, outcome.as_ref());
    let revoked = outcome.map_err(Failure::Revoke)?;
    if !wants_result {
        return Ok(no_content());
    }
    let mut response = ok(&json!({ "sessions_ended": revoked.sessions_ended }));
    response.headers_mut().insert("preference-applied", HeaderValue::from_static(REPRESENTATION));
    Ok(response)
}

/// The preference (RFC 7240 §4.2) by which a client requests the result of a revocation.
const REPRESENTATION: &str = "return=representation";

fn prefers_representation(headers: &HeaderMap) -> bool {
    let values = headers.get_all("prefer").into_iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(','));
    preferences.any(|one| {
        let (name, value) = one.split(';').next().unwrap_or_default().split_once('=').unwrap_or_default();
        name.trim().eq_ignore_ascii_case("return") && value.trim().trim_matches('"') == "representation"
    })
}

/// Parses a request about another issuer's tokens: exactly one target, in the words of its tokens.
fn foreign_order(issuer: String, mut fields: Fields) -> Result<RevokeRequest, Invalid> {
    if fields.has("sessions") {
        return Err(Invalid("sessions are not kept for another issuer".to_owned()));
    }
    let mut targets: Vec<ForeignTarget> = Vec::new();
    targets.extend(fields.optional_text("user")?.map(ForeignTarget::User));
    targets.extend(fields.optional_text("session")?.map(ForeignTarget::Session));
    targets.extend(fields.optional_text("token")?.map(ForeignTarget::Token));
    targets.extend(fields.optional_text("key")?.map(ForeignTarget::Key));
    targets.extend(fields.optional_path("claim")?.map(|(path, value)| ForeignTarget::Claim(ClaimPath(path), value)));
    targets.extend((fields.optional_flag("all")? == Some(true)).then_some(ForeignTarget::All));
    match (targets.pop(), targets.is_empty()) {
        (Some(target), true) => Ok(RevokeRequest::Foreign(ForeignRequest { issuer, target })),
        _ => Err(Invalid("exactly one of token, session, user, key, claim and all must be given".to_owned())),
    }
}

/// Parses the request: exactly one of the five targets, or one of another issuer's tokens.
fn order(mut fields: Fields) -> Result<RevokeRequest, Invalid> {
    match fields.optional_text("issuer")? {
        None => {}
        Some(home) if home == "home" => {}
        Some(issuer) => return foreign_order(issuer, fields),
    }
    let mut orders = Vec::new();
    if let Some(token) = fields.optional_text("token")? {
        orders.push(RevokeRequest::Token(token));
    }
    if let Some(sid) = fields.optional_text("session")? {
        orders.push(RevokeRequest::Session(sid));
    }
    let sessions = match fields.optional_text("sessions")?.as_deref() {
        None | Some("end") => UserSessions::End,
        Some("keep") => UserSessions::Keep,
        Some(_) => return Err(Invalid("sessions must be keep or end".to_owned())),
    };
    if let Some(sub) = fields.optional_identifier("user")? {
        orders.push(RevokeRequest::User { sub, sessions });
    }
    if let Some(kid) = fields.optional_text("key")? {
        orders.push(RevokeRequest::Key(kid));
    }
    if fields.optional_flag("all")? == Some(true) {
        orders.push(RevokeRequest::All);
    }
    match (orders.pop(), orders.is_empty()) {
        (
            Some(
                RevokeRequest::Token(_)
                | RevokeRequest::Session(_)
                | RevokeRequest::Key(_)
                | RevokeRequest::All
                | RevokeRequest::Foreign(_),
            ),
            true,
        ) if sessions == UserSessions::Keep => Err(Invalid("sessions may be keep only if user is given".to_owned())),
        (Some(order), true) => Ok(order),
        _ => Err(Invalid("exactly one of token, session, user, key and all must be given".to_owned())),
    }
}

async fn sessions<U: Users, S: Store, P: Passwords>(api: Arc<Api<U, S, P>>, call: Call) -> Answer {
    authorise(&api, &call.head.headers)?;
    let query = Query::read(call.head.uri.query())?;
    let user = query.user.ok_or_else(|| Failure::Invalid("user is missing".to_owned()))?;
    let page = api.auth.sessions(&user, query.after.as_ref(), query.limit).await?;
    Ok(ok(&shown(&page, |session| describe(session, None))))
}
