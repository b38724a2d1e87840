//! The tokens that this process has seen: bounded, private, compared whole.
//!
//! Buckets of four, indexed by bytes of the signature, which nobody can choose for a token that the daemon calls good.
//! Nothing here ever waits: a bucket that is being changed is as good as one that knows nothing.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use sidegate_shm::words::fetch;
use sidegate_shm::{Clock, Reader, Verdict};

use crate::front;
use crate::verified::Verified;

const WAYS: usize = 4;
/// Places for each token expected, since buckets fill unevenly: with three, about 1 in 100 is crowded out.
const SLACK: usize = 3;

static NEXT_OWNER: AtomicU64 = AtomicU64::new(1);

pub(crate) struct Cache {
    buckets: Box<[Bucket]>,
    shift: u32,
    /// Which cache this is, of all that the process has had.
    owner: u64,
}

/// A pair of cache lines. A cold check waits for memory twice: for these, and then for the entry and its line of the table,
/// which are under way together since the bucket says where both are.
#[derive(Default)]
#[repr(align(128))]
struct Bucket(RwLock<Ways>);

const _: () = assert!(size_of::<Bucket>() == 128, "a bucket must not outgrow its pair of lines");

#[derive(Default)]
struct Ways {
    entries: [Option<Verified>; WAYS],
    reader: Option<Arc<Reader>>,
    /// Which token an entry is of, but for one in four thousand million.
    marks: [u32; WAYS],
    /// Where in the segment's table it would be.
    homes: [u32; WAYS],
    /// Which entries were asked for since the hand last passed.
    recent: AtomicU8,
    hand: u8,
}

impl Cache {
    /// Room for about `tokens`.
    pub(crate) fn new(tokens: usize) -> Self {
        let buckets = (tokens * SLACK / WAYS).max(2).next_power_of_two();
        let shift = u64::BITS - buckets.trailing_zeros();
        let owner = NEXT_OWNER.fetch_add(1, Ordering::Relaxed);
        Self { buckets: (0..buckets).map(|_| Bucket::default()).collect(), shift, owner }
    }

    /// The token, if it is known and nothing speaks against it.
    #[inline]
    pub(crate) fn check(&self, segment: u64, token: &[u8], clock: &impl Clock) -> Option<Verified> {
        let mixed = mix(token)?;
        if let Some(verified) = front::check(self.owner, segment, mixed, token, clock) {
            return Some(verified);
        }
        let (mark, index) = self.locate(mixed);
        let bucket = &self.buckets[index];
        fetch(bucket);
        let ways = read(&bucket.0)?;
        let reader = ways.reader.as_ref()?;
        let way = ways.way(mark)?;
        reader.fetch(ways.homes[way]);
        let entry = ways.entries[way].as_ref().filter(|entry| entry.is_token(token))?;
        if reader.check(&entry.probe(), entry.epoch(), clock) != Verdict::Clear {
            return None;
        }
        let recent = 1 << way;
        if ways.recent.load(Ordering::Relaxed) & recent == 0 {
            ways.recent.fetch_or(recent, Ordering::Relaxed);
        }
        front::show(self.owner, reader, mixed, entry);
        Some(entry.clone())
    }

    /// The segment that tokens of this bucket are looked up in.
    pub(crate) fn reader(&self, token: &[u8]) -> Option<Arc<Reader>> {
        let (_, index) = self.locate(mix(token)?);
        read(&self.buckets[index].0)?.reader.clone()
    }

    /// Keeps a good token.
    pub(crate) fn insert(&self, token: &[u8], entry: Verified) {
        let Some((mark, index)) = mix(token).map(|mixed| self.locate(mixed)) else { return };
        let Some(mut ways) = write(&self.buckets[index].0) else { return };
        let way = ways.way(mark).unwrap_or_else(|| ways.victim());
        ways.marks[way] = mark;
        ways.homes[way] = entry.probe().home();
        ways.entries[way] = Some(entry);
    }

    /// Forgets a token that is good no more.
    pub(crate) fn remove(&self, token: &[u8]) {
        let Some((mark, index)) = mix(token).map(|mixed| self.locate(mixed)) else { return };
        let Some(mut ways) = write(&self.buckets[index].0) else { return };
        if let Some(way) = ways.way(mark)
            && ways.entries[way].as_ref().is_some_and(|entry| entry.is_token(token))
        {
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

    /// The low bits are the mark, the high ones the bucket.
    #[inline]
    fn locate(&self, mixed: u64) -> (u32, usize) {
        (mixed as u32, (mixed >> self.shift) as usize)
    }
}

/// Sixteen bytes of the signature, mixed.
#[inline]
fn mix(token: &[u8]) -> Option<u64> {
    let (rest, last) = token.split_last_chunk::<8>()?;
    let before = rest.last_chunk::<8>()?;
    let bytes = u64::from_ne_bytes(*last) ^ u64::from_ne_bytes(*before).rotate_left(29);
    let product = u128::from(bytes) * 0x9e37_79b9_7f4a_7c15;
    Some((product >> 64) as u64 ^ product as u64)
}

impl Ways {
    #[inline]
    fn way(&self, mark: u32) -> Option<usize> {
        self.marks.iter().position(|&held| held == mark)
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
