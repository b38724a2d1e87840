//! The live line: whether the segment is valid, until when, and under which key epoch.

use crate::layout::LIVE;
use crate::words::{Load, WordStore};

/// The state of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// Being filled: ask the daemon.
    Filling,
    /// Complete: valid until it lapses.
    Live,
    /// Invalid (a stale feed under `ON_STALE=deny`, or the daemon is stopping): ask the daemon.
    Closed,
}

/// The content of the live line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// The segment is invalid at or after this time of `CLOCK_MONOTONIC`, in nanoseconds.
    pub valid_until_monotonic_ns: u64,
    /// The segment is invalid at or after this time of `CLOCK_REALTIME`, in nanoseconds since 1970.
    pub valid_until_realtime_ns: u64,
    /// The segment's state.
    pub state: SegmentState,
    /// Changes whenever an earlier answer could differ now: a key was retired, a policy changed.
    pub key_epoch: u64,
    /// The daemon's time, seconds since 1970, which never goes back: readers ask about a token with
    /// `exp` at or before it.
    pub time_floor_s: u64,
}

pub(crate) const VALID_MONOTONIC: usize = LIVE;
pub(crate) const VALID_REALTIME: usize = LIVE + 1;
pub(crate) const STATE: usize = LIVE + 2;
pub(crate) const SUCCESSOR: usize = LIVE + 3;
pub(crate) const KEY_EPOCH: usize = LIVE + 4;
pub(crate) const TIME_FLOOR: usize = LIVE + 5;
/// Readers ask about tokens with `iat` at or before this; zero disables it.
pub(crate) const IAT_FLOOR: usize = LIVE + 6;
/// The number of entries in the table of unbound ids; readers skip it while this is zero.
pub(crate) const UNBOUND: usize = LIVE + 7;

impl SegmentState {
    pub(crate) const LIVE: u64 = 1;

    fn code(self) -> u64 {
        match self {
            Self::Filling => 0,
            Self::Live => Self::LIVE,
            Self::Closed => 2,
        }
    }
}

/// Publishes all words except those that the tables own (successor, watermark, unbound count).
///
/// Each word is valid by itself even if the writer dies after storing it: restrictions are stored
/// first, and the promise last, so a reader that sees the new promise sees everything it is based
/// on.
pub(crate) fn publish(words: &impl WordStore, live: &Live) {
    let set = |index: usize, value: u64| {
        if words.load(index) != value {
            words.publish(index, value);
        }
    };
    let floor = live.time_floor_s.max(words.load(TIME_FLOOR));
    set(TIME_FLOOR, floor);
    set(KEY_EPOCH, live.key_epoch);
    if live.state == SegmentState::Live {
        set(VALID_REALTIME, live.valid_until_realtime_ns);
        set(VALID_MONOTONIC, live.valid_until_monotonic_ns);
        set(STATE, SegmentState::LIVE);
    } else {
        set(STATE, live.state.code());
        set(VALID_REALTIME, live.valid_until_realtime_ns);
        set(VALID_MONOTONIC, live.valid_until_monotonic_ns);
    }
}

/// Reads the line, for people and tests; [`crate::Reader::check`] has its own, ordered reads.
pub fn read(words: &impl Load) -> Live {
    let line = words.line(LIVE);
    Live {
        valid_until_monotonic_ns: line[VALID_MONOTONIC - LIVE],
        valid_until_realtime_ns: line[VALID_REALTIME - LIVE],
        state: match line[STATE - LIVE] {
            0 => SegmentState::Filling,
            SegmentState::LIVE => SegmentState::Live,
            _ => SegmentState::Closed,
        },
        key_epoch: line[KEY_EPOCH - LIVE],
        time_floor_s: line[TIME_FLOOR - LIVE],
    }
}
