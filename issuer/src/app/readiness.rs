//! Looks every few seconds whether the stores would take a login and a logout.

use std::sync::Arc;
use std::time::Duration;

use sidegate_runtime::clock::monotonic_ms;

use super::IssuerApi;
use crate::domain::traits::{Store as _, Users as _};
use crate::http::readiness::Look;

/// A look writes, so that it fails wherever a logout would: not more often than it must.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// While something is wrong: what works again should be used again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Longer than any one question to a store may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps what `/readyz` answers current. Never returns.
pub(super) async fn watch(api: Arc<IssuerApi>) {
    loop {
        let late = |_| Some("no answer in time".to_owned());
        let users = async {
            let probe = tokio::time::timeout(LOOK_TIMEOUT, api.auth.users.probe()).await;
            probe.map_or_else(late, |probe| probe.err().map(|error| error.to_string()))
        };
        let store = async {
            let probe = tokio::time::timeout(LOOK_TIMEOUT, api.auth.store.probe()).await;
            probe.map_or_else(late, |probe| probe.err().map(|error| error.to_string()))
        };
        let (users, store) = tokio::join!(users, store);
        let pause = if users.is_none() && store.is_none() { LOOK_EVERY } else { LOOK_AGAIN };
        api.readiness.set(Look { users, store, at_ms: monotonic_ms() });
        tokio::time::sleep(pause).await;
    }
}
