//! Checks settings against each other: impossible combinations are errors, suspicious ones are
//! warnings.

use std::net::SocketAddr;

use sidegate_runtime::settings::{ConfigError, Settings};

use super::{Config, FeedSource, JwksSource};

/// Rejects settings that are valid alone, but cannot work together.
///
/// # Errors
/// The setting to change.
pub(super) fn check(settings: &Settings, config: &Config) -> Result<(), ConfigError> {
    if u64::try_from(config.feed.probe_interval.as_millis()).unwrap_or(u64::MAX) * 2 > config.staleness.max_ms {
        return Err(settings.unfit(
            "PROBE_INTERVAL",
            &format!(
                "at most half of MAX_STALENESS ({}): the list would be stale between two probes",
                settings.text("MAX_STALENESS").unwrap_or_default()
            ),
        ));
    }
    if config.listen.socket.is_some() && config.listen.socket == config.attach.socket {
        return Err(ConfigError::new("ATTACH_SOCKET", "is the same as VERIFIER_SOCKET; give each a path of its own"));
    }
    if let (Some(checks), Some(admin)) = (config.listen.tcp, config.listen.admin)
        && collide(checks, admin)
    {
        return Err(ConfigError::new(
            "VERIFIER_ADMIN_LISTEN",
            "has the same port as VERIFIER_LISTEN; set another port",
        ));
    }
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

/// True if the two addresses cannot both be bound.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
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
