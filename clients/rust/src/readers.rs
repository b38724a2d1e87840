//! The segments that this process has attached: a verified token finds its own there, without the client that checked it.

use std::sync::{Arc, RwLock, TryLockError, Weak};
use std::time::{Duration, Instant};

use sidegate_shm::Reader;

static ATTACHED: RwLock<Vec<Weak<Reader>>> = RwLock::new(Vec::new());

/// How long a segment that is being looked up may delay the next one. In a forked child a thread of the parent may hold the
/// lock for ever; its tokens are then checked by the daemon.
const BUSY_MAX: Duration = Duration::from_millis(100);

/// Adds a segment; the caller keeps it alive.
pub(crate) fn add(reader: &Arc<Reader>) {
    let deadline = Instant::now() + BUSY_MAX;
    let mut attached = loop {
        match ATTACHED.try_write() {
            Ok(attached) => break attached,
            Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            Err(TryLockError::WouldBlock) => return,
        }
    };
    attached.retain(|held| held.strong_count() > 0);
    attached.push(Arc::downgrade(reader));
}

/// The segment with this identifier; never waits.
pub(crate) fn find(segment: u64) -> Option<Arc<Reader>> {
    let attached = match ATTACHED.try_read() {
        Ok(attached) => attached,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return None,
    };
    attached.iter().rev().filter_map(Weak::upgrade).find(|reader| reader.id() == segment)
}
