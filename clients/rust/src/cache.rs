//! The cache of known tokens: bounded, private, compared completely.
//!
//! Buckets of four, indexed by bytes of the signature, which an attacker cannot choose for a token
//! that the daemon accepts. No call here blocks: a bucket that is being changed counts as a miss.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::{Duration, Instant};

use sidegate_shm::words::fetch;
use sidegate_shm::{Reader, SegmentClock, SegmentLookup};

use crate::thread_cache;
use crate::verified::Verified;

const WAYS: usize = 4;
/// Slots per expected token, since buckets fill unevenly: with three, about 1 in 100 tokens is
/// evicted.
const SLACK: usize = 3;

/// How long a busy bucket may delay the switch to another segment.
const BUSY_MAX: Duration = Duration::from_millis(100);
const BUSY_RETRY: Duration = Duration::from_millis(1);

static NEXT_OWNER: AtomicU64 = AtomicU64::new(1);

pub(crate) struct Cache {
    buckets: Box<[Bucket]>,
    shift: u32,
    /// The identifier of this cache among all caches of the process.
    owner: u64,
}

/// A pair of cache lines. A cold check waits for memory twice: for the bucket, and then for the
/// entry and its line of the table, which are fetched in parallel since the bucket has the
/// addresses of both.
#[derive(Default)]
#[repr(align(128))]
struct Bucket(RwLock<Ways>);

const _: () = assert!(size_of::<Bucket>() == 128, "a bucket must not outgrow its pair of lines");

#[derive(Default)]
struct Ways {
    entries: [Option<Verified>; WAYS],
    reader: Option<Arc<Reader>>,
    /// 32 bits of each entry's token, to skip most comparisons.
    marks: [u32; WAYS],
    /// The home line of each entry in the segment's table.
    homes: [u32; WAYS],
    /// Which entries were used since the clock hand last passed.
    recent: AtomicU8,
    hand: u8,
}

impl Cache {
    /// A cache for about `tokens` tokens.
    pub(crate) fn new(tokens: usize) -> Self {
        let buckets = (tokens * SLACK / WAYS).max(2).next_power_of_two();
        let shift = u64::BITS - buckets.trailing_zeros();
        let owner = NEXT_OWNER.fetch_add(1, Ordering::Relaxed);
        Self { buckets: (0..buckets).map(|_| Bucket::default()).collect(), shift, owner }
    }

    /// The token, if it is cached and still good.
    #[inline]
    pub(crate) fn check(&self, segment: u64, token: &[u8], clock: &impl SegmentClock) -> Option<Verified> {
        let mixed = mix(token)?;
        if let Some(verified) = thread_cache::check(self.owner, segment, mixed, token, clock) {
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
        if reader.check(&entry.probe(), entry.epoch(), clock) != SegmentLookup::Clear {
            return None;
        }
        let recent = 1 << way;
        if ways.recent.load(Ordering::Relaxed) & recent == 0 {
            ways.recent.fetch_or(recent, Ordering::Relaxed);
        }
        thread_cache::offer(self.owner, reader, mixed, entry);
        Some(entry.clone())
    }

    /// The segment for the tokens of this bucket.
    pub(crate) fn reader(&self, token: &[u8]) -> Option<Arc<Reader>> {
        let (_, index) = self.locate(mix(token)?);
        read(&self.buckets[index].0)?.reader.clone()
    }

    /// Caches a good token.
    pub(crate) fn insert(&self, token: &[u8], entry: Verified) {
        let Some((mark, index)) = mix(token).map(|mixed| self.locate(mixed)) else { return };
        let Some(mut ways) = write(&self.buckets[index].0) else { return };
        let way = ways.way(mark).unwrap_or_else(|| ways.victim());
        ways.marks[way] = mark;
        ways.homes[way] = entry.probe().home();
        ways.entries[way] = Some(entry);
    }

    /// Removes a token that is no longer good.
    pub(crate) fn remove(&self, token: &[u8]) {
        let Some((mark, index)) = mix(token).map(|mixed| self.locate(mixed)) else { return };
        let Some(mut ways) = write(&self.buckets[index].0) else { return };
        if let Some(way) = ways.way(mark)
            && ways.entries[way].as_ref().is_some_and(|entry| entry.is_token(token))
        {
            ways.entries[way] = None;
        }
    }

    /// Switches all buckets to another segment. May wait a little; only the worker calls this.
    ///
    /// In a forked child a bucket may be locked for ever, by a thread of the parent that the child
    /// does not have. The bucket is abandoned: its tokens are checked by the daemon.
    pub(crate) fn set_reader(&self, reader: &Arc<Reader>) {
        let adopt = |bucket: &&Bucket| match write(&bucket.0) {
            Some(mut ways) => {
                ways.reader = Some(Arc::clone(reader));
                false
            }
            None => true,
        };
        let mut busy: Vec<&Bucket> = self.buckets.iter().filter(adopt).collect();
        let deadline = Instant::now() + BUSY_MAX;
        while !busy.is_empty() && Instant::now() < deadline {
            std::thread::sleep(BUSY_RETRY);
            busy.retain(adopt);
        }
    }

    /// The low bits are the mark, the high ones select the bucket.
    #[inline]
    fn locate(&self, mixed: u64) -> (u32, usize) {
        (mixed as u32, (mixed >> self.shift) as usize)
    }
}

/// Sixteen bytes of the signature, hashed.
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

    /// An empty slot, or an entry not used since the clock hand last passed.
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::cell::Cell;

    use sidegate_shm::clock::NANOS;
    use sidegate_shm::{CoarseClock, Geometry, Live, Now, SegmentEntry, SegmentState, Writer};

    use super::*;
    use crate::verified::Answer;

    const TOKEN: &str = "header.payload.a-signature-of-some-length";

    /// The machine's clocks, stepped by a test.
    struct Stepped(Cell<(i64, i64)>);

    impl Stepped {
        fn by(&self, monotonic_s: i64, realtime_s: i64) -> &Self {
            self.0.set((monotonic_s * NANOS as i64, realtime_s * NANOS as i64));
            self
        }
    }

    impl SegmentClock for Stepped {
        fn now(&self) -> Now {
            let (now, (monotonic, realtime)) = (CoarseClock.now(), self.0.get());
            Now {
                monotonic_ns: now.monotonic_ns.saturating_add_signed(monotonic),
                realtime_ns: now.realtime_ns.saturating_add_signed(realtime),
            }
        }
    }

    /// The thread cache has the token after the second check, so the following checks cover both
    /// caches.
    #[test]
    fn cached_token_is_checked_every_time() {
        let (mut writer, fd) = Writer::create(Geometry::for_entries(0)).unwrap();
        let now = CoarseClock.now();
        let live = Live {
            valid_until_monotonic_ns: now.monotonic_ns + 60 * NANOS,
            valid_until_realtime_ns: now.realtime_ns + 60 * NANOS,
            state: SegmentState::Live,
            key_epoch: 3,
            time_floor_s: now.realtime_ns / NANOS,
        };
        writer.set_live(&live);
        let reader = Arc::new(Reader::open(&fd).unwrap());
        let cache = Cache::new(16);
        cache.set_reader(&reader);
        let exp = now.realtime_ns / NANOS + 7200;
        let answer = format!(
            r#"{{"claims":{{"iss":"i","aud":"a","sub":"s","client_id":"c","iat":1,"exp":{exp},"jti":"j","sid":"d"}},"segment":"1","epoch":3}}"#
        );
        let answer: Answer<'_> = serde_json::from_str(&answer).unwrap();
        cache.insert(TOKEN.as_bytes(), answer.keep(TOKEN, |facts| Some(reader.probe(facts))).unwrap());
        let (clock, id) = (Stepped(Cell::new((0, 0))), reader.id());
        let good = |clock: &Stepped| cache.check(id, TOKEN.as_bytes(), clock).is_some();
        for _ in 0..4 {
            assert!(good(clock.by(0, 0)));
            assert!(!good(clock.by(61, 0)), "the daemon has died");
            assert!(!good(clock.by(0, 61)), "suspend, or a step of the wall clock");
            assert!(good(clock.by(0, -3600)), "after a step back the other clock decides");
            assert!(!good(clock.by(0, 8000)), "expired as well");
        }
        clock.by(0, 0);
        assert!(cache.check(id, b"header.PAYLOAD.a-signature-of-some-length", &clock).is_none(), "compared whole");
        assert!(cache.check(id ^ 1, TOKEN.as_bytes(), &clock).is_some(), "the shared cache still has it");
        let entry = SegmentEntry::Session { sid: b"d", subject: None };
        writer.insert(&entry);
        assert!(!good(&clock), "revoked");
        assert!(writer.remove(&entry));
        assert!(good(&clock));
        writer.set_live(&Live { key_epoch: 4, ..live });
        assert!(!good(&clock), "its key was retired");
    }

    /// As a thread of the parent leaves it in a forked child.
    #[test]
    fn locked_bucket_does_not_block_the_new_segment() {
        let cache = Cache::new(16);
        let locked = cache.buckets[0].0.write().unwrap();
        let (_writer, fd) = Writer::create(Geometry::for_entries(0)).unwrap();
        let reader = Arc::new(Reader::open(&fd).unwrap());
        cache.set_reader(&reader);
        let has = |bucket: &Bucket| read(&bucket.0).is_some_and(|ways| ways.reader.is_some());
        assert!(cache.buckets[1..].iter().all(has));
        drop(locked);
        assert!(!has(&cache.buckets[0]), "its tokens are checked by the daemon");
    }
}
