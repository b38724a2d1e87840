//! The live line: whether the segment may be believed, until when, and since which policy.

use crate::layout::LIVE;
use crate::words::{Load, Store};

/// What a segment is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Being filled: ask the daemon.
    Filling,
    /// Complete: may be believed until it lapses.
    Live,
    /// Not to be believed (a stale feed under `ON_STALE=deny`, or the daemon is leaving): ask the daemon.
    Closed,
}

/// What the live line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// Nothing may be believed at or after this moment of `CLOCK_MONOTONIC`, in nanoseconds.
    pub valid_until_monotonic_ns: u64,
    /// Nor at or after this moment of `CLOCK_REALTIME`, in nanoseconds since 1970.
    pub valid_until_realtime_ns: u64,
    /// What the segment is good for.
    pub state: State,
    /// Changes whenever an answer given before could be another one now: a key retired, a policy changed.
    pub key_epoch: u64,
    /// The daemon's time, seconds since 1970, which never goes back: a token with `exp` at or before it needs asking.
    pub time_floor_s: u64,
}

pub(crate) const VALID_MONOTONIC: usize = LIVE;
pub(crate) const VALID_REALTIME: usize = LIVE + 1;
pub(crate) const STATE: usize = LIVE + 2;
pub(crate) const SUCCESSOR: usize = LIVE + 3;
pub(crate) const KEY_EPOCH: usize = LIVE + 4;
pub(crate) const TIME_FLOOR: usize = LIVE + 5;
/// Tokens with `iat` at or before this need asking; zero for none.
pub(crate) const IAT_FLOOR: usize = LIVE + 6;
/// How many entries the table of unbound ids has; readers skip it while this is zero.
pub(crate) const UNBOUND: usize = LIVE + 7;

impl State {
    pub(crate) const LIVE: u64 = 1;

    fn code(self) -> u64 {
        match self {
            Self::Filling => 0,
            Self::Live => Self::LIVE,
            Self::Closed => 2,
        }
    }
}

/// Publishes everything but what the tables own (successor, watermark, unbound count).
///
/// Each word is true by itself, whatever the writer lives to store after it: what restricts goes first, and the promise
/// last, so that a reader that sees the new promise sees everything it rests on.
pub(crate) fn publish(words: &impl Store, live: &Live) {
    let set = |index: usize, value: u64| {
        if words.load(index) != value {
            words.publish(index, value);
        }
    };
    let floor = live.time_floor_s.max(words.load(TIME_FLOOR));
    set(TIME_FLOOR, floor);
    set(KEY_EPOCH, live.key_epoch);
    if live.state == State::Live {
        set(VALID_REALTIME, live.valid_until_realtime_ns);
        set(VALID_MONOTONIC, live.valid_until_monotonic_ns);
        set(STATE, State::LIVE);
    } else {
        set(STATE, live.state.code());
        set(VALID_REALTIME, live.valid_until_realtime_ns);
        set(VALID_MONOTONIC, live.valid_until_monotonic_ns);
    }
}

/// Reads the line as it stands, for people and tests; [`crate::Reader::check`] has its own, ordered reading.
pub fn read(words: &impl Load) -> Live {
    let line = words.line(LIVE);
    Live {
        valid_until_monotonic_ns: line[VALID_MONOTONIC - LIVE],
        valid_until_realtime_ns: line[VALID_REALTIME - LIVE],
        state: match line[STATE - LIVE] {
            0 => State::Filling,
            State::LIVE => State::Live,
            _ => State::Closed,
        },
        key_epoch: line[KEY_EPOCH - LIVE],
        time_floor_s: line[TIME_FLOOR - LIVE],
    }
}
