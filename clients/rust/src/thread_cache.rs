//! A per-thread cache of frequent tokens, in front of the shared cache and without its lock.
//!
//! A service with a single client sees a single token; sixteen threads that lock its bucket and
//! count references to its entry would contend for two cache lines. So each thread has private
//! copies of the tokens that it saw twice in a row. They are checked exactly like those in the
//! shared cache: against the segment, on every check.

use std::cell::RefCell;
use std::sync::Arc;

use sidegate_shm::{Reader, SegmentClock, SegmentLookup};

use crate::verified::Verified;

const PLACES: usize = 32;

thread_local! {
    static THREAD_CACHE: RefCell<ThreadCache> = const { RefCell::new(ThreadCache { owner: 0, reader: None, places: [const { Place::EMPTY }; PLACES] }) };
}

struct ThreadCache {
    /// The cache that these tokens are from; zero only at first.
    owner: u64,
    reader: Option<Arc<Reader>>,
    places: [Place; PLACES],
}

struct Place {
    /// The last token in this slot, cached or not.
    last: u64,
    kept: Option<Verified>,
}

impl Place {
    const EMPTY: Self = Self { last: 0, kept: None };
}

/// The token, if this thread has it for this cache and segment, and it is still good.
#[inline]
pub(crate) fn check(owner: u64, segment: u64, mark: u64, token: &[u8], clock: &impl SegmentClock) -> Option<Verified> {
    THREAD_CACHE
        .try_with(|cache| {
            let cache = cache.try_borrow().ok()?;
            let place = &cache.places[mark as usize % PLACES];
            let entry = place.kept.as_ref().filter(|_| place.last == mark && cache.owner == owner)?;
            let reader = cache.reader.as_ref().filter(|reader| reader.id() == segment)?;
            let clear =
                entry.is_token(token) && reader.check(&entry.probe(), entry.epoch(), clock) == SegmentLookup::Clear;
            clear.then(|| entry.clone())
        })
        .ok()
        .flatten()
}

/// Offers a token from the shared cache; it is cached if it was the last one offered in its slot.
#[inline]
pub(crate) fn offer(owner: u64, reader: &Arc<Reader>, mark: u64, entry: &Verified) {
    let _thread_is_ending = THREAD_CACHE.try_with(|cache| {
        let Ok(mut cache) = cache.try_borrow_mut() else { return };
        let place = &mut cache.places[mark as usize % PLACES];
        if place.last != mark {
            *place = Place { last: mark, kept: None };
            return;
        }
        keep(&mut cache, owner, reader, mark, entry);
    });
}

#[cold]
fn keep(cache: &mut ThreadCache, owner: u64, reader: &Arc<Reader>, mark: u64, entry: &Verified) {
    if cache.owner != owner || cache.reader.as_ref().is_none_or(|held| held.id() != reader.id()) {
        cache.places = [const { Place::EMPTY }; PLACES];
        (cache.owner, cache.reader) = (owner, Some(Arc::clone(reader)));
    }
    cache.places[mark as usize % PLACES] = Place { last: mark, kept: Some(entry.private_copy()) };
}
