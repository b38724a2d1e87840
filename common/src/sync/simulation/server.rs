//! One simulated server: a partition's data, and the atomic scripts that change it.

use std::collections::BTreeMap;

use super::truth::{EntryId, Sid, USERS, User};
use crate::log_protocol::Position;
use crate::time::UnixTime;

/// The grain of the store's clock in positions, in milliseconds: coarse, so that positions repeat
/// after a failover as they can in reality.
const GRAIN_MS: u64 = 20_000;
/// A rebuilt data set is not settled sooner than this, in milliseconds: until then issuers register
/// again.
pub const MADE_ANEW_MS: u64 = 3_000;

/// Epoch and replication id.
pub type Lineage = (u64, u64);

/// A session's record.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    pub user: User,
    /// The `iat` given at its creation, and the newest one.
    pub created: UnixTime,
    pub newest: UnixTime,
}

/// An issuer's row in the registry.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// The replication id of the log into which it has replayed everything.
    pub marked: Option<u64>,
    pub beats: u64,
}

/// One server's data and state.
#[derive(Clone, Debug)]
pub struct Server {
    pub epoch: Option<u64>,
    pub replication_id: u64,
    pub last: Position,
    pub log: Vec<(Position, EntryId)>,
    /// False once the stream was deleted by hand.
    pub log_is_there: bool,
    pub since: UnixTime,
    pub isolated: bool,
    /// When this epoch was created, by the store's clock in milliseconds.
    pub made_ms: u64,
    pub settled: Option<Lineage>,
    pub listed: BTreeMap<u64, Listed>,
    pub sessions: BTreeMap<Sid, Session>,
    pub marks: Marks,
}

/// The last revoked `iat`, of tokens and of sessions by their creation: per user, and for all
/// users.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    pub tokens: [UnixTime; USERS],
    pub sessions: [UnixTime; USERS],
    pub all_tokens: UnixTime,
    pub all_sessions: UnixTime,
    /// The newest `iat` ever issued or revoked here.
    pub peak: UnixTime,
}

impl Marks {
    pub fn tokens_of(&self, user: User) -> UnixTime {
        self.tokens[user].max(self.all_tokens)
    }

    pub fn sessions_of(&self, user: User) -> UnixTime {
        self.sessions[user].max(self.all_sessions)
    }
}

impl Server {
    pub fn new() -> Self {
        Self {
            epoch: None,
            replication_id: 1,
            last: Position::START,
            log: Vec::new(),
            log_is_there: true,
            since: UnixTime(0),
            isolated: false,
            made_ms: 0,
            settled: None,
            listed: BTreeMap::new(),
            sessions: BTreeMap::new(),
            marks: Marks::default(),
        }
    }

    /// The epoch, if the data set exists and its log is complete.
    pub fn intact(&self) -> Option<u64> {
        self.epoch.filter(|_| self.log_is_there || self.last == Position::START)
    }

    pub fn lineage(&self) -> Option<Lineage> {
        self.intact().map(|epoch| (epoch, self.replication_id))
    }

    pub fn is_settled(&self) -> bool {
        self.settled.is_some() && self.settled == self.lineage()
    }

    /// Appends an entry to the log; returns its position and the previous last one.
    pub fn put(&mut self, clock_ms: u64, id: EntryId) -> (Position, Position) {
        let grain = clock_ms / GRAIN_MS * GRAIN_MS;
        let newest = self.log.last().map_or(self.last, |(position, _)| *position).max(self.last);
        let position = if newest.ms >= grain {
            Position { ms: newest.ms, sequence: newest.sequence + 1 }
        } else {
            Position { ms: grain, sequence: 0 }
        };
        let previous = std::mem::replace(&mut self.last, position);
        self.log.push((position, id));
        self.log_is_there = true;
        (previous, position)
    }

    /// Removes entries older than `oldest_ms` from the log, and returns them.
    pub fn trim(&mut self, oldest_ms: u64) -> Vec<EntryId> {
        let kept = |(position, _): &(Position, EntryId)| position.ms + GRAIN_MS >= oldest_ms;
        let gone = self.log.iter().filter(|entry| !kept(entry)).map(|(_, id)| *id).collect();
        self.log.retain(kept);
        gone
    }

    pub fn has(&self, id: EntryId) -> bool {
        self.log.iter().any(|(_, there)| *there == id)
    }

    /// Creates the data set: a new epoch, and no issuer is registered. Marks left by a deleted log
    /// would name this replication id.
    pub fn make(&mut self, epoch: u64, clock_ms: u64) {
        (self.epoch, self.last, self.log_is_there) = (Some(epoch), Position::START, true);
        (self.since, self.made_ms) = (UnixTime(clock_ms / 1000), clock_ms);
        self.settled = None;
        self.listed.clear();
    }

    /// An issuer's heartbeat: registers it.
    pub fn list(&mut self, name: u64, beats: u64) {
        self.listed.entry(name).or_insert(Listed { marked: None, beats }).beats = beats;
    }

    /// Records that an issuer has replayed everything, and the newest `iat` that it issued if this
    /// server's `clock` is behind it.
    pub fn mark(&mut self, name: u64, newest: UnixTime, clock: UnixTime) {
        let replication_id = self.replication_id;
        if newest > clock {
            self.marks.peak = self.marks.peak.max(newest);
        }
        if let Some(listed) = self.listed.get_mut(&name) {
            listed.marked = Some(replication_id);
        }
    }

    /// The last step of every mark, heartbeat and delisting: once all registered issuers have
    /// marked, the lineage is settled.
    pub fn settle(&mut self, clock_ms: u64) -> bool {
        let replication_id = self.replication_id;
        let all = !self.listed.is_empty() && self.listed.values().all(|one| one.marked == Some(replication_id));
        let waited = clock_ms >= self.made_ms + MADE_ANEW_MS;
        if !all || !waited || self.lineage().is_none() || self.is_settled() {
            return false;
        }
        self.settled = self.lineage();
        true
    }

    /// The `iat` for a new token of `user`.
    pub fn issue(&mut self, user: User, clock: UnixTime) -> UnixTime {
        let issued = clock.max(self.marks.tokens_of(user).plus(1));
        self.marks.peak = self.marks.peak.max(issued);
        issued
    }

    pub fn create(&mut self, sid: Sid, user: User, clock: UnixTime) -> UnixTime {
        let issued = self.issue(user, clock);
        self.sessions.insert(sid, Session { user, created: issued, newest: issued });
        issued
    }

    /// A refresh: the `iat` of the new token; `None` if the session does not exist or has ended.
    pub fn rotate(&mut self, sid: Sid, clock: UnixTime, by_birth: bool) -> Option<UnixTime> {
        let session = *self.sessions.get(&sid)?;
        let condemned = if by_birth {
            session.created <= self.marks.sessions_of(session.user)
        } else {
            session.newest <= self.marks.tokens_of(session.user)
        };
        if condemned {
            return None;
        }
        let issued = self.issue(session.user, clock);
        self.sessions.get_mut(&sid)?.newest = issued.max(session.newest);
        Some(issued)
    }

    /// The newest `iat` of a user's sessions here.
    pub fn newest_of(&self, user: User) -> UnixTime {
        let of = self.sessions.values().filter(|session| session.user == user);
        of.map(|session| session.newest).max().unwrap_or_default()
    }

    /// Ends the sessions of a user (or of all users) created at or before `threshold`, and returns
    /// them.
    pub fn end_sessions(&mut self, user: Option<User>, threshold: UnixTime, by_birth: bool) -> Vec<Sid> {
        let mut ended = Vec::new();
        for (sid, session) in self.sessions.iter().filter(|(_, one)| user.is_none_or(|user| user == one.user)) {
            let up_to = if by_birth { session.created } else { session.newest };
            if up_to <= threshold {
                ended.push(*sid);
            }
        }
        for sid in &ended {
            self.sessions.remove(sid);
        }
        ended
    }
}
