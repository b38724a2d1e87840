//! What the domain needs of the world: the application's users, the session store with its revocation log, and a place
//! to check passwords.

use std::future::Future;

use sidegate_common::revocation::{Id, Revocation};
use sidegate_common::time::UnixTime;

use crate::domain::password::{Attempt, Outcome, QueueFullError, Rehash};
use crate::domain::session::{
    Created, EndOutcome, EndSession, NewSession, PageCursor, Rotated, Rotation, Session, SessionPage, Standing,
    SubjectRevoked, UserSessions,
};

/// A dependency that cannot answer. Always a 503, never a "yes" and never a "no".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{dependency} cannot answer: {cause}")]
pub struct Unavailable {
    /// Which one, in words for the log.
    pub dependency: &'static str,
    /// What it said; for the log only.
    pub cause: String,
}

impl Unavailable {
    /// An error of `dependency`.
    pub fn new(dependency: &'static str, cause: impl ToString) -> Self {
        Self { dependency, cause: cause.to_string() }
    }
}

/// A user as the application's own table has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// The id, as text: the token's `sub`.
    pub id: String,
    /// The stored hash, where there is one.
    pub password_hash: Option<String>,
    /// False if the application has disabled the user.
    pub active: bool,
    /// The scope to grant, where the table has one.
    pub scope: Option<String>,
}

/// What a search by email found.
#[derive(Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Nobody.
    Nobody,
    /// One user.
    One(Account),
    /// Several rows match: nobody may log in by that email.
    Several,
}

/// The application's own table of users. Only read, but for [`Users::rehash`].
pub trait Users: Send + Sync + 'static {
    /// Finds a user by email.
    fn find_by_email(&self, email: &str) -> impl Future<Output = Result<Lookup, Unavailable>> + Send;
    /// Reads a user by id; none if the row is gone.
    fn read(&self, id: &str) -> impl Future<Output = Result<Option<Account>, Unavailable>> + Send;
    /// Replaces a stored hash, if it is still `old`.
    fn rehash(&self, id: &str, old: &str, new: &str) -> impl Future<Output = Result<(), Unavailable>> + Send;
    /// Succeeds if the table can be read.
    fn probe(&self) -> impl Future<Output = Result<(), Unavailable>> + Send;
}

/// Sessions and the revocation log. Each call is atomic: it happens whole, or not at all.
pub trait Store: Send + Sync + 'static {
    /// Creates a session and says when its first access token is issued. Where the user has too many sessions, the one
    /// that would end first ends, and its revocation is appended.
    fn create(&self, new: &NewSession) -> impl Future<Output = Result<Created, Unavailable>> + Send;
    /// Reads a session of the partition `partition`.
    fn read(&self, partition: u16, sid: &Id) -> impl Future<Output = Result<Option<Session>, Unavailable>> + Send;
    /// Trades a refresh token's generation for the next, or ends the session if it was used before.
    fn rotate(&self, rotation: &Rotation) -> impl Future<Output = Result<Rotated, Unavailable>> + Send;
    /// Says what a refresh token is worth without trading it; ends the session if it was used before, as
    /// [`Store::rotate`] does.
    fn examine(&self, rotation: &Rotation) -> impl Future<Output = Result<Standing, Unavailable>> + Send;
    /// Ends a session and appends its revocation.
    fn end(&self, ending: &EndSession) -> impl Future<Output = Result<EndOutcome, Unavailable>> + Send;
    /// Kills every token of a user issued until now, and the user's sessions unless they are kept.
    fn revoke_user(
        &self,
        sub: &str,
        sessions: UserSessions,
    ) -> impl Future<Output = Result<SubjectRevoked, Unavailable>> + Send;
    /// The same with the user's sessions ended. Returns the threshold.
    fn revoke_subject(&self, sub: &str) -> impl Future<Output = Result<UnixTime, Unavailable>> + Send {
        async { self.revoke_user(sub, UserSessions::End).await.map(|revoked| revoked.threshold) }
    }
    /// Kills every token of a partition issued until now. Returns the threshold.
    fn revoke_all(&self, partition: u16) -> impl Future<Output = Result<UnixTime, Unavailable>> + Send;
    /// Appends an entry as it is; one that has already expired by the store's clock is dropped. An entry with
    /// `expires_at` zero is kept for as long as any token can live.
    fn append(&self, partition: u16, revocation: &Revocation) -> impl Future<Output = Result<(), Unavailable>> + Send;
    /// Up to `limit` (at least 1) of a user's live sessions, most recently used first, from behind `after` on.
    fn sessions(
        &self,
        sub: &str,
        after: Option<&PageCursor>,
        limit: u32,
    ) -> impl Future<Output = Result<SessionPage, Unavailable>> + Send;
    /// Every session of a user whose access tokens may be alive, of one instant.
    fn session_ids(&self, sub: &str) -> impl Future<Output = Result<Vec<Id>, Unavailable>> + Send;
    /// How many partitions there are.
    fn partitions(&self) -> u16;
    /// Succeeds if sessions could be created and ended now.
    fn probe(&self) -> impl Future<Output = Result<(), Unavailable>> + Send;
}

/// Where passwords are checked: bounded, and at a cost that does not depend on why one is refused.
pub trait Passwords: Send + Sync + 'static {
    /// A place in the queue, given back when dropped.
    type Slot: Send;

    /// Takes a slot, before anything else is done for a login: what is shed must cost nothing, the users' database least of all.
    ///
    /// # Errors
    /// The queue is full.
    fn acquire_slot(&self) -> Result<Self::Slot, QueueFullError>;

    /// Checks a password.
    fn check(&self, slot: Self::Slot, attempt: Attempt)
    -> impl Future<Output = Result<Outcome, QueueFullError>> + Send;

    /// Makes a hash anew when nothing else is to be done, and has it stored. Dropped where too many wait.
    fn rehash(&self, rehash: Rehash);
}
