//! The simulated store: its servers, one of them the master; what its scripts do to the log, and
//! which entries it loses.

use super::mutant::Mutant;
use super::server::{Lineage, Server};
use super::truth::{EntryId, Kill, LIFETIME_MAX, ORIGIN_MS, Sid, TokenId, Truth, User, true_seconds};
use crate::log_protocol::Position;
use crate::sync::{self, Entry, Head, ProbeAnswer, ReadFrom, Role};
use crate::time::{CLOCK_SKEW_SECONDS, LEEWAY_MAX_SECONDS, REVOCATION_MARGIN_SECONDS, UnixTime};

/// Entries of a page: few, so that reads take several pages.
const PAGE: usize = 7;

/// A revocation request to an issuer.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    Token(TokenId),
    Logout(Sid),
    User { user: User, keep: bool },
    All,
    Unreadable(TokenId),
}

/// A request that could not be delivered when it was made: when that was, the store's clock then,
/// estimated, and which data its issuer knew.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    pub given_ms: u64,
    pub threshold: UnixTime,
    pub lineage: Option<Lineage>,
}

/// An appended entry, for its push.
#[derive(Clone, Debug)]
pub struct Appended {
    pub epoch: u64,
    pub previous: Position,
    pub position: Position,
    pub id: EntryId,
}

/// The store and the truth.
#[derive(Clone, Debug)]
pub struct Store {
    pub servers: Vec<Server>,
    pub master: usize,
    pub truth: Truth,
    pub mutant: Option<Mutant>,
    /// The replica that will be promoted: it has stopped following.
    pub lagging: Option<Box<Server>>,
    numbers: u64,
    /// The offset of the store's clock, in milliseconds.
    pub step_ms: i64,
    /// Entries trimmed although their tokens might still be accepted.
    pub trimmed_alive: u64,
}

impl Store {
    pub fn new(mutant: Option<Mutant>) -> Self {
        Self {
            servers: vec![Server::new()],
            master: 0,
            truth: Truth::default(),
            mutant,
            lagging: None,
            numbers: 1,
            step_ms: 0,
            trimmed_alive: 0,
        }
    }

    pub fn clock_ms(&self, now: u64) -> u64 {
        (ORIGIN_MS + now).saturating_add_signed(self.step_ms)
    }

    /// The store's clock.
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

    pub fn lineage(&self) -> Option<Lineage> {
        self.servers[self.master].lineage()
    }

    fn by_birth(&self) -> bool {
        self.mutant != Some(Mutant::SessionsByLastRotation)
    }

    /// Appends an entry to the master's log.
    pub fn append(&mut self, now: u64, id: EntryId) -> Option<Appended> {
        let clock_ms = self.clock_ms(now);
        if let Some(open) = self.truth.entries[id].open_loss() {
            open.to = now;
        }
        let epoch = self.master().epoch?;
        let (previous, position) = self.master().put(clock_ms, id);
        let gone = self.master().trim(clock_ms - (LIFETIME_MAX + REVOCATION_MARGIN_SECONDS) * 1000);
        for id in gone {
            let entry = &mut self.truth.entries[id];
            let accepted_until = entry.expires.plus(LEEWAY_MAX_SECONDS + CLOCK_SKEW_SECONDS);
            if accepted_until.minus(REVOCATION_MARGIN_SECONDS) >= true_seconds(now) {
                self.trimmed_alive += 1;
                entry.trimmed(now);
            }
        }
        Some(Appended { epoch, previous, position, id })
    }

    /// Executes a request in one step. A late request keeps its threshold.
    pub fn order(&mut self, now: u64, order: Order, late: Option<Late>) -> Option<Vec<Appended>> {
        self.master().intact()?;
        let given_ms = late.map_or(now, |late| late.given_ms);
        let clock = self.seconds(now);
        let master = &self.servers[self.master];
        let kill = match order {
            Order::Token(token) => Kill::Token(token),
            Order::Logout(sid) => Kill::Session(sid),
            Order::Unreadable(token) => Kill::Unreadable(token),
            Order::User { user, keep } => {
                let mark = master.marks.tokens_of(user);
                let threshold = match late {
                    // Estimated: it must be above the earlier requests.
                    Some(late) if late.threshold <= mark => mark.plus(1),
                    Some(late) => late.threshold,
                    None => clock.max(mark).max(master.newest_of(user)),
                };
                Kill::Subject { user, threshold, keep }
            }
            Order::All => {
                let mark = master.marks.all_tokens;
                let threshold = match late {
                    Some(late) if late.threshold <= mark => mark.plus(1),
                    Some(late) => late.threshold,
                    None => clock.max(mark).max(master.marks.peak),
                };
                Kill::All { threshold, tokens_only: false }
            }
        };
        let id = self.truth.enter(now, kill, given_ms, late.is_some());
        let mut done = vec![self.append(now, id)?];
        let moved = late.is_some_and(|late| late.lineage != self.lineage());
        done.append(&mut self.take_effect(now, id, late.is_some(), moved));
        Some(done)
    }

    /// Puts back an entry that the log lacks.
    pub fn put_back(&mut self, now: u64, id: EntryId) -> Vec<Appended> {
        let expired = self.truth.entries[id].expires < self.seconds(now);
        if expired || self.master().intact().is_none() || self.master().has(id) {
            return Vec::new();
        }
        let mut done: Vec<_> = self.append(now, id).into_iter().collect();
        done.append(&mut self.take_effect(now, id, true, false));
        done
    }

    /// Applies an entry to sessions and watermarks; returns the entries appended because of it. If
    /// it comes late, sessions may have tokens above its threshold: each gets its own entry. If the
    /// data has `moved` since the request, it may lack sessions: all tokens that the user has by now
    /// are revoked, and later sessions refresh.
    fn take_effect(&mut self, now: u64, id: EntryId, late: bool, moved: bool) -> Vec<Appended> {
        let (Kill::Subject { .. } | Kill::All { .. }) = self.truth.entries[id].kill else {
            if let Kill::Session(sid) = self.truth.entries[id].kill {
                self.master().sessions.remove(&sid);
            }
            return Vec::new();
        };
        let by_birth = self.by_birth();
        let reaches_lost_sessions = moved && self.mutant != Some(Mutant::MovedOrdersKeepTheirReach);
        let clock = self.seconds(now);
        let master = &mut self.servers[self.master];
        let (user, threshold) = match self.truth.entries[id].kill {
            Kill::Subject { user, threshold, keep } => {
                let marks = &mut master.marks;
                marks.tokens[user] = marks.tokens[user].max(threshold);
                if !keep {
                    marks.sessions[user] = marks.sessions[user].max(threshold);
                }
                marks.peak = marks.peak.max(threshold);
                if keep {
                    return Vec::new();
                }
                (Some(user), threshold)
            }
            Kill::All { threshold, tokens_only } => {
                let marks = &mut master.marks;
                marks.all_tokens = marks.all_tokens.max(threshold);
                if tokens_only {
                    return Vec::new();
                }
                marks.all_sessions = marks.all_sessions.max(threshold);
                (None, threshold)
            }
            _ => return Vec::new(),
        };
        let ended = master.end_sessions(user, threshold, by_birth);
        let mut peak = master.marks.peak;
        if reaches_lost_sessions {
            peak = peak.max(clock);
        }
        let given_ms = self.truth.entries[id].given_ms;
        let mut more: Vec<Kill> = match user {
            _ if !late || !by_birth => Vec::new(),
            Some(_) => ended.into_iter().map(Kill::Session).collect(),
            None if peak > threshold => vec![Kill::All { threshold: peak, tokens_only: true }],
            None => Vec::new(),
        };
        if let (Some(user), true) = (user, reaches_lost_sessions) {
            more.push(Kill::Subject { user, threshold: threshold.max(peak), keep: true });
        }
        let mut done = Vec::new();
        for kill in more {
            let id = self.truth.enter(now, kill, given_ms, true);
            done.extend(self.append(now, id));
            done.append(&mut self.take_effect(now, id, late, false));
        }
        done
    }

    /// Replaces the master; entries that `with` lacks are lost.
    pub fn replace(&mut self, now: u64, with: Server) {
        let replication_id = self.number();
        self.lose_all_but(now, &with, false);
        *self.master() = Server { replication_id, isolated: false, ..with };
        self.lagging = None;
    }

    /// Marks every acknowledged entry that `kept` lacks as lost.
    pub fn lose_all_but(&mut self, now: u64, kept: &Server, with_data: bool) {
        let had: std::collections::BTreeSet<EntryId> = self.master().log.iter().map(|(_, id)| *id).collect();
        for id in 0..self.truth.entries.len() {
            if had.contains(&id) && !kept.has(id) {
                self.truth.entries[id].lose(now, with_data);
            }
        }
    }

    pub fn lose_everything(&mut self, now: u64) {
        self.lose_all_but(now, &Server::new(), true);
        let replication_id = self.master().replication_id;
        *self.master() = Server { replication_id, ..Server::new() };
        self.lagging = None;
    }

    pub fn lose_log(&mut self, now: u64) {
        self.lose_all_but(now, &Server::new(), true);
        let master = self.master();
        master.log.clear();
        master.log_is_there = false;
    }

    /// Trims the log to its newest entries. An entry trimmed early is lost for verifiers that have
    /// not read it.
    pub fn trim(&mut self, now: u64) {
        let gone = self.master().log.len().saturating_sub(1).min(3);
        let gone: Vec<_> = self.master().log.drain(..gone).collect();
        gone.iter().for_each(|(_, id)| self.truth.entries[*id].trimmed(now));
    }

    pub fn head(&self, server: usize, now: u64) -> ProbeAnswer {
        let server = &self.servers[server];
        let newest = server.log.last().map_or(Position::START, |(position, _)| *position);
        let Some(epoch) = server.epoch else { return ProbeAnswer::NoEpoch };
        if server.last != Position::START && newest != server.last {
            return ProbeAnswer::LogDamaged;
        }
        let good = u64::from(!server.isolated);
        let lineage =
            sync::Lineage { epoch: epoch_name(epoch), replication_id: server.replication_id.to_string().into() };
        ProbeAnswer::Head(Head {
            lineage,
            last: newest,
            empty: server.log.is_empty(),
            since: server.since,
            now: self.seconds(now),
            partitions: 1,
            role: Role::Master { replicas_needed: 1, replicas_good: good },
            settled: server.is_settled(),
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

    pub fn entry(&self, position: Position, id: EntryId) -> Entry {
        Entry { position, revocation: self.truth.revocation(id) }
    }
}

pub fn epoch_name(epoch: u64) -> Box<str> {
    format!("epoch-{epoch}").into()
}
