//! The simulated store: servers, of which one is the master; what its scripts do to the log, and what is lost with it.

use super::mutant::Mutant;
use super::server::{Lineage, Server};
use super::truth::{EntryId, Kill, LIFETIME_MAX, ORIGIN_MS, Sid, TokenId, Truth, User, true_seconds};
use crate::sync::{self, Answer, Entry, Head, ReadFrom, Role};
use crate::time::{CLOCK_SKEW_SECONDS, LEEWAY_MAX_SECONDS, REVOCATION_MARGIN_SECONDS, UnixTime};
use crate::wire::Position;

/// Entries of a page, few so that readings take several.
const PAGE: usize = 7;

/// What an issuer is asked to revoke.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    Token(TokenId),
    Logout(Sid),
    User { user: User, keep: bool },
    All,
    Unreadable(TokenId),
}

/// An order that could not be delivered when it was given: when that was, and the store's clock then, as was estimated.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    pub given_ms: u64,
    pub threshold: UnixTime,
}

/// What was appended, for pushing.
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
    /// How far the store's clock is off, in milliseconds.
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

    pub fn lineage(&self) -> Option<Lineage> {
        self.servers[self.master].lineage()
    }

    fn by_birth(&self) -> bool {
        self.mutant != Some(Mutant::SessionsByLastRotation)
    }

    /// Appends an entry to the master's log, which has it again from then on.
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

    /// Carries an order out, in one step. An order that comes late keeps its threshold.
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
                    // Estimated: it is over what was ordered before it.
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
        done.append(&mut self.take_effect(now, id, late.is_some()));
        Some(done)
    }

    /// Puts an entry back that the log lacks.
    pub fn put_back(&mut self, now: u64, id: EntryId) -> Vec<Appended> {
        let expired = self.truth.entries[id].expires < self.seconds(now);
        if expired || self.master().intact().is_none() || self.master().has(id) {
            return Vec::new();
        }
        let mut done: Vec<_> = self.append(now, id).into_iter().collect();
        done.append(&mut self.take_effect(now, id, true));
        done
    }

    /// What an entry does to sessions and watermarks; returns what is appended because of it. Where it comes late, sessions may
    /// have tokens above its threshold, even some that this data knows nothing of: each has an entry of its own.
    fn take_effect(&mut self, now: u64, id: EntryId, late: bool) -> Vec<Appended> {
        let (Kill::Subject { .. } | Kill::All { .. }) = self.truth.entries[id].kill else {
            if let Kill::Session(sid) = self.truth.entries[id].kill {
                self.master().sessions.remove(&sid);
            }
            return Vec::new();
        };
        let by_birth = self.by_birth();
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
        let peak = master.marks.peak;
        let given_ms = self.truth.entries[id].given_ms;
        let more: Vec<Kill> = match user {
            _ if !late || !by_birth => Vec::new(),
            Some(_) => ended.into_iter().map(Kill::Session).collect(),
            None if peak > threshold => vec![Kill::All { threshold: peak, tokens_only: true }],
            None => Vec::new(),
        };
        let mut done = Vec::new();
        for kill in more {
            let id = self.truth.enter(now, kill, given_ms, true);
            done.extend(self.append(now, id));
            done.append(&mut self.take_effect(now, id, late));
        }
        done
    }

    /// What `with` lacks of what the master and its lost log had is lost.
    pub fn replace(&mut self, now: u64, with: Server) {
        let history = self.number();
        self.lose_all_but(now, &with, false);
        *self.master() = Server { history, isolated: false, ..with };
        self.lagging = None;
    }

    /// All acknowledged entries that `kept` does not have are in no log from now on.
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
        let history = self.master().history;
        *self.master() = Server { history, ..Server::new() };
        self.lagging = None;
    }

    pub fn lose_log(&mut self, now: u64) {
        self.lose_all_but(now, &Server::new(), true);
        let master = self.master();
        master.log.clear();
        master.log_is_there = false;
    }

    /// All but the newest entries go. What is gone early is lost for who did not have it.
    pub fn trim(&mut self, now: u64) {
        let gone = self.master().log.len().saturating_sub(1).min(3);
        let gone: Vec<_> = self.master().log.drain(..gone).collect();
        gone.iter().for_each(|(_, id)| self.truth.entries[*id].trimmed(now));
    }

    pub fn head(&self, server: usize, now: u64) -> Answer {
        let server = &self.servers[server];
        let newest = server.log.last().map_or(Position::START, |(position, _)| *position);
        let Some(epoch) = server.epoch else { return Answer::NoEpoch };
        if server.last != Position::START && newest != server.last {
            return Answer::LogDamaged;
        }
        let good = u64::from(!server.isolated);
        let lineage = sync::Lineage { epoch: epoch_name(epoch), history: server.history.to_string().into() };
        Answer::Head(Head {
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
