//! Static dispatch between the configured store: Redis or the embedded one.

use std::sync::Arc;

use sidegate_common::revocation::{Id, Revocation, Target};
use sidegate_common::revocation_state::Observer;
use sidegate_common::time::UnixTime;
use sidegate_runtime::trace::child_span;

use super::counts::StoreCounts;
use super::redis::RedisStore;
use super::sqlite::EmbeddedStore;
use crate::domain::session::{
    Created, EndOutcome, EndSession, NewSession, PageCursor, Rotated, Rotation, Session, SessionPage, Standing,
    SubjectRevoked, UserSessions,
};
use crate::domain::traits::{DependencyUnavailable, Store};

/// Either store.
#[derive(Clone)]
pub enum AnyStore {
    /// Redis.
    Redis(RedisStore),
    /// A SQLite file.
    Embedded(EmbeddedStore),
}

macro_rules! dispatch {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        child_span(concat!("store.", stringify!($method)), async {
            match $self {
                AnyStore::Redis(store) => store.$method($($argument),*).await,
                AnyStore::Embedded(store) => store.$method($($argument),*).await,
            }
        })
        .await
    };
}

impl AnyStore {
    /// The store's counters.
    pub fn counts(&self) -> StoreCounts {
        match self {
            Self::Redis(store) => store.counts().clone(),
            Self::Embedded(store) => store.counts().clone(),
        }
    }

    /// The observer of revocations that the issuer's own feed receives.
    pub fn observer(&self) -> Option<Arc<dyn Observer>> {
        match self {
            Self::Redis(store) => store.observer(),
            Self::Embedded(_) => None,
        }
    }
}

impl Store for AnyStore {
    async fn create(&self, new: &NewSession) -> Result<Created, DependencyUnavailable> {
        dispatch!(self.create(new))
    }

    async fn read(&self, partition: u16, sid: &Id) -> Result<Option<Session>, DependencyUnavailable> {
        dispatch!(self.read(partition, sid))
    }

    async fn rotate(&self, rotation: &Rotation) -> Result<Rotated, DependencyUnavailable> {
        dispatch!(self.rotate(rotation))
    }

    async fn examine(&self, rotation: &Rotation) -> Result<Standing, DependencyUnavailable> {
        dispatch!(self.examine(rotation))
    }

    async fn end(&self, ending: &EndSession) -> Result<EndOutcome, DependencyUnavailable> {
        dispatch!(self.end(ending))
    }

    async fn revoke_user(&self, sub: &str, sessions: UserSessions) -> Result<SubjectRevoked, DependencyUnavailable> {
        dispatch!(self.revoke_user(sub, sessions))
    }

    async fn revoke_all(&self, partition: u16) -> Result<UnixTime, DependencyUnavailable> {
        dispatch!(self.revoke_all(partition))
    }

    async fn append(&self, partition: u16, revocation: &Revocation) -> Result<(), DependencyUnavailable> {
        dispatch!(self.append(partition, revocation))
    }

    async fn append_until_now(&self, partition: u16, target: &Target, slack: u64) -> Result<(), DependencyUnavailable> {
        dispatch!(self.append_until_now(partition, target, slack))
    }

    async fn sessions(
        &self,
        sub: &str,
        after: Option<&PageCursor>,
        limit: u32,
    ) -> Result<SessionPage, DependencyUnavailable> {
        dispatch!(self.sessions(sub, after, limit))
    }

    async fn session_ids(&self, sub: &str) -> Result<Vec<Id>, DependencyUnavailable> {
        dispatch!(self.session_ids(sub))
    }

    fn partitions(&self) -> u16 {
        match self {
            Self::Redis(store) => store.partitions(),
            Self::Embedded(store) => store.partitions(),
        }
    }

    async fn probe(&self) -> Result<(), DependencyUnavailable> {
        dispatch!(self.probe())
    }
}
