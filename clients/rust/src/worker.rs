//! Keeps the current segment up to date, outside of any check: one thread, nearly always asleep in
//! `recvmsg`.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sidegate_shm::{AttachError, Attachment};

use crate::inner::Inner;

/// How often the thread checks whether its client still exists.
const LIVENESS_INTERVAL: Duration = Duration::from_millis(250);
/// How long the daemon may take to send its segment.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// While the daemon is down: it may be restarting.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// When the daemon does not permit attaching, or has another version: that does not change by
/// itself.
const BACKOFF_REFUSED: Duration = Duration::from_secs(10);

/// Starts the thread, unless this process has one. A forked child has none of its parent's threads.
pub(crate) fn ensure(inner: &Arc<Inner>) {
    let pid = std::process::id();
    let known = inner.worker_pid.load(Ordering::Relaxed);
    if known == pid || inner.worker_pid.compare_exchange(known, pid, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    // The first attachment is made at once, so that the first checks can be cached.
    let attached = inner.attach(HELLO_TIMEOUT).ok();
    let weak = Arc::downgrade(inner);
    let spawned =
        std::thread::Builder::new().name("sidegate".into()).stack_size(128 * 1024).spawn(move || run(&weak, attached));
    if spawned.is_err() {
        inner.worker_pid.store(0, Ordering::Relaxed);
    }
}

fn run(weak: &Weak<Inner>, mut attached: Option<Attachment>) {
    let mut backoff = BACKOFF_MIN;
    loop {
        if let Some(attachment) = attached.take() {
            follow(weak, &attachment);
            backoff = BACKOFF_MIN;
        }
        std::thread::sleep(backoff);
        let Some(inner) = weak.upgrade() else { return };
        match inner.attach(HELLO_TIMEOUT) {
            Ok(attachment) => attached = Some(attachment),
            Err(AttachError::Io(_) | AttachError::Closed | AttachError::NotYet | AttachError::Clocks) => {
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
            Err(_) => backoff = BACKOFF_REFUSED,
        }
    }
}

/// Switches to every segment that the daemon announces, until the connection ends.
fn follow(weak: &Weak<Inner>, attachment: &Attachment) {
    loop {
        let announced = attachment.next(LIVENESS_INTERVAL);
        let Some(inner) = weak.upgrade() else { return };
        match announced {
            Ok(None) => {}
            Ok(Some(reader)) => inner.adopt(reader),
            Err(_) => return,
        }
    }
}
