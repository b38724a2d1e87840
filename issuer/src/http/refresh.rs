//! POST /auth/refresh

use std::sync::Arc;

use super::api::Api;
use super::audit;
use super::call::Call;
use super::error::Failure;
use super::fields::{Fields, Invalid};
use super::login::pair;
use super::response::Answer;
use crate::domain::traits::{Passwords, Store, Users};

pub(super) async fn refresh<U: Users, S: Store, P: Passwords>(api: Arc<Api<U, S, P>>, call: Call) -> Answer {
    let client = call.client(&api.proxies);
    let read = async { Ok::<_, Failure>(token(call.fields().await?)?) };
    let token = read.await.inspect_err(|_| audit::unreadable_refresh(&api.metrics, &client))?;
    let outcome = api.auth.refresh(&token).await;
    audit::refresh(&api.metrics, &client, outcome.as_ref());
    Ok(pair(&outcome.map_err(Failure::Refresh)?.pair))
}

/// The refresh token of the request.
///
/// # Errors
/// The token is missing or not a string.
pub fn token(mut fields: Fields) -> Result<String, Invalid> {
    fields.text("refresh_token")
}
