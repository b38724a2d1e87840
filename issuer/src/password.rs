//! A fixed pool of threads for password hashes, at the lowest priority, behind a bounded queue.
//!
//! Every refusal costs the same: 2^C bcrypt rounds with C = max(`BCRYPT_COST`, the highest stored
//! cost seen), and with `ARGON2_VERIFY` the work of the most expensive Argon2id parameters seen.
//! Thus the response time does not distinguish an unknown user from a wrong password.

mod work;

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use sidegate_common::secret::Secret;
use sidegate_runtime::trace::child_span;
use tokio::sync::{mpsc, oneshot};

use crate::domain::hash::{Argon2Parameters, Scheme, StoredHash, UnusableHash, scheme_of_parameters};
use crate::domain::password::{Attempt, Outcome, PASSWORD_BYTES_MAX, QueueFullError, Reason, Rehash, is_fit, top_up};
use crate::domain::traits::Passwords;

/// How many replacements may be queued, and how many new hashes may wait to be stored.
const REHASHES_MAX: usize = 16;

/// The pool's settings.
#[derive(Clone, Copy, Debug)]
pub struct PoolSettings {
    /// Threads (`BCRYPT_THREADS`).
    pub threads: usize,
    /// How many attempts may be queued (`BCRYPT_QUEUE_MAX`).
    pub queue_max: usize,
    /// The cost of new hashes, and the minimum cost of a refusal (`BCRYPT_COST`).
    pub cost: u32,
    /// Whether a login replaces stored hashes of lower cost (`USERS_REHASH`).
    pub rehash: bool,
    /// Whether bcrypt gets the first 72 bytes of a longer password (`BCRYPT_LONG_PASSWORDS`).
    pub truncate: bool,
    /// Whether Argon2id hashes are accepted (`ARGON2_VERIFY`).
    pub argon2: bool,
}

/// The pool's counters, for metrics and tests.
#[derive(Debug, Default)]
pub struct PasswordCounts {
    /// Bcrypt rounds spent on refusals.
    pub refused_rounds: AtomicU64,
    /// Bcrypt rounds spent in all.
    pub rounds: AtomicU64,
    /// KiB of memory filled for Argon2id.
    pub argon2_kib: Counter,
    /// Queued attempts.
    pub waiting: AtomicU64,
}

/// A new hash to be stored in place of the old one.
#[derive(Clone, Debug)]
pub struct Rehashed {
    /// The user's id.
    pub id: String,
    /// The stored hash.
    pub old: Secret,
    /// The hash to store.
    pub new: Secret,
}

struct Job {
    attempt: Attempt,
    answer: oneshot::Sender<Outcome>,
}

/// The next task of a thread.
enum Task {
    Check(Job),
    Rehash(Rehash),
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    rehashes: VecDeque<Rehash>,
    /// Slots of logins that have not yet submitted their attempt.
    promised: usize,
    /// Threads that are idle.
    idle: usize,
    closed: bool,
}

struct Shared {
    settings: PoolSettings,
    queue: Mutex<Queue>,
    wake: Condvar,
    highest_cost: AtomicU32,
    /// The most expensive Argon2id parameters seen.
    costliest: Mutex<Option<Argon2Parameters>>,
    /// Unsupported schemes that were logged: each is logged once.
    named: Mutex<BTreeSet<&'static str>>,
    rehashed: mpsc::Sender<Rehashed>,
    counts: Arc<PasswordCounts>,
}

/// The pool. When dropped, its threads finish their current task and end.
pub struct PasswordPool {
    shared: Arc<Shared>,
}

impl PasswordPool {
    /// Starts the threads. The receiver yields new hashes.
    ///
    /// # Errors
    /// The operating system cannot start a thread.
    pub fn start(settings: PoolSettings) -> std::io::Result<(Self, mpsc::Receiver<Rehashed>)> {
        let (rehashed, to_store) = mpsc::channel(REHASHES_MAX);
        let shared = Arc::new(Shared {
            settings,
            queue: Mutex::default(),
            wake: Condvar::new(),
            highest_cost: AtomicU32::new(settings.cost),
            costliest: Mutex::default(),
            named: Mutex::default(),
            rehashed,
            counts: Arc::default(),
        });
        for number in 0..settings.threads.max(1) {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("bcrypt-{number}")).spawn(move || {
                lower_priority();
                shared.work();
            })?;
        }
        Ok((Self { shared }, to_store))
    }

    /// Learns the costs of the stored hashes from their parameters (`$2b$12$`,
    /// `$m=65536,t=3,p=4$`), so that the first refusal costs as much as any later one.
    pub fn learn<'a>(&self, parameters: impl IntoIterator<Item = &'a str>) {
        for scheme in parameters.into_iter().filter_map(scheme_of_parameters) {
            self.shared.saw(scheme);
        }
    }

    /// The pool's counters.
    pub fn counts(&self) -> Arc<PasswordCounts> {
        Arc::clone(&self.shared.counts)
    }
}

impl Drop for PasswordPool {
    fn drop(&mut self) {
        self.shared.locked().closed = true;
        self.shared.wake.notify_all();
    }
}

/// On Linux this sets the priority of the calling thread only. Best effort: the pool works without
/// it.
fn lower_priority() {
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::debug!(%error, "lowering the priority of the bcrypt threads failed");
    }
}

/// A place in the queue, released when dropped.
pub struct Slot(Arc<Shared>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.locked().promised -= 1;
    }
}

impl Passwords for PasswordPool {
    type Slot = Slot;

    fn acquire_slot(&self) -> Result<Slot, QueueFullError> {
        let mut queue = self.shared.locked();
        if queue.jobs.len() + queue.promised >= self.shared.settings.queue_max + queue.idle {
            return Err(QueueFullError);
        }
        queue.promised += 1;
        Ok(Slot(Arc::clone(&self.shared)))
    }

    async fn check(&self, slot: Slot, attempt: Attempt) -> Result<Outcome, QueueFullError> {
        let (answer, outcome) = oneshot::channel();
        {
            let mut queue = self.shared.locked();
            queue.jobs.push_back(Job { attempt, answer });
            self.shared.counts.waiting.store(queue.jobs.len() as u64, Ordering::Relaxed);
        }
        drop(slot);
        self.shared.wake.notify_one();
        // The span covers the wait for a thread as well as the work.
        child_span("password.check", async { outcome.await.map_err(|_| QueueFullError) }).await
    }

    fn rehash(&self, rehash: Rehash) {
        {
            let mut queue = self.shared.locked();
            let known = queue.rehashes.iter().any(|waiting| waiting.id == rehash.id);
            if known || queue.rehashes.len() >= REHASHES_MAX || self.shared.rehashed.capacity() == 0 {
                return;
            }
            queue.rehashes.push_back(rehash);
        }
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(task) = self.next() {
            match task {
                // No work for a client that has disconnected.
                Task::Check(job) if job.answer.is_closed() => {}
                Task::Check(job) => {
                    let _gone = job.answer.send(self.check(&job.attempt));
                }
                Task::Rehash(rehash) => self.rehash(rehash),
            }
        }
    }

    /// Attempts come before hashes to be replaced, because a client waits for them.
    fn next(&self) -> Option<Task> {
        let mut queue = self.locked();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                self.counts.waiting.store(queue.jobs.len() as u64, Ordering::Relaxed);
                return Some(Task::Check(job));
            }
            if queue.closed {
                return None;
            }
            if let Some(rehash) = queue.rehashes.pop_front() {
                return Some(Task::Rehash(rehash));
            }
            queue.idle += 1;
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }

    /// Raises the highest costs seen; they never go down.
    fn saw(&self, scheme: Scheme) {
        match scheme {
            Scheme::Bcrypt { cost } => {
                self.highest_cost.fetch_max(cost, Ordering::Relaxed);
            }
            Scheme::Argon2id(parameters) => {
                let mut costliest = self.costliest.lock().unwrap_or_else(PoisonError::into_inner);
                if costliest.is_none_or(|known| known.work() < parameters.work()) {
                    *costliest = Some(parameters);
                }
            }
        }
    }

    fn check(&self, attempt: &Attempt) -> Outcome {
        let nothing = Spent::default();
        let Some(stored) = &attempt.stored else { return self.refuse(Reason::NothingStored, nothing) };
        let hash = match StoredHash::parse(stored.expose_str().unwrap_or_default()) {
            Ok(StoredHash { scheme: Scheme::Argon2id(_), .. }) if !self.settings.argon2 => {
                return self.unsupported("argon2id");
            }
            Ok(hash) => hash,
            Err(UnusableHash::OtherScheme(name)) => return self.unsupported(name),
            Err(UnusableHash::Malformed) => return self.refuse(Reason::MalformedHash, nothing),
        };
        self.saw(hash.scheme);
        let (matches, spent) = match hash.scheme {
            Scheme::Bcrypt { cost } => {
                let password = self.for_bcrypt(&attempt.password);
                if !is_fit(password) {
                    return self.refuse(Reason::UnfitPassword, nothing);
                }
                self.count_rounds(cost);
                let matches = bcrypt::verify(password, hash.hash).unwrap_or(false);
                (matches, Spent { bcrypt: Some(cost), argon2_kib: 0 })
            }
            Scheme::Argon2id(parameters) => {
                self.counts.argon2_kib.inc_by(parameters.work());
                let matches = work::argon2_matches(attempt.password.expose(), hash.hash);
                (matches, Spent { bcrypt: None, argon2_kib: parameters.work() })
            }
        };
        match (matches, attempt.eligible) {
            (true, true) => {
                let outdated = spent.bcrypt.is_some_and(|cost| self.settings.rehash && cost < self.settings.cost);
                Outcome::Right { cost: spent.bcrypt, outdated }
            }
            (true, false) => self.refuse(Reason::NotEligible, spent),
            (false, _) => self.refuse(Reason::Mismatch, spent),
        }
    }

    /// The bytes of a password that bcrypt gets.
    fn for_bcrypt<'a>(&self, password: &'a Secret) -> &'a [u8] {
        let password = password.expose();
        if self.settings.truncate { &password[..password.len().min(PASSWORD_BYTES_MAX)] } else { password }
    }

    fn unsupported(&self, scheme: &'static str) -> Outcome {
        if self.named.lock().unwrap_or_else(PoisonError::into_inner).insert(scheme) {
            let advice =
                if scheme == "argon2id" { "; ARGON2_VERIFY=true verifies them, up to 256 MiB each" } else { "" };
            tracing::error!(scheme, "the users table has hashes of an unsupported scheme{advice}");
        }
        self.refuse(Reason::UnsupportedHash, Spent::default())
    }

    /// Computes a new hash, in the wrapping of the old one.
    fn rehash(&self, rehash: Rehash) {
        let Rehash { id, password, stored: old } = rehash;
        self.count_rounds(self.settings.cost);
        let new = bcrypt::hash(self.for_bcrypt(&password), self.settings.cost).ok();
        let wrapping =
            old.expose_str().and_then(|stored| StoredHash::parse(stored).ok()).map_or("", |hash| hash.wrapping);
        if let Some(new) = new {
            let new = Secret::new(format!("{wrapping}{new}"));
            // A full channel means that the database is too slow; the next login tries again.
            let _full = self.rehashed.try_send(Rehashed { id, old, new });
        }
    }

    /// Refuses, after spending the remainder of the common work.
    fn refuse(&self, reason: Reason, spent: Spent) -> Outcome {
        let target = self.highest_cost.load(Ordering::Relaxed);
        for cost in top_up(spent.bcrypt, target) {
            std::hint::black_box(bcrypt::bcrypt(cost, [0x5a; 16], b"a dummy password\0"));
            self.count_rounds(cost);
        }
        let rounds = spent.bcrypt.map_or(0, |cost| 1 << cost)
            + top_up(spent.bcrypt, target).map(|cost| 1_u64 << cost).sum::<u64>();
        self.counts.refused_rounds.fetch_add(rounds, Ordering::Relaxed);
        let costliest = *self.costliest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(costliest) = costliest.filter(|_| self.settings.argon2) {
            self.counts.argon2_kib.inc_by(work::spend_argon2(costliest, spent.argon2_kib));
        }
        Outcome::Wrong(reason)
    }

    fn count_rounds(&self, cost: u32) {
        self.counts.rounds.fetch_add(1 << cost, Ordering::Relaxed);
    }
}

/// Work already done for an attempt.
#[derive(Clone, Copy, Default)]
struct Spent {
    /// The cost of the bcrypt hash that was checked.
    bcrypt: Option<u32>,
    /// KiB filled for Argon2id.
    argon2_kib: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: PoolSettings =
        PoolSettings { threads: 2, queue_max: 64, cost: 6, rehash: false, truncate: false, argon2: false };

    fn start(settings: PoolSettings) -> PasswordPool {
        PasswordPool::start(settings).unwrap().0
    }

    fn attempt(password: &[u8], stored: Option<&str>) -> Attempt {
        Attempt { password: Secret::new(password), stored: stored.map(Secret::new), eligible: true }
    }

    fn hash(password: &str, cost: u32) -> String {
        bcrypt::hash(password, cost).unwrap()
    }

    async fn check(pool: &PasswordPool, attempt: Attempt) -> Result<Outcome, QueueFullError> {
        let slot = pool.acquire_slot()?;
        pool.check(slot, attempt).await
    }

    async fn reason(pool: &PasswordPool, attempt: Attempt) -> Reason {
        match check(pool, attempt).await.unwrap() {
            Outcome::Wrong(reason) => reason,
            Outcome::Right { .. } => panic!("taken"),
        }
    }

    #[tokio::test]
    async fn every_refusal_spends_the_same_rounds() {
        let pool = start(SETTINGS);
        let (cheap, dear) = (hash("right", 4), hash("right", 7));
        // The most expensive hash sets the cost of all refusals.
        assert!(matches!(check(&pool, attempt(b"right", Some(&dear))).await, Ok(Outcome::Right { cost: Some(7), .. })));
        let disabled = Attempt { eligible: false, ..attempt(b"right", Some(&cheap)) };
        let absurd = cheap.replace("$04$", "$31$");
        let classes = [
            (attempt(b"wrong", Some(&cheap)), Reason::Mismatch),
            (attempt(b"wrong", Some(&dear)), Reason::Mismatch),
            (attempt(b"x", None), Reason::NothingStored),
            (attempt(b"right", Some("plain text")), Reason::MalformedHash),
            (attempt(b"right", Some(&absurd)), Reason::MalformedHash),
            (attempt(&[b'x'; 73], Some(&cheap)), Reason::UnfitPassword),
            (attempt(b"right\0", Some(&cheap)), Reason::UnfitPassword),
            (attempt(&[b'x'; 73], None), Reason::NothingStored),
            (disabled, Reason::NotEligible),
        ];
        for (attempt, expected) in classes {
            let before = pool.counts().rounds.load(Ordering::Relaxed);
            assert_eq!(reason(&pool, attempt).await, expected);
            assert_eq!(pool.counts().rounds.load(Ordering::Relaxed) - before, 1 << 7, "{expected:?}");
        }
        assert_eq!(pool.counts().refused_rounds.load(Ordering::Relaxed), 9 << 7);
    }

    #[tokio::test]
    async fn every_bcrypt_variant_is_accepted() {
        let pool = start(SETTINGS);
        let stored = hash(" p\u{e4}ss ", 4);
        for variant in ["$2a$", "$2b$", "$2x$", "$2y$"] {
            let stored = stored.replace("$2b$", variant);
            let right = check(&pool, attempt(" p\u{e4}ss ".as_bytes(), Some(&stored))).await;
            assert!(matches!(right, Ok(Outcome::Right { cost: Some(4), outdated: false })), "{variant}");
            assert_eq!(reason(&pool, attempt("p\u{e4}ss".as_bytes(), Some(&stored))).await, Reason::Mismatch);
        }
        let long = "x".repeat(72);
        let right = check(&pool, attempt(long.as_bytes(), Some(&hash(&long, 4)))).await;
        assert!(matches!(right, Ok(Outcome::Right { .. })), "72 bytes are accepted");
    }

    #[tokio::test]
    async fn low_cost_hashes_are_replaced_if_rehashing_is_on() {
        let (pool, mut made) = PasswordPool::start(PoolSettings { rehash: true, ..SETTINGS }).unwrap();
        for (wrapping, space) in [("", ""), ("{bcrypt}", "\n"), ("bcrypt$", " ")] {
            let stored = format!("{wrapping}{}{space}", hash("p", 4));
            let right = check(&pool, attempt(b"p", Some(&stored))).await;
            assert!(matches!(right, Ok(Outcome::Right { outdated: true, .. })));
            let (password, secret) = (Secret::new(b"p"), Secret::new(stored.as_str()));
            pool.rehash(Rehash { id: "7".into(), password, stored: secret });
            let rehashed = made.recv().await.unwrap();
            assert_eq!((rehashed.id.as_str(), rehashed.old.expose_str()), ("7", Some(stored.as_str())));
            let new = rehashed.new.expose_str().unwrap().strip_prefix(wrapping).unwrap();
            assert_eq!(StoredHash::parse(new).unwrap().scheme, Scheme::Bcrypt { cost: 6 });
            assert!(bcrypt::verify("p", new).unwrap());
        }
        let enough = check(&pool, attempt(b"p", Some(&hash("p", 6)))).await;
        assert!(matches!(enough, Ok(Outcome::Right { outdated: false, .. })));
    }

    #[tokio::test]
    async fn queued_rehashes_are_bounded() {
        let (pool, made) = PasswordPool::start(PoolSettings { rehash: true, threads: 1, ..SETTINGS }).unwrap();
        let stored = hash("p", 4);
        for id in 0..1000 {
            let (password, stored) = (Secret::new(b"p"), Secret::new(stored.as_str()));
            pool.rehash(Rehash { id: id.to_string(), password, stored });
        }
        assert_eq!(reason(&pool, attempt(b"x", None)).await, Reason::NothingStored);
        until_idle(&pool).await;
        assert!(
            made.len() <= REHASHES_MAX && !made.is_empty(),
            "{} wait for a database that does not answer",
            made.len()
        );
    }

    #[tokio::test]
    async fn long_passwords_are_truncated_only_if_configured() {
        let (long, cut) = ([b'x'; 80], hash(&"x".repeat(72), 4));
        assert_eq!(reason(&start(SETTINGS), attempt(&long, Some(&cut))).await, Reason::UnfitPassword);
        let pool = start(PoolSettings { truncate: true, ..SETTINGS });
        assert!(matches!(check(&pool, attempt(&long, Some(&cut))).await, Ok(Outcome::Right { .. })));
        assert_eq!(reason(&pool, attempt(&[b'y'; 80], Some(&cut))).await, Reason::Mismatch);
        assert_eq!(reason(&pool, attempt(b"x\0y", Some(&cut))).await, Reason::UnfitPassword);
    }

    #[tokio::test]
    async fn with_argon2_every_refusal_costs_the_same_of_both() {
        let pool = start(PoolSettings { argon2: true, ..SETTINGS });
        let bcrypt = hash("right", 4);
        // From the parameters at start, before a hash was checked.
        pool.learn(["$2b$07$", "$m=64,t=3,p=1$", "$m=96,t=1,p=4$", "$99$"]);
        let (cheap, dear) = (work::argon2_hash(b"right", 32, 1, 1), work::argon2_hash(b"right", 64, 3, 1));
        let lanes = format!("{{argon2}}{} ", work::argon2_hash(b"right", 96, 1, 4));
        for stored in [&cheap, &dear, &lanes] {
            let right = check(&pool, attempt(b"right", Some(stored))).await;
            assert!(matches!(right, Ok(Outcome::Right { cost: None, outdated: false })), "{stored}");
        }
        let long = work::argon2_hash(&[b'x'; 200], 32, 1, 1);
        assert!(matches!(check(&pool, attempt(&[b'x'; 200], Some(&long))).await, Ok(Outcome::Right { .. })));
        let disabled = Attempt { eligible: false, ..attempt(b"right", Some(&cheap)) };
        for (attempt, expected) in [
            (attempt(b"x", None), Reason::NothingStored),
            (attempt(b"wrong", Some(&bcrypt)), Reason::Mismatch),
            (attempt(b"wrong", Some(&cheap)), Reason::Mismatch),
            (attempt(b"wrong", Some(&dear)), Reason::Mismatch),
            (attempt(b"wrong", Some(&lanes)), Reason::Mismatch),
            (attempt(&[b'x'; 80], Some(&bcrypt)), Reason::UnfitPassword),
            (attempt(b"right", Some("$1$md5")), Reason::UnsupportedHash),
            (attempt(b"right", Some("right")), Reason::MalformedHash),
            (disabled, Reason::NotEligible),
        ] {
            let counts = pool.counts();
            let before = (counts.rounds.load(Ordering::Relaxed), counts.argon2_kib.get());
            assert_eq!(reason(&pool, attempt).await, expected);
            let spent = (counts.rounds.load(Ordering::Relaxed) - before.0, counts.argon2_kib.get() - before.1);
            assert_eq!(spent, (1 << 7, 64 * 3), "{expected:?}");
        }
    }

    #[tokio::test]
    async fn argon2_is_accepted_only_if_configured() {
        let stored = work::argon2_hash(b"right", 32, 1, 1);
        let pool = start(SETTINGS);
        assert_eq!(reason(&pool, attempt(b"right", Some(&stored))).await, Reason::UnsupportedHash);
        assert_eq!(pool.counts().argon2_kib.get(), 0, "and nothing is spent on it");
    }

    #[tokio::test]
    async fn a_full_queue_sheds_load() {
        let settings = PoolSettings { threads: 1, queue_max: 2, cost: 10, ..SETTINGS };
        let pool = start(settings);
        let answers = futures_util::future::join_all((0..20).map(|_| check(&pool, attempt(b"x", None)))).await;
        let shed = answers.iter().filter(|answer| answer.is_err()).count();
        assert!((1..=18).contains(&shed), "one at work, two waiting; {shed} shed");
    }

    #[tokio::test]
    async fn a_slot_counts_from_acquisition_until_release() {
        let settings = PoolSettings { threads: 1, queue_max: 2, cost: 4, ..SETTINGS };
        let pool = start(settings);
        until_idle(&pool).await;
        let slots: Vec<_> = (0..3).map(|_| pool.acquire_slot().unwrap()).collect();
        assert!(pool.acquire_slot().is_err(), "two may wait, and one goes to the idle thread");
        drop(slots);
        assert_eq!(reason(&pool, attempt(b"x", None)).await, Reason::NothingStored);
    }

    /// Waits until the pool's only thread is idle.
    async fn until_idle(pool: &PasswordPool) {
        while pool.shared.locked().idle == 0 {
            tokio::task::yield_now().await;
        }
    }
}
