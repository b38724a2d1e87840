//! What all clones of a client share: the daemon's connections, the cache, and the current segment.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use sidegate_shm::{AttachError, Attachment, Reader};

use crate::cache::Cache;
use crate::daemon::Daemon;

pub(crate) struct Inner {
    pub(crate) daemon: Daemon,
    pub(crate) cache: Cache,
    pub(crate) attach_path: Option<PathBuf>,
    /// The current segment; zero while no segment is attached.
    pub(crate) segment: AtomicU64,
    pub(crate) worker_pid: AtomicU32,
}

impl Inner {
    /// Attaches to the daemon's segment and switches to it.
    pub(crate) fn attach(&self, timeout: Duration) -> Result<Attachment, AttachError> {
        let path = self.attach_path.as_deref().ok_or(AttachError::Closed)?;
        let (attachment, reader) = Attachment::connect(path, timeout)?;
        self.adopt(reader);
        Ok(attachment)
    }

    /// Uses this segment for look-ups from now on.
    pub(crate) fn adopt(&self, reader: Reader) {
        let id = reader.id();
        self.cache.set_reader(&Arc::new(reader));
        self.segment.store(id, Ordering::Relaxed);
    }
}
