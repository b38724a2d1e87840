//! systemd's side of a program's life: sockets it opened for us (sd_listen_fds(3)), and how we are (sd_notify(3)).
//!
//! An inherited socket is taken by whoever is about to bind the same address, so no setting names it. It stays open in the
//! service manager when this process ends: who connects meanwhile waits for the next process, and nobody is refused.

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

use crate::socket::{Listener, Owner};

/// Clients give up after two seconds.
const HELD_BACK_MAX: Duration = Duration::from_secs(1);
const HELD_BACK_LOOK: Duration = Duration::from_millis(2);

/// The listening TCP socket that was opened for us at `address`, if there is one.
///
/// # Errors
/// Sockets were passed, and cannot be taken over.
pub fn inherited_tcp(address: SocketAddr) -> io::Result<Option<std::net::TcpListener>> {
    inherited(|socket| socket.local_addr().is_ok_and(|local| local.as_socket() == Some(address)))
}

/// The listening Unix socket that was opened for us at `path`, if there is one.
///
/// # Errors
/// Sockets were passed, and cannot be taken over.
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

/// Numbers of the passed sockets that a setting named.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Call when everything is bound: whoever connects to a passed socket that nobody serves would wait for ever.
///
/// # Errors
/// There is one; it and `settings`, those that name addresses, are named.
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

/// A descriptor of our own for what has `number` in this process: the kernel looks it up, so a wrong number is an error and
/// not a danger.
fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    let this_process = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(this_process, number, PidfdGetfdFlags::empty())?)
}

/// Waits until `ready`, a second at most, if the service manager keeps this socket: who connected while no process was there
/// waits a moment longer rather than hear 503 from one that has just started.
pub async fn defer_accept(listener: &Listener, ready: impl Fn() -> bool) {
    if listener.owner() != Owner::ServiceManager {
        return;
    }
    let started = tokio::time::Instant::now();
    while !ready() && started.elapsed() < HELD_BACK_MAX {
        tokio::time::sleep(HELD_BACK_LOOK).await;
    }
}

/// Says that every socket is bound. Does nothing where no service manager listens.
pub fn notify_ready() {
    tell(&[NotifyState::Ready]);
}

/// Says that a stop was asked for and what is in flight is being finished.
pub fn tell_stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says twice in every `WatchdogSec` that the runtime still turns. Never returns.
pub async fn feed_watchdog() {
    let Some(patience) = sd_notify::watchdog_enabled().filter(|patience| *patience > Duration::ZERO) else {
        return std::future::pending().await;
    };
    loop {
        tell(&[NotifyState::Watchdog]);
        tokio::time::sleep(patience / 2).await;
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "sd_notify failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn nothing_is_inherited_where_nothing_was_passed() {
        assert!(inherited_unix(Path::new("/nonexistent.sock")).unwrap().is_none());
        assert!(inherited_tcp(SocketAddr::from(([127, 0, 0, 1], 1))).unwrap().is_none());
    }

    #[test]
    fn a_duplicate_is_the_same_socket_and_a_wrong_number_is_an_error() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let copy = std::net::TcpListener::from(duplicate(listener.as_raw_fd()).unwrap());
        assert_eq!(copy.local_addr().unwrap(), listener.local_addr().unwrap());
        assert!(duplicate(1_000_000).is_err());
    }
}
