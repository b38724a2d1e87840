//! Dependencies that fail on request and record their calls.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidegate_common::revocation::{Id, Revocation, Target};
use sidegate_common::time::UnixTime;

use crate::domain::password::{Attempt, Outcome, QueueFullError, Rehash};
use crate::domain::session::{
    Created, EndOutcome, EndSession, NewSession, PageCursor, Rotated, Rotation, Session, SessionPage, Standing,
    SubjectRevoked, UserSessions,
};
use crate::domain::traits::{Account, DependencyUnavailable, Lookup, Passwords, Store, Users};

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was done.
    Refused,
    /// The work was done, and the answer was lost.
    AnswerLost,
}

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    None,
    /// Every call of this name.
    Named(&'static str),
    /// The call of this number, counted from zero, whatever its name.
    Numbered(usize),
}

/// Runs right before a call, like a concurrent request.
type Intrusion = Box<dyn FnOnce() + Send>;

struct Plan {
    which: Which,
    fault: Fault,
    calls: Vec<&'static str>,
    intrusion: Option<(&'static str, Intrusion)>,
}

/// The planned faults; shared by all dependencies of an issuer.
#[derive(Clone)]
pub struct Faults(Arc<Mutex<Plan>>);

impl Default for Faults {
    fn default() -> Self {
        let plan = Plan { which: Which::None, fault: Fault::Refused, calls: Vec::new(), intrusion: None };
        Self(Arc::new(Mutex::new(plan)))
    }
}

impl Faults {
    fn locked(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, which: Which, fault: Fault) {
        let mut plan = self.locked();
        (plan.which, plan.fault) = (which, fault);
        plan.calls.clear();
    }

    /// Every call of this name fails from now on.
    pub fn fail(&self, call: &'static str) {
        self.set(Which::Named(call), Fault::Refused);
    }

    /// The call of this number, counted from now, fails.
    pub fn fail_number(&self, number: usize, fault: Fault) {
        self.set(Which::Numbered(number), fault);
    }

    /// No call fails any more.
    pub fn heal(&self) {
        self.set(Which::None, Fault::Refused);
    }

    /// Runs `act` right before the next call of this name.
    pub fn before(&self, call: &'static str, act: impl FnOnce() + Send + 'static) {
        self.locked().intrusion = Some((call, Box::new(act)));
    }

    /// The calls since the last query, or since the last fault was set.
    pub fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.locked().calls)
    }

    fn next(&self, call: &'static str) -> Option<Fault> {
        let intrusion = self.locked().intrusion.take_if(|(name, _)| *name == call);
        if let Some((_, act)) = intrusion {
            act();
        }
        let mut plan = self.locked();
        let number = plan.calls.len();
        plan.calls.push(call);
        let fails = match plan.which {
            Which::None => false,
            Which::Named(name) => name == call,
            Which::Numbered(which) => which == number,
        };
        fails.then_some(plan.fault)
    }

    async fn around<T, E>(
        &self,
        call: &'static str,
        error: impl FnOnce() -> E,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        match self.next(call) {
            None => work.await,
            Some(Fault::Refused) => Err(error()),
            Some(Fault::AnswerLost) => {
                work.await?;
                Err(error())
            }
        }
    }
}

/// A dependency whose calls may fail.
pub struct Faulty<T> {
    pub inner: T,
    faults: Faults,
}

impl<T> Faulty<T> {
    pub fn new(inner: T, faults: &Faults) -> Self {
        Self { inner, faults: faults.clone() }
    }

    async fn port<R>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<R, DependencyUnavailable>>,
    ) -> Result<R, DependencyUnavailable> {
        self.faults.around(call, || DependencyUnavailable::new(call, "fault"), work).await
    }
}

impl<T: Users> Users for Faulty<T> {
    async fn find_by_email(&self, email: &str) -> Result<Lookup, DependencyUnavailable> {
        self.port("find_by_email", self.inner.find_by_email(email)).await
    }

    async fn read(&self, id: &str) -> Result<Option<Account>, DependencyUnavailable> {
        self.port("read_user", self.inner.read(id)).await
    }

    async fn rehash(&self, id: &str, old: &str, new: &str) -> Result<(), DependencyUnavailable> {
        self.port("rehash", self.inner.rehash(id, old, new)).await
    }

    async fn probe(&self) -> Result<(), DependencyUnavailable> {
        self.port("probe_users", self.inner.probe()).await
    }
}

impl<T: Store> Store for Faulty<T> {
    async fn create(&self, new: &NewSession) -> Result<Created, DependencyUnavailable> {
        self.port("create", self.inner.create(new)).await
    }

    async fn read(&self, partition: u16, sid: &Id) -> Result<Option<Session>, DependencyUnavailable> {
        self.port("read_session", self.inner.read(partition, sid)).await
    }

    async fn rotate(&self, rotation: &Rotation) -> Result<Rotated, DependencyUnavailable> {
        self.port("rotate", self.inner.rotate(rotation)).await
    }

    async fn examine(&self, rotation: &Rotation) -> Result<Standing, DependencyUnavailable> {
        self.port("examine", self.inner.examine(rotation)).await
    }

    async fn end(&self, ending: &EndSession) -> Result<EndOutcome, DependencyUnavailable> {
        self.port("end", self.inner.end(ending)).await
    }

    async fn revoke_user(&self, sub: &str, sessions: UserSessions) -> Result<SubjectRevoked, DependencyUnavailable> {
        self.port("revoke_user", self.inner.revoke_user(sub, sessions)).await
    }

    async fn revoke_all(&self, partition: u16) -> Result<UnixTime, DependencyUnavailable> {
        self.port("revoke_all", self.inner.revoke_all(partition)).await
    }

    async fn append(&self, partition: u16, revocation: &Revocation) -> Result<(), DependencyUnavailable> {
        self.port("append", self.inner.append(partition, revocation)).await
    }

    async fn append_until_now(&self, partition: u16, target: &Target, slack: u64) -> Result<(), DependencyUnavailable> {
        self.port("append", self.inner.append_until_now(partition, target, slack)).await
    }

    async fn sessions(
        &self,
        sub: &str,
        after: Option<&PageCursor>,
        limit: u32,
    ) -> Result<SessionPage, DependencyUnavailable> {
        self.port("sessions", self.inner.sessions(sub, after, limit)).await
    }

    async fn session_ids(&self, sub: &str) -> Result<Vec<Id>, DependencyUnavailable> {
        self.port("session_ids", self.inner.session_ids(sub)).await
    }

    fn partitions(&self) -> u16 {
        self.inner.partitions()
    }

    async fn probe(&self) -> Result<(), DependencyUnavailable> {
        self.port("probe_store", self.inner.probe()).await
    }
}

impl<T: Passwords> Passwords for Faulty<T> {
    type Slot = T::Slot;

    fn acquire_slot(&self) -> Result<Self::Slot, QueueFullError> {
        match self.faults.next("acquire_slot") {
            None => self.inner.acquire_slot(),
            Some(_) => Err(QueueFullError),
        }
    }

    async fn check(&self, slot: Self::Slot, attempt: Attempt) -> Result<Outcome, QueueFullError> {
        self.faults.around("check", || QueueFullError, self.inner.check(slot, attempt)).await
    }

    fn rehash(&self, rehash: Rehash) {
        self.inner.rehash(rehash);
    }
}
