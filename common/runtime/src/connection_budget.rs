//! The memory budget for connections, shared by a program's listeners; what each connection is
//! doing; and the choice of the connection to close when memory runs short.
//!
//! A connection is charged for its buffers when it is accepted, and again when it speaks h2, sends
//! a long head, opens a stream or does not read its responses. A charge that does not fit closes
//! other connections: idle ones, the oldest first; if none is idle, the connection with the largest
//! charge, unless the charging one would then have more. Otherwise the charge is rejected. The
//! figures are measured and rounded up, so `bytes_max` bounds what connections add to resident
//! memory.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::settings::{ConfigError, Setting, Settings, setting};

/// The charge of every connection, in bytes: its task, and hyper's first buffers for reading and
/// writing.
pub(crate) const CONNECTION_BYTES: usize = 20 * 1024;
/// The extra charge of an h2 connection: frame buffers, header tables, and unread data up to its
/// window.
pub(crate) const H2_BYTES: usize = 92 * 1024;
/// The extra charge of an h2 request besides its headers: the stream, the handler's task, a gRPC
/// call.
pub(crate) const STREAM_BYTES: usize = 8 * 1024;
/// The charge of a header field besides its name and value.
pub(crate) const FIELD_BYTES: usize = 128;
/// The extra charge of a connection whose client does not read: responses wait in the kernel's
/// buffer and in ours.
pub(crate) const UNREAD_BYTES: usize = 128 * 1024;
/// A connection that would have more than this does not close idle ones.
const MODEST_BYTES: usize = 256 * 1024;
/// An idle connection this young may be about to send a request: only new connections may close it,
/// not charges of existing ones.
const YOUNG: Duration = Duration::from_secs(1);
/// No connection may use more than this fraction of the budget.
const CONNECTION_SHARE: usize = 4;
/// The minimum interval between searches of the whole list of connections.
const SEARCH_EVERY: Duration = Duration::from_millis(2);
/// After this time more connections are closed if the room does not suffice.
const ROOM_RETRY: Duration = Duration::from_millis(20);
/// A shortage is over when no charge has failed for this long.
const QUIET: Duration = Duration::from_secs(10);
const MIB: usize = 1024 * 1024;

/// `CONNECTION_MEMORY`, with the default that fits the memory limit in deploy/k8s.
pub const fn connection_memory(default: &'static str) -> Setting {
    setting(
        "CONNECTION_MEMORY",
        default,
        "memory for client connections, in MiB (20 KiB each, 112 KiB with h2, and unread data); beyond it the oldest idle ones are closed; if that is not enough, requests are answered 503",
    )
}

/// Reads `CONNECTION_MEMORY`, in bytes.
///
/// # Errors
/// Not a number of MiB within the limits.
pub fn read_connection_memory(settings: &Settings) -> Result<usize, ConfigError> {
    Ok(settings.number("CONNECTION_MEMORY", 1..=65_536)? as usize * MIB)
}

/// The budget and its current use.
#[derive(Debug)]
pub struct ConnectionBudget {
    bytes_max: usize,
    connections_max: usize,
    bytes: AtomicUsize,
    connections: AtomicUsize,
    freed: Notify,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// Every connection that was not asked to close, oldest first; connections that were busy when
    /// they came first move to the end.
    queue: VecDeque<Weak<ConnectionActivity>>,
    searched: Option<Instant>,
    /// When a charge last did not fit, during a shortage.
    shortage: Option<Instant>,
}

impl ConnectionBudget {
    /// A budget of `bytes_max` bytes and `connections_max` connections.
    pub fn new(bytes_max: usize, connections_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            connections_max: connections_max.max(1),
            bytes: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            freed: Notify::new(),
            open: Mutex::default(),
        })
    }

    /// The budget of a listener for operators and their tools: 64 connections, 4 MiB.
    pub fn admin() -> Arc<Self> {
        Self::new(4 * MIB, 64)
    }

    /// Waits until there is room for one more connection, and closes others for it.
    pub(crate) async fn admit(self: &Arc<Self>) -> Arc<ConnectionActivity> {
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(activity) = self.try_admit() {
                return activity;
            }
            self.make_room(CONNECTION_BYTES, CONNECTION_BYTES, None);
            let _looked_again = tokio::time::timeout(ROOM_RETRY, freed).await;
        }
    }

    fn try_admit(self: &Arc<Self>) -> Option<Arc<ConnectionActivity>> {
        if self.connections.load(Ordering::Acquire) >= self.connections_max || !self.try_charge(CONNECTION_BYTES) {
            return None;
        }
        Some(self.register())
    }

    /// Admits a connection even without room: one that was already waiting when the program
    /// received its stop signal.
    pub(crate) fn admit_without_room(self: &Arc<Self>) -> Arc<ConnectionActivity> {
        self.bytes.fetch_add(CONNECTION_BYTES, Ordering::AcqRel);
        self.register()
    }

    fn register(self: &Arc<Self>) -> Arc<ConnectionActivity> {
        let connections = self.connections.fetch_add(1, Ordering::AcqRel) + 1;
        let activity = Arc::new(ConnectionActivity::new(Arc::clone(self)));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.queue.len() > 2 * connections + 64 {
            open.queue.retain(|activity| activity.strong_count() > 0);
        }
        open.queue.push_back(Arc::downgrade(&activity));
        activity
    }

    fn try_charge(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    /// Charges `bytes` more to `activity`, which has `held`. True if they fit now, or will once the
    /// connections asked to close are gone.
    pub(crate) fn charge(&self, activity: &ConnectionActivity, held: usize, bytes: usize) -> bool {
        if held + bytes > self.bytes_max / CONNECTION_SHARE {
            return false;
        }
        if self.try_charge(bytes) {
            return true;
        }
        let room = self.make_room(bytes, held + bytes, Some(activity));
        if room {
            self.bytes.fetch_add(bytes, Ordering::AcqRel);
        }
        room
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    /// Releases a closed connection and its charges.
    pub(crate) fn leave(&self, bytes: usize) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
        self.release(bytes);
    }

    /// Asks connections to close until their charges sum up to `bytes`, for a connection that will
    /// then have `total`: a new one, or `asking`. False if there are not enough, or the list was
    /// searched a moment ago.
    fn make_room(&self, bytes: usize, total: usize, asking: Option<&ConnectionActivity>) -> bool {
        let now = Instant::now();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.searched.is_some_and(|searched| now.duration_since(searched) < SEARCH_EVERY) {
            return false;
        }
        self.log_shortage(&mut open, now);
        let oldest_only = asking.is_some();
        let mut found = 0;
        for _ in 0..if total <= MODEST_BYTES { open.queue.len() } else { 0 } {
            let Some(activity) = open.queue.pop_front() else { break };
            let Some(idle) = activity.upgrade() else { continue };
            let young = oldest_only && now.duration_since(idle.opened()) < YOUNG;
            if young || !idle.is_idle() || is_it(asking, &idle) {
                open.queue.push_back(activity);
                continue;
            }
            idle.close_if_idle();
            found += idle.held();
            if found >= bytes {
                return true;
            }
        }
        open.searched = Some(now);
        let all = open.queue.iter().rev().filter_map(Weak::upgrade);
        // `max_by_key` returns the last of several, and the iterator is reversed: the oldest.
        let heaviest = all.filter(|activity| !is_it(asking, activity)).max_by_key(|activity| activity.held());
        let Some(heaviest) = heaviest.filter(|heaviest| heaviest.held() >= total) else { return false };
        heaviest.close();
        open.queue.retain(|activity| !std::ptr::eq(activity.as_ptr(), Arc::as_ptr(&heaviest)));
        found + heaviest.held() >= bytes
    }

    /// Logs one line at the beginning of a shortage.
    fn log_shortage(&self, open: &mut Open, now: Instant) {
        if open.shortage.replace(now).is_none_or(|felt| now.duration_since(felt) > QUIET) {
            tracing::warn!(
                connections = self.connections.load(Ordering::Relaxed),
                connections_max = self.connections_max,
                connection_memory_mib = self.bytes_max / MIB,
                "connection limit reached (CONNECTION_MEMORY or open files); closing idle connections"
            );
        }
    }
}

fn is_it(asking: Option<&ConnectionActivity>, activity: &Arc<ConnectionActivity>) -> bool {
    asking.is_some_and(|asking| std::ptr::eq(asking, Arc::as_ptr(activity)))
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Requests are being answered.
    Serving,
    /// Part of a head has come.
    Head,
    /// No request is in flight.
    Idle,
}

/// What the budget asks of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CloseRequest {
    /// Nothing.
    None,
    /// To close unless a request has just started, which is finished first.
    IfIdle,
    /// To close, whatever it is doing.
    Now,
}

/// What is known of a connection. Its byte stream and its requests, which may run in other tasks,
/// report here.
#[derive(Debug)]
pub(crate) struct ConnectionActivity {
    /// From the lowest: 16 bits for the requests in flight, 16 for their responses that wait for
    /// the client to read, 32 for the number of changes of the first.
    requests: AtomicU64,
    /// Bytes have been received since the last response.
    received: AtomicBool,
    /// The connection speaks h2, where a head's bytes look like any others here; hyper's pings
    /// detect dead clients.
    h2: AtomicBool,
    /// Odd while the kernel accepts no more bytes for the client; counts the changes.
    blocked: AtomicU32,
    /// A [`CloseRequest`], as a number.
    close_request: AtomicU8,
    task: AtomicWaker,
    opened: Instant,
    budget: Arc<ConnectionBudget>,
    /// The current charge, in bytes.
    held: AtomicUsize,
}

const UNTAKEN: u64 = 1 << 16;
const TURN: u64 = 1 << 32;

impl ConnectionActivity {
    /// A connection that `budget` has already charged for.
    fn new(budget: Arc<ConnectionBudget>) -> Self {
        Self {
            requests: AtomicU64::new(0),
            received: AtomicBool::new(false),
            h2: AtomicBool::new(false),
            blocked: AtomicU32::new(0),
            close_request: AtomicU8::new(0),
            task: AtomicWaker::new(),
            opened: Instant::now(),
            budget,
            held: AtomicUsize::new(CONNECTION_BYTES),
        }
    }

    /// A request has started that uses `bytes` beside its connection's charge; it is in flight
    /// until the returned value is dropped. `None` if there is no memory for it.
    pub(crate) fn request(self: &Arc<Self>, bytes: usize) -> Option<InFlight> {
        if bytes > 0 && !self.charge(bytes) {
            return None;
        }
        self.requests.fetch_add(TURN + 1, Ordering::AcqRel);
        Some(InFlight { activity: Arc::clone(self), bytes })
    }

    /// Charges more; false if the budget does not have it.
    pub(crate) fn charge(&self, bytes: usize) -> bool {
        let charged = self.budget.charge(self, self.held(), bytes);
        if charged {
            self.held.fetch_add(bytes, Ordering::AcqRel);
        }
        charged
    }

    /// Records received bytes; true if others were received since the last response.
    pub(crate) fn bytes_came(&self) -> bool {
        let more = self.received.load(Ordering::Acquire);
        self.received.store(true, Ordering::Release);
        more
    }

    /// The client has sent h2's whole preface.
    pub(crate) fn speaks_h2(&self) {
        self.h2.store(true, Ordering::Release);
    }

    pub(crate) fn is_h2(&self) -> bool {
        self.h2.load(Ordering::Acquire)
    }

    /// The kernel stops accepting bytes for the client, or accepts them again.
    pub(crate) fn blocked_or_not(&self) {
        self.blocked.fetch_add(1, Ordering::AcqRel);
    }

    /// The charge, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// When the connection was accepted.
    pub(crate) const fn opened(&self) -> Instant {
        self.opened
    }

    /// True if no request is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.snapshot().0 != Phase::Serving
    }

    /// Asks the connection to close unless a request has just started, which is finished first.
    pub(crate) fn close_if_idle(&self) {
        self.close_request.fetch_max(CloseRequest::IfIdle as u8, Ordering::AcqRel);
        self.task.wake();
    }

    /// Asks the connection to close, whatever it is doing.
    pub(crate) fn close(&self) {
        self.close_request.fetch_max(CloseRequest::Now as u8, Ordering::AcqRel);
        self.task.wake();
    }

    /// What the budget has asked for so far.
    pub(crate) fn close_request(&self) -> CloseRequest {
        match self.close_request.load(Ordering::Acquire) {
            0 => CloseRequest::None,
            1 => CloseRequest::IfIdle,
            _ => CloseRequest::Now,
        }
    }

    /// The task to wake when the connection shall close.
    pub(crate) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    #[cfg(test)]
    pub(crate) fn is_closing(&self) -> bool {
        self.close_request.load(Ordering::Acquire) > 0
    }

    pub(crate) fn snapshot(&self) -> (Phase, u64) {
        let requests = self.requests.load(Ordering::Acquire);
        let phase = match requests % UNTAKEN {
            0 if self.received.load(Ordering::Acquire) && !self.h2.load(Ordering::Acquire) => Phase::Head,
            0 => Phase::Idle,
            _ => Phase::Serving,
        };
        (phase, requests)
    }

    /// The state of an unread response; `None` if the client has nothing to read.
    pub(crate) fn waits_for_reader(&self) -> Option<(u64, u32)> {
        let (requests, blocked) = (self.requests.load(Ordering::Acquire), self.blocked.load(Ordering::Acquire));
        (requests % TURN >= UNTAKEN || blocked % 2 == 1).then_some((requests, blocked))
    }
}

impl Drop for ConnectionActivity {
    fn drop(&mut self) {
        self.budget.leave(*self.held.get_mut());
    }
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct InFlight {
    activity: Arc<ConnectionActivity>,
    bytes: usize,
}

impl InFlight {
    /// Records whether the response waits for its client, if that changed.
    pub(crate) fn note_untaken(&self, untaken: &mut bool, now: bool) {
        if *untaken != now {
            let difference = if now { UNTAKEN } else { UNTAKEN.wrapping_neg() };
            self.activity.requests.fetch_add(difference, Ordering::AcqRel);
            *untaken = now;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Self { activity, bytes } = self;
        if *bytes > 0 {
            activity.held.fetch_sub(*bytes, Ordering::AcqRel);
            activity.budget.release(*bytes);
        }
        activity.received.store(false, Ordering::Release);
        activity.requests.fetch_add(TURN - 1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
