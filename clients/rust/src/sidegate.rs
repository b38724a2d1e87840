//! The client: connect, check.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use sidegate_shm::CoarseClock;

use crate::cache::Cache;
use crate::daemon::Daemon;
use crate::denied::{DaemonError, Denied};
use crate::inner::Inner;
use crate::sweeper::{self, Client};
use crate::verified::{Answer, Verified};
use crate::watch::{Watch, WatchGuard};
use crate::watches::Watches;
use crate::worker;

const SOCKET: &str = "/run/sidegate/verifier.sock";
const ATTACH_SOCKET: &str = "/run/sidegate/attach.sock";
/// The longest possible token, in bytes.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// How long a watched token is kept by default while the daemon cannot check it.
const GRACE: Duration = Duration::from_secs(30);

/// A connection to the Sidegate daemon on this host. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Sidegate(Arc<Inner>);

/// The daemon's sockets, and the size of the cache.
#[derive(Clone, Debug)]
pub struct Builder {
    socket: PathBuf,
    attach: Option<PathBuf>,
    timeout: Duration,
    tokens: usize,
    grace: Option<Duration>,
}

impl Default for Builder {
    /// From the environment: `VERIFIER_SOCKET` and `ATTACH_SOCKET`, otherwise the daemon's
    /// defaults.
    fn default() -> Self {
        let path = |name, default: &str| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map_or_else(|| default.into(), PathBuf::from)
        };
        Self {
            socket: path("VERIFIER_SOCKET", SOCKET),
            attach: Some(path("ATTACH_SOCKET", ATTACH_SOCKET)),
            timeout: Duration::from_secs(2),
            tokens: 32_768,
            grace: Some(GRACE),
        }
    }
}

impl Builder {
    /// The daemon's socket for checks.
    #[must_use]
    pub fn socket(self, path: impl Into<PathBuf>) -> Self {
        Self { socket: path.into(), ..self }
    }

    /// The daemon's socket for shared memory.
    #[must_use]
    pub fn attach_socket(self, path: impl Into<PathBuf>) -> Self {
        Self { attach: Some(path.into()), ..self }
    }

    /// Disables shared memory: every check asks the daemon.
    #[must_use]
    pub fn socket_only(self) -> Self {
        Self { attach: None, ..self }
    }

    /// The timeout of a request to the daemon. Two seconds by default.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The approximate size of the token cache; each token takes its own length, that of its
    /// claims, and some 250 bytes. 32,768 by default.
    #[must_use]
    pub fn tokens(self, tokens: usize) -> Self {
        Self { tokens, ..self }
    }

    /// How long a watch lasts whose token cannot be checked, because the daemon is gone or its list is too old; `None` for
    /// ever. 30 seconds by default, and up to five more, so that not all end at once.
    #[must_use]
    pub fn watch_grace(self, grace: Option<Duration>) -> Self {
        Self { grace, ..self }
    }

    /// Connects. A missing daemon is not an error: checks return [`Denied::Unavailable`] until it
    /// runs.
    pub fn connect(self) -> Sidegate {
        let inner = Arc::new(Inner {
            daemon: Daemon::new(self.socket, self.timeout),
            cache: Cache::new(self.tokens),
            attach_path: self.attach,
            segment: AtomicU64::new(0),
            worker_pid: AtomicU32::new(0),
            grace: self.grace,
            watches: RwLock::new(None),
        });
        let sidegate = Sidegate(inner);
        sidegate.ensure_worker();
        sidegate
    }
}

impl Sidegate {
    /// Connects to the daemon at the environment's sockets, or the default ones.
    pub fn connect() -> Self {
        Builder::default().connect()
    }

    /// A builder for other settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Checks whether this access token is good now. Blocks while it asks the daemon, if needed.
    ///
    /// # Errors
    /// Why the token is rejected, or why it could not be checked, which must never count as
    /// accepted.
    pub fn check(&self, token: &str) -> Result<Verified, Denied> {
        match self.cached(token) {
            Some(verified) => Ok(verified),
            None => self.ask(token),
        }
    }

    /// The result, if the daemon is not needed; never blocks, makes no system call. `None`: call
    /// [`Sidegate::check`], on a thread that may block.
    pub fn try_cached(&self, token: &str) -> Option<Result<Verified, Denied>> {
        match self.cached(token) {
            Some(verified) => Some(Ok(verified)),
            None => could_be_token(token).err().map(Err),
        }
    }

    /// Completes with the reason when this token ends: revoked, expired, or not checkable for longer than
    /// [`Builder::watch_grace`]. For what stays open after its check: a WebSocket, a stream of events, a long download.
    ///
    /// A revocation is noticed within 20 ms of its arrival in shared memory, without requests to the daemon while the token is
    /// good there. A token that shared memory does not cover (another issuer's, or without attachment) is asked about every
    /// 100 ms.
    pub fn watch(&self, token: &Verified) -> Watch {
        Watch::new(self.0.watches(), token.clone(), self.sweeper())
    }

    /// Calls `on_end` once when this token ends, as [`Sidegate::watch`] completes, on a thread of the client; returns what
    /// ends the watch when it is dropped.
    pub fn watch_with(&self, token: &Verified, on_end: impl FnOnce(Denied) + Send + 'static) -> WatchGuard {
        WatchGuard::new(self.0.watches(), token.clone(), Box::new(on_end), self.sweeper())
    }

    /// The current shared-memory segment; `None` while every check asks the daemon.
    pub fn segment(&self) -> Option<u64> {
        Some(self.0.segment.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    /// The error of the last request to the daemon, with its socket; `None` while it answers. It is
    /// also logged, once.
    pub fn daemon_error(&self) -> Option<String> {
        self.0.daemon.last_error()
    }

    #[inline]
    fn cached(&self, token: &str) -> Option<Verified> {
        self.0.cache.check(self.0.segment.load(Ordering::Relaxed), token.as_bytes(), &CoarseClock)
    }

    fn ask(&self, token: &str) -> Result<Verified, Denied> {
        could_be_token(token)?;
        self.ensure_worker();
        let reader = self.0.cache.reader(token.as_bytes());
        let mut keep = false;
        let verified = self.0.daemon.verify(token, |body| {
            let answer: Answer<'_> = serde_json::from_slice(body).map_err(|_| DaemonError::Answer)?;
            let reader = reader.filter(|reader| reader.id() == answer.segment());
            keep = reader.is_some();
            answer.keep(token, |facts| reader.map(|reader| reader.probe(facts))).map_err(|_| DaemonError::Answer)
        });
        match &verified {
            Ok(verified) if keep => self.0.cache.insert(token.as_bytes(), verified.clone()),
            Ok(_) | Err(Denied::Stale | Denied::Unavailable(_)) => {}
            Err(_) => self.0.cache.remove(token.as_bytes()),
        }
        verified
    }

    /// Starts the sweeper, which keeps no client alive.
    fn sweeper(&self) -> impl FnOnce(&Arc<Watches>) -> bool + use<> {
        let weak = Arc::downgrade(&self.0);
        move |watches| sweeper::start(watches, move || weak.upgrade().map(Self))
    }

    fn ensure_worker(&self) {
        if self.0.attach_path.is_some() {
            worker::ensure(&self.0);
        }
    }
}

impl Client for Sidegate {
    fn segment(&self) -> Option<u64> {
        self.segment()
    }

    fn check(&self, token: &str) -> Result<Verified, Denied> {
        self.check(token)
    }
}

impl std::fmt::Debug for Sidegate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sidegate").field("segment", &self.segment()).finish_non_exhaustive()
    }
}

/// Rejects what the daemon would reject without verification, with its detail, to save a round
/// trip: an empty token, or characters that a compact JWS cannot have.
fn could_be_token(token: &str) -> Result<(), Denied> {
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let fits = (16..=TOKEN_BYTES_MAX).contains(&token.len()) && token.as_bytes().iter().all(letter);
    match token {
        "" => Err(Denied::Missing),
        _ if fits => Ok(()),
        _ => Err(Denied::NOT_COMPACT),
    }
}
