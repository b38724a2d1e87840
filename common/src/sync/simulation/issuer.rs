//! The simulated issuers: each registers itself, follows the log, notices a change of server or
//! data, and puts back what it acknowledged or received.

use std::collections::BTreeMap;

use super::mutant::Mutant;
use super::server::Lineage;
use super::store::{Late, Order};
use super::truth::{EntryId, Kill, ORIGIN_MS};
use super::world::{What, World};
use crate::time::UnixTime;

/// The mean interval between heartbeats, in milliseconds.
const BEAT_MS: u64 = 1_000;
/// The longest random wait before a replay, in milliseconds.
const REPLAY_AFTER_MS: u64 = 200;
/// Entries that one script call puts back.
const CHUNK: usize = 3;
/// How long an issuer's counter must stand still before others delist it, in milliseconds.
const UNMOVED_MS: u64 = 60_000;
/// After this time an answer no longer counts, in milliseconds.
const ANSWER_MS: u64 = 5_000;
/// How long [`Mutant::AgesByWallClock`] remembers, in milliseconds.
const REMEMBERED_MS: u64 = 120_000;

/// How an issuer got to know an entry.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// It acknowledged the entry, at this time by its wall clock.
    own: Option<u64>,
    /// The log had the entry, not only a push.
    confirmed: bool,
}

/// The store has executed a request of this issuer.
#[derive(Clone, Debug)]
pub struct Done {
    name: u64,
    lineage: Option<Lineage>,
    ids: Vec<EntryId>,
    order: Order,
    late: Late,
    asked_ms: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Issuer {
    pub name: u64,
    pub up: bool,
    /// A previous version: it neither registers itself nor marks replays, and puts back only what
    /// it acknowledged.
    pub old: bool,
    pub paused_until: u64,
    /// No connection before this time.
    pub connected_from: u64,
    /// The lineage that it saw last, and whether it has marked its replay there.
    pub lineage: Option<Lineage>,
    pub marked: bool,
    /// Since when the newest log that it has seen is complete.
    since: UnixTime,
    /// The newest `iat` that it issued.
    pub newest: UnixTime,
    /// Registered, on the replicas as well; before that it acknowledges nothing.
    pub listed: bool,
    beats: u64,
    pub memory: BTreeMap<EntryId, Known>,
    pub outbox: Vec<(Order, Late)>,
    /// The counters of others, and since when each stands still.
    watched: BTreeMap<u64, (u64, u64)>,
    /// The rest of a replay.
    left: Option<Vec<EntryId>>,
    /// How far its wall clock has been stepped, in milliseconds.
    pub step_ms: i64,
}

impl Issuer {
    pub fn start(name: u64, old: bool) -> Self {
        Self { name, up: true, old, ..Self::default() }
    }

    /// It has seen a log that is complete only since a later moment.
    pub fn saw_loss_after(&self, since: UnixTime) -> bool {
        self.since > since
    }

    fn wall_ms(&self, now: u64) -> u64 {
        (ORIGIN_MS + now).saturating_add_signed(self.step_ms)
    }

    /// True if it would put this entry back.
    pub fn knows(&self, id: EntryId, kill: Kill) -> bool {
        let known = self.memory.get(&id);
        let pushed_only = matches!(kill, Kill::All { .. });
        known.is_some_and(|known| known.own.is_some() || (!self.old && (known.confirmed || !pushed_only)))
    }

    pub fn acknowledge(&mut self, now: u64, id: EntryId) {
        let wall_ms = self.wall_ms(now);
        self.memory.entry(id).or_insert(Known { own: None, confirmed: false }).own = Some(wall_ms);
    }

    pub fn receive(&mut self, id: EntryId) {
        self.memory.entry(id).or_insert(Known { own: None, confirmed: false });
    }

    fn read(&mut self, ids: impl Iterator<Item = EntryId>) {
        for id in ids {
            self.memory.entry(id).or_insert(Known { own: None, confirmed: true }).confirmed = true;
        }
    }

    /// As [`Issuer::knows`], but a mutant may lack a rule.
    fn puts_back(&self, id: EntryId, kill: Kill, now: u64, mutant: Option<Mutant>) -> bool {
        let own = self.memory.get(&id).and_then(|known| known.own);
        let young = |at: u64| self.wall_ms(now).saturating_sub(at) <= REMEMBERED_MS;
        self.knows(id, kill)
            && match mutant {
                Some(Mutant::AgesByWallClock) => own.is_some_and(young),
                Some(Mutant::OwnEntriesOnly) => own.is_some(),
                _ => true,
            }
    }
}

impl World {
    pub fn issuer_at(&mut self, name: u64) -> Option<&mut Issuer> {
        self.issuers.iter_mut().find(|issuer| issuer.up && issuer.name == name)
    }

    /// Starts an issuer in place of a stopped one.
    pub fn start_issuer(&mut self, index: usize, name: Option<u64>) {
        let name = name.unwrap_or_else(|| self.store.number());
        let old = self.issuers[index].old;
        self.issuers[index] = Issuer::start(name, old);
        self.at(self.now, What::Beat { name });
    }

    /// Kills it: what only it knew is lost.
    pub fn crash_issuer(&mut self, index: usize) {
        self.issuers[index].up = false;
        self.note_orphans();
    }

    /// A clean stop: it deregisters itself, unless it still has something to put back.
    pub fn stop_issuer(&mut self, index: usize) {
        let issuer = &self.issuers[index];
        let (name, lineage, marked) = (issuer.name, issuer.lineage, issuer.marked);
        if marked && self.store.lineage() == lineage && self.can_reach(index) {
            self.store.master().listed.remove(&name);
            self.settle();
        }
        self.crash_issuer(index);
    }

    /// Notes the lost entries that no issuer able to put them back knows.
    pub fn note_orphans(&mut self) {
        for id in 0..self.store.truth.entries.len() {
            let entry = &mut self.store.truth.entries[id];
            let (kill, acknowledged) = (entry.kill, entry.acknowledged_ms.is_some());
            if let Some(open) = entry.open_loss() {
                open.orphaned |= acknowledged && !self.issuers.iter().any(|one| one.up && one.knows(id, kill));
            }
        }
    }

    /// Whether an issuer can reach the store now.
    pub fn can_reach(&self, index: usize) -> bool {
        let issuer = &self.issuers[index];
        let awake = issuer.up && self.now >= issuer.paused_until && self.now >= issuer.connected_from;
        awake && self.reachable && self.now >= self.server_frozen_until
    }

    pub fn beat(&mut self, name: u64) {
        let Some(index) = self.issuers.iter().position(|issuer| issuer.up && issuer.name == name) else { return };
        let next = self.now + self.random.between(BEAT_MS - 100, BEAT_MS + 100);
        self.at(next.max(self.issuers[index].paused_until), What::Beat { name });
        if !self.can_reach(index) {
            self.issuers[index].watched.clear();
            return;
        }
        if self.store.lineage().is_none() {
            self.make(index);
        }
        self.notice(index);
        let read: Vec<EntryId> = self.store.master().log.iter().map(|(_, id)| *id).collect();
        let issuer = &mut self.issuers[index];
        issuer.read(read.into_iter());
        if issuer.old {
            issuer.listed = true;
        } else {
            issuer.beats += 1;
            let beats = issuer.beats;
            // Not before the replicas have it too.
            issuer.listed |= self.store.lagging.is_none();
            self.store.master().list(name, beats);
            self.delist_others(index);
            self.settle();
        }
        self.deliver(index);
    }

    /// Observes the store's lineage; a changed one starts a replay.
    fn notice(&mut self, index: usize) {
        let lineage = self.store.lineage();
        let issuer = &mut self.issuers[index];
        if issuer.lineage == lineage {
            return;
        }
        (issuer.lineage, issuer.marked, issuer.left) = (lineage, false, None);
        issuer.watched.clear();
        let name = issuer.name;
        let at = self.now + self.random.between(0, REPLAY_AFTER_MS + 1);
        self.at(at, What::Replay { name, lineage });
    }

    /// Rebuilds a lost data set, with the entries that this issuer knows in its log; these are not
    /// pushed.
    fn make(&mut self, index: usize) {
        let (epoch, clock_ms) = (self.store.number(), self.store.clock_ms(self.now));
        self.store.master().make(epoch, clock_ms);
        self.store.lagging = None;
        let known: Vec<EntryId> = self.issuers[index].memory.keys().copied().collect();
        for id in known {
            self.store.put_back(self.now, id);
        }
    }

    fn delist_others(&mut self, index: usize) {
        let (now, name) = (self.now, self.issuers[index].name);
        let listed: Vec<_> = self.store.master().listed.iter().map(|(name, one)| (*name, one.beats)).collect();
        let watched = &mut self.issuers[index].watched;
        for (other, beats) in listed.into_iter().filter(|(other, _)| *other != name) {
            let seen = watched.entry(other).or_insert((beats, now));
            if seen.0 != beats {
                *seen = (beats, now);
            } else if now - seen.1 >= UNMOVED_MS {
                self.store.servers[self.store.master].listed.remove(&other);
            }
        }
    }

    pub fn settle(&mut self) {
        let clock_ms = self.store.clock_ms(self.now);
        if !self.store.master().settle(clock_ms) {
            return;
        }
        // An issuer that is not registered by now cannot put anything back before verifiers rely on
        // the log.
        let listed = self.store.master().listed.clone();
        for id in 0..self.store.truth.entries.len() {
            let entry = &mut self.store.truth.entries[id];
            let (kill, acknowledged) = (entry.kill, entry.acknowledged_ms.is_some());
            if let Some(open) = entry.open_loss() {
                let able = |one: &Issuer| one.up && listed.contains_key(&one.name) && one.knows(id, kill);
                open.orphaned |= acknowledged && !self.issuers.iter().any(able);
            }
        }
    }

    /// One step of a replay: reads the log completely, then puts back what it lacks, a few entries
    /// at a time.
    pub fn replay(&mut self, name: u64, lineage: Option<Lineage>) {
        let Some(index) = self.issuers.iter().position(|issuer| issuer.up && issuer.name == name) else { return };
        if self.issuers[index].lineage != lineage {
            return;
        }
        if !self.can_reach(index) {
            let again = (self.now + 100).max(self.issuers[index].paused_until);
            self.at(again, What::Replay { name, lineage });
            return;
        }
        if self.store.lineage() != lineage {
            // The script found another replication id.
            self.notice(index);
            return;
        }
        let mut left = match self.issuers[index].left.take() {
            Some(left) => left,
            None => {
                self.raise_since(index);
                let (issuer, store) = (&self.issuers[index], &self.store);
                let lacks = |id: &EntryId| {
                    issuer.puts_back(*id, store.truth.entries[*id].kill, self.now, store.mutant)
                        && !store.servers[store.master].has(*id)
                };
                issuer.memory.keys().copied().filter(lacks).collect()
            }
        };
        for id in left.drain(..left.len().min(CHUNK)).collect::<Vec<_>>() {
            let appended = self.store.put_back(self.now, id);
            appended.iter().for_each(|one| self.push(one));
        }
        if left.is_empty() {
            let issuer = &mut self.issuers[index];
            issuer.marked = true;
            issuer.since = self.store.servers[self.store.master].since;
            let newest = issuer.newest;
            if !issuer.old {
                let clock = self.store.seconds(self.now);
                self.store.master().mark(name, newest, clock);
                self.settle();
            }
            return;
        }
        self.issuers[index].left = Some(left);
        let next = self.now + self.random.between(1, 30);
        self.at(next, What::Replay { name, lineage });
    }

    /// A log that claims to be complete since an earlier moment than the one before is a copy from
    /// before a loss, and lacks what was lost.
    fn raise_since(&mut self, index: usize) {
        let since = self.issuers[index].since;
        if self.issuers[index].old || self.store.mutant == Some(Mutant::TrustsSinceOfABackup) {
            return;
        }
        let master = self.store.master();
        master.since = master.since.max(since);
        master.marks.all_sessions = master.marks.all_sessions.max(since);
    }

    /// Delivers what could not be delivered when it was requested.
    fn deliver(&mut self, index: usize) {
        // A threshold is above every `iat` issued before, so the log must be complete.
        let (issuer, server) = (&self.issuers[index], &self.store.servers[self.store.master]);
        if !issuer.listed || !(server.is_settled() || issuer.old) {
            return;
        }
        for (order, late) in std::mem::take(&mut self.issuers[index].outbox) {
            self.carry_out(index, order, Some(late));
        }
    }

    /// Sends a request to the store; the answer comes a little later.
    pub fn carry_out(&mut self, index: usize, order: Order, late: Option<Late>) {
        let issuer = &self.issuers[index];
        let (name, lineage) = (issuer.name, issuer.lineage);
        let clock = self.store.seconds(self.now);
        let late_now = late.unwrap_or(Late { given_ms: self.now, threshold: clock, lineage });
        let able = issuer.listed && self.can_reach(index) && self.store.lineage().is_some();
        let Some(appended) = able.then(|| self.store.order(self.now, order, late)).flatten() else {
            self.issuers[index].outbox.push((order, late_now));
            return;
        };
        appended.iter().for_each(|one| self.push(one));
        let ids = appended.iter().map(|one| one.id).collect();
        let done = Done { name, lineage, ids, order, late: late_now, asked_ms: self.now };
        let at = self.now + self.random.between(1, 30);
        self.at(at, What::Done(done));
    }

    /// Receives the answer to a request. It does not count if the connection's lineage has changed
    /// since, or after so long that others may have delisted this issuer.
    pub fn done(&mut self, done: Done) {
        let now = self.now;
        let Some(issuer) = self.issuer_at(done.name) else { return };
        if now < issuer.paused_until {
            let at = issuer.paused_until;
            self.at(at, What::Done(done));
            return;
        }
        if issuer.lineage != done.lineage || now - done.asked_ms > ANSWER_MS {
            issuer.outbox.push((done.order, done.late));
            return;
        }
        for id in &done.ids {
            issuer.acknowledge(now, *id);
        }
        for id in done.ids {
            self.store.truth.acknowledge(now, id);
        }
    }
}
