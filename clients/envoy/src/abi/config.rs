//! The module's configuration: JSON in Envoy's own configuration, of the filter and of its routes.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use sidegate_common::routes::{Access, AccessConfig, Routes};
use sidegate_common::time::parse_duration;

use crate::abi::FilterCounters;
use crate::abi::check_threads::{CheckThreads, CheckThreadsSettings};
use crate::hook::Hook;

/// The longest `open_stream_grace`.
const GRACE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest path of a Unix socket (`sun_path`).
const SOCKET_BYTES_MAX: usize = 107;

/// `filter_config`: every member is optional.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FilterJson {
    /// The daemon's `VERIFIER_SOCKET`.
    socket: PathBuf,
    /// The daemon's `ATTACH_SOCKET`; `off` checks over `socket` alone.
    attach_socket: PathBuf,
    /// How long the daemon may take to answer.
    timeout: String,
    /// The threads that ask the daemon.
    threads: usize,
    /// The requests that may wait for these threads; more are answered with 503.
    queue: usize,
    /// About how many tokens are cached.
    tokens: usize,
    /// How long an open request is kept whose token cannot be checked, because the daemon is gone or its list too old; `off`
    /// keeps it.
    open_stream_grace: String,
    /// The daemon's `ROUTES_FILE`. Read once; Envoy reads it again with a changed configuration.
    routes_file: Option<PathBuf>,
    /// For tests: the hook that panics.
    panic_in: Option<Hook>,
}

impl Default for FilterJson {
    fn default() -> Self {
        Self {
            socket: "/run/sidegate/verifier.sock".into(),
            attach_socket: "/run/sidegate/attach.sock".into(),
            timeout: "1s".to_owned(),
            threads: 4,
            queue: 4096,
            tokens: 32_768,
            open_stream_grace: "30s".to_owned(),
            routes_file: None,
            panic_in: None,
        }
    }
}

/// The configuration of a route (`typed_per_filter_config`), in the words of a routes file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteJson {
    access: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    audience: Option<String>,
    panic_in: Option<Hook>,
}

/// The configuration of a filter.
#[derive(Debug)]
pub struct FilterConfig {
    pub checks: Arc<CheckThreads>,
    pub routes: Option<Routes>,
    pub counters: FilterCounters,
    pub panic_in: Option<Hook>,
}

/// The configuration of a route; it takes the place of the routes file.
#[derive(Debug)]
pub struct RouteConfig {
    pub access: Access,
    pub panic_in: Option<Hook>,
}

impl FilterConfig {
    /// Reads the filter's configuration; nothing at all is `{}`.
    ///
    /// # Errors
    /// The first member that is wrong, and what would be right.
    pub fn read(json: &[u8], counters: FilterCounters) -> Result<Self, String> {
        let json: &[u8] = if json.trim_ascii().is_empty() { b"{}" } else { json };
        let read: FilterJson = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        crate::hook::inject(read.panic_in, Hook::ConfigNew);
        check_socket("socket", &read.socket)?;
        let attach = Some(read.attach_socket).filter(|path| path != Path::new("off"));
        if let Some(path) = &attach {
            check_socket("attach_socket", path)?;
        }
        let timeout = parse_duration(&read.timeout).map_err(|error| format!("timeout: {error}"))?;
        let timeout = Duration::from_secs(timeout.as_secs());
        if !(1..=60).contains(&timeout.as_secs()) {
            return Err(format!("timeout: {:?} is not from 1s to 60s", read.timeout));
        }
        check_range("threads", read.threads, 64)?;
        check_range("queue", read.queue, 1 << 20)?;
        check_range("tokens", read.tokens, 1 << 24)?;
        let grace = read_grace(&read.open_stream_grace)?;
        let routes = read.routes_file.as_deref().map(read_routes).transpose()?;
        let (threads, queue, tokens) = (read.threads, read.queue, read.tokens);
        let checks = CheckThreads::shared(CheckThreadsSettings {
            socket: read.socket,
            attach,
            timeout,
            threads,
            queue,
            tokens,
            grace,
        })?;
        Ok(Self { checks, routes, counters, panic_in: read.panic_in })
    }
}

impl RouteConfig {
    /// Reads a route's configuration.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        let RouteJson { access, scopes, audience, panic_in } =
            serde_json::from_slice(json).map_err(|error| error.to_string())?;
        crate::hook::inject(panic_in, Hook::RouteConfigNew);
        let access = AccessConfig { access, scopes, audience }.access(None)?;
        Ok(Self { access, panic_in })
    }
}

/// A socket that does not exist yet is no error: the daemon may start later.
fn check_socket(member: &str, path: &Path) -> Result<(), String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!("{member}: {shown} is not an absolute path"));
    }
    if path.as_os_str().len() > SOCKET_BYTES_MAX {
        return Err(format!("{member}: {shown} is longer than {SOCKET_BYTES_MAX} bytes"));
    }
    match std::fs::metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(format!("{member}: {shown} is not a socket")),
        _ => Ok(()),
    }
}

fn check_range(member: &str, value: usize, most: usize) -> Result<(), String> {
    if (1..=most).contains(&value) { Ok(()) } else { Err(format!("{member}: {value} is not from 1 to {most}")) }
}

fn read_grace(text: &str) -> Result<Option<Duration>, String> {
    if text == "off" {
        return Ok(None);
    }
    match parse_duration(text) {
        Ok(grace) if grace <= GRACE_MAX => Ok(Some(grace)),
        Ok(_) => Err(format!("open_stream_grace: {text:?} is longer than 1d; `off` keeps open requests for ever")),
        Err(error) => Err(format!("open_stream_grace: {text:?} is {error}, and not `off`")),
    }
}

fn read_routes(path: &Path) -> Result<Routes, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("routes_file: {shown}: {error}"))?;
    Routes::parse_for_any_audience(&text).map_err(|error| format!("routes_file: {shown}: {error}"))
}
