//! POST /auth/login

use std::sync::Arc;

use axum::body::Body;
use http::Response;
use serde_json::json;
use sidegate_common::secret::Secret;

use super::api::Api;
use super::audit;
use super::call::Call;
use super::error::Failure;
use super::fields::{Fields, Invalid};
use super::response::{Answer, json as ok};
use crate::domain::TokenPair;
use crate::domain::login::Credentials;
use crate::domain::traits::{Passwords, Store, Users};

pub(super) async fn login<U: Users, S: Store, P: Passwords>(api: Arc<Api<U, S, P>>, call: Call) -> Answer {
    let client = call.client(&api.proxies);
    let read = async { Ok::<_, Failure>(credentials(call.fields().await?)?) };
    let credentials = read.await.inspect_err(|_| audit::unreadable_login(&api.metrics, &client))?;
    let outcome = api.auth.login(&credentials, &client).await;
    audit::login(&api.metrics, &client, outcome.as_ref());
    Ok(pair(&outcome.map_err(Failure::Login)?))
}

/// Credentials from JSON with `email`, or from the form with `username` that OAuth2 clients send.
///
/// # Errors
/// A field is missing or not a string.
pub fn credentials(mut fields: Fields) -> Result<Credentials, Invalid> {
    let name = if !fields.has("email") && fields.has("username") { "username" } else { "email" };
    let email = fields.text(name)?;
    Ok(Credentials { email, password: Secret::new(fields.text("password")?) })
}

/// The response of login and refresh.
pub(super) fn pair(pair: &TokenPair) -> Response<Body> {
    ok(&json!({
        "access_token": pair.access_token,
        "refresh_token": pair.refresh_token,
        "token_type": "bearer",
        "expires_in": pair.expires_in,
    }))
}
