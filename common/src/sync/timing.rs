//! The state machine's timeouts and intervals.

/// The state machine's timeouts and intervals, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Between two probes.
    pub probe_interval_ms: u64,
    /// Until an unanswered probe counts as lost.
    pub probe_timeout_ms: u64,
    /// Lost probes in a row, or unusable answers, before the connection is closed.
    pub probes_lost_max: u32,
    /// Until an unanswered read closes the connection.
    pub read_timeout_ms: u64,
    /// Between checks of an entry that this build cannot decode.
    pub unreadable_retry_ms: u64,
    /// How long a lineage whose replay is not marked as done is not accepted after it was first
    /// seen; 0: accepted at once, without an alarm.
    pub replay_wait_ms: u64,
    /// The same for a list that has been proven before: it can wait longer without becoming stale.
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
