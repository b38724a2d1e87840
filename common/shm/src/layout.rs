//! The layout of a segment: the offset of every word, the sizes of the parts, and the validation of
//! the header.
//!
//! Words are in the byte order of the host. Offsets are in words unless a name says otherwise; docs/shm.md has the table.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

use crate::words::Load;

/// `SIDEGATE` in the memory of a little-endian host.
pub const MAGIC: u64 = u64::from_le_bytes(*b"SIDEGATE");
/// The layout version of this build.
pub const VERSION: u64 = 1;
/// Words in a line: 64 bytes, one cache line.
pub const LINE_WORDS: usize = 8;
/// The length of a chain: a tag is in one of so many consecutive lines from its home line. At a
/// load of three quarters and two entries a subject, 4 left 3 % of the lines saturated and 16 still
/// 0.1 %; nearly every look-up ends in the first line anyway.
pub const PROBE_LINES: usize = 32;
/// The largest tables that a reader accepts: 16 GiB.
pub const LINES_MAX: u64 = 1 << 28;

pub(crate) const H_MAGIC: usize = 0;
pub(crate) const H_VERSION: usize = 1;
pub(crate) const H_ID: usize = 2;
pub(crate) const H_BYTES: usize = 3;
pub(crate) const H_TABLE: usize = 4;
pub(crate) const H_TABLE_LINES: usize = 5;
pub(crate) const H_UNBOUND: usize = 6;
pub(crate) const H_UNBOUND_LINES: usize = 7;
pub(crate) const H_KEY0: usize = 8;
pub(crate) const H_KEY1: usize = 9;
pub(crate) const H_CREATED: usize = 10;
pub(crate) const H_CHECKSUM: usize = 11;

/// First word of the live line.
pub(crate) const LIVE: usize = 2 * LINE_WORDS;
/// First word of the statistics.
pub(crate) const STATS: usize = 3 * LINE_WORDS;
/// Raised after every store that can make a reader ask; zero in the segments of older daemons.
pub(crate) const CHANGES: usize = STATS + LINE_WORDS - 1;
/// First word after the fixed page: the tables begin here or later.
pub(crate) const TABLES: usize = 512;

const _: () = assert!(H_CHECKSUM < LIVE, "the header must not reach the live line");
const _: () = assert!(LIVE.is_multiple_of(LINE_WORDS), "the live line must be one cache line");
const _: () = assert!(STATS + LINE_WORDS <= TABLES, "the fixed lines must fit in the first page");

/// The number of lines of the two tables: each at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Lines of the table that is indexed by subject.
    pub table_lines: u64,
    /// Lines of the table for identifiers whose subject is unknown.
    pub unbound_lines: u64,
}

/// A contiguous run of lines inside the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    pub(crate) first: usize,
    pub(crate) lines: usize,
}

/// The immutable part of a segment; a reader validates it once and keeps a private copy.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Random, never zero: the segment's identifier.
    pub id: u64,
    /// When the segment was created, seconds since 1970, for people.
    pub created_s: u64,
    pub(crate) key: (u64, u64),
    pub(crate) table: Region,
    pub(crate) unbound: Region,
}

/// Why bytes are not a segment that this build can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Too short to have a header, or not a whole number of lines.
    #[error("{0} bytes is not a possible segment size")]
    Size(u64),
    /// Other data, or a host of another byte order.
    #[error("not a Sidegate segment")]
    Magic,
    /// Written by another version.
    #[error("unsupported segment layout version {0}")]
    Version(u64),
    /// The header's length differs from the file's.
    #[error("header says {said} bytes, the file has {found}")]
    Length {
        /// The length in the header.
        said: u64,
        /// The length of the file.
        found: u64,
    },
    /// The tables overlap the header or each other, or exceed the segment.
    #[error("tables do not fit the segment")]
    Tables,
    /// Partly written or damaged.
    #[error("header checksum does not match")]
    Checksum,
    /// The segment's identifier is zero, which means "none".
    #[error("segment without identifier")]
    Id,
}

impl Geometry {
    /// Room for `entries` at a load of one half, so that half as many again fit before the table
    /// must grow.
    pub fn for_entries(entries: u64) -> Self {
        Self { table_lines: (entries / 4).clamp(64, LINES_MAX), unbound_lines: 64 }
    }

    /// The size of the segment, in bytes.
    pub fn bytes(self) -> u64 {
        (TABLES as u64 + (self.table_lines + self.unbound_lines) * LINE_WORDS as u64) * 8
    }

    /// The size of the segment, in words.
    pub fn words(self) -> usize {
        (self.bytes() / 8) as usize
    }

    pub(crate) fn header(self, id: u64, key: (u64, u64), created_s: u64) -> Header {
        let unbound = Region { first: TABLES, lines: self.unbound_lines as usize };
        let table = Region { first: TABLES + unbound.words(), lines: self.table_lines as usize };
        Header { id, created_s, key, table, unbound }
    }
}

impl Region {
    pub(crate) fn words(self) -> usize {
        self.lines * LINE_WORDS
    }

    /// The line of a hash: the high bits decide, by multiplication, so any number of lines works.
    #[inline]
    pub(crate) fn home(self, hash: u64) -> usize {
        ((u128::from(hash) * self.lines as u128) >> 64) as usize
    }

    /// The `step`-th line of the chain from line `home`; the table wraps around.
    #[inline]
    pub(crate) fn step(self, home: usize, step: usize) -> usize {
        let line = home + step;
        if line < self.lines { line } else { line % self.lines }
    }

    /// First word of a line.
    #[inline]
    pub(crate) fn word(self, line: usize) -> usize {
        self.first + line * LINE_WORDS
    }

    /// The number of lines in a chain.
    pub(crate) fn chain(self) -> usize {
        self.lines.min(PROBE_LINES)
    }

    fn end(first: u64, lines: u64) -> Option<u64> {
        lines.checked_mul(LINE_WORDS as u64)?.checked_add(first)
    }
}

impl Header {
    /// The header's words, in order.
    pub(crate) fn encode(&self, geometry: Geometry) -> [u64; H_CHECKSUM + 1] {
        let mut words = [0; H_CHECKSUM + 1];
        words[H_MAGIC] = MAGIC;
        words[H_VERSION] = VERSION;
        words[H_ID] = self.id;
        words[H_BYTES] = geometry.bytes();
        words[H_TABLE] = self.table.first as u64;
        words[H_TABLE_LINES] = self.table.lines as u64;
        words[H_UNBOUND] = self.unbound.first as u64;
        words[H_UNBOUND_LINES] = self.unbound.lines as u64;
        words[H_KEY0] = self.key.0;
        words[H_KEY1] = self.key.1;
        words[H_CREATED] = self.created_s;
        words[H_CHECKSUM] = checksum(&words);
        words
    }

    /// Reads and validates a header.
    ///
    /// # Errors
    /// The first fault in the header.
    pub fn read(words: &impl Load) -> Result<Self, LayoutError> {
        let found = words.len() as u64 * 8;
        if words.len() < TABLES || !words.len().is_multiple_of(LINE_WORDS) {
            return Err(LayoutError::Size(found));
        }
        let head: [u64; H_CHECKSUM + 1] = std::array::from_fn(|i| words.load(i));
        if head[H_MAGIC] != MAGIC {
            return Err(LayoutError::Magic);
        }
        if head[H_VERSION] != VERSION {
            return Err(LayoutError::Version(head[H_VERSION]));
        }
        if head[H_BYTES] != found {
            return Err(LayoutError::Length { said: head[H_BYTES], found });
        }
        if head[H_CHECKSUM] != checksum(&head) {
            return Err(LayoutError::Checksum);
        }
        if head[H_ID] == 0 {
            return Err(LayoutError::Id);
        }
        let total = words.len() as u64;
        let unbound = region(head[H_UNBOUND], head[H_UNBOUND_LINES], total)?;
        let table = region(head[H_TABLE], head[H_TABLE_LINES], total)?;
        if unbound.first < table.first + table.words() && table.first < unbound.first + unbound.words() {
            return Err(LayoutError::Tables);
        }
        let key = (head[H_KEY0], head[H_KEY1]);
        Ok(Self { id: head[H_ID], created_s: head[H_CREATED], key, table, unbound })
    }
}

fn region(first: u64, lines: u64, total: u64) -> Result<Region, LayoutError> {
    let aligned = first.is_multiple_of(LINE_WORDS as u64) && first >= TABLES as u64;
    let inside = Region::end(first, lines).is_some_and(|end| end <= total);
    if aligned && inside && (1..=LINES_MAX).contains(&lines) {
        Ok(Region { first: first as usize, lines: lines as usize })
    } else {
        Err(LayoutError::Tables)
    }
}

/// SipHash-2-4 under the segment's key over all header words before the checksum, each as eight little-endian bytes.
fn checksum(words: &[u64; H_CHECKSUM + 1]) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(words[H_KEY0], words[H_KEY1]);
    for word in &words[..H_CHECKSUM] {
        hasher.write(&word.to_le_bytes());
    }
    hasher.finish()
}
