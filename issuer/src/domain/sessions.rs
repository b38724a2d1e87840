//! A user's live sessions: list them, end one.

use sidegate_common::revocation::{Id, SubjectTag};

use super::Auth;
use super::logout::EndedSession;
use super::session::{PageCursor, SessionPage};
use super::traits::{DependencyUnavailable, Passwords, Store, Users};

impl<U: Users, S: Store, P: Passwords> Auth<U, S, P> {
    /// Up to `limit` of the user's live sessions after the cursor `after`, most recently used
    /// first.
    ///
    /// # Errors
    /// The store cannot answer.
    pub async fn sessions(
        &self,
        sub: &str,
        after: Option<&PageCursor>,
        limit: u32,
    ) -> Result<SessionPage, DependencyUnavailable> {
        self.store.sessions(sub, after, limit).await
    }

    /// Ends a session of the user; `None` if the user has no such session.
    ///
    /// # Errors
    /// The store cannot answer.
    pub async fn end_own_session(&self, sub: &str, sid: &str) -> Result<Option<EndedSession>, DependencyUnavailable> {
        let Some(sid) = Id::parse(sid) else { return Ok(None) };
        let partition = SubjectTag::of(sub).partition(self.store.partitions());
        match self.store.read(partition, &sid).await? {
            Some(session) if session.sub == sub => self.end_session(&sid, sub).await.map(Some),
            _ => Ok(None),
        }
    }
}
