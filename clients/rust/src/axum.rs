//! axum integration: a handler with a [`Verified`] argument is protected.
//!
//! The state must provide a [`Sidegate`] (`FromRef`). Behind [`crate::tower::RequireToken`] the
//! token is not checked again.

use ::axum::extract::{FromRef, FromRequestParts};
use ::axum::response::{IntoResponse, Response};
use ::http::request::Parts;

use crate::{Denied, Sidegate, Verified, http};

impl<S> FromRequestParts<S> for Verified
where
    S: Send + Sync,
    Sidegate: FromRef<S>,
{
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Denied> {
        if let Some(verified) = parts.extensions.get::<Self>() {
            return Ok(verified.clone());
        }
        http::check(&Sidegate::from_ref(state), http::bearer(&parts.headers)?).await
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        http::refusal(&self)
    }
}
