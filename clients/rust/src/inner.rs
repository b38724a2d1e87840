//! What all clones of a client share: the daemon's connections, the cache, and the current segment.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, RwLock, TryLockError};
use std::time::Duration;

use sidegate_shm::{AttachError, Attachment, Reader};

use crate::cache::Cache;
use crate::daemon::Daemon;
use crate::readers;
use crate::watches::Watches;

pub(crate) struct Inner {
    pub(crate) daemon: Daemon,
    pub(crate) cache: Cache,
    pub(crate) attach_path: Option<PathBuf>,
    /// The current segment; zero while no segment is attached.
    pub(crate) segment: AtomicU64,
    pub(crate) worker_pid: AtomicU32,
    /// How long a watched token is kept that cannot be checked; `None` for ever.
    pub(crate) grace: Option<Duration>,
    pub(crate) watches: RwLock<Option<Arc<Watches>>>,
}

impl Inner {
    /// Attaches to the daemon's segment and switches to it.
    pub(crate) fn attach(&self, timeout: Duration) -> Result<Attachment, AttachError> {
        let path = self.attach_path.as_deref().ok_or(AttachError::Closed)?;
        let (attachment, reader) = Attachment::connect(path, timeout)?;
        self.adopt(reader);
        Ok(attachment)
    }

    /// The watched tokens of this process; a forked child has none of its parent's.
    pub(crate) fn watches(&self) -> Arc<Watches> {
        let own = |watches: &&Arc<Watches>| watches.pid == std::process::id();
        // In a child a thread of the parent may hold the lock for ever.
        for _ in 0..100 {
            if let Ok(held) = self.watches.try_read()
                && let Some(watches) = held.as_ref().filter(own)
            {
                return Arc::clone(watches);
            }
            let mut held = match self.watches.try_write() {
                Ok(held) => held,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
            };
            return match held.as_ref().filter(own) {
                Some(watches) => Arc::clone(watches),
                None => Arc::clone(held.insert(Watches::new(self.grace))),
            };
        }
        Watches::new(self.grace)
    }

    /// Uses this segment for look-ups from now on.
    pub(crate) fn adopt(&self, reader: Reader) {
        let id = reader.id();
        let reader = Arc::new(reader);
        readers::add(&reader);
        self.cache.set_reader(&reader);
        self.segment.store(id, Ordering::Relaxed);
    }
}
