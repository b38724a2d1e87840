//! POST /auth/logout

use std::sync::Arc;

use super::api::Api;
use super::audit;
use super::bearer::bearer;
use super::call::Call;
use super::error::Failure;
use super::fields::{Fields, Invalid};
use super::response::{Answer, no_content};
use crate::domain::logout::{PresentedTokens, Scope};
use crate::domain::traits::{Passwords, Store, Users};

pub(super) async fn logout<U: Users, S: Store, P: Passwords>(api: Arc<Api<U, S, P>>, call: Call) -> Answer {
    let client = call.client(&api.proxies);
    let read = read(call).await;
    let (access, refresh, scope) = read.inspect_err(|_| audit::unreadable_logout(&api.metrics, &client))?;
    let presented = PresentedTokens { access: access.as_deref(), refresh: refresh.as_deref() };
    let outcome = api.auth.logout(presented, scope, (api.clock)()).await;
    audit::logout(&api.metrics, &client, scope, outcome.as_ref());
    outcome.map_err(Failure::Logout)?;
    Ok(no_content())
}

/// The access token, the refresh token and the scope of a request.
async fn read(call: Call) -> Result<(Option<String>, Option<String>, Scope), Failure> {
    let access = bearer(&call.head.headers)?.map(str::to_owned);
    let (refresh, scope) = parse_logout(call.optional_fields().await?)?;
    Ok((access, refresh, scope))
}

/// The refresh token, if there is one, and the scope of the logout.
///
/// # Errors
/// A field is not a string, or the scope is not one of the three.
pub fn parse_logout(mut fields: Fields) -> Result<(Option<String>, Scope), Invalid> {
    let refresh = fields.optional_text("refresh_token")?;
    let scope = match fields.optional_text("scope")? {
        None => Scope::Local,
        Some(word) => Scope::parse(&word).ok_or_else(|| Invalid("scope must be local, others or global".to_owned()))?,
    };
    Ok((refresh, scope))
}
