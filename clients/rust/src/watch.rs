//! Watches: notify the owner of an open response or WebSocket when its token ends.
//!
//! One thread a client, asleep while nothing is watched, looks every watched token up in shared memory. What is not clear
//! there is asked of the daemon; only the daemon's denial ends a watch, or its silence for longer than the grace.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::denied::{DaemonError, Denied};
use crate::verified::Verified;

/// How often all watched tokens are looked up.
const SWEEP: Duration = Duration::from_millis(20);
/// How long the daemon is not asked again about a token that it has just called good: its line in the segment is full, or its
/// `exp` has passed and the daemon's `LEEWAY` has not.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long the daemon is not asked again after it could not answer.
const RETRY: Duration = Duration::from_millis(250);
/// Watches that end because the daemon cannot answer are spread over this time.
const SPREAD: Duration = Duration::from_secs(5);

/// Asks the daemon about a token.
pub(crate) type Ask = Box<dyn Fn(&str) -> Option<Result<Verified, Denied>> + Send>;
pub(crate) type OnEnd = Box<dyn FnOnce(Denied) + Send>;

/// The watched tokens of a client.
pub(crate) struct Watches {
    /// The process whose thread sweeps them; a forked child makes its own.
    pub(crate) pid: u32,
    /// How long a token is kept that cannot be checked; `None` for ever.
    grace: Option<Duration>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    tokens: HashMap<u64, Watched>,
    sweeping: bool,
}

struct Watched {
    token: Verified,
    on_end: OnEnd,
    /// The daemon is not asked about it before this moment.
    ask_at: Option<Instant>,
}

impl Watches {
    pub(crate) fn new(grace: Option<Duration>) -> Arc<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Self { pid: std::process::id(), grace, state, changed })
    }

    /// Watches a token: `on_end` is called once, on the sweeping thread, unless the number returned is removed before.
    pub(crate) fn add(self: &Arc<Self>, token: Verified, on_end: OnEnd, ask: impl FnOnce() -> Ask) -> u64 {
        let mut state = self.locked();
        let number = state.next;
        state.next += 1;
        state.tokens.insert(number, Watched { token, on_end, ask_at: None });
        if state.sweeping {
            self.changed.notify_one();
            return number;
        }
        let (weak, ask) = (Arc::downgrade(self), ask());
        let thread = std::thread::Builder::new().name("sidegate-watch".into()).stack_size(256 * 1024);
        state.sweeping = thread.spawn(move || run(&weak, &ask)).is_ok();
        if !state.sweeping {
            // Without a thread the end would not be noticed.
            let watched = state.tokens.remove(&number);
            drop(state);
            if let Some(watched) = watched {
                (watched.on_end)(Denied::Unavailable(DaemonError::Timeout));
            }
        }
        number
    }

    pub(crate) fn remove(&self, number: u64) {
        self.locked().tokens.remove(&number);
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tokens that shared memory does not call good, and that may be asked about.
    fn doubtful(&self, now: Instant) -> Vec<(u64, Verified)> {
        let state = self.locked();
        let due = |watched: &Watched| watched.ask_at.is_none_or(|at| at <= now) && !watched.token.still_good();
        state.tokens.iter().filter(|(_, watched)| due(watched)).map(|(at, held)| (*at, held.token.clone())).collect()
    }

    /// Keeps the daemon's new answer about a token.
    fn renew(&self, number: u64, token: Verified) {
        let ask_at = (!token.still_good()).then(|| Instant::now() + ASK_AGAIN);
        if let Some(watched) = self.locked().tokens.get_mut(&number) {
            (watched.token, watched.ask_at) = (token, ask_at);
        }
    }

    fn end(&self, number: u64, why: Denied) {
        let watched = self.locked().tokens.remove(&number);
        if let Some(watched) = watched {
            (watched.on_end)(why);
        }
    }

    /// Looks every token up once. `silence` is since when the daemon could not answer, and what it said.
    fn sweep(&self, ask: &Ask, silence: &mut Option<Silence>) {
        let now = Instant::now();
        let doubtful = self.doubtful(now);
        if doubtful.is_empty() {
            *silence = None;
        }
        for (number, token) in doubtful {
            if let Some(silence) = silence.as_ref().filter(|silence| now < silence.ask_at) {
                if self.grace.is_some_and(|grace| now >= silence.since + grace + spread(number)) {
                    self.end(number, silence.why.clone());
                }
                continue;
            }
            match ask(token.token()) {
                None => return,
                Some(Ok(renewed)) => {
                    *silence = None;
                    self.renew(number, renewed);
                }
                Some(Err(why @ (Denied::Stale | Denied::Unavailable(_)))) => {
                    let since = silence.as_ref().map_or(now, |silence| silence.since);
                    *silence = Some(Silence { since, why, ask_at: Instant::now() + RETRY });
                }
                Some(Err(denied)) => {
                    *silence = None;
                    self.end(number, denied);
                }
            }
        }
    }
}

/// The daemon cannot answer.
struct Silence {
    since: Instant,
    why: Denied,
    ask_at: Instant,
}

/// Where within [`SPREAD`] this watch ends.
fn spread(number: u64) -> Duration {
    let part = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    SPREAD.mul_f64(part as f64 / f64::from(u32::MAX))
}

fn run(weak: &Weak<Watches>, ask: &Ask) {
    let mut silence = None;
    loop {
        let Some(watches) = weak.upgrade() else { return };
        let state = watches.locked();
        if state.tokens.is_empty() {
            silence = None;
            // Wakes now and then, to end with its client.
            let _waited = watches.changed.wait_timeout(state, Duration::from_millis(250));
            continue;
        }
        drop(state);
        watches.sweep(ask, &mut silence);
        drop(watches);
        std::thread::sleep(SWEEP);
    }
}

/// A watched token; dropping it ends the watch.
#[must_use = "dropping it ends the watch"]
pub struct WatchGuard {
    watches: Arc<Watches>,
    number: u64,
}

impl WatchGuard {
    pub(crate) fn new(watches: Arc<Watches>, token: Verified, on_end: OnEnd, ask: impl FnOnce() -> Ask) -> Self {
        let number = watches.add(token, on_end, ask);
        Self { watches, number }
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.watches.remove(self.number);
    }
}

impl std::fmt::Debug for WatchGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchGuard").field("number", &self.number).finish_non_exhaustive()
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
    pub(crate) fn new(watches: Arc<Watches>, token: Verified, ask: impl FnOnce() -> Ask) -> Self {
        let end = Arc::<Mutex<End>>::default();
        let notified = Arc::clone(&end);
        let on_end = move |why| {
            let mut end = notified.lock().unwrap_or_else(PoisonError::into_inner);
            end.why = Some(why);
            if let Some(waker) = end.waker.take() {
                waker.wake();
            }
        };
        Self { _guard: WatchGuard::new(watches, token, Box::new(on_end), ask), end }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_for_want_of_an_answer_are_spread() {
        let mut seconds = [0; 5];
        (0..1000).for_each(|number| seconds[(spread(number).as_secs() as usize).min(4)] += 1);
        assert!(seconds.iter().all(|count| (150..250).contains(count)), "{seconds:?}");
    }
}
