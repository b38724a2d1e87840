//! A fixed pool of threads for bcrypt, at the lowest priority, behind a bounded queue.
//!
//! Every refusal costs the same number of bcrypt rounds, 2^C with C = max(`BCRYPT_COST`, the highest stored cost seen), so
//! that its time does not tell an unknown user from a wrong password.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use sidegate_common::secret::Secret;
use sidegate_runtime::trace::hop;
use tokio::sync::oneshot;

use crate::domain::password::{Attempt, Outcome, Overloaded, Reason, is_fit, stored_cost, top_up};
use crate::domain::ports::Passwords;

/// How the pool works.
#[derive(Clone, Copy, Debug)]
pub struct PoolSettings {
    /// Threads (`BCRYPT_THREADS`).
    pub threads: usize,
    /// How many attempts may wait (`BCRYPT_QUEUE_MAX`).
    pub queue_max: usize,
    /// The cost of new hashes, and the least a refusal costs (`BCRYPT_COST`).
    pub cost: u32,
    /// Whether stored hashes of lower cost are made anew at login (`USERS_REHASH`).
    pub rehash: bool,
}

/// What the pool counts, for metrics and for tests of its evenness.
#[derive(Debug, Default)]
pub struct Counts {
    /// Bcrypt rounds spent on refusals.
    pub refused_rounds: AtomicU64,
    /// Bcrypt rounds spent in all.
    pub rounds: AtomicU64,
    /// Attempts that wait.
    pub waiting: AtomicU64,
}

struct Job {
    attempt: Attempt,
    answer: oneshot::Sender<Outcome>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Places taken by logins that are still to say what is to be checked.
    promised: usize,
    /// Threads that have nothing to do.
    idle: usize,
    closed: bool,
}

struct Shared {
    settings: PoolSettings,
    queue: Mutex<Queue>,
    wake: Condvar,
    highest_cost: AtomicU32,
    counts: Arc<Counts>,
}

/// The pool. Dropping it ends its threads once they have finished what they are at.
pub struct PasswordPool {
    shared: Arc<Shared>,
}

impl PasswordPool {
    /// Starts the threads.
    ///
    /// # Errors
    /// The operating system gives no more threads.
    pub fn start(settings: PoolSettings) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            settings,
            queue: Mutex::default(),
            wake: Condvar::new(),
            highest_cost: AtomicU32::new(settings.cost),
            counts: Arc::default(),
        });
        for number in 0..settings.threads.max(1) {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("bcrypt-{number}")).spawn(move || {
                lower_priority();
                shared.work();
            })?;
        }
        Ok(Self { shared })
    }

    /// What the pool has counted so far.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.shared.counts)
    }
}

impl Drop for PasswordPool {
    fn drop(&mut self) {
        self.shared.locked().closed = true;
        self.shared.wake.notify_all();
    }
}

/// On Linux the priority of "this process" is that of the calling thread. It is a wish: without it all still works.
fn lower_priority() {
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::debug!(%error, "the bcrypt threads keep their priority");
    }
}

/// A place in the queue, given back when dropped.
pub struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.locked().promised -= 1;
    }
}

impl Passwords for PasswordPool {
    type Place = Place;

    fn place(&self) -> Result<Place, Overloaded> {
        let mut queue = self.shared.locked();
        if queue.jobs.len() + queue.promised >= self.shared.settings.queue_max + queue.idle {
            return Err(Overloaded);
        }
        queue.promised += 1;
        Ok(Place(Arc::clone(&self.shared)))
    }

    async fn check(&self, place: Place, attempt: Attempt) -> Result<Outcome, Overloaded> {
        let (answer, outcome) = oneshot::channel();
        {
            let mut queue = self.shared.locked();
            queue.jobs.push_back(Job { attempt, answer });
            self.shared.counts.waiting.store(queue.jobs.len() as u64, Ordering::Relaxed);
        }
        drop(place);
        self.shared.wake.notify_one();
        // The wait for a thread and its work.
        hop("password.check", async { outcome.await.map_err(|_| Overloaded) }).await
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            // Who has gone away costs nothing more.
            if !job.answer.is_closed() {
                let _gone = job.answer.send(self.check(&job.attempt));
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.locked();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                self.counts.waiting.store(queue.jobs.len() as u64, Ordering::Relaxed);
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue.idle += 1;
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }

    fn check(&self, attempt: &Attempt) -> Outcome {
        let stored = attempt.stored.as_ref().and_then(Secret::expose_str);
        let cost = stored.and_then(stored_cost);
        let Some((stored, cost)) = stored.zip(cost) else {
            let reason = if attempt.stored.is_some() { Reason::MalformedHash } else { Reason::NothingStored };
            return self.refuse(reason, None);
        };
        self.highest_cost.fetch_max(cost, Ordering::Relaxed);
        if !is_fit(attempt.password.expose()) {
            return self.refuse(Reason::UnfitPassword, None);
        }
        let matches = bcrypt::verify(attempt.password.expose(), stored).unwrap_or(false);
        self.spent(cost);
        match (matches, attempt.eligible) {
            (true, true) => Outcome::Right { cost, rehashed: self.rehash(&attempt.password, cost) },
            (true, false) => self.refuse(Reason::NotEligible, Some(cost)),
            (false, _) => self.refuse(Reason::Mismatch, Some(cost)),
        }
    }

    fn rehash(&self, password: &Secret, cost: u32) -> Option<Secret> {
        let settings = &self.settings;
        if !settings.rehash || cost >= settings.cost {
            return None;
        }
        self.spent(settings.cost);
        bcrypt::hash(password.expose(), settings.cost).ok().map(Secret::new)
    }

    /// Refuses, after spending what is missing to the common number of rounds.
    fn refuse(&self, reason: Reason, spent: Option<u32>) -> Outcome {
        let target = self.highest_cost.load(Ordering::Relaxed);
        for cost in top_up(spent, target) {
            std::hint::black_box(bcrypt::bcrypt(cost, [0x5a; 16], b"a password of nobody\0"));
            self.spent(cost);
        }
        let rounds = spent.map_or(0, |cost| 1 << cost) + top_up(spent, target).map(|cost| 1_u64 << cost).sum::<u64>();
        self.counts.refused_rounds.fetch_add(rounds, Ordering::Relaxed);
        Outcome::Wrong(reason)
    }

    fn spent(&self, cost: u32) {
        self.counts.rounds.fetch_add(1 << cost, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: PoolSettings = PoolSettings { threads: 2, queue_max: 64, cost: 6, rehash: false };

    fn attempt(password: &[u8], stored: Option<&str>) -> Attempt {
        Attempt { password: Secret::new(password), stored: stored.map(Secret::new), eligible: true }
    }

    fn hash(password: &str, cost: u32) -> String {
        bcrypt::hash(password, cost).unwrap()
    }

    async fn check(pool: &PasswordPool, attempt: Attempt) -> Result<Outcome, Overloaded> {
        let place = pool.place()?;
        pool.check(place, attempt).await
    }

    async fn reason(pool: &PasswordPool, attempt: Attempt) -> Reason {
        match check(pool, attempt).await.unwrap() {
            Outcome::Wrong(reason) => reason,
            Outcome::Right { .. } => panic!("taken"),
        }
    }

    #[tokio::test]
    async fn every_refusal_spends_the_same_rounds() {
        let pool = PasswordPool::start(SETTINGS).unwrap();
        let (cheap, dear) = (hash("right", 4), hash("right", 7));
        // The dearest hash sets the mark for everybody.
        assert!(matches!(check(&pool, attempt(b"right", Some(&dear))).await, Ok(Outcome::Right { cost: 7, .. })));
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
    async fn every_variant_is_taken_and_the_password_is_used_as_it_is() {
        let pool = PasswordPool::start(SETTINGS).unwrap();
        let stored = hash(" p\u{e4}ss ", 4);
        for variant in ["$2a$", "$2b$", "$2x$", "$2y$"] {
            let stored = stored.replace("$2b$", variant);
            let right = check(&pool, attempt(" p\u{e4}ss ".as_bytes(), Some(&stored))).await;
            assert!(matches!(right, Ok(Outcome::Right { cost: 4, rehashed: None })), "{variant}");
            assert_eq!(reason(&pool, attempt("p\u{e4}ss".as_bytes(), Some(&stored))).await, Reason::Mismatch);
        }
        let long = "x".repeat(72);
        let right = check(&pool, attempt(long.as_bytes(), Some(&hash(&long, 4)))).await;
        assert!(matches!(right, Ok(Outcome::Right { .. })), "72 bytes are taken whole");
    }

    #[tokio::test]
    async fn cheap_hashes_are_made_anew_where_that_is_wanted() {
        let pool = PasswordPool::start(PoolSettings { rehash: true, ..SETTINGS }).unwrap();
        let Ok(Outcome::Right { rehashed: Some(new), .. }) = check(&pool, attempt(b"p", Some(&hash("p", 4)))).await
        else {
            panic!("not rehashed");
        };
        assert_eq!(stored_cost(new.expose_str().unwrap()), Some(6));
        assert!(bcrypt::verify("p", new.expose_str().unwrap()).unwrap());
        let enough = check(&pool, attempt(b"p", Some(&hash("p", 6)))).await;
        assert!(matches!(enough, Ok(Outcome::Right { rehashed: None, .. })));
    }

    #[tokio::test]
    async fn a_full_queue_sheds_load() {
        let settings = PoolSettings { threads: 1, queue_max: 2, cost: 10, rehash: false };
        let pool = PasswordPool::start(settings).unwrap();
        let answers = futures_util::future::join_all((0..20).map(|_| check(&pool, attempt(b"x", None)))).await;
        let shed = answers.iter().filter(|answer| answer.is_err()).count();
        assert!((1..=18).contains(&shed), "one at work, two waiting; {shed} shed");
    }

    #[tokio::test]
    async fn a_place_is_counted_from_when_it_is_taken_until_it_is_given_back() {
        let settings = PoolSettings { threads: 1, queue_max: 2, cost: 4, rehash: false };
        let pool = PasswordPool::start(settings).unwrap();
        until_idle(&pool).await;
        let places: Vec<_> = (0..3).map(|_| pool.place().unwrap()).collect();
        assert!(pool.place().is_err(), "two may wait, and one goes to the thread that has nothing to do");
        drop(places);
        assert_eq!(reason(&pool, attempt(b"x", None)).await, Reason::NothingStored);
    }

    /// Waits until the pool's one thread has nothing to do.
    async fn until_idle(pool: &PasswordPool) {
        while pool.shared.locked().idle == 0 {
            tokio::task::yield_now().await;
        }
    }
}
