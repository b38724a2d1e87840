//! Asks verifiers all the time, and compares what they say with the truth.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sidegate_common::token::Rejection;
use sidegate_common::token_checker::TokenError;
use sidegate_runtime::clock::monotonic_ms;
use sidegate_tests::random::Random;
use sidegate_tests::stack::Verifier;
use sidegate_verifier::verifier::Verifier as Core;

use super::truth::{Dead, Totals, Truth};

/// Between looks.
const PAUSE: Duration = Duration::from_millis(10);
/// Entries seen dead before that are asked about again at each look.
const AGAIN: usize = 500;

/// Watches the verifier in this process from a thread of its own.
pub struct Watcher {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    core: Arc<Core>,
    truth: Arc<Truth>,
    stop: AtomicBool,
    state: Mutex<State>,
    proven_ms: AtomicU64,
}

#[derive(Default)]
struct State {
    dead: Vec<Dead>,
    held: Vec<bool>,
    /// Up to here everything is held.
    settled: usize,
    again: usize,
    totals: Totals,
    violation: Option<String>,
}

impl Watcher {
    pub fn start(core: Arc<Core>, truth: Arc<Truth>) -> Self {
        let (stop, proven_ms) = (AtomicBool::new(false), AtomicU64::new(0));
        let shared = Arc::new(Shared { core, truth, stop, state: Mutex::default(), proven_ms });
        let watching = Arc::clone(&shared);
        let watch = move || {
            while !watching.stop.load(Ordering::Acquire) {
                watching.look(AGAIN);
                std::thread::sleep(PAUSE);
            }
        };
        let thread = Some(std::thread::Builder::new().name("watcher".into()).spawn(watch).expect("a thread"));
        Self { shared, thread }
    }

    /// Asks about everything now. Returns when the list was last proven, and how many are not known to be held.
    pub fn look_at_all(&self) -> (u64, usize) {
        self.shared.look(usize::MAX);
        let state = self.shared.state();
        let missing = state.held.iter().filter(|held| !**held).count();
        (self.shared.proven_ms.load(Ordering::Acquire), missing)
    }

    /// Panics if a promise has been broken.
    pub fn assert_no_violation(&self, when: &str) {
        let state = self.shared.state();
        assert_eq!(state.violation, None, "{when}");
    }

    pub fn totals(&self) -> Totals {
        let state = self.shared.state();
        Totals { acknowledged: state.dead.len() as u64, ..state.totals }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _it_says_so_itself = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks about every entry not yet held, and about `again` of the others.
    fn look(&self, again: usize) {
        let mut state = self.state();
        // Before the verdicts: what is proven while they are given may speak of more.
        let proven = self.core.state().proven().unwrap_or(0);
        if self.proven_ms.fetch_max(proven, Ordering::AcqRel) < proven {
            state.totals.proofs += 1;
        }
        if self.core.ready().is_err() {
            state.totals.stale += 1;
        }
        let new = self.truth.since(state.dead.len());
        state.dead.extend(new);
        let count = state.dead.len();
        state.held.resize(count, false);
        while state.settled < count && state.held[state.settled] {
            state.settled += 1;
        }
        let settled = state.settled;
        let old = again.min(settled);
        let begin = state.again;
        state.again = if settled == 0 { 0 } else { (begin + old) % settled };
        let rotation = (0..old).map(|n| (begin + n) % settled);
        for at in rotation.chain(settled..count) {
            self.ask(&mut state, at, proven);
        }
    }

    fn ask(&self, state: &mut State, at: usize, proven: u64) {
        let dead = state.dead[at].clone();
        let (tokens, moment) = (self.core.tokens(), self.core.check_time());
        // In full until it is held, and as the cache of tokens seen does from then on.
        let held = state.held[at];
        let verdict = if held { tokens.recheck(&dead.verified, moment) } else { tokens.check(&dead.token, moment) };
        state.totals.verdicts += 1;
        let say = |what: &str| {
            let age = proven.saturating_sub(dead.acknowledged_ms);
            format!("{what}: acknowledged at {}, proven as of {proven} ({age} ms later)", dead.acknowledged_ms)
        };
        match verdict {
            Err(TokenError::Rejected(Rejection::Revoked)) => state.held[at] = true,
            Ok(_) if held => state.violation = Some(say("un-revoked")),
            Ok(_) if dead.acknowledged_ms < proven => {
                let lost = if self.truth.is_lost(&dead) { ", lost by Redis" } else { "" };
                state.violation = Some(say(&format!("good although revoked{lost}")));
            }
            Err(TokenError::Unavailable(_)) if held => state.violation = Some(say("forgotten")),
            Ok(_) | Err(TokenError::Unavailable(_)) => {}
            Err(TokenError::Rejected(other)) => {
                state.violation = Some(say(&format!("denied for another reason, {other}")))
            }
        }
    }
}

/// What has been heard from the verifier process.
#[derive(Default)]
pub struct Outside {
    held: Vec<bool>,
    pub asked: u64,
}

impl Outside {
    /// Asks the process about a sample of what must be dead by its own account; returns as of when it is proven.
    pub async fn look(&mut self, verifier: &Verifier, truth: &Truth, random: &mut Random, samples: u64) -> u64 {
        let asked_ms = monotonic_ms();
        let Ok(ready) = verifier.admin.get("/readyz").try_send().await else { return 0 };
        let Some(age) = ready.json()["fresh_age_ms"].as_u64() else { return 0 };
        // Its answer was made after it was asked, so the proof is at least this young.
        let proven = asked_ms.saturating_sub(age);
        let dead = truth.since(0);
        self.held.resize(dead.len(), false);
        for _ in 0..samples.min(dead.len() as u64) {
            // Half of them among the newest.
            let newest = (dead.len() as u64).min(500);
            let low = if random.between(0, 2) == 0 { dead.len() as u64 - newest } else { 0 };
            let at = random.between(low, dead.len() as u64) as usize;
            // No answer in time: the machine is busy, or a long run was stopped for a while.
            let Ok(reply) = verifier.at.get("/check").bearer(&dead[at].token).try_send().await else { continue };
            self.asked += 1;
            match reply.status.as_u16() {
                401 if reply.code() == "token_revoked" => self.held[at] = true,
                // Its clock is behind: no verdict on the revocation.
                401 => assert_eq!(reply.code(), "token_invalid"),
                200 => {
                    assert!(!self.held[at], "the process un-revoked an entry");
                    let late = proven.saturating_sub(dead[at].acknowledged_ms);
                    assert!(late == 0, "good {late} ms after; lost by Redis: {}", truth.is_lost(&dead[at]));
                }
                503 => {}
                other => panic!("the process answers {other}"),
            }
        }
        proven
    }
}
