//! The tokens that this process has seen: bounded, private, compared whole.
//!
//! Buckets of five, indexed by bytes of the signature, which nobody can choose for a token that the daemon calls good.
//! Nothing here ever waits: a bucket that is being changed is as good as one that knows nothing.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use sidegate_shm::{Clock, Reader, Verdict};

use crate::verified::Verified;

const WAYS: usize = 5;
/// Places for each token expected, since buckets fill unevenly: with three, fewer than 1 in 200 is crowded out.
const SLACK: usize = 3;

pub(crate) struct Cache {
    buckets: Box<[Bucket]>,
    shift: u32,
}

/// A pair of cache lines, which processors fetch together: a cold check waits for memory once here, once for the entry,
/// and once for the table.
#[derive(Default)]
#[repr(align(128))]
struct Bucket(RwLock<Ways>);

const _: () = assert!(size_of::<Bucket>() == 128, "a bucket must not outgrow its pair of lines");

#[derive(Default)]
struct Ways {
    reader: Option<Arc<Reader>>,
    entries: [Option<Verified>; WAYS],
    marks: [u32; WAYS],
    /// Which entries were asked for since the hand last passed.
    recent: AtomicU8,
    hand: u8,
}

impl Cache {
    /// Room for about `tokens`.
    pub(crate) fn new(tokens: usize) -> Self {
        let buckets = (tokens * SLACK / WAYS).max(2).next_power_of_two();
        let shift = u64::BITS - buckets.trailing_zeros();
        Self { buckets: (0..buckets).map(|_| Bucket::default()).collect(), shift }
    }

    /// The token, if it is known and nothing speaks against it.
    #[inline]
    pub(crate) fn check(&self, token: &[u8], clock: &impl Clock) -> Option<Verified> {
        let (mark, index) = self.locate(token)?;
        let ways = read(&self.buckets[index].0)?;
        let reader = ways.reader.as_ref()?;
        let way = ways.way(mark, token)?;
        let entry = ways.entries[way].as_ref()?;
        if reader.check(&entry.probe(), entry.epoch(), clock) != Verdict::Clear {
            return None;
        }
        let recent = 1 << way;
        if ways.recent.load(Ordering::Relaxed) & recent == 0 {
            ways.recent.fetch_or(recent, Ordering::Relaxed);
        }
        Some(entry.clone())
    }

    /// The segment that tokens of this bucket are looked up in.
    pub(crate) fn reader(&self, token: &[u8]) -> Option<Arc<Reader>> {
        let (_, index) = self.locate(token)?;
        read(&self.buckets[index].0)?.reader.clone()
    }

    /// Keeps a good token.
    pub(crate) fn insert(&self, token: &[u8], entry: Verified) {
        let Some((mark, index)) = self.locate(token) else { return };
        let Some(mut ways) = write(&self.buckets[index].0) else { return };
        let way = ways.way(mark, token).unwrap_or_else(|| ways.victim());
        ways.marks[way] = mark;
        ways.entries[way] = Some(entry);
    }

    /// Forgets a token that is good no more.
    pub(crate) fn remove(&self, token: &[u8]) {
        let Some((mark, index)) = self.locate(token) else { return };
        let Some(mut ways) = write(&self.buckets[index].0) else { return };
        if let Some(way) = ways.way(mark, token) {
            ways.entries[way] = None;
        }
    }

    /// Looks tokens up in another segment from now on. May wait, and is for the worker only.
    pub(crate) fn set_reader(&self, reader: &Arc<Reader>) {
        for bucket in &self.buckets {
            let mut ways = bucket.0.write().unwrap_or_else(PoisonError::into_inner);
            ways.reader = Some(Arc::clone(reader));
        }
    }

    /// Sixteen bytes of the signature, mixed: the low bits are the mark, the high ones the bucket.
    #[inline]
    fn locate(&self, token: &[u8]) -> Option<(u32, usize)> {
        let (rest, last) = token.split_last_chunk::<8>()?;
        let before = rest.last_chunk::<8>()?;
        let bytes = u64::from_ne_bytes(*last) ^ u64::from_ne_bytes(*before).rotate_left(29);
        let product = u128::from(bytes) * 0x9e37_79b9_7f4a_7c15;
        let mixed = (product >> 64) as u64 ^ product as u64;
        Some((mixed as u32, (mixed >> self.shift) as usize))
    }
}

impl Ways {
    #[inline]
    fn way(&self, mark: u32, token: &[u8]) -> Option<usize> {
        (0..WAYS).find(|&way| {
            self.marks[way] == mark && self.entries[way].as_ref().is_some_and(|entry| entry.is_token(token))
        })
    }

    /// An empty place, or that of an entry not asked for since the hand last passed.
    fn victim(&mut self) -> usize {
        if let Some(empty) = self.entries.iter().position(Option::is_none) {
            return empty;
        }
        let recent = self.recent.get_mut();
        loop {
            let way = usize::from(self.hand);
            self.hand = (self.hand + 1) % WAYS as u8;
            if *recent & 1 << way == 0 {
                return way;
            }
            *recent &= !(1 << way);
        }
    }
}

#[inline]
fn read(lock: &RwLock<Ways>) -> Option<RwLockReadGuard<'_, Ways>> {
    match lock.try_read() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

fn write(lock: &RwLock<Ways>) -> Option<RwLockWriteGuard<'_, Ways>> {
    match lock.try_write() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
