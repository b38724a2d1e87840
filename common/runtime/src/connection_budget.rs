//! Memory that connections may hold, shared by the listeners of a program, and which connection is closed when it runs short.
//!
//! A connection is charged for its buffers when it is accepted, and again when it turns out to be h2, sends a long head, opens a
//! stream or does not read its answers. A charge that does not fit makes room: idle connections are closed, the oldest first; where
//! none is idle, the one that holds most, unless the one that asks would hold more. What cannot be charged is refused. The figures
//! are measured and rounded up, so that `bytes_max` bounds what connections add to resident memory.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::connection_timeouts::ConnectionActivity;
use crate::settings::{ConfigError, Setting, Settings, setting};

/// What every connection is charged, in bytes: its task, and hyper's first buffers for reading and writing.
pub(crate) const CONNECTION_BYTES: usize = 20 * 1024;
/// What an h2 connection is charged besides: frame buffers, header tables, and unread data up to its window.
pub(crate) const H2_BYTES: usize = 92 * 1024;
/// What an h2 request is charged besides its headers: the stream, the task that answers it, a gRPC call.
pub(crate) const STREAM_BYTES: usize = 8 * 1024;
/// What a header field is charged besides its name and value.
pub(crate) const FIELD_BYTES: usize = 128;
/// What a connection is charged whose client does not read: answers wait in the kernel's buffer and in ours.
pub(crate) const UNREAD_BYTES: usize = 128 * 1024;
/// A connection that would hold more than this closes no idle ones for it.
const MODEST_BYTES: usize = 256 * 1024;
/// An idle connection this young may be about to ask: only newer ones push it out.
const YOUNG: Duration = Duration::from_secs(1);
/// No connection may hold more than this part of the budget.
const CONNECTION_SHARE: usize = 4;
/// The whole list of connections is searched at most this often.
const SEARCH_EVERY: Duration = Duration::from_millis(2);
/// How soon more connections are closed where those that were did not suffice.
const ROOM_RETRY: Duration = Duration::from_millis(20);
/// A shortage has ended when there has been none for so long.
const QUIET: Duration = Duration::from_secs(10);
const MIB: usize = 1024 * 1024;

/// `CONNECTION_MEMORY`, with the default that fits the memory limit in deploy/k8s.
pub const fn connection_memory(default: &'static str) -> Setting {
    setting(
        "CONNECTION_MEMORY",
        default,
        "memory for client connections, in MiB (20 KiB each, 112 KiB with h2, and unread data); beyond it the oldest idle ones are closed, and requests are answered 503",
    )
}

/// Reads `CONNECTION_MEMORY`, in bytes.
///
/// # Errors
/// It is not a number of MiB within reason.
pub fn read_connection_memory(settings: &Settings) -> Result<usize, ConfigError> {
    Ok(settings.number("CONNECTION_MEMORY", 1..=65_536)? as usize * MIB)
}

/// What connections may hold, and what they hold.
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
    /// Every connection that was not told to close, the oldest first but for those that were busy when it was their turn.
    queue: VecDeque<Weak<ConnectionActivity>>,
    searched: Option<Instant>,
    /// When the shortage was last felt, while there is one.
    shortage: Option<Instant>,
}

impl ConnectionBudget {
    /// Room for so many bytes and connections.
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

    /// For a listener that only operators and their tools reach: 64 connections, 4 MiB.
    pub fn admin() -> Arc<Self> {
        Self::new(4 * MIB, 64)
    }

    /// Waits until there is room for one more connection, closing others for it.
    pub(crate) async fn admit(self: &Arc<Self>) -> Arc<ConnectionActivity> {
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(stage) = self.try_admit() {
                return stage;
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

    /// Admits a connection whether there is room or not: one that was waiting when the program was told to stop.
    pub(crate) fn admit_at_last(self: &Arc<Self>) -> Arc<ConnectionActivity> {
        self.bytes.fetch_add(CONNECTION_BYTES, Ordering::AcqRel);
        self.register()
    }

    fn register(self: &Arc<Self>) -> Arc<ConnectionActivity> {
        let connections = self.connections.fetch_add(1, Ordering::AcqRel) + 1;
        let stage = Arc::new(ConnectionActivity::new(Arc::clone(self)));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.queue.len() > 2 * connections + 64 {
            open.queue.retain(|stage| stage.strong_count() > 0);
        }
        open.queue.push_back(Arc::downgrade(&stage));
        stage
    }

    fn try_charge(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    /// Charges `bytes` more to `stage`, which holds `held`. True if they fit, or will once those are gone that were told to close.
    pub(crate) fn charge(&self, stage: &ConnectionActivity, held: usize, bytes: usize) -> bool {
        if held + bytes > self.bytes_max / CONNECTION_SHARE {
            return false;
        }
        if self.try_charge(bytes) {
            return true;
        }
        let room = self.make_room(bytes, held + bytes, Some(stage));
        if room {
            self.bytes.fetch_add(bytes, Ordering::AcqRel);
        }
        room
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    /// A connection is gone, with all that it held.
    pub(crate) fn leave(&self, bytes: usize) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
        self.release(bytes);
    }

    /// Tells connections to close, until they hold `bytes` together, for a connection that will then hold `total`: a new one, or
    /// `asking`. False if that much was not found, or looked for a moment ago.
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
            let Some(stage) = open.queue.pop_front() else { break };
            let Some(idle) = stage.upgrade() else { continue };
            let young = oldest_only && now.duration_since(idle.opened()) < YOUNG;
            if young || !idle.is_idle() || is_it(asking, &idle) {
                open.queue.push_back(stage);
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
        // The oldest of several.
        let heaviest = all.filter(|stage| !is_it(asking, stage)).max_by_key(|stage| stage.held());
        let Some(heaviest) = heaviest.filter(|heaviest| heaviest.held() >= total) else { return false };
        heaviest.close();
        open.queue.retain(|stage| !std::ptr::eq(stage.as_ptr(), Arc::as_ptr(&heaviest)));
        found + heaviest.held() >= bytes
    }

    /// One line at the beginning of a shortage, which ends when none was felt for a while.
    fn log_shortage(&self, open: &mut Open, now: Instant) {
        if open.shortage.replace(now).is_none_or(|felt| now.duration_since(felt) > QUIET) {
            tracing::warn!(
                connections = self.connections.load(Ordering::Relaxed),
                connections_max = self.connections_max,
                connection_memory_mib = self.bytes_max / MIB,
                "connections hold all the memory they may (CONNECTION_MEMORY) or are too many; closing idle ones"
            );
        }
    }
}

fn is_it(asking: Option<&ConnectionActivity>, stage: &Arc<ConnectionActivity>) -> bool {
    asking.is_some_and(|asking| std::ptr::eq(asking, Arc::as_ptr(stage)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(connections: usize) -> Arc<ConnectionBudget> {
        ConnectionBudget::new(connections * CONNECTION_BYTES, usize::MAX)
    }

    #[tokio::test]
    async fn oldest_idle_connection_makes_room() {
        let budget = budget(3);
        let all = [budget.admit().await, budget.admit().await, budget.admit().await];
        let _busy = all[0].request(0);
        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.admit().await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(all.each_ref().map(|stage| stage.is_told_to_close()), [false, true, false]);
        let [_first, second, _third] = all;
        drop(second);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn heaviest_connection_goes_where_none_is_idle() {
        let budget = budget(16);
        let (light, heavy, asking) = (budget.admit().await, budget.admit().await, budget.admit().await);
        let _busy = (light.request(0), heavy.request(3 * CONNECTION_BYTES), asking.request(0));
        let others: Vec<_> = (0..10).map(|_| budget.admit_at_last()).collect();
        let _busy_too: Vec<_> = others.iter().map(|stage| stage.request(0)).collect();
        assert!(asking.charge(CONNECTION_BYTES), "the heavy one goes");
        assert!(heavy.is_told_to_close() && !light.is_told_to_close() && !asking.is_told_to_close());
        tokio::time::sleep(SEARCH_EVERY).await;
        assert!(!asking.charge(CONNECTION_BYTES), "nobody left holds more than it would");
    }

    #[tokio::test]
    async fn streams_do_not_push_out_a_connection_that_is_about_to_ask() {
        let budget = budget(16);
        let asking = budget.admit().await;
        let fresh: Vec<_> = (0..15).map(|_| budget.admit_at_last()).collect();
        let told = || fresh.iter().filter(|stage| stage.is_told_to_close()).count();
        assert!(!asking.charge(CONNECTION_BYTES));
        assert_eq!(told(), 0);
        tokio::time::sleep(YOUNG).await;
        assert!(asking.charge(CONNECTION_BYTES), "an idle one may go for a modest need");
        assert_eq!(told(), 1);
    }

    #[tokio::test]
    async fn no_connection_takes_more_than_its_share_and_all_is_given_back() {
        let budget = budget(64);
        let stage = budget.admit().await;
        assert!(!stage.charge(16 * CONNECTION_BYTES), "a quarter is its own share, with what it holds already");
        assert!(stage.charge(15 * CONNECTION_BYTES));
        let open = stage.request(CONNECTION_BYTES);
        assert!(open.is_none(), "no more for a request either");
        drop(stage);
        assert_eq!((budget.bytes.load(Ordering::Relaxed), budget.connections.load(Ordering::Relaxed)), (0, 0));
    }

    #[tokio::test]
    async fn number_of_connections_is_bounded_too() {
        let budget = ConnectionBudget::new(usize::MAX, 1);
        let only = budget.admit().await;
        assert!(budget.try_admit().is_none());
        drop(only);
        assert!(budget.try_admit().is_some());
    }
}
