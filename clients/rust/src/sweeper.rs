//! The thread that looks every watched token up in shared memory, and asks the daemon about those that are in doubt.
//!
//! Asleep while nothing is watched. Only the daemon's denial ends a watch, or its silence for longer than the grace.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use sidegate_shm::clock::NANOS;
use sidegate_shm::{AskReason, CoarseClock, Probe, Reader, SegmentClock as _, SegmentLookup};

use crate::denied::Denied;
use crate::readers;
use crate::verified::Verified;
use crate::watches::{Key, Round, Slot, Swept, Watches};

/// How often the tokens are swept.
const SWEEP: Duration = Duration::from_millis(20);
/// How often every token is looked up, whatever the segment's number of changes says.
const SWEEP_ALL: Duration = Duration::from_secs(1);
/// How long the daemon is not asked again about a token that it has just called good, where shared memory cannot show the next
/// change: without it, for another issuer's token, after `exp` and before the daemon's `LEEWAY` has passed.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long the daemon is not asked again after it could not answer.
const RETRY: Duration = Duration::from_millis(250);
/// Watches that end because the daemon cannot answer are spread over this time.
const SPREAD: Duration = Duration::from_secs(5);
/// How long nothing is watched before the thread sleeps.
const AWAKE: Duration = Duration::from_secs(5);
/// How long it sleeps at most, to end with its client.
const ASLEEP: Duration = Duration::from_millis(250);
/// From so many tokens in doubt on, several threads ask.
const TOKENS_A_THREAD: usize = 32;
const ASK_THREADS: usize = 4;

/// The client whose tokens are watched.
pub(crate) trait Client: Sync {
    /// The current segment of shared memory.
    fn segment(&self) -> Option<u64>;
    /// Checks a token; asks the daemon if needed.
    fn check(&self, token: &str) -> Result<Verified, Denied>;
}

/// Starts the thread; false if there can be none. `client` is `None` once the client is gone.
pub(crate) fn start<C: Client>(watches: &Arc<Watches>, client: impl Fn() -> Option<C> + Send + 'static) -> bool {
    let watches = Arc::downgrade(watches);
    let thread = std::thread::Builder::new().name("sidegate-watch".into()).stack_size(256 * 1024);
    thread.spawn(move || run(&watches, client)).is_ok()
}

fn run<C: Client>(watches: &Weak<Watches>, client: impl Fn() -> Option<C>) {
    let mut sweeper = Sweeper::default();
    let mut busy = Instant::now();
    loop {
        let Some(watches) = watches.upgrade() else { return };
        if !watches.is_empty() {
            let Some(client) = client() else { return };
            busy = Instant::now();
            sweeper.sweep(&watches, &client);
        } else if busy.elapsed() > AWAKE {
            sweeper.silence = None;
            watches.sleep_while_empty(ASLEEP);
            continue;
        }
        drop(watches);
        std::thread::sleep(SWEEP);
    }
}

#[derive(Default)]
struct Sweeper {
    /// Counts the changes of what shared memory says of tokens at large.
    generation: u64,
    view: Option<View>,
    all_at: Option<Instant>,
    silence: Option<Silence>,
}

/// What shared memory says of tokens at large. While it stays the same, so does its verdict on each token, until `exp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct View {
    segment: u64,
    changes: Option<u64>,
    key_epoch: u64,
    valid: bool,
}

/// The daemon cannot answer.
struct Silence {
    since: Instant,
    why: Denied,
    ask_at: Instant,
}

impl View {
    fn of(reader: &Reader) -> Self {
        // First: what is looked up later has at least these changes.
        let changes = reader.changes();
        Self { segment: reader.id(), changes, key_epoch: reader.live().key_epoch, valid: reader.is_valid(&CoarseClock) }
    }
}

impl Sweeper {
    /// Looks up every token that may have changed, and asks about those in doubt.
    fn sweep(&mut self, watches: &Watches, client: &impl Client) {
        let (now, now_s) = (Instant::now(), CoarseClock.now().realtime_ns / NANOS);
        let reader = client.segment().and_then(readers::find);
        let view = reader.as_deref().map(View::of);
        if view != self.view || self.generation == 0 {
            self.generation += 1;
            self.view = view;
        }
        let counts = view.is_some_and(|view| view.changes.is_some());
        let all = !counts || self.all_at.is_none_or(|at| at <= now);
        if all {
            self.all_at = Some(now + SWEEP_ALL);
        }
        let generation = self.generation;
        let due = |slot: &Slot| {
            all || slot.swept.generation != generation
                || slot.probe.exp_s() <= now_s
                || slot.swept.ask_at.is_some_and(|at| at <= now)
        };
        let mut doubtful = Vec::new();
        watches.sweep(Round { generation, now_s, all }, due, |key, slot| {
            let Some(reason) = doubt(reader.as_deref(), &slot.probe, slot.epoch) else { return true };
            let changed = slot.swept.generation != generation && !needs_time(reason);
            if changed || slot.swept.ask_at.map_or(needs_time(reason), |at| at <= now) {
                doubtful.push(key);
            }
            false
        });
        self.ask(watches, client, doubtful, &|token| {
            let again = match doubt(reader.as_deref(), &token.probe(), token.epoch()) {
                None => false,
                Some(reason) => needs_time(reason) || !counts,
            };
            Swept { generation, ask_at: again.then(|| Instant::now() + ASK_AGAIN) }
        });
    }

    fn ask(
        &mut self,
        watches: &Watches,
        client: &impl Client,
        doubtful: Vec<Key>,
        swept: &(impl Fn(&Verified) -> Swept + Sync),
    ) {
        let now = Instant::now();
        if doubtful.is_empty() {
            self.silence = None;
            return;
        }
        if let Some(silence) = &self.silence {
            let over = |key: &Key| watches.grace.is_some_and(|grace| now >= silence.since + grace + spread(key.number));
            doubtful.iter().filter(|key| over(key)).for_each(|key| watches.end(*key, silence.why.clone()));
            if now < silence.ask_at {
                return;
            }
        }
        let round = AskRound { watches, client, outcome: Mutex::default() };
        round.ask_all(&doubtful, swept);
        let Outcome { answered, silent } = round.outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        let since = self.silence.as_ref().filter(|_| !answered).map_or(now, |silence| silence.since);
        self.silence = silent.map(|why| Silence { since, why, ask_at: Instant::now() + RETRY });
    }
}

/// Asks the daemon once about each token.
struct AskRound<'a, C> {
    watches: &'a Watches,
    client: &'a C,
    outcome: Mutex<Outcome>,
}

#[derive(Default)]
struct Outcome {
    answered: bool,
    /// Why it could not answer; nothing more is asked then.
    silent: Option<Denied>,
}

impl<C: Client> AskRound<'_, C> {
    fn ask_all(&self, doubtful: &[Key], swept: &(impl Fn(&Verified) -> Swept + Sync)) {
        let tokens: Vec<(Key, Verified)> =
            doubtful.iter().filter_map(|key| Some((*key, self.watches.token(*key)?))).collect();
        let mut by_token: HashMap<&str, Vec<Key>> = HashMap::new();
        tokens.iter().for_each(|(key, token)| by_token.entry(token.token()).or_default().push(*key));
        let groups: Vec<(&str, Vec<Key>)> = by_token.into_iter().collect();
        let next = AtomicUsize::new(0);
        let ask = || {
            while let Some((token, keys)) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                if !self.ask_one(token, keys, swept) {
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..(groups.len() / TOKENS_A_THREAD).clamp(1, ASK_THREADS) {
                // Where there can be no thread, this one asks.
                let _helper = std::thread::Builder::new().spawn_scoped(scope, ask);
            }
            ask();
        });
    }

    /// False if the daemon cannot answer.
    fn ask_one(&self, token: &str, keys: &[Key], swept: &impl Fn(&Verified) -> Swept) -> bool {
        if self.locked().silent.is_some() {
            return false;
        }
        match self.client.check(token) {
            Ok(renewed) => {
                self.locked().answered = true;
                let swept = swept(&renewed);
                keys.iter().for_each(|key| self.watches.renew(*key, renewed.clone(), swept));
            }
            Err(why @ (Denied::Stale | Denied::Unavailable(_))) => {
                self.locked().silent = Some(why);
                return false;
            }
            Err(denied) => {
                self.locked().answered = true;
                keys.iter().for_each(|key| self.watches.end(*key, denied.clone()));
            }
        }
        true
    }

    fn locked(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why shared memory does not call a token good; `None` if it does.
fn doubt(reader: Option<&Reader>, probe: &Probe, key_epoch: u64) -> Option<AskReason> {
    match reader.map(|reader| reader.check(probe, key_epoch, &CoarseClock)) {
        Some(SegmentLookup::Clear) => None,
        Some(SegmentLookup::Ask(reason)) => Some(reason),
        None => Some(AskReason::OtherSegment),
    }
}

/// Whether the daemon's answer may differ later although nothing changes in shared memory.
fn needs_time(reason: AskReason) -> bool {
    !matches!(reason, AskReason::Revoked | AskReason::Saturated | AskReason::Watermark)
}

/// Where within [`SPREAD`] this watch ends.
fn spread(number: u64) -> Duration {
    let part = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    SPREAD.mul_f64(part as f64 / f64::from(u32::MAX))
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
