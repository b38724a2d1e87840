//! The daemon's end: the current segment, its successor while that is being filled, and retired
//! segments.

use std::sync::Arc;

use crate::attach::SegmentOffer;
use crate::clock::Now;
use crate::layout::Geometry;
use crate::live::{Live, SegmentState};
use crate::segment::SegmentError;
use crate::words::WordsMut;
use crate::writer::{SegmentEntry, Stats, Writer};

/// Publishes revocations to every reader on the host, whichever segment it uses.
///
/// The caller has the exact set, passes each live entry once, and calls [`Publisher::tick`] several
/// times a second.
#[derive(Debug)]
pub struct Publisher {
    current: Writer<WordsMut>,
    filling: Option<(Writer<WordsMut>, std::os::fd::OwnedFd)>,
    retired: Vec<Writer<WordsMut>>,
    offer: Arc<SegmentOffer>,
    iat_floor_s: u64,
    live: Live,
}

impl Publisher {
    /// Creates and offers the first segment.
    ///
    /// # Errors
    /// As [`Writer::create`].
    pub fn new(geometry: Geometry, offer: Arc<SegmentOffer>) -> Result<Self, SegmentError> {
        let (current, fd) = Writer::create(geometry)?;
        offer.set(current.id(), geometry.bytes(), fd);
        let live = current.live();
        Ok(Self { current, filling: None, retired: Vec::new(), offer, iat_floor_s: 0, live })
    }

    /// The segment to name in answers from now on; read it *before* checking the token.
    pub fn segment(&self) -> u64 {
        self.current.id()
    }

    /// Publishes an entry in every segment that a reader may be using.
    pub fn insert(&mut self, entry: &SegmentEntry<'_>) {
        self.current.insert(entry);
        for writer in &mut self.retired {
            writer.insert(entry);
        }
        if let Some((writer, _)) = &mut self.filling {
            writer.insert_if_absent(entry);
        }
    }

    /// Removes an entry; see [`Writer::remove`] for when that is allowed.
    pub fn remove(&mut self, entry: &SegmentEntry<'_>) {
        for writer in self.everywhere() {
            writer.remove(entry);
        }
    }

    /// Makes readers ask about every token with `iat` at or before this time.
    pub fn raise_iat_floor(&mut self, iat_s: u64) {
        self.iat_floor_s = self.iat_floor_s.max(iat_s);
        for writer in self.everywhere() {
            writer.raise_iat_floor(iat_s);
        }
    }

    /// Publishes the live line. Retired segments get all of it except a longer validity, and are
    /// dropped when theirs has passed.
    pub fn tick(&mut self, live: &Live, now: Now) {
        self.live = *live;
        self.current.set_live(live);
        self.retired.retain_mut(|writer| {
            let mut last = *live;
            let before = writer.live();
            last.valid_until_monotonic_ns = before.valid_until_monotonic_ns.min(live.valid_until_monotonic_ns);
            last.valid_until_realtime_ns = before.valid_until_realtime_ns.min(live.valid_until_realtime_ns);
            writer.set_live(&last);
            now.monotonic_ns < last.valid_until_monotonic_ns && now.realtime_ns < last.valid_until_realtime_ns
        });
    }

    /// Invalidates all segments at once: the daemon is stopping, or has lost its feed for good.
    pub fn close(&mut self) {
        let closed = Live { state: SegmentState::Closed, ..self.live };
        for writer in self.everywhere() {
            writer.set_live(&closed);
        }
    }

    /// The geometry of a successor, if the segment needs one and none is being filled.
    pub fn wants_resize(&self) -> Option<Geometry> {
        if self.filling.is_some() { None } else { self.current.wants_resize() }
    }

    /// Begins to fill a successor. From now on pass every live entry to [`Publisher::feed`], a few
    /// thousand at a time with ticks in between, and then call [`Publisher::switch`].
    ///
    /// # Errors
    /// As [`Writer::create`]; the old segment then stays in use, and readers ask more often.
    pub fn begin_resize(&mut self, geometry: Geometry) -> Result<(), SegmentError> {
        self.filling = Some(Writer::create(geometry)?);
        Ok(())
    }

    /// Adds an entry of the index to the successor, if one is being filled.
    pub fn feed(&mut self, entry: &SegmentEntry<'_>) {
        if let Some((writer, _)) = &mut self.filling {
            writer.insert_if_absent(entry);
        }
    }

    /// Switches to the filled successor, and retires the previous segment.
    pub fn switch(&mut self) {
        let Some((mut next, fd)) = self.filling.take() else { return };
        next.raise_iat_floor(self.iat_floor_s);
        next.set_live(&self.live);
        self.offer.set(next.id(), next.geometry().bytes(), fd);
        let mut old = std::mem::replace(&mut self.current, next);
        old.set_successor(self.current.id());
        self.retired.push(old);
    }

    /// The statistics of the current segment.
    pub fn stats(&self) -> Stats {
        self.current.stats()
    }

    /// The number of readers connected to the attach socket.
    pub fn readers(&self) -> usize {
        self.offer.readers()
    }

    fn everywhere(&mut self) -> impl Iterator<Item = &mut Writer<WordsMut>> {
        let filling = self.filling.as_mut().map(|(writer, _)| writer);
        std::iter::once(&mut self.current).chain(filling).chain(&mut self.retired)
    }
}
