//! Probes the stores every few seconds: would a login and a logout succeed now?

use std::sync::Arc;
use std::time::Duration;

use sidegate_runtime::clock::monotonic_ms;

use super::IssuerApi;
use crate::domain::traits::{Store as _, Users as _};
use crate::http::readiness::ProbeResult;

/// A probe writes, so that it fails whenever a logout would; it runs no more often than necessary.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// The first pause after a probe that failed, doubled up to [`PROBE_AGAIN`]: at start the log is proven within milliseconds.
const PROBE_SOON: Duration = Duration::from_millis(10);
/// Shorter while a store fails, so that a recovered store is used soon.
const PROBE_AGAIN: Duration = Duration::from_secs(1);
/// Longer than the timeout of any one store call.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps the state of `/readyz` current. Never returns.
pub(super) async fn watch(api: Arc<IssuerApi>) {
    let mut again = PROBE_SOON;
    loop {
        let late = |_| Some("no answer in time".to_owned());
        let users = async {
            let probe = tokio::time::timeout(PROBE_TIMEOUT, api.auth.users.probe()).await;
            probe.map_or_else(late, |probe| probe.err().map(|error| error.to_string()))
        };
        let store = async {
            let probe = tokio::time::timeout(PROBE_TIMEOUT, api.auth.store.probe()).await;
            probe.map_or_else(late, |probe| probe.err().map(|error| error.to_string()))
        };
        let (users, store) = tokio::join!(users, store);
        let ready = users.is_none() && store.is_none();
        api.readiness.set(ProbeResult { users, store, at_ms: monotonic_ms() });
        tokio::time::sleep(if ready { PROBE_EVERY } else { again }).await;
        again = if ready { PROBE_SOON } else { (again * 2).min(PROBE_AGAIN) };
    }
}
