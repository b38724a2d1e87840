//! The sealed memfd of a segment: created by the daemon, checked and mapped by a reader.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::clock::{CoarseClock, NANOS, SegmentClock as _};
use crate::layout::{Geometry, LINES_MAX, LayoutError};
use crate::reader::Reader;
use crate::words::{Words, WordsMut};
use crate::writer::Writer;

/// The required seals. Without them a reader could be made to fault, or another process could write
/// the segment.
pub const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

/// The largest segment that a reader maps, in bytes.
pub const BYTES_MAX: u64 = LINES_MAX * 64 + (1 << 20);

/// Why a file descriptor is not a usable segment.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The kernel rejected a call.
    #[error("{0}: {1}")]
    System(&'static str, std::io::Error),
    /// Not a memfd, or not sealed against shrinking and writing.
    #[error("the file is not sealed")]
    Unsealed,
    /// The file has holes, which a read might fail to fill.
    #[error("the file is not fully allocated")]
    Sparse,
    /// Not a segment of a known layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

impl Writer<WordsMut> {
    /// Creates an empty segment, and the descriptor for readers: it can be mapped read-only, but no
    /// process can write, grow, shrink or punch it, or map it writable.
    ///
    /// # Errors
    /// No memory, or a kernel without sealed memfds (before Linux 5.1).
    pub fn create(geometry: Geometry) -> Result<(Self, OwnedFd), SegmentError> {
        let fd = memfd()?;
        let bytes = geometry.bytes();
        rustix::fs::ftruncate(&fd, bytes).map_err(system("ftruncate"))?;
        // Allocated now: if memory is short, this call must fail instead of a later store that
        // would kill the daemon.
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, bytes).map_err(system("fallocate"))?;
        let words = WordsMut::map(&fd, bytes as usize).map_err(|e| SegmentError::System("mmap", e))?;
        let [id, key0, key1] = random_words()?;
        let created_s = CoarseClock.now().realtime_ns / NANOS;
        let writer = Self::new(words, geometry, id.max(1), (key0, key1), created_s);
        rustix::fs::fcntl_add_seals(&fd, SEALS).map_err(system("F_ADD_SEALS"))?;
        Ok((writer, fd))
    }
}

impl Reader<Words> {
    /// Checks seals, size and header of a segment, and maps it read-only.
    ///
    /// # Errors
    /// The first fault; the caller then works without shared memory.
    pub fn open(fd: impl AsFd) -> Result<Self, SegmentError> {
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| SegmentError::Unsealed)?;
        if !seals.contains(SEALS) {
            return Err(SegmentError::Unsealed);
        }
        let stat = rustix::fs::fstat(&fd).map_err(system("fstat"))?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        if !(4096..=BYTES_MAX).contains(&bytes) {
            return Err(LayoutError::Size(bytes).into());
        }
        if u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) < bytes {
            return Err(SegmentError::Sparse);
        }
        let words = Words::map(&fd, bytes as usize).map_err(|e| SegmentError::System("mmap", e))?;
        Ok(Self::new(words)?)
    }
}

fn memfd() -> Result<OwnedFd, SegmentError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Not executable, where the kernel (6.3) supports it.
    match rustix::fs::memfd_create(c"sidegate", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(c"sidegate", flags).map_err(system("memfd_create")),
        made => made.map_err(system("memfd_create")),
    }
}

fn random_words() -> Result<[u64; 3], SegmentError> {
    let mut words = [0; 3];
    for word in &mut words {
        let mut bytes = [0u8; 8];
        // The kernel fills requests this small completely.
        getrandom(&mut bytes, GetRandomFlags::empty()).map_err(system("getrandom"))?;
        *word = u64::from_ne_bytes(bytes);
    }
    Ok(words)
}

fn system(call: &'static str) -> impl Fn(Errno) -> SegmentError {
    move |errno| SegmentError::System(call, errno.into())
}
