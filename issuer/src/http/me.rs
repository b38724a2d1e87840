//! GET /auth/me

use std::sync::Arc;

use super::api::Api;
use super::bearer::required_bearer;
use super::call::Call;
use super::error::Failure;
use super::response::{Answer, json};

pub(super) async fn me<U, S, P>(api: Arc<Api<U, S, P>>, call: Call) -> Answer {
    let good = api.check(required_bearer(&call.head.headers)?)?;
    let claims = serde_json::to_value(good.claims()).map_err(|_| Failure::Internal)?;
    Ok(json(&claims))
}
