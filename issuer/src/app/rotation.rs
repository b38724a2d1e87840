//! Applies changes of the key folder, and appends the revocations of retired keys to the log.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::IssuerApi;
use super::reload::Reloader;
use crate::config::KeysConfig;
use crate::keys::folder::fingerprint;
use crate::keys::set::KeySet;

/// How often the folder is checked.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Watches the keys. Never returns.
pub(super) async fn watch(
    api: Arc<IssuerApi>,
    mut config: KeysConfig,
    mut reloader: Reloader,
    mut reload: watch::Receiver<u64>,
) {
    let look = |config: &KeysConfig| config.folder.as_deref().map(fingerprint);
    let mut seen = look(&config);
    let mut dead = Vec::new();
    let mut appended = HashSet::new();
    if let Ok(keys) = config.key_set() {
        dead = keys.retired;
    }
    loop {
        append_retired(&api, &dead, &mut appended).await;
        let asked = tokio::select! {
            changed = reload.changed() => match changed {
                Ok(()) => true,
                Err(_) => std::future::pending().await,
            },
            () = tokio::time::sleep(CHECK_EVERY) => reloader.issuers_changed(),
        };
        if asked && let Some(fresh) = reloader.reload().await {
            config = fresh.keys;
            match config.refresh_keys() {
                Ok(keys) => api.auth.refresh_keys.replace(&keys),
                Err(error) => tracing::error!(%error, "session secret reload failed; keeping the previous secret"),
            }
        }
        let now = look(&config);
        if !asked && now == seen {
            continue;
        }
        seen = now;
        match config.key_set() {
            Ok(keys) => dead = put_in_force(&api, keys),
            Err(error) => tracing::error!(%error, "signing key reload failed; keeping the previous keys"),
        }
    }
}

/// Verifies with the new keys first, then signs with them. Returns the retired keys.
fn put_in_force(api: &IssuerApi, keys: KeySet) -> Vec<String> {
    let signing = keys.signing.kid().to_owned();
    let verifying = keys.ring.keys().len();
    api.auth.tokens.set_keys(keys.ring);
    api.publish(keys.public);
    api.auth.signer.replace_key(keys.signing);
    tracing::info!(signing, verifying, retired = keys.retired.len(), "keys reloaded");
    keys.retired
}

/// Appends the revocation of each retired key that the log does not have yet; retries failures.
async fn append_retired(api: &IssuerApi, dead: &[String], appended: &mut HashSet<String>) {
    for kid in dead {
        if appended.contains(kid) {
            continue;
        }
        // Before the first complete list, the contents of the log are unknown.
        if api.auth.tokens.ensure_ready((api.clock)()).is_err() {
            return;
        }
        if !api.auth.knows_retired(kid) {
            // Boxed: the future of a store call is too deep for the compiler's recursion limit
            // here.
            if let Err(error) = Box::pin(api.auth.revoke_key(kid)).await {
                tracing::error!(kid, %error, "revoking the tokens of a retired key failed; trying again");
                continue;
            }
            tracing::warn!(target: "audit", event = "key_retired", result = "ok", kid);
        }
        appended.insert(kid.clone());
    }
}
