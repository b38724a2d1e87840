//! The few tokens that a thread sees again and again: in front of the cache that all threads share, without its lock.
//!
//! A service that is called by one other service sees one token; sixteen threads that all lock its bucket and count
//! references to its entry would spend their time fighting over two cache lines. So each thread keeps private copies of
//! the tokens that it saw twice with nothing in between. They are judged exactly like those in the cache: by the segment,
//! at every single check.

use std::cell::RefCell;
use std::sync::Arc;

use sidegate_shm::{Clock, Reader, Verdict};

use crate::verified::Verified;

const PLACES: usize = 32;

thread_local! {
    static THREAD_CACHE: RefCell<ThreadCache> = const { RefCell::new(ThreadCache { owner: 0, reader: None, places: [const { Place::EMPTY }; PLACES] }) };
}

struct ThreadCache {
    /// Which client's tokens these are; never zero but at first.
    owner: u64,
    reader: Option<Arc<Reader>>,
    places: [Place; PLACES],
}

struct Place {
    /// The token that was here last, kept or not.
    last: u64,
    kept: Option<Verified>,
}

impl Place {
    const EMPTY: Self = Self { last: 0, kept: None };
}

/// The token, if this thread keeps it for this client and this segment, and nothing speaks against it.
#[inline]
pub(crate) fn check(owner: u64, segment: u64, mark: u64, token: &[u8], clock: &impl Clock) -> Option<Verified> {
    THREAD_CACHE
        .try_with(|cache| {
            let cache = cache.try_borrow().ok()?;
            let place = &cache.places[mark as usize % PLACES];
            let entry = place.kept.as_ref().filter(|_| place.last == mark && cache.owner == owner)?;
            let reader = cache.reader.as_ref().filter(|reader| reader.id() == segment)?;
            let clear = entry.is_token(token) && reader.check(&entry.probe(), entry.epoch(), clock) == Verdict::Clear;
            clear.then(|| entry.clone())
        })
        .ok()
        .flatten()
}

/// Shows the thread a token that the cache had; kept if it was the last one shown in its place.
#[inline]
pub(crate) fn show(owner: u64, reader: &Arc<Reader>, mark: u64, entry: &Verified) {
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
