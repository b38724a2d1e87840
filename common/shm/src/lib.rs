//! The shared-memory segment of Sidegate: one writer publishes what is revoked and how fresh that is, any number of
//! readers look it up without a system call, a lock or a store.
//!
//! The map, from the bytes upwards (docs/shm.md is the normative description):
//!
//! * [`words`]: memory seen as atomic 64-bit words. The only file with `unsafe` in it; [`heap`] is the same on the heap.
//! * [`layout`]: where every word is, the geometry of a segment, the header and its validation.
//! * [`hash`]: keyed hashes: which line and which tag stand for a token, a session, a subject.
//! * [`table`]: lines of tags: look up, place, remove.
//! * [`live`]: the one line that says whether the segment may be believed, and until when.
//! * [`reader`], [`writer`]: the two ends. [`segment`] makes and opens the sealed memfd under them.
//! * [`publisher`]: the daemon's end: the writer, its successor while the table grows, and the ones being retired.
//! * [`attach`]: how a reader gets the file descriptor.
//! * [`clock`]: the two coarse clocks.
//!
//! Invariant: a hit, a doubt or a damaged word only ever means "ask the daemon", which is exact. Nothing that a reader
//! finds here denies by itself, and nothing but a live, unlapsed segment of the right epoch allows.

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
pub use clock::{Clock, CoarseClock, Now};
pub use hash::{Probe, Subject, TokenFacts};
pub use layout::{Geometry, LayoutError};
pub use live::{Live, State};
pub use publisher::Publisher;
pub use reader::{AskReason, Reader, Verdict};
pub use segment::SegmentError;
pub use writer::{Entry, Stats, Writer};
