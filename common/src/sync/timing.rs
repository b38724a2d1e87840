//! How long the state machine waits for what.

/// How long the machine waits for what, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Between a probe and the next.
    pub probe_interval_ms: u64,
    /// Until an unanswered probe counts as lost.
    pub probe_timeout_ms: u64,
    /// Lost probes in a row, or answers that cannot be used, until the connection is given up.
    pub probes_lost_max: u32,
    /// Until an unanswered read gives the connection up.
    pub read_timeout_ms: u64,
    /// Between looks at an entry that this build cannot read.
    pub unreadable_retry_ms: u64,
    /// From the first sight of a lineage whose replay is not marked as done until it is believed all the same; 0:
    /// at once, without an alarm.
    pub replay_wait_ms: u64,
    /// The same for a list that has been proven before: it can wait longer without going stale.
    pub replay_wait_running_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            probe_interval_ms: 250,
            probe_timeout_ms: 500,
            probes_lost_max: 2,
            read_timeout_ms: 10_000,
            unreadable_retry_ms: 5_000,
            replay_wait_ms: 5_000,
            replay_wait_running_ms: 15_000,
        }
    }
}
