//! systemd integration: socket activation (sd_listen_fds(3)) and notifications (sd_notify(3)).
//!
//! A passed socket is used by the setting that names the same address. It stays open in the service
//! manager when this process ends: connections made meanwhile wait for the next process, and none
//! is refused.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use sd_notify::NotifyState;

/// The passed TCP socket for `address`, if there is one.
///
/// # Errors
/// A passed socket cannot be used.
pub fn inherited_tcp(address: SocketAddr) -> io::Result<Option<std::net::TcpListener>> {
    inherited(|socket| socket.local_addr().is_ok_and(|local| local.as_socket() == Some(address)))
}

/// The passed Unix socket for `path`, if there is one.
///
/// # Errors
/// A passed socket cannot be used.
pub fn inherited_unix(path: &Path) -> io::Result<Option<UnixListener>> {
    inherited(|socket| socket.local_addr().is_ok_and(|local| local.as_pathname() == Some(path)))
}

fn inherited<L: From<socket2::Socket>>(is_it: impl Fn(&socket2::Socket) -> bool) -> io::Result<Option<L>> {
    for number in sd_notify::listen_fds()? {
        let socket = socket2::Socket::from(duplicate(number)?);
        if is_it(&socket) {
            TAKEN.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
            socket.set_nonblocking(true)?;
            return Ok(Some(socket.into()));
        }
    }
    Ok(None)
}

/// The descriptors of the passed sockets in use.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Call when everything is bound: a client of a passed socket that no setting names would wait for
/// ever.
///
/// # Errors
/// There is such a socket; the error names it and `settings`, those with addresses.
pub fn refuse_unserved(settings: &str) -> io::Result<()> {
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut unserved = Vec::new();
    for number in sd_notify::listen_fds()?.filter(|number| !taken.contains(number)) {
        unserved.push(describe(&socket2::Socket::from(duplicate(number)?)));
    }
    if unserved.is_empty() {
        return Ok(());
    }
    let problem = format!(
        "the service manager passed {}, which none of {settings} names: set one to it, or remove the socket unit",
        unserved.join(", ")
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

fn describe(socket: &socket2::Socket) -> String {
    let Ok(address) = socket.local_addr() else { return "a descriptor that is not a socket".to_owned() };
    let path = || address.as_pathname().map(|path| path.display().to_string());
    address
        .as_socket()
        .map(|address| address.to_string())
        .or_else(path)
        .unwrap_or_else(|| "an unnamed socket".to_owned())
}

/// Duplicates the descriptor `number` of this process. The kernel looks it up, so a wrong number is
/// an error and not undefined behaviour.
fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    let this_process = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(this_process, number, PidfdGetfdFlags::empty())?)
}

/// Notifies systemd that every socket is bound. No effect without a service manager.
pub fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Notifies systemd that the program is stopping and drains requests.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Notifies the watchdog twice in every `WatchdogSec`, as long as the runtime works. Never returns.
pub async fn feed_watchdog() {
    let Some(interval) = sd_notify::watchdog_enabled().filter(|interval| *interval > Duration::ZERO) else {
        return std::future::pending().await;
    };
    loop {
        notify(&[NotifyState::Watchdog]);
        tokio::time::sleep(interval / 2).await;
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "sd_notify failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn no_socket_is_inherited_without_systemd() {
        assert!(inherited_unix(Path::new("/nonexistent.sock")).unwrap().is_none());
        assert!(inherited_tcp(SocketAddr::from(([127, 0, 0, 1], 1))).unwrap().is_none());
    }

    #[test]
    fn duplicate_is_the_same_socket() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let copy = std::net::TcpListener::from(duplicate(listener.as_raw_fd()).unwrap());
        assert_eq!(copy.local_addr().unwrap(), listener.local_addr().unwrap());
        assert!(duplicate(1_000_000).is_err());
    }
}
