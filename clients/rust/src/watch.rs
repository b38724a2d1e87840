//! Watches: notify the owner of an open response or WebSocket when its token ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::denied::Denied;
use crate::verified::Verified;
use crate::watches::{Key, OnEnd, Watches};

/// A watched token; dropping it ends the watch.
#[must_use = "dropping it ends the watch"]
pub struct WatchGuard {
    watches: Arc<Watches>,
    key: Key,
}

impl WatchGuard {
    pub(crate) fn new(
        watches: Arc<Watches>,
        token: Verified,
        on_end: OnEnd,
        start: impl FnOnce(&Arc<Watches>) -> bool,
    ) -> Self {
        let key = watches.add(token, on_end, start);
        Self { watches, key }
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.watches.remove(self.key);
    }
}

impl std::fmt::Debug for WatchGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchGuard").field("number", &self.key.number).finish_non_exhaustive()
    }
}

/// Completes when a token ends: revoked, expired, or not checkable for longer than the grace. Dropping it ends the watch.
#[must_use = "a watch does nothing unless it is awaited"]
#[derive(Debug)]
pub struct Watch {
    _guard: WatchGuard,
    end: Arc<Mutex<End>>,
}

#[derive(Debug, Default)]
struct End {
    why: Option<Denied>,
    waker: Option<Waker>,
}

impl Watch {
    pub(crate) fn new(watches: Arc<Watches>, token: Verified, start: impl FnOnce(&Arc<Watches>) -> bool) -> Self {
        let end = Arc::<Mutex<End>>::default();
        let notified = Arc::clone(&end);
        let on_end = move |why| {
            let mut end = notified.lock().unwrap_or_else(PoisonError::into_inner);
            end.why = Some(why);
            if let Some(waker) = end.waker.take() {
                waker.wake();
            }
        };
        Self { _guard: WatchGuard::new(watches, token, Box::new(on_end), start), end }
    }
}

impl Future for Watch {
    type Output = Denied;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Denied> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        match end.why.take() {
            Some(why) => Poll::Ready(why),
            None => {
                end.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
