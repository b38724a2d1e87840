//! Checks verifiers continuously, and compares their answers with the expected state.

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

/// Pause between rounds.
const PAUSE: Duration = Duration::from_millis(10);
/// Entries seen dead before that are checked again in each round.
const AGAIN: usize = 500;

/// Watches the verifier in this process from a separate thread.
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
    /// All entries before this one are held.
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

    /// Checks everything now. Returns when the list was last proven, and how many entries are not
    /// known to be held.
    pub fn look_at_all(&self) -> (u64, usize) {
        self.shared.look(usize::MAX);
        let state = self.shared.state();
        let missing = state.held.iter().filter(|held| !**held).count();
        (self.shared.proven_ms.load(Ordering::Acquire), missing)
    }

    /// Panics if a guarantee was violated.
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

    /// Checks every entry not yet held, and `again` of the others.
    fn look(&self, again: usize) {
        let mut state = self.state();
        // Read before the verdicts: a later proof may cover more entries.
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
        // A complete check until the entry is held, then like the cache of known tokens.
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

/// Answers received from the verifier process.
#[derive(Default)]
pub struct Outside {
    held: Vec<bool>,
    pub asked: u64,
}

impl Outside {
    /// Checks a sample of the tokens that the process must know to be dead; returns the time of its
    /// proof.
    pub async fn look(&mut self, verifier: &Verifier, truth: &Truth, random: &mut Random, samples: u64) -> u64 {
        let asked_ms = monotonic_ms();
        let Ok(ready) = verifier.admin.get("/readyz").try_send().await else { return 0 };
        let Some(age) = ready.json()["fresh_age_ms"].as_u64() else { return 0 };
        // The response was created after the request, so the proof is at least this young.
        let proven = asked_ms.saturating_sub(age);
        let dead = truth.since(0);
        self.held.resize(dead.len(), false);
        for _ in 0..samples.min(dead.len() as u64) {
            // Half of them are among the newest.
            let newest = (dead.len() as u64).min(500);
            let low = if random.between(0, 2) == 0 { dead.len() as u64 - newest } else { 0 };
            let at = random.between(low, dead.len() as u64) as usize;
            // A timeout: the machine is busy, or a long run was suspended.
            let Ok(reply) = verifier.at.get("/check").bearer(&dead[at].token).try_send().await else { continue };
            self.asked += 1;
            match reply.status.as_u16() {
                401 if reply.code() == "token_revoked" => self.held[at] = true,
                // Its clock is behind: not a verdict on the revocation.
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
