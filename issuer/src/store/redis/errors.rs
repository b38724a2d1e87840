//! Why the store in Redis cannot be used: at the start, and for one request.

use redis::RedisError;

use super::NAME;
use super::journal::JournalError;
use super::server_checks::RequirementError;
use crate::domain::traits::DependencyUnavailable;

/// Why the store could not be used from the start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Redis does not answer.
    #[error(transparent)]
    Unavailable(#[from] DependencyUnavailable),
    /// The store was made with another number of partitions, which is fixed.
    #[error(
        "the store has {found} partitions and REVOCATION_PARTITIONS is {wanted}; set it to {found}: the number is fixed at first start"
    )]
    Partitions {
        /// As recorded in the store.
        found: String,
        /// As configured.
        wanted: u16,
    },
    /// Redis is set up so that it would lose revocations.
    #[error(transparent)]
    RequirementError(#[from] RequirementError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// No token is handed out yet.
pub(super) fn unsettled() -> DependencyUnavailable {
    DependencyUnavailable::new(
        NAME,
        "after a failover or loss of data, not every issuer has put back its revocations yet",
    )
}

/// An answer of a log that another one has replaced since it was asked for: what it says may be lost.
pub(super) fn replaced() -> DependencyUnavailable {
    DependencyUnavailable::new(NAME, "another server took over meanwhile")
}

pub(super) fn unavailable(error: RedisError) -> DependencyUnavailable {
    DependencyUnavailable::new(NAME, error)
}
