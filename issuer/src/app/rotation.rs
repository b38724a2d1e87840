//! Puts keys in force as their folder changes, and tells the log of those that were retired.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::IssuerApi;
use super::reload::Reloader;
use crate::config::KeysConfig;
use crate::keys::folder::fingerprint;
use crate::keys::set::KeySet;

/// How often the folder is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
    let mut told = HashSet::new();
    if let Ok(keys) = config.key_set() {
        dead = keys.retired;
    }
    loop {
        tell_of_retired(&api, &dead, &mut told).await;
        let asked = tokio::select! {
            changed = reload.changed() => match changed {
                Ok(()) => true,
                Err(_) => std::future::pending().await,
            },
            () = tokio::time::sleep(LOOK_EVERY) => false,
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

/// Verifies by the new keys first, then signs by them. Returns the retired ones.
fn put_in_force(api: &IssuerApi, keys: KeySet) -> Vec<String> {
    let signing = keys.signing.kid().to_owned();
    let verifying = keys.ring.keys().len();
    api.auth.tokens.set_keys(keys.ring);
    api.publish(keys.public);
    api.auth.signer.replace_key(keys.signing);
    tracing::info!(signing, verifying, retired = keys.retired.len(), "keys reloaded");
    keys.retired
}

/// Appends the revocation of every retired key that the log does not have yet; what fails is tried again.
async fn tell_of_retired(api: &IssuerApi, dead: &[String], told: &mut HashSet<String>) {
    for kid in dead {
        if told.contains(kid) {
            continue;
        }
        // Before the first complete list it cannot be known what the log has.
        if api.auth.tokens.ensure_ready((api.clock)()).is_err() {
            return;
        }
        if !api.auth.knows_retired(kid) {
            // Boxed: the future of a store call is deep enough to tire the compiler here.
            if let Err(error) = Box::pin(api.auth.revoke_key(kid)).await {
                tracing::error!(kid, %error, "the key is retired, but the log does not have it yet");
                continue;
            }
            tracing::warn!(target: "audit", event = "key_retired", result = "ok", kid);
        }
        told.insert(kid.clone());
    }
}
