//! Exit codes and signals.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::settings::ConfigError;

/// Exit code for bad configuration (EX_USAGE of sysexits.h).
pub const EX_USAGE: u8 = 64;

/// Prints a configuration error for people and returns the exit code for it.
#[allow(clippy::print_stderr)] // logging may not be set up yet, and the message is for the person at the terminal
pub fn refuse(error: &ConfigError) -> ExitCode {
    eprintln!("configuration error: {error}");
    ExitCode::from(EX_USAGE)
}

/// The signals for the program: stop, or reload.
#[derive(Clone, Debug)]
pub struct Signals {
    /// Becomes true once, on SIGTERM or SIGINT.
    pub stop: watch::Receiver<bool>,
    /// Counts SIGHUPs.
    pub reload: watch::Receiver<u64>,
}

impl Signals {
    /// Installs handlers for SIGTERM, SIGINT and SIGHUP. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// The operating system rejects a handler.
    pub fn listen() -> std::io::Result<Self> {
        let (stop_sender, stop) = watch::channel(false);
        let (reload_sender, reload) = watch::channel(0);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => { stop_sender.send_replace(true); }
                    _ = interrupt.recv() => { stop_sender.send_replace(true); }
                    _ = hangup.recv() => { reload_sender.send_modify(|count| *count += 1); }
                }
            }
        });
        Ok(Self { stop, reload })
    }
}

/// Waits until `stop` is true, or its sender is gone.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _sender_gone = stop.wait_for(|stopped| *stopped).await;
}

/// Makes the process' memory unreadable to others and keeps it out of core dumps: RLIMIT_CORE 0,
/// PR_SET_DUMPABLE 0. Also raises the limit of open files to the hard limit: with the usual 1,024,
/// that many idle clients would block all others.
///
/// # Errors
/// The kernel rejects the call.
pub fn harden() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// How many files this process may have open at once.
pub fn open_files_max() -> usize {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

/// How many client connections may be open at once. `reserve` descriptors stay for stores, feeds,
/// files and the admin listener, or half of the limit if it is too small for that.
pub fn connections_max(reserve: usize) -> usize {
    let files = open_files_max();
    let connections = files.saturating_sub(reserve).max(files / 2);
    if files < 2 * reserve {
        tracing::warn!(files, connections, "few open files are allowed (ulimit -n); raise the hard limit");
    }
    connections
}
