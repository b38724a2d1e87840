//! The expected state: every revocation that the issuer acknowledged, and when; and which of them
//! Redis lost.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidegate_common::token::VerifiedToken;
use sidegate_issuer::domain::session::Rotation;

/// A revocation whose acknowledgement has arrived.
#[derive(Clone)]
pub struct Dead {
    pub token: Arc<str>,
    pub verified: Arc<VerifiedToken>,
    /// Its session, if any: it must never be refreshed again.
    pub session: Option<Rotation>,
    /// When the acknowledgement arrived, on the clock of `fresh_as_of`.
    pub acknowledged_ms: u64,
}

/// The acknowledgements that Redis may have lost, by time of arrival.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    pub from_ms: u64,
    pub to_ms: u64,
}

/// Shared by the writer, which fills it, and the watchers.
#[derive(Default)]
pub struct Truth {
    dead: Mutex<Vec<Dead>>,
    lost: Mutex<Option<Lost>>,
    pub refused: AtomicU64,
    /// Refreshes of dead sessions: the number of attempts, and the failures found.
    pub refreshes: AtomicU64,
    refreshed: Mutex<Option<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Truth {
    pub fn acknowledged(&self, dead: Dead) {
        locked(&self.dead).push(dead);
    }

    /// A dead session was refreshed.
    pub fn refreshed(&self, what: String) {
        locked(&self.refreshed).get_or_insert(what);
    }

    /// Panics if a dead session was refreshed.
    pub fn assert_none_refreshed(&self, when: &str) {
        assert_eq!(*locked(&self.refreshed), None, "{when}");
    }

    /// Dead sessions, at most `most`: the newest, and others starting at `from`.
    pub fn dead_sessions(&self, from: usize, most: usize) -> Vec<Dead> {
        let dead = locked(&self.dead);
        let with_session = |dead: &&Dead| dead.session.is_some();
        let newest = dead.iter().rev().filter(with_session).take(most / 2);
        let others = dead.iter().skip(from % dead.len().max(1)).filter(with_session).take(most / 2);
        newest.chain(others).cloned().collect()
    }

    pub fn count(&self) -> usize {
        locked(&self.dead).len()
    }

    /// The revocations starting at number `from`.
    pub fn since(&self, from: usize) -> Vec<Dead> {
        locked(&self.dead)[from..].to_vec()
    }

    pub fn newest_ms(&self) -> u64 {
        locked(&self.dead).iter().rev().take(1_000).map(|dead| dead.acknowledged_ms).max().unwrap_or(0)
    }

    /// Records which acknowledgements Redis may have lost.
    pub fn lose(&self, lost: Option<Lost>) {
        *locked(&self.lost) = lost;
    }

    pub fn lost(&self) -> Option<Lost> {
        *locked(&self.lost)
    }

    pub fn is_lost(&self, dead: &Dead) -> bool {
        locked(&self.lost).is_some_and(|lost| (lost.from_ms..=lost.to_ms).contains(&dead.acknowledged_ms))
    }
}

/// Totals of a run.
#[derive(Clone, Copy, Default)]
pub struct Totals {
    pub acknowledged: u64,
    pub refused: u64,
    pub verdicts: u64,
    pub asked: u64,
    pub proofs: u64,
    pub stale: u64,
    /// Attempts to refresh dead sessions; none may succeed.
    pub refreshes: u64,
}

impl Totals {
    pub fn add(&mut self, more: &Self) {
        self.acknowledged += more.acknowledged;
        self.refused += more.refused;
        self.verdicts += more.verdicts;
        self.asked += more.asked;
        self.proofs += more.proofs;
        self.stale += more.stale;
        self.refreshes += more.refreshes;
    }

    pub fn refused_by(truth: &Truth) -> u64 {
        truth.refused.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} revocations acknowledged, {} refused; {} proofs, {} verdicts in process, {} over the socket, \
             {} refreshes of dead sessions, {} looks at a stale verifier",
            self.acknowledged, self.refused, self.proofs, self.verdicts, self.asked, self.refreshes, self.stale
        )
    }
}
