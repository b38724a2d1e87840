//! Dependencies of the domain: the application's users, the session store with its revocation log,
//! and the password checker.

use std::future::Future;

use sidegate_common::revocation::{Id, Revocation, Target};
use sidegate_common::time::UnixTime;

use crate::domain::password::{Attempt, Outcome, QueueFullError, Rehash};
use crate::domain::session::{
    Created, EndOutcome, EndSession, NewSession, PageCursor, Rotated, Rotation, Session, SessionPage, Standing,
    SubjectRevoked, UserSessions,
};

/// A dependency failed to answer. Always a 503: neither "yes" nor "no".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{dependency} cannot answer: {cause}")]
pub struct DependencyUnavailable {
    /// The dependency's name, for the log.
    pub dependency: &'static str,
    /// The underlying error; for the log only.
    pub cause: String,
}

impl DependencyUnavailable {
    /// An error of `dependency`.
    pub fn new(dependency: &'static str, cause: impl ToString) -> Self {
        Self { dependency, cause: cause.to_string() }
    }
}

/// A user's row in the application's table.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// The id, as text: the token's `sub`.
    pub id: String,
    /// The stored hash, if there is one.
    pub password_hash: Option<String>,
    /// False if the application has disabled the user.
    pub active: bool,
    /// The scope to grant, if the table has a scope column.
    pub scope: Option<String>,
}

/// Result of a search by email.
#[derive(Clone, PartialEq, Eq)]
pub enum Lookup {
    /// No user.
    NotFound,
    /// One user.
    One(Account),
    /// Several rows match: login with this email is refused.
    Several,
}

/// The application's own table of users. Read only, except for [`Users::rehash`].
pub trait Users: Send + Sync + 'static {
    /// Finds a user by email.
    fn find_by_email(&self, email: &str) -> impl Future<Output = Result<Lookup, DependencyUnavailable>> + Send;
    /// Reads a user by id; `None` if the row is gone.
    fn read(&self, id: &str) -> impl Future<Output = Result<Option<Account>, DependencyUnavailable>> + Send;
    /// Replaces a stored hash if it still equals `old`.
    fn rehash(&self, id: &str, old: &str, new: &str) -> impl Future<Output = Result<(), DependencyUnavailable>> + Send;
    /// Succeeds if the table can be read.
    fn probe(&self) -> impl Future<Output = Result<(), DependencyUnavailable>> + Send;
}

/// Sessions and the revocation log. Each call is atomic.
pub trait Store: Send + Sync + 'static {
    /// Creates a session and returns when its first access token is issued. If the user has too
    /// many sessions, the first to expire is ended, and its revocation appended.
    fn create(&self, new: &NewSession) -> impl Future<Output = Result<Created, DependencyUnavailable>> + Send;
    /// Reads a session of `partition`.
    fn read(
        &self,
        partition: u16,
        sid: &Id,
    ) -> impl Future<Output = Result<Option<Session>, DependencyUnavailable>> + Send;
    /// Trades a refresh token's generation for the next, or ends the session if the token was used
    /// before.
    fn rotate(&self, rotation: &Rotation) -> impl Future<Output = Result<Rotated, DependencyUnavailable>> + Send;
    /// Returns the state of a refresh token without trading it; ends the session if the token was
    /// used before, like [`Store::rotate`].
    fn examine(&self, rotation: &Rotation) -> impl Future<Output = Result<Standing, DependencyUnavailable>> + Send;
    /// Ends a session and appends its revocation.
    fn end(&self, ending: &EndSession) -> impl Future<Output = Result<EndOutcome, DependencyUnavailable>> + Send;
    /// Revokes every token of a user issued until now, and ends the user's sessions unless they are
    /// kept.
    fn revoke_user(
        &self,
        sub: &str,
        sessions: UserSessions,
    ) -> impl Future<Output = Result<SubjectRevoked, DependencyUnavailable>> + Send;
    /// As [`Store::revoke_user`], with the sessions ended. Returns the threshold.
    fn revoke_subject(&self, sub: &str) -> impl Future<Output = Result<UnixTime, DependencyUnavailable>> + Send {
        async { self.revoke_user(sub, UserSessions::End).await.map(|revoked| revoked.threshold) }
    }
    /// Revokes every token of a partition issued until now. Returns the threshold.
    fn revoke_all(&self, partition: u16) -> impl Future<Output = Result<UnixTime, DependencyUnavailable>> + Send;
    /// Appends an entry unchanged; drops an entry that has expired by the store's clock. An entry
    /// with `expires_at` zero is kept for the longest lifetime of any token.
    fn append(
        &self,
        partition: u16,
        revocation: &Revocation,
    ) -> impl Future<Output = Result<(), DependencyUnavailable>> + Send;
    /// Appends an entry whose threshold is the store's clock now plus `slack` seconds, kept for the
    /// longest lifetime of any token.
    fn append_until_now(
        &self,
        partition: u16,
        target: &Target,
        slack: u64,
    ) -> impl Future<Output = Result<(), DependencyUnavailable>> + Send;
    /// Up to `limit` (at least 1) of a user's live sessions after `after`, most recently used
    /// first.
    fn sessions(
        &self,
        sub: &str,
        after: Option<&PageCursor>,
        limit: u32,
    ) -> impl Future<Output = Result<SessionPage, DependencyUnavailable>> + Send;
    /// A consistent snapshot of a user's sessions whose access tokens may be valid.
    fn session_ids(&self, sub: &str) -> impl Future<Output = Result<Vec<Id>, DependencyUnavailable>> + Send;
    /// The number of partitions.
    fn partitions(&self) -> u16;
    /// Succeeds if sessions could be created and ended now.
    fn probe(&self) -> impl Future<Output = Result<(), DependencyUnavailable>> + Send;
}

/// The password checker: bounded, at a cost that does not depend on the reason of a refusal.
pub trait Passwords: Send + Sync + 'static {
    /// A place in the queue, released when dropped.
    type Slot: Send;

    /// Takes a slot before any other work for a login: a shed login must cost nothing, least of all
    /// a query of the users database.
    ///
    /// # Errors
    /// The queue is full.
    fn acquire_slot(&self) -> Result<Self::Slot, QueueFullError>;

    /// Checks a password.
    fn check(&self, slot: Self::Slot, attempt: Attempt)
    -> impl Future<Output = Result<Outcome, QueueFullError>> + Send;

    /// Computes a new hash when the pool is idle, and has it stored. Dropped if too many are
    /// queued.
    fn rehash(&self, rehash: Rehash);
}
