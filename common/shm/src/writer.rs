//! The writer's end: inserts and removes entries, and publishes the live line.
//!
//! Each entry is one word; two entries with the same tag are two words. A subject with so many
//! entries that they would displace others gets a single word "ask about this subject", and its
//! further entries are only counted. A full chain sets the saturated flag of its home line. No
//! revocation is lost either way: readers ask the daemon, whose list is exact.

use std::collections::HashMap;

use crate::hash::{ALWAYS, Place, Subject};
use crate::layout::{CHANGES, Geometry, Header, STATS};
use crate::live::{self, IAT_FLOOR, Live, SUCCESSOR, UNBOUND};
use crate::table::Table;
use crate::words::WordStore;

/// How many words of one subject may be outside its home line before they are replaced by the
/// single word.
const SPILL_MAX: u32 = 8;

/// A revocation as the table stores it. Identifiers are as in the token, and belong to one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentEntry<'a> {
    /// The token with this `jti`; with the tag of its subject, where known.
    Token {
        /// The identifier.
        jti: &'a [u8],
        /// The user's tag, where known.
        subject: Option<Subject>,
    },
    /// Every token with this `sid`.
    Session {
        /// The identifier.
        sid: &'a [u8],
        /// The user's tag, where known.
        subject: Option<Subject>,
    },
    /// The subject's tokens with `iat` at or before the threshold.
    Subject {
        /// The user's tag.
        subject: Subject,
        /// The last revoked `iat`, seconds since 1970.
        threshold_s: u64,
    },
}

/// Statistics of a segment, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries, stored or only counted.
    pub entries: u64,
    /// Words used, of `slots`.
    pub used: u64,
    /// Words available for entries.
    pub slots: u64,
    /// Entries without a known subject, included in `entries`.
    pub unbound: u64,
    /// Subjects with too many entries: readers always ask about them.
    pub crowded_subjects: u64,
    /// Full lines: readers always ask about their tokens.
    pub saturated_lines: u64,
    /// The size of the segment.
    pub bytes: u64,
}

/// Where a subject's single word is.
#[derive(Clone, Copy, Debug)]
enum AskWord {
    Stored,
    Saturated,
}

#[derive(Debug)]
struct CollapsedSubject {
    uncounted: u64,
    word: AskWord,
}

/// The only writer of a segment.
#[derive(Debug)]
pub struct Writer<W> {
    words: W,
    header: Header,
    geometry: Geometry,
    table: Table,
    unbound: Table,
    /// Per subject: the number of its words outside its home line.
    spilled: HashMap<Subject, u32>,
    crowded: HashMap<Subject, CollapsedSubject>,
    /// Per home line of either table: the number of entries or subjects that found no room.
    saturated: HashMap<usize, u64>,
    saturated_unbound: HashMap<usize, u64>,
    entries: u64,
    unbound_entries: u64,
    changes: u64,
}

impl<W: WordStore> Writer<W> {
    /// Initialises an empty segment in zeroed words, as many as the geometry requires.
    pub fn new(words: W, geometry: Geometry, id: u64, key: (u64, u64), created_s: u64) -> Self {
        let header = geometry.header(id, key, created_s);
        words.publish(CHANGES, 1);
        // Last word first: the magic appears when all the rest is there.
        for (index, word) in header.encode(geometry).into_iter().enumerate().rev() {
            words.publish(index, word);
        }
        Self {
            words,
            header,
            geometry,
            table: Table::new(header.table),
            unbound: Table::new(header.unbound),
            spilled: HashMap::new(),
            crowded: HashMap::new(),
            saturated: HashMap::new(),
            saturated_unbound: HashMap::new(),
            entries: 0,
            unbound_entries: 0,
            changes: 1,
        }
    }

    /// The segment's identifier; never zero.
    pub fn id(&self) -> u64 {
        self.header.id
    }

    /// The sizes of its parts.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Publishes an entry. After it returns, every new check asks about the tokens that the entry
    /// revokes.
    pub fn insert(&mut self, entry: &SegmentEntry<'_>) {
        self.entries += 1;
        match self.place_of(entry) {
            (place, Some(subject)) => self.insert_bound(place, subject),
            (place, None) => self.insert_unbound(place),
        }
        self.raise_changes();
    }

    /// Publishes an entry unless its word is already there. For filling a successor, when the same
    /// entry may come both from the index and from the feed.
    pub fn insert_if_absent(&mut self, entry: &SegmentEntry<'_>) {
        let (place, subject) = self.place_of(entry);
        let table = if subject.is_some() { &self.table } else { &self.unbound };
        if !table.holds(&self.words, place.home, place.word) {
            self.insert(entry);
        }
    }

    /// Removes an entry; false if there was none. The caller has published a time floor (see
    /// [`Writer::set_live`]) at or past the entry's expiry, or has inserted an entry that covers
    /// this one.
    pub fn remove(&mut self, entry: &SegmentEntry<'_>) -> bool {
        let removed = match self.place_of(entry) {
            (place, Some(subject)) => self.remove_bound(place, subject),
            (place, None) => self.remove_unbound(place),
        };
        self.entries -= u64::from(removed);
        removed
    }

    /// Makes readers ask about every token with `iat` at or before this time; never goes back.
    pub fn raise_iat_floor(&mut self, iat_s: u64) {
        if iat_s > self.words.load(IAT_FLOOR) {
            self.words.publish(IAT_FLOOR, iat_s);
            self.raise_changes();
        }
    }

    /// After the stores: a reader that sees the new value sees them.
    fn raise_changes(&mut self) {
        self.changes += 1;
        self.words.publish(CHANGES, self.changes);
    }

    /// Publishes the live line. The caller has inserted everything that the promise is based on.
    pub fn set_live(&mut self, live: &Live) {
        live::publish(&self.words, live);
        self.publish_stats();
    }

    /// The live line.
    pub fn live(&self) -> Live {
        live::read(&self.words)
    }

    /// Publishes the segment that readers should switch to.
    pub fn set_successor(&mut self, id: u64) {
        self.words.publish(SUCCESSOR, id);
    }

    /// The segment's statistics.
    pub fn stats(&self) -> Stats {
        Stats {
            entries: self.entries,
            used: self.table.used() + self.unbound.used(),
            slots: self.table.slots() + self.unbound.slots(),
            unbound: self.unbound_entries,
            crowded_subjects: self.crowded.len() as u64,
            saturated_lines: (self.saturated.len() + self.saturated_unbound.len()) as u64,
            bytes: self.geometry.bytes(),
        }
    }

    /// The geometry of a successor, if this segment is too full (three quarters) or far too large.
    pub fn wants_resize(&self) -> Option<Geometry> {
        let (used, slots) = (self.table.used(), self.table.slots());
        let least = Geometry::for_entries(0);
        let crowded = self.saturated.len() as u64 * 100 > self.geometry.table_lines;
        let room_for = if used * 4 > slots * 3 {
            used
        } else if crowded {
            slots * 3 / 4
        } else if used * 16 < slots && self.geometry.table_lines > 64 * least.table_lines {
            used
        } else if self.unbound.used() * 4 > self.unbound.slots() * 3 {
            slots / 2
        } else {
            return None;
        };
        let mut next = Geometry::for_entries(room_for);
        next.unbound_lines = (self.unbound.used() / 4).max(least.unbound_lines);
        (next != self.geometry).then_some(next)
    }

    fn place_of(&self, entry: &SegmentEntry<'_>) -> (Place, Option<Subject>) {
        let bound = |place: Place, subject: Option<Subject>| match subject {
            Some(tag) => (Place { home: self.header.subject(tag).home, word: place.word }, subject),
            None => (place, None),
        };
        match *entry {
            SegmentEntry::Token { jti, subject } => bound(self.header.token(jti), subject),
            SegmentEntry::Session { sid, subject } => bound(self.header.session(sid), subject),
            SegmentEntry::Subject { subject, threshold_s } => {
                let threshold = u32::try_from(threshold_s).unwrap_or(ALWAYS);
                let place = self.header.subject(subject);
                (Place { home: place.home, word: place.word | u64::from(threshold) }, Some(subject))
            }
        }
    }

    fn insert_bound(&mut self, place: Place, subject: Subject) {
        if let Some(crowded) = self.crowded.get_mut(&subject) {
            crowded.uncounted += 1;
            return;
        }
        let room = self.table.room(&self.words, place.home);
        let spills = room != Some(0);
        let spilled = if spills { self.spilled.get(&subject).copied().unwrap_or(0) } else { 0 };
        if room.is_none() || spilled >= SPILL_MAX {
            return self.collapse(subject);
        }
        self.table.place(&self.words, place.home, place.word);
        if spills {
            self.spilled.insert(subject, spilled + 1);
        }
    }

    fn remove_bound(&mut self, place: Place, subject: Subject) -> bool {
        if let Some(step) = self.table.remove(&self.words, place.home, place.word) {
            if step > 0
                && let Some(spilled) = self.spilled.get_mut(&subject)
            {
                *spilled -= 1;
                if *spilled == 0 {
                    self.spilled.remove(&subject);
                }
            }
            return true;
        }
        let Some(crowded) = self.crowded.get_mut(&subject) else { return false };
        crowded.uncounted -= 1;
        if crowded.uncounted == 0 {
            let word = crowded.word;
            self.crowded.remove(&subject);
            self.expand(subject, word);
        }
        true
    }

    /// Gives a subject its single word, for an entry that is not stored.
    fn collapse(&mut self, subject: Subject) {
        let place = self.ask_place(subject);
        let word = match self.table.place(&self.words, place.home, place.word) {
            Some(_) => AskWord::Stored,
            None => {
                *self.saturated.entry(place.home).or_insert(0) += 1;
                self.table.set_saturated(&self.words, place.home, true);
                AskWord::Saturated
            }
        };
        self.crowded.insert(subject, CollapsedSubject { uncounted: 1, word });
    }

    fn expand(&mut self, subject: Subject, word: AskWord) {
        let place = self.ask_place(subject);
        match word {
            AskWord::Stored => {
                self.table.remove(&self.words, place.home, place.word);
            }
            AskWord::Saturated if release(&mut self.saturated, place.home) => {
                self.table.set_saturated(&self.words, place.home, false);
            }
            AskWord::Saturated => {}
        }
    }

    fn ask_place(&self, subject: Subject) -> Place {
        let place = self.header.subject(subject);
        Place { home: place.home, word: place.word | u64::from(ALWAYS) }
    }

    fn insert_unbound(&mut self, place: Place) {
        self.unbound_entries += 1;
        // SYNC POINT: the count is published before the tag, so that a reader that sees zero may
        // skip the table.
        self.words.publish(UNBOUND, self.unbound_entries);
        if self.unbound.place(&self.words, place.home, place.word).is_none() {
            *self.saturated_unbound.entry(place.home).or_insert(0) += 1;
            self.unbound.set_saturated(&self.words, place.home, true);
        }
    }

    fn remove_unbound(&mut self, place: Place) -> bool {
        if self.unbound.remove(&self.words, place.home, place.word).is_none() {
            if !self.saturated_unbound.contains_key(&place.home) {
                return false;
            }
            if release(&mut self.saturated_unbound, place.home) {
                self.unbound.set_saturated(&self.words, place.home, false);
            }
        }
        self.unbound_entries -= 1;
        self.words.publish(UNBOUND, self.unbound_entries);
        true
    }

    fn publish_stats(&self) {
        let stats = self.stats();
        let counters =
            [stats.entries, stats.used, stats.slots, stats.unbound, stats.crowded_subjects, stats.saturated_lines];
        for (offset, value) in counters.into_iter().enumerate() {
            if self.words.load(STATS + offset) != value {
                self.words.publish(STATS + offset, value);
            }
        }
    }
}

/// Decrements a count; true if it was the last.
fn release(counts: &mut HashMap<usize, u64>, line: usize) -> bool {
    let Some(count) = counts.get_mut(&line) else { return false };
    *count -= 1;
    if *count == 0 {
        counts.remove(&line);
    }
    !counts.contains_key(&line)
}
