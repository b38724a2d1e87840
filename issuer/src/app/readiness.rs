//! Probes the stores every few seconds: would a login and a logout succeed now?

use std::sync::Arc;
use std::time::{Duration, Instant};

use sidegate_runtime::clock::monotonic_ms;

use super::IssuerApi;
use crate::domain::traits::{Store as _, Users as _};
use crate::http::readiness::ProbeResult;

/// A probe writes, so that it fails whenever a logout would; it runs no more often than necessary.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// The first pause after a probe that failed; then a quarter of the time since, up to [`PROBE_AGAIN`]. At start the log is
/// settled within a few of them.
const PROBE_SOON: Duration = Duration::from_millis(10);
/// Shorter while a store fails, so that a recovered store is used soon.
const PROBE_AGAIN: Duration = Duration::from_secs(1);
/// Longer than the timeout of any one store call.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps the state of `/readyz` current. Never returns.
pub(super) async fn watch(api: Arc<IssuerApi>) {
    let mut failing: Option<Instant> = None;
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
        failing = if ready { None } else { failing.or_else(|| Some(Instant::now())) };
        let again = failing.map(|since| (since.elapsed() / 4).clamp(PROBE_SOON, PROBE_AGAIN));
        tokio::time::sleep(again.unwrap_or(PROBE_EVERY)).await;
    }
}
