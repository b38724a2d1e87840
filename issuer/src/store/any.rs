//! The store that the configuration chose: Redis or the embedded one.

use sidegate_common::revocation::{Id, Revocation};
use sidegate_common::time::UnixTime;
use sidegate_runtime::trace::hop;

use super::counts::Counts;
use super::redis::RedisStore;
use super::sqlite::EmbeddedStore;
use crate::domain::ports::{Store, Unavailable};
use crate::domain::session::{Ended, Ending, NewSession, Rotated, Rotation, Session};

/// Either store.
#[derive(Clone)]
pub enum AnyStore {
    /// Redis.
    Redis(RedisStore),
    /// A SQLite file.
    Embedded(EmbeddedStore),
}

macro_rules! either {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        hop(concat!("store.", stringify!($method)), async {
            match $self {
                AnyStore::Redis(store) => store.$method($($argument),*).await,
                AnyStore::Embedded(store) => store.$method($($argument),*).await,
            }
        })
        .await
    };
}

impl AnyStore {
    /// What it counts; nothing, for the embedded one.
    pub fn counts(&self) -> Counts {
        match self {
            Self::Redis(store) => store.counts().clone(),
            Self::Embedded(_) => Counts::default(),
        }
    }
}

impl Store for AnyStore {
    async fn create(&self, new: &NewSession) -> Result<UnixTime, Unavailable> {
        either!(self.create(new))
    }

    async fn read(&self, partition: u16, sid: &Id) -> Result<Option<Session>, Unavailable> {
        either!(self.read(partition, sid))
    }

    async fn rotate(&self, rotation: &Rotation) -> Result<Rotated, Unavailable> {
        either!(self.rotate(rotation))
    }

    async fn end(&self, ending: &Ending) -> Result<Ended, Unavailable> {
        either!(self.end(ending))
    }

    async fn revoke_subject(&self, sub: &str) -> Result<UnixTime, Unavailable> {
        either!(self.revoke_subject(sub))
    }

    async fn revoke_all(&self, partition: u16) -> Result<UnixTime, Unavailable> {
        either!(self.revoke_all(partition))
    }

    async fn append(&self, partition: u16, revocation: &Revocation) -> Result<(), Unavailable> {
        either!(self.append(partition, revocation))
    }

    async fn sessions(&self, sub: &str) -> Result<Vec<Session>, Unavailable> {
        either!(self.sessions(sub))
    }

    fn partitions(&self) -> u16 {
        match self {
            Self::Redis(store) => store.partitions(),
            Self::Embedded(store) => store.partitions(),
        }
    }

    async fn probe(&self) -> Result<(), Unavailable> {
        either!(self.probe())
    }
}
