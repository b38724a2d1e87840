//! The simulated store: servers that hold a log, and the issuer that appends to the master and repairs it.

use crate::revocation::{EntryError, Id, Revocation, Target};
use crate::sync::{Answer, Entry, Head, Lineage, ReadFrom, Role};
use crate::time::{CLOCK_SKEW_SECONDS, LEEWAY_MAX_SECONDS, REVOCATION_MARGIN_SECONDS, UnixTime};
use crate::wire::Position;

/// Entries of a page, few so that readings take several.
const PAGE: usize = 7;
/// How long an issuer usually remembers, in milliseconds.
const REMEMBERED_MS: u64 = 120_000;
/// The longest a token lives here, in seconds.
pub const LIFETIME_MAX: u64 = 200;
/// The store's clock has this grain, in milliseconds: positions are used again after a failover, as they may be in life.
const GRAIN_MS: u64 = 20_000;
/// The store's clock at the beginning, in milliseconds since 1970.
pub const ORIGIN_MS: u64 = 1_700_000_000_000;

/// What is true of one revocation.
#[derive(Clone, Debug)]
pub struct Truth {
    pub acknowledged_ms: u64,
    pub issued: UnixTime,
    pub token_expires: UnixTime,
    pub entry_expires: UnixTime,
    pub readable: bool,
    /// When it was in no log although it was acknowledged: lost by a failover or a restored backup, until put back.
    pub lost: Vec<(u64, u64)>,
}

impl Truth {
    /// True if a proof as of `at` promises that this is held.
    pub fn promised(&self, at: u64) -> bool {
        self.acknowledged_ms < at && !self.lost.iter().any(|(from, to)| (*from..*to).contains(&at))
    }
}

pub fn revocation(id: usize, expires_at: UnixTime) -> Revocation {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(id as u64).to_be_bytes());
    Revocation { target: Target::Token { jti: Id::Packed(bytes), subject: None }, expires_at }
}

pub fn id_of(revocation: &Revocation) -> usize {
    match &revocation.target {
        Target::Token { jti: Id::Packed(bytes), .. } => {
            usize::try_from(u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"))).expect("small")
        }
        other => panic!("never revoked here: {other:?}"),
    }
}

/// One server's data and standing.
#[derive(Clone, Debug)]
pub struct Server {
    pub epoch: Option<u64>,
    pub history: u64,
    pub last: Position,
    pub log: Vec<(Position, usize)>,
    /// False once the stream was deleted by hand.
    pub log_is_there: bool,
    pub since: UnixTime,
    pub isolated: bool,
}

/// The store and the truth.
#[derive(Clone, Debug)]
pub struct Store {
    pub servers: Vec<Server>,
    pub master: usize,
    pub truths: Vec<Truth>,
    /// What the issuer has seen of the master: epoch, history, and positions with the time it saw them.
    seen: Option<(u64, u64)>,
    positions: Vec<(u64, Position)>,
    numbers: u64,
    /// How long an issuer remembers what it acknowledged, in milliseconds.
    pub remembered_ms: u64,
    /// What the log had when it was lost, until an issuer has noticed: another one's data may take its place before.
    pub emptied: Vec<usize>,
    /// How far the store's clock is off, in milliseconds.
    pub step_ms: i64,
    /// Entries trimmed although their tokens might still be accepted.
    pub trimmed_alive: u64,
}

/// What was appended, for pushing.
#[derive(Clone, Debug)]
pub struct Appended {
    pub epoch: u64,
    pub previous: Position,
    pub position: Position,
    pub id: usize,
}

/// The true time.
pub fn true_seconds(now: u64) -> UnixTime {
    UnixTime((ORIGIN_MS + now) / 1000)
}

impl Store {
    pub fn new() -> Self {
        let empty = Server {
            epoch: None,
            history: 1,
            last: Position::START,
            log: Vec::new(),
            log_is_there: true,
            since: UnixTime(0),
            isolated: false,
        };
        Self {
            servers: vec![empty],
            master: 0,
            truths: Vec::new(),
            seen: None,
            positions: Vec::new(),
            numbers: 1,
            remembered_ms: REMEMBERED_MS,
            emptied: Vec::new(),
            step_ms: 0,
            trimmed_alive: 0,
        }
    }

    fn clock_ms(&self, now: u64) -> u64 {
        (ORIGIN_MS + now).saturating_add_signed(self.step_ms)
    }

    /// The time by the store's clock.
    pub fn seconds(&self, now: u64) -> UnixTime {
        UnixTime(self.clock_ms(now) / 1000)
    }

    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub fn master(&mut self) -> &mut Server {
        &mut self.servers[self.master]
    }

    /// Revokes a token: appended and acknowledged, or refused.
    pub fn revoke(&mut self, now: u64, truth: Truth) -> Option<Appended> {
        self.intact()?;
        self.truths.push(truth);
        let id = self.truths.len() - 1;
        self.append(now, id)
    }

    fn intact(&mut self) -> Option<u64> {
        let master = self.master();
        let whole = master.log_is_there || master.last == Position::START;
        master.epoch.filter(|_| whole)
    }

    fn append(&mut self, now: u64, id: usize) -> Option<Appended> {
        let grain = self.clock_ms(now) / GRAIN_MS * GRAIN_MS;
        let oldest = self.clock_ms(now) - (LIFETIME_MAX + REVOCATION_MARGIN_SECONDS) * 1000;
        for (_, to) in self.truths[id].lost.iter_mut().filter(|(_, to)| *to == u64::MAX) {
            *to = now;
        }
        let master = self.master();
        let epoch = master.epoch?;
        let newest = master.log.last().map_or(master.last, |(position, _)| *position).max(master.last);
        let position = if newest.ms >= grain {
            Position { ms: newest.ms, sequence: newest.sequence + 1 }
        } else {
            Position { ms: grain, sequence: 0 }
        };
        let previous = std::mem::replace(&mut master.last, position);
        master.log.push((position, id));
        master.log_is_there = true;
        let kept = |(position, _): &(Position, usize)| position.ms + GRAIN_MS >= oldest;
        let gone: Vec<usize> = master.log.iter().filter(|entry| !kept(entry)).map(|(_, id)| *id).collect();
        master.log.retain(kept);
        for id in gone {
            let truth = &mut self.truths[id];
            let accepted_until = truth.token_expires.plus(LEEWAY_MAX_SECONDS + CLOCK_SKEW_SECONDS);
            if accepted_until >= true_seconds(now) {
                self.trimmed_alive += 1;
                truth.lost.push((now, u64::MAX));
            }
        }
        self.positions.push((now, position));
        Some(Appended { epoch, previous, position, id })
    }

    /// What every issuer does once a second: makes a lost data set anew, puts back what it acknowledged lately after a
    /// failover, and says so when the log has lost more than that.
    pub fn heartbeat(&mut self, now: u64) -> Vec<Appended> {
        let remembered_ms = self.remembered_ms;
        let remembers = |truth: &Truth| now - truth.acknowledged_ms <= remembered_ms;
        let lately: Vec<_> = (0..self.truths.len()).filter(|id| remembers(&self.truths[*id])).collect();
        if self.intact().is_none() {
            let (epoch, since) = (self.number(), self.seconds(now));
            let master = self.master();
            (master.epoch, master.last, master.since) = (Some(epoch), Position::START, since);
            let history = master.history;
            self.seen = Some((epoch, history));
            self.positions.clear();
            self.emptied.clear();
            // In the script that makes the data set: nobody hears of them one by one.
            for id in lately {
                self.append(now, id);
            }
            self.master().since = self.seconds(now);
            return Vec::new();
        }
        let now_seen = self.master().epoch.map(|epoch| (epoch, self.servers[self.master].history));
        if self.seen == now_seen {
            return Vec::new();
        }
        self.seen = now_seen;
        let settled = self.positions.iter().rev().find(|(seen, _)| now - seen > remembered_ms / 2);
        if settled.is_some_and(|(_, position)| *position > self.servers[self.master].last) {
            self.master().since = self.seconds(now);
            for (_, to) in self.truths.iter_mut().flat_map(|truth| &mut truth.lost).filter(|(_, to)| *to == u64::MAX) {
                *to = now;
            }
        }
        lately.into_iter().filter_map(|id| self.append(now, id)).collect()
    }

    /// Replaces the master's data by what `with` holds, as another history; what that lacks is lost.
    pub fn replace(&mut self, now: u64, with: Server) {
        let mut had: Vec<usize> = self.master().log.iter().map(|(_, id)| *id).collect();
        had.append(&mut self.emptied);
        let history = self.number();
        for id in had {
            if !with.log.iter().any(|(_, kept)| *kept == id) {
                self.truths[id].lost.push((now, u64::MAX));
            }
        }
        *self.master() = Server { history, isolated: false, ..with };
    }

    pub fn head(&self, server: usize, now: u64) -> Answer {
        let server = &self.servers[server];
        let newest = server.log.last().map_or(Position::START, |(position, _)| *position);
        let Some(epoch) = server.epoch else { return Answer::NoEpoch };
        if server.last != Position::START && newest != server.last {
            return Answer::LogDamaged;
        }
        let good = u64::from(!server.isolated);
        Answer::Head(Head {
            lineage: Lineage { epoch: epoch_name(epoch), history: server.history.to_string().into() },
            last: newest,
            empty: server.log.is_empty(),
            since: server.since,
            now: self.seconds(now),
            partitions: 1,
            role: Role::Master { replicas_needed: 1, replicas_good: good },
            settled: true,
        })
    }

    pub fn page(&self, server: usize, from: ReadFrom) -> (Vec<Entry>, bool) {
        let rest = self.servers[server].log.iter().filter(|(position, _)| match from {
            ReadFrom::Start => true,
            ReadFrom::At(at) => *position >= at,
            ReadFrom::After(after) => *position > after,
        });
        let page: Vec<_> = rest.take(PAGE).map(|(position, id)| self.entry(*position, *id)).collect();
        let complete = page.len() < PAGE;
        (page, complete)
    }

    pub fn entry(&self, position: Position, id: usize) -> Entry {
        let truth = &self.truths[id];
        let revocation =
            if truth.readable { Ok(revocation(id, truth.entry_expires)) } else { Err(EntryError::Version(2)) };
        Entry { position, revocation }
    }
}

pub fn epoch_name(epoch: u64) -> Box<str> {
    format!("epoch-{epoch}").into()
}
