//! Checks settings against each other: impossible combinations are errors, suspicious ones are
//! warnings.

use sidegate_runtime::settings::checks::{check_ports, check_probe_interval};
use sidegate_runtime::settings::{ConfigError, Settings};

use super::{Config, FeedSource, JwksSource};

/// Rejects settings that are valid alone, but cannot work together.
///
/// # Errors
/// The setting to change.
pub(super) fn check(settings: &Settings, config: &Config) -> Result<(), ConfigError> {
    check_probe_interval(settings, config.feed.probe_interval, config.staleness.max_ms)?;
    if config.listen.socket.is_some() && config.listen.socket == config.attach.socket {
        return Err(ConfigError::new("ATTACH_SOCKET", "is the same as VERIFIER_SOCKET; give each a path of its own"));
    }
    let listeners = [("VERIFIER_LISTEN", config.listen.tcp), ("VERIFIER_ADMIN_LISTEN", config.listen.admin)];
    check_ports(&listeners.iter().filter_map(|(name, address)| Some((*name, (*address)?))).collect::<Vec<_>>())?;
    if let Some(folder) = config.feed.snapshot_file.as_deref().and_then(|path| path.parent())
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        return Err(
            settings.unfit("SNAPSHOT_FILE", "in a folder that exists; create the folder, writable by this program")
        );
    }
    Ok(())
}

/// Warnings about settings that are probably a mistake.
pub fn warnings(settings: &Settings, config: &Config) -> Vec<String> {
    let mut all: Vec<String> = settings.near_misses().iter().map(ToString::to_string).collect();
    let mut idle = |names: &[&'static str], why: &str| {
        let given = names.iter().filter(|name| settings.is_given(name));
        all.extend(given.map(|name| format!("{name} has no effect: {why}")));
    };
    match config.feed.source {
        FeedSource::Redis(_) => idle(&["ISSUER_FEED_URL", "FEED_TOKEN"], "REDIS_URL is set"),
        FeedSource::Issuer(_) => idle(&["REDIS_PREFIX"], "REDIS_URL is not set; the issuer's feed is followed"),
    }
    if config.keys.jwks.is_none() {
        idle(&["JWKS_REFRESH"], "neither JWKS_URL nor JWKS_FILE is set");
    }
    if config.attach.socket.is_none() {
        idle(&["ATTACH_ALLOW_UIDS", "ATTACH_ALLOW_GIDS"], "ATTACH_SOCKET is off");
    }
    if config.listen.tcp.is_none() {
        idle(&["INTROSPECT_TOKEN"], "VERIFIER_LISTEN is not set, and the Unix socket asks for none");
    }
    if matches!(config.keys.jwks, Some(JwksSource::Url(_))) {
        let proxies = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
        if let Some(name) =
            proxies.into_iter().find(|name| std::env::var_os(name).is_some_and(|proxy| !proxy.is_empty()))
        {
            all.push(format!(
                "{name} is not used: JWKS_URL is fetched directly; use JWKS_FILE where only a proxy reaches it"
            ));
        }
    }
    all
}

/// Rejects spellings of a socket's address that would silently become a file's name.
///
/// # Errors
/// The right spelling.
pub(super) fn socket_path(settings: &Settings, name: &'static str, path: &str) -> Result<(), ConfigError> {
    if path.starts_with('@') {
        return Err(settings.unfit(name, "a path: abstract sockets (@name) are not supported, since they have no mode"));
    }
    if let Some(rest) = path.strip_prefix("unix:") {
        let plain = format!("/{}", rest.trim_start_matches('/'));
        return Err(settings.unfit(name, &format!("a plain path; write {plain}")));
    }
    if path.contains("://") || path.ends_with('/') {
        return Err(settings.unfit(name, "the path of a socket, such as /run/sidegate/verifier.sock, or off"));
    }
    Ok(())
}
