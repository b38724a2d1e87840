//! The live line's effect on a verdict: clock steps, epochs, watermarks, states, expiry.

use std::cell::Cell;

use sidegate_shm::heap::HeapWords;
use sidegate_shm::{
    AskReason, Geometry, Live, Now, Probe, Reader, SegmentClock, SegmentEntry, SegmentLookup, SegmentState, Subject,
    TokenFacts, Writer,
};

const SECOND: u64 = 1_000_000_000;

struct Hands(Cell<Now>);

impl SegmentClock for Hands {
    fn now(&self) -> Now {
        self.0.get()
    }
}

struct World {
    writer: Writer<HeapWords>,
    reader: Reader<HeapWords>,
    probe: Probe,
    clock: Hands,
    live: Live,
}

/// A token from 1000 s to 2000 s, checked at 100 s and 1500 s of the two clocks, under a promise
/// for one more second.
fn world() -> World {
    let geometry = Geometry::for_entries(0);
    let words = HeapWords::new(geometry.words());
    let mut writer = Writer::new(words.clone(), geometry, 7, (1, 2), 0);
    let reader = Reader::new(words).unwrap();
    let facts = TokenFacts { jti: "j", sid: "s", subject: Subject(5), iat_s: 1000, exp_s: 2000 };
    let probe = reader.probe(&facts);
    let live = Live {
        valid_until_monotonic_ns: 101 * SECOND,
        valid_until_realtime_ns: 1501 * SECOND,
        state: SegmentState::Live,
        key_epoch: 4,
        time_floor_s: 1500,
    };
    writer.set_live(&live);
    let clock = Hands(Cell::new(Now { monotonic_ns: 100 * SECOND, realtime_ns: 1500 * SECOND }));
    World { writer, reader, probe, clock, live }
}

impl World {
    fn check(&self) -> SegmentLookup {
        self.reader.check(&self.probe, 4, &self.clock)
    }

    fn at(&self, monotonic_s: u64, realtime_s: u64) -> SegmentLookup {
        self.clock.0.set(Now { monotonic_ns: monotonic_s * SECOND, realtime_ns: realtime_s * SECOND });
        self.check()
    }
}

#[test]
fn promise_lapses_by_either_clock() {
    let world = world();
    assert_eq!(world.check(), SegmentLookup::Clear);
    assert_eq!(world.at(101, 1500), SegmentLookup::Ask(AskReason::Lapsed), "the daemon died");
    assert_eq!(world.at(100, 1501), SegmentLookup::Ask(AskReason::Lapsed), "suspend, or a step forward");
    assert_eq!(world.at(100, 3), SegmentLookup::Clear, "a step back leaves it to the monotonic clock");
    assert_eq!(world.at(101, 3), SegmentLookup::Ask(AskReason::Lapsed));
    world.clock.0.set(Now { monotonic_ns: 101 * SECOND - 1, realtime_ns: 1501 * SECOND - 1 });
    assert_eq!(world.check(), SegmentLookup::Clear);
    assert!(!world.reader.wants_replacing(&world.clock));
    world.at(101, 1500);
    assert!(world.reader.wants_replacing(&world.clock));
}

#[test]
fn token_expires_by_the_floor_or_the_wall_clock() {
    let mut world = world();
    world.live.valid_until_realtime_ns = u64::MAX;
    world.writer.set_live(&world.live);
    assert_eq!(world.at(100, 1999), SegmentLookup::Clear);
    assert_eq!(world.at(100, 2000), SegmentLookup::Ask(AskReason::Expired));
    world.live.time_floor_s = 2000;
    world.writer.set_live(&world.live);
    assert_eq!(world.at(100, 1500), SegmentLookup::Ask(AskReason::Expired), "a clock stepped back revives nothing");
    world.live.time_floor_s = 1500;
    world.writer.set_live(&world.live);
    assert_eq!(world.writer.live().time_floor_s, 2000, "the floor never goes back");
}

#[test]
fn epoch_watermark_and_state_make_the_reader_ask() {
    let mut world = world();
    assert_eq!(world.reader.check(&world.probe, 3, &world.clock), SegmentLookup::Ask(AskReason::OtherEpoch));
    world.live.key_epoch = 5;
    world.writer.set_live(&world.live);
    assert_eq!(world.check(), SegmentLookup::Ask(AskReason::OtherEpoch));
    assert_eq!(world.reader.check(&world.probe, 5, &world.clock), SegmentLookup::Clear);

    world.live.key_epoch = 4;
    for state in [SegmentState::Filling, SegmentState::Closed] {
        world.writer.set_live(&Live { state, ..world.live });
        assert_eq!(world.check(), SegmentLookup::Ask(AskReason::NotLive));
        assert_eq!(world.reader.live().state, state);
    }
    world.writer.set_live(&world.live);
    world.writer.raise_iat_floor(999);
    assert_eq!(world.check(), SegmentLookup::Clear);
    world.writer.raise_iat_floor(1000);
    world.writer.raise_iat_floor(3);
    assert_eq!(world.check(), SegmentLookup::Ask(AskReason::Watermark));
}

#[test]
fn probe_for_another_segment_makes_the_reader_ask() {
    let world = world();
    let mut words = world.probe.to_words();
    words[0] += 1;
    let other = Probe::from_words(words);
    assert_eq!(world.reader.check(&other, 4, &world.clock), SegmentLookup::Ask(AskReason::OtherSegment));
}

#[test]
fn each_kind_of_entry_hits_its_token_only() {
    let mut world = world();
    let hits = |world: &mut World, entry: SegmentEntry<'_>| {
        world.writer.insert(&entry);
        let verdict = world.check();
        assert!(world.writer.remove(&entry));
        assert_eq!(world.check(), SegmentLookup::Clear);
        verdict == SegmentLookup::Ask(AskReason::Revoked)
    };
    for subject in [Some(Subject(5)), None] {
        assert!(hits(&mut world, SegmentEntry::Token { jti: b"j", subject }));
        assert!(hits(&mut world, SegmentEntry::Session { sid: b"s", subject }));
        assert!(!hits(&mut world, SegmentEntry::Token { jti: b"s", subject }), "a session's id is not a token's");
        assert!(!hits(&mut world, SegmentEntry::Session { sid: b"j", subject }));
    }
    assert!(hits(&mut world, SegmentEntry::Subject { subject: Subject(5), threshold_s: 1000 }));
    assert!(!hits(&mut world, SegmentEntry::Subject { subject: Subject(5), threshold_s: 999 }));
    assert!(!hits(&mut world, SegmentEntry::Subject { subject: Subject(6), threshold_s: 1000 }));
}

/// From the index and from the feed, while a successor is filled.
#[test]
fn entry_from_index_and_feed_is_stored_once() {
    let World { mut writer, reader, probe, clock, .. } = world();
    for subject in [None, Some(Subject(5))] {
        let entry = SegmentEntry::Token { jti: b"j", subject };
        writer.insert_if_absent(&entry);
        writer.insert_if_absent(&entry);
        assert_eq!(reader.check(&probe, 4, &clock), SegmentLookup::Ask(AskReason::Revoked));
        assert!(writer.remove(&entry), "it was there");
        assert!(!writer.remove(&entry), "and only once");
        assert_eq!(reader.check(&probe, 4, &clock), SegmentLookup::Clear);
    }
}

#[test]
fn live_line_round_trips() {
    let World { writer, live, .. } = world();
    assert_eq!(writer.live(), live);
}

#[test]
fn probe_has_its_home_line() {
    let World { reader, .. } = world();
    let home = |subject| {
        let facts = TokenFacts { jti: "j", sid: "s", subject: Subject(subject), iat_s: 1, exp_s: 2 };
        reader.probe(&facts).home()
    };
    let homes: std::collections::HashSet<_> = (0..100).map(home).collect();
    assert!(homes.len() > 2, "subjects are spread over the lines");
    assert_eq!(home(5), home(5));
}
