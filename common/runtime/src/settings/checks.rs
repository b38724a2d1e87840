//! Checks of settings against each other that both programs make.

use std::net::SocketAddr;
use std::time::Duration;

use super::{ConfigError, Settings};

/// Refuses a `PROBE_INTERVAL` that leaves no time for a second probe within `MAX_STALENESS`.
///
/// # Errors
/// Names `PROBE_INTERVAL`.
pub fn check_probe_interval(settings: &Settings, interval: Duration, staleness_max_ms: u64) -> Result<(), ConfigError> {
    if interval.as_millis() * 2 <= u128::from(staleness_max_ms) {
        return Ok(());
    }
    let staleness = settings.text("MAX_STALENESS").unwrap_or_default();
    let expected = format!("at most half of MAX_STALENESS ({staleness}): the list would be stale between two probes");
    Err(settings.unfit("PROBE_INTERVAL", &expected))
}

/// Refuses two listeners that cannot both be bound.
///
/// # Errors
/// Names the second of them.
pub fn check_ports(listeners: &[(&'static str, SocketAddr)]) -> Result<(), ConfigError> {
    for (at, (name, address)) in listeners.iter().enumerate() {
        if let Some((taken, _)) = listeners[..at].iter().find(|(_, other)| collide(*address, *other)) {
            return Err(ConfigError::new(*name, format!("has the same port as {taken}; set another port")));
        }
    }
    Ok(())
}

fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
