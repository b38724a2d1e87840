//! Sidegate's shared-memory segment. One writer publishes what is revoked and how fresh that is;
//! any number of readers look it up without a system call, a lock or a store.
//!
//! The map, from the bytes upwards (docs/shm.md is the normative description):
//!
//! * [`words`]: memory seen as atomic 64-bit words. The only file with `unsafe` in it; [`heap`] is
//!   the same on the heap.
//! * [`layout`]: the offset of every word, the geometry of a segment, the header and its
//!   validation.
//! * [`hash`]: keyed hashes: map a token, a session, a subject to a line and a tag.
//! * [`table`]: lines of tags: look up, insert, remove.
//! * [`live`]: the line that says whether the segment is valid, and until when.
//! * [`reader`], [`writer`]: the two ends. [`segment`] makes and opens the sealed memfd under them.
//! * [`publisher`]: the daemon's end: the writer, its successor while the table grows, and retired
//!   segments.
//! * [`attach`]: how a reader gets the file descriptor.
//! * [`clock`]: the two coarse clocks.
//!
//! Invariant: a hit, an uncertain or a damaged word only means "ask the daemon", whose list is
//! exact. A reader never rejects a token by what it finds here, and accepts only by a live,
//! unexpired segment of the right epoch.

pub mod attach;
pub mod clock;
pub mod hash;
pub mod heap;
pub mod layout;
pub mod live;
pub mod publisher;
pub mod reader;
pub mod segment;
pub mod table;
pub mod words;
pub mod writer;

pub use attach::{AttachError, Attachment};
pub use clock::{CoarseClock, Now, SegmentClock};
pub use hash::{Probe, Subject, TokenFacts};
pub use layout::{Geometry, LayoutError};
pub use live::{Live, SegmentState};
pub use publisher::Publisher;
pub use reader::{AskReason, Reader, SegmentLookup};
pub use segment::SegmentError;
pub use writer::{SegmentEntry, Stats, Writer};
