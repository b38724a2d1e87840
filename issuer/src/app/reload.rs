//! Reload on SIGHUP: applies what has changed in the settings and in the files that they name.

use std::sync::Arc;

use sidegate_common::secret::LiveSecret;
use sidegate_runtime::feed::redis::RedisSource;
use sidegate_runtime::file_stamp::FileStamp;
use sidegate_runtime::redis_url::RedisUrl;
use sidegate_runtime::settings::{ConfigError, Settings};

use super::IssuerApi;
use crate::config::{Config, StoreConfig};
use crate::store::backend::AnyStore;

/// Reads the settings and the configuration again.
pub type Reread = Box<dyn Fn() -> Result<(Settings, Config), ConfigError> + Send + Sync>;

/// The settings in force, and the parts that a reload can change.
pub(super) struct Reloader {
    pub(super) api: Arc<IssuerApi>,
    pub(super) settings: Settings,
    pub(super) reread: Reread,
    pub(super) feed_token: LiveSecret,
    /// Source of the issuer's own list, where the store is Redis.
    pub(super) source: Option<RedisSource>,
    /// `ISSUERS_FILE` as it was last looked at.
    pub(super) issuers_seen: Option<FileStamp>,
}

/// The file that `ISSUERS_FILE` names now.
pub(super) fn issuers_stamp(settings: &Settings) -> Option<FileStamp> {
    FileStamp::of(settings.text("ISSUERS_FILE")?)
}

impl Reloader {
    /// True once for every change of `ISSUERS_FILE`.
    pub(super) fn issuers_changed(&mut self) -> bool {
        let now = issuers_stamp(&self.settings);
        std::mem::replace(&mut self.issuers_seen, now) != now
    }

    /// Reads the settings again and applies what can change at run time, except keys; logs what
    /// needs a restart. Returns `None`, and changes nothing, if the settings are wrong.
    pub(super) async fn reload(&mut self) -> Option<Config> {
        let (settings, config) = match (self.reread)() {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, "config reload failed; keeping the previous config");
                return None;
            }
        };
        let mut unable = Vec::new();
        // A public address requires a token for as long as it is open; without a token the admin
        // API has no routes.
        // Entries are kept for longer from the start if there are other issuers.
        for name in ["FEED_TOKEN", "ADMIN_TOKEN", "ISSUERS_FILE"] {
            if self.settings.text(name).is_some() != settings.text(name).is_some() {
                unable.push(name);
            }
        }
        if !self.renew_redis(&settings, &config).await {
            unable.push("REDIS_URL");
        }
        let changes = self.settings.take_up(&settings, &unable);
        // An operator who removes the token wants it to stop working now, not at the next restart.
        if self.settings.text("ADMIN_TOKEN").is_some() {
            self.api.admin_token.replace(config.admin_token.clone());
        }
        if let StoreConfig::Embedded { feed_token, .. } = &config.store
            && changes.taken_up.contains(&"FEED_TOKEN")
        {
            self.feed_token.replace(feed_token.clone());
        }
        if let (Some(issuers), true) = (&config.issuers, self.settings.text("ISSUERS_FILE").is_some()) {
            self.api.auth.issuers.replace(issuers.clone(), config.foreign_entries);
        }
        changes.log();
        Some(config)
    }

    /// Switches to other credentials for the same Redis, if they have changed and work. Returns
    /// false if the change needs a restart.
    async fn renew_redis(&self, settings: &Settings, config: &Config) -> bool {
        let logins = ["REDIS_URL", "REDIS_SENTINEL_USERNAME", "REDIS_SENTINEL_PASSWORD"];
        if logins.iter().all(|name| self.settings.text(name) == settings.text(name)) {
            return true;
        }
        let (old, new) = (self.settings.text("REDIS_URL"), settings.text("REDIS_URL"));
        let (Some(old), Some(new), AnyStore::Redis(store)) = (old, new, &self.api.auth.store) else { return false };
        let StoreConfig::Redis { server, prefix, .. } = &config.store else { return false };
        if without_credentials(old) != without_credentials(new) {
            return false;
        }
        if let Err(error) = store.renew(RedisUrl::clone(server)).await {
            tracing::error!(%error, setting = "REDIS_URL", "the new credentials do not work; keeping the previous ones");
            return false;
        }
        if let Some(source) = &self.source {
            source.renew(&RedisSource::at(RedisUrl::clone(server), prefix));
        }
        true
    }
}

/// The Redis server that a URL names, without credentials.
fn without_credentials(url: &str) -> (&str, &str) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    (scheme, rest.rsplit_once('@').map_or(rest, |(_, rest)| rest))
}
