//! The head of a partition's log as the store reports it, and whether the report counts.

use crate::log_protocol::Position;
use crate::sync::Alarm;
use crate::time::UnixTime;

/// The identity of a log. Two logs of one lineage are the same log, one perhaps longer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lineage {
    /// The data set's identifier, stored in the data: changes when the data is lost and rebuilt.
    pub epoch: Box<str>,
    /// Redis' replication id: changes at every restart and failover, when acknowledged writes may
    /// have been lost.
    pub replication_id: Box<str>,
}

/// The answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAnswer {
    /// The head of the log.
    Head(Head),
    /// The store has no data set.
    NoEpoch,
    /// The store's log does not end where its head says.
    LogDamaged,
    /// The store rejected the probe.
    Refused,
    /// The store's data has a newer layout than this build reads: an issuer of a newer version
    /// wrote it.
    NewerLayout,
}

/// The head of a partition's log, read in one atomic step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The log's identity.
    pub lineage: Lineage,
    /// The newest entry's position ([`Position::START`] if there never was one).
    pub last: Position,
    /// The log has no entries (any more): all have expired.
    pub empty: bool,
    /// Every revocation after this moment is in the log.
    pub since: UnixTime,
    /// The store's clock.
    pub now: UnixTime,
    /// How many partitions the data set has.
    pub partitions: u16,
    /// The server's replication role.
    pub role: Role,
    /// Every listed issuer has put back into this log what it acknowledged or received: the settled
    /// mark (`meta.settled`) names this lineage. Always true for the embedded store, which never
    /// loses an acknowledged entry.
    pub settled: bool,
}

/// The server's replication role, which decides whether its answers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Accepts writes.
    Master {
        /// The replicas without which it rejects writes (`min-replicas-to-write`; 0: none).
        replicas_needed: u64,
        /// The replicas that are connected and not lagging.
        replicas_good: u64,
    },
    /// Follows another server.
    Replica,
}

impl Role {
    /// A master that needs no replicas: a store without failover.
    pub const ALONE: Self = Self::Master { replicas_needed: 0, replicas_good: 0 };
}

impl Head {
    /// Why this head proves nothing, if so. A master cut off from its replicas still answers
    /// although another may have been promoted and have accepted revocations.
    pub fn objection(&self, partitions: u16) -> Option<Alarm> {
        match self.role {
            Role::Replica => Some(Alarm::Replica),
            Role::Master { replicas_needed, replicas_good } if replicas_good < replicas_needed => Some(Alarm::Isolated),
            Role::Master { .. } if self.partitions != partitions => Some(Alarm::Partitions),
            Role::Master { .. } => None,
        }
    }
}
