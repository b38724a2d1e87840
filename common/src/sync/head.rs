//! What a store says of the head of one partition's log, and what that is worth.

use crate::sync::Alarm;
use crate::time::UnixTime;
use crate::wire::Position;

/// Which log this is. Two logs of one lineage are the same log, one perhaps longer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lineage {
    /// The data set's identifier, stored in the data: changes when the data is lost and rebuilt.
    pub epoch: Box<str>,
    /// The identifier of the store's history of writes (Redis' replication id): changes at every restart and failover,
    /// when acknowledged writes may have been lost.
    pub history: Box<str>,
}

/// The answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The head of the log.
    Head(Head),
    /// The store holds no data set.
    NoEpoch,
    /// The store's log does not end where its head says.
    LogDamaged,
    /// The store refused the question.
    Refused,
    /// The store's data is of a newer layout than this build reads: an issuer of a newer version wrote it.
    NewerLayout,
}

/// The head of a partition's log, read in one atomic step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which log.
    pub lineage: Lineage,
    /// Its newest entry ([`Position::START`] if it never had one).
    pub last: Position,
    /// Nothing stands in the log (any more): everything in it has expired.
    pub empty: bool,
    /// Every revocation after this moment is in the log.
    pub since: UnixTime,
    /// The store's clock.
    pub now: UnixTime,
    /// How many partitions the data set has.
    pub partitions: u16,
    /// What the server is.
    pub role: Role,
    /// Every listed issuer has put back into this log what it acknowledged and heard: the settled mark (`meta.settled`)
    /// names this lineage. Always true for the embedded store, which loses nothing that it acknowledged.
    pub settled: bool,
}

/// What a server is to its replicas, and so whether its word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It takes writes.
    Master {
        /// Replicas without which it refuses writes (`min-replicas-to-write`; 0: none).
        replicas_needed: u64,
        /// Replicas that are connected and not lagging.
        replicas_good: u64,
    },
    /// It follows another server.
    Replica,
}

impl Role {
    /// A master that needs no replicas: a store without failover.
    pub const ALONE: Self = Self::Master { replicas_needed: 0, replicas_good: 0 };
}

impl Head {
    /// Why this head proves nothing, if so. A master cut off from its replicas still answers, while another may have
    /// been promoted and taken revocations.
    pub fn objection(&self, partitions: u16) -> Option<Alarm> {
        match self.role {
            Role::Replica => Some(Alarm::Replica),
            Role::Master { replicas_needed, replicas_good } if replicas_good < replicas_needed => Some(Alarm::Isolated),
            Role::Master { .. } if self.partitions != partitions => Some(Alarm::Partitions),
            Role::Master { .. } => None,
        }
    }
}
