//! Memory as 64-bit atomic words: the only file of the repository with `unsafe`.
//!
//! The only references to mapped bytes are `&AtomicU64`, since another process may write them at
//! any time.
#![allow(unsafe_code)]

use std::os::fd::AsFd;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use memmap2::{MmapOptions, MmapRaw};

/// Bytes in a word.
pub const WORD_BYTES: usize = 8;
/// Bytes in a cache line.
const LINE_BYTES: usize = 64;

/// Words that can be read while another thread or process writes them.
pub trait Load {
    /// The number of words.
    fn len(&self) -> usize;

    /// True if there are no words.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the eight words that begin at `first`, each by a relaxed atomic load.
    ///
    /// # Panics
    /// If they are out of range; the geometry is validated when a segment is opened, so they are
    /// not.
    fn line(&self, first: usize) -> [u64; 8];

    /// Reads one word by a relaxed atomic load. Panics as [`Load::line`].
    fn load(&self, index: usize) -> u64;

    /// Prefetches the line at `first`; no effect if there is no such line.
    #[inline]
    fn fetch(&self, first: usize) {
        let _ = first;
    }

    /// Orders all earlier loads before all later ones, with the [`WordStore::publish`] that they read
    /// from.
    fn acquire(&self);
}

/// Words that only this process writes.
pub trait WordStore: Load {
    /// Stores one word so that a reader that sees it (and then calls [`Load::acquire`]) also sees
    /// every earlier store.
    /// Panics as [`Load::line`].
    fn publish(&self, index: usize, value: u64);
}

/// A file mapped read-only and shared.
#[derive(Debug)]
pub struct Words(MmapRaw);

/// A file mapped shared and writable.
#[derive(Debug)]
pub struct WordsMut(MmapRaw);

impl Words {
    /// Maps the first `bytes` of `file`. The caller has checked that it is that long and sealed
    /// against shrinking. Page tables are filled at once, so that no later load faults.
    ///
    /// # Errors
    /// The error of `mmap`.
    pub fn map(file: impl AsFd, bytes: usize) -> std::io::Result<Self> {
        MmapOptions::new().len(bytes).populate().map_raw_read_only(file.as_fd().as_raw_fd()).map(Self)
    }
}

impl WordsMut {
    /// Maps the first `bytes` of `file`, which the caller has made that long and allocated.
    ///
    /// # Errors
    /// The error of `mmap`.
    pub fn map(file: impl AsFd, bytes: usize) -> std::io::Result<Self> {
        MmapOptions::new().len(bytes).map_raw(file.as_fd().as_raw_fd()).map(Self)
    }
}

/// Prefetches every cache line of `value`. Changes only timing.
#[inline]
pub fn fetch<T>(value: &T) {
    let first = std::ptr::from_ref(value).cast::<u8>();
    for offset in (0..size_of::<T>()).step_by(LINE_BYTES) {
        fetch_at(first.wrapping_add(offset));
    }
}

#[inline]
fn fetch_at(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing that a program could see and never faults, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

#[inline]
fn word(map: &MmapRaw, index: usize) -> &AtomicU64 {
    assert!(index < map.len() / WORD_BYTES, "word {index} lies outside the segment");
    // SAFETY:
    // * `index` was just checked against the length of the mapping, so the result points into it;
    // * `index * 8` cannot overflow, being below the mapping's length.
    let pointer = unsafe { map.as_mut_ptr().cast::<u64>().add(index) };
    // SAFETY:
    // * aligned: a mapping begins at a page, and the pointer is a whole number of words after that;
    // * alive: the mapping is unmapped only when `map` is dropped, and the reference borrows `map`;
    // * mapped: the file is sealed against shrinking (readers check it before they map; the writer made it so), so
    //   every page stays backed;
    // * no data race: all access in every process that takes part is by atomic operations of the same size; a process
    //   that breaks this cannot exist besides the writer, since the file is sealed against further writable mappings;
    // * over a read-only mapping nothing but relaxed loads is done through it (`Words` has no store), which is what
    //   `std::sync::atomic` ("Atomic accesses to read-only memory") permits for words of this size.
    unsafe { AtomicU64::from_ptr(pointer) }
}

#[inline]
fn line(map: &MmapRaw, first: usize) -> [u64; 8] {
    assert!(first < (map.len() / WORD_BYTES).saturating_sub(7), "line at word {first} lies outside the segment");
    // SAFETY: `first + 7` was just checked against the length of the mapping, so eight words begin at the result.
    let pointer = unsafe { map.as_mut_ptr().cast::<u64>().add(first) };
    // SAFETY: for each of the eight words as in `word`, condition by condition; an array has its elements' alignment.
    let words: &[AtomicU64; 8] = unsafe { &*pointer.cast() };
    // Unrolled by hand: the compiler does not always unroll loops of this size, and this is the hot
    // path.
    let [a, b, c, d, e, f, g, h] = words;
    let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
    [load(a), load(b), load(c), load(d), load(e), load(f), load(g), load(h)]
}

impl Load for Words {
    fn len(&self) -> usize {
        self.0.len() / WORD_BYTES
    }

    #[inline]
    fn fetch(&self, first: usize) {
        // Any address is valid for a hint, even a wrapped one.
        fetch_at(self.0.as_ptr().wrapping_add(first.wrapping_mul(WORD_BYTES)));
    }

    #[inline]
    fn line(&self, first: usize) -> [u64; 8] {
        line(&self.0, first)
    }

    #[inline]
    fn load(&self, index: usize) -> u64 {
        word(&self.0, index).load(Ordering::Relaxed)
    }

    #[inline]
    fn acquire(&self) {
        fence(Ordering::Acquire);
    }
}

impl Load for WordsMut {
    fn len(&self) -> usize {
        self.0.len() / WORD_BYTES
    }

    #[inline]
    fn line(&self, first: usize) -> [u64; 8] {
        line(&self.0, first)
    }

    #[inline]
    fn load(&self, index: usize) -> u64 {
        word(&self.0, index).load(Ordering::Relaxed)
    }

    #[inline]
    fn acquire(&self) {
        fence(Ordering::Acquire);
    }
}

impl WordStore for WordsMut {
    #[inline]
    fn publish(&self, index: usize, value: u64) {
        word(&self.0, index).store(value, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use rustix::mm::{MprotectFlags, mprotect};

    use crate::{Geometry, Writer};

    #[test]
    fn reader_mapping_cannot_be_made_writable() {
        let (_writer, fd) = Writer::create(Geometry::for_entries(0)).unwrap();
        let words = super::Words::map(&fd, 4096).unwrap();
        // SAFETY: asks the kernel to change the protection of a mapping that lives on; should it agree, the test fails
        // and nothing is written.
        let changed =
            unsafe { mprotect(words.0.as_mut_ptr().cast(), 4096, MprotectFlags::READ | MprotectFlags::WRITE) };
        assert_eq!(changed, Err(rustix::io::Errno::ACCESS));
    }
}
