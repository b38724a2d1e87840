//! Lines of tags: look up, insert, remove.
//!
//! A tag is in the first line of its chain that had room, and never moves. Each full line before it
//! has its overflow flag set first, so a reader that follows the flags finds every stored tag.

use crate::hash::{FLAG, Want};
use crate::layout::{LINE_WORDS, Region};
use crate::words::{Load, WordStore};

/// The result of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Tag,
    Saturated,
}

/// The line of a chain that a tag was inserted into or removed from: 0 is the home line.
pub(crate) type Step = usize;

const OVERFLOW_SLOT: usize = 0;
const SATURATED_SLOT: usize = 1;

/// Searches for the wanted words in the chain from line `home`.
#[inline(always)]
pub(crate) fn look_up(words: &impl Load, region: Region, home: usize, want: &Want) -> Found {
    let line = words.line(region.word(home));
    if want.is_in(&line) {
        return Found::Tag;
    }
    if line[SATURATED_SLOT] & FLAG != 0 {
        return Found::Saturated;
    }
    if line[OVERFLOW_SLOT] & FLAG == 0 {
        return Found::Nothing;
    }
    look_further(words, region, home, want)
}

#[cold]
#[inline(never)]
fn look_further(words: &impl Load, region: Region, home: usize, want: &Want) -> Found {
    for step in 1..region.chain() {
        let line = words.line(region.word(region.step(home, step)));
        if want.is_in(&line) {
            return Found::Tag;
        }
        if line[OVERFLOW_SLOT] & FLAG == 0 {
            return Found::Nothing;
        }
    }
    Found::Nothing
}

/// The writer's view of one table: the region, and what only the writer must know about its lines.
#[derive(Debug)]
pub(crate) struct Table {
    region: Region,
    /// Per line: the number of stored tags that passed over it. At its maximum it no longer
    /// changes, and the flag stays.
    passed: Vec<u16>,
    /// Stored tags.
    used: u64,
}

impl Table {
    pub(crate) fn new(region: Region) -> Self {
        Self { region, passed: vec![0; region.lines], used: 0 }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    pub(crate) fn slots(&self) -> u64 {
        self.region.words() as u64
    }

    /// The line of its chain where a word would be stored; `None` if the chain is full.
    pub(crate) fn room(&self, words: &impl Load, home: usize) -> Option<Step> {
        (0..self.region.chain()).find(|&step| {
            let line = words.line(self.region.word(self.region.step(home, step)));
            line.iter().any(|word| word & !FLAG == 0)
        })
    }

    /// Stores a word in the first free slot of its chain.
    pub(crate) fn place(&mut self, words: &impl WordStore, home: usize, word: u64) -> Option<Step> {
        let step = self.room(words, home)?;
        for before in 0..step {
            let line = self.region.step(home, before);
            self.passed[line] = self.passed[line].saturating_add(1);
            self.set_flag(words, line, OVERFLOW_SLOT, true);
        }
        let first = self.region.word(self.region.step(home, step));
        let slot = (0..LINE_WORDS).find(|&slot| words.load(first + slot) & !FLAG == 0)?;
        // SYNC POINT: publishes the tag after the flags of the lines it passed over.
        words.publish(first + slot, words.load(first + slot) & FLAG | word);
        self.used += 1;
        Some(step)
    }

    /// Whether the word is stored in its chain.
    pub(crate) fn holds(&self, words: &impl Load, home: usize, word: u64) -> bool {
        self.find(words, home, word).is_some()
    }

    /// Removes one copy of a word; `None` if there was none.
    pub(crate) fn remove(&mut self, words: &impl WordStore, home: usize, word: u64) -> Option<Step> {
        let (step, index) = self.find(words, home, word)?;
        // SYNC POINT: publishes the zero after the time floor that made the tag superfluous.
        words.publish(index, words.load(index) & FLAG);
        for before in 0..step {
            let line = self.region.step(home, before);
            if self.passed[line] != u16::MAX {
                self.passed[line] = self.passed[line].saturating_sub(1);
                if self.passed[line] == 0 {
                    self.set_flag(words, line, OVERFLOW_SLOT, false);
                }
            }
        }
        self.used = self.used.saturating_sub(1);
        Some(step)
    }

    /// Sets or clears "some entries of this home line are not stored".
    pub(crate) fn set_saturated(&self, words: &impl WordStore, home: usize, saturated: bool) {
        self.set_flag(words, home, SATURATED_SLOT, saturated);
    }

    fn find(&self, words: &impl Load, home: usize, word: u64) -> Option<(Step, usize)> {
        (0..self.region.chain()).find_map(|step| {
            let first = self.region.word(self.region.step(home, step));
            let slot = words.line(first).iter().position(|stored| stored & !FLAG == word)?;
            Some((step, first + slot))
        })
    }

    fn set_flag(&self, words: &impl WordStore, line: usize, slot: usize, on: bool) {
        let index = self.region.word(line) + slot;
        let old = words.load(index);
        let new = if on { old | FLAG } else { old & !FLAG };
        if new != old {
            words.publish(index, new);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::heap::HeapWords;

    /// A line whose overflow slot was emptied reads as the flag alone, and later lines are still
    /// found.
    #[test]
    fn emptied_slot_does_not_end_the_chain() {
        let region = Region { first: 0, lines: 8 };
        let words = HeapWords::new(region.words());
        let mut table = Table::new(region);
        let tags: Vec<u64> = (1..=20).map(|n| 1 << 61 | n).collect();
        let steps: Vec<_> = tags.iter().map(|tag| table.place(&words, 0, *tag).unwrap()).collect();
        assert_eq!((steps[0], steps[8], steps[16]), (0, 1, 2), "eight to a line");
        let found = |tag: u64| look_up(&words, region, 0, &Want::word(tag));
        for emptied in [tags[0], tags[8]] {
            table.remove(&words, 0, emptied).unwrap();
            assert_eq!(found(emptied), Found::Nothing);
            assert!(tags[16..].iter().all(|tag| found(*tag) == Found::Tag), "in later lines");
        }
        assert!(table.holds(&words, 0, tags[16]) && !table.holds(&words, 0, tags[8]));
    }

    #[test]
    fn overflow_flag_is_cleared_with_the_last_tag() {
        let region = Region { first: 0, lines: 8 };
        let words = HeapWords::new(region.words());
        let mut table = Table::new(region);
        let tags: Vec<u64> = (1..=9).map(|n| 1 << 61 | n).collect();
        for tag in &tags {
            table.place(&words, 0, *tag).unwrap();
        }
        assert_ne!(words.load(OVERFLOW_SLOT) & FLAG, 0);
        table.remove(&words, 0, tags[8]).unwrap();
        assert_eq!(words.load(OVERFLOW_SLOT) & FLAG, 0, "or every look-up would read on for ever");
    }
}
