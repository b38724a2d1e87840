//! The reader/writer protocol, explored exhaustively by loom, and mutants of it that loom must
//! catch.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p sidegate-shm --test loom --target-dir target/loom`
#![cfg(loom)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests may fail loudly")]

use std::cell::Cell;

use loom::thread;
use sidegate_shm::heap::HeapWords;
use sidegate_shm::words::{Load, WordStore};
use sidegate_shm::{
    Geometry, Live, Now, Probe, Reader, SegmentClock, SegmentEntry, SegmentLookup, SegmentState, Subject, TokenFacts,
    Writer,
};

const SECOND: u64 = 1_000_000_000;
const ONE_LINE: Geometry = Geometry { table_lines: 1, unbound_lines: 1 };
const TWO_LINES: Geometry = Geometry { table_lines: 2, unbound_lines: 1 };
const SUBJECT: Subject = Subject(5);
const SESSION: SegmentEntry<'static> = SegmentEntry::Session { sid: b"s", subject: Some(SUBJECT) };

/// Both clocks read nine seconds.
struct Nine;

impl SegmentClock for Nine {
    fn now(&self) -> Now {
        Now { monotonic_ns: 9 * SECOND, realtime_ns: 9 * SECOND }
    }
}

/// A reader's words without the `skip`-th fence of each check; 0 skips none.
#[derive(Clone)]
struct Fences {
    words: HeapWords,
    skip: usize,
    seen: Cell<usize>,
}

impl Load for Fences {
    fn len(&self) -> usize {
        self.words.len()
    }

    fn line(&self, first: usize) -> [u64; 8] {
        self.words.line(first)
    }

    fn load(&self, index: usize) -> u64 {
        self.words.load(index)
    }

    fn acquire(&self) {
        self.seen.set(self.seen.get() + 1);
        if self.seen.get() != self.skip {
            self.words.acquire();
        }
    }
}

/// A writer's words; `relaxed` omits the release ordering.
struct Stores {
    words: HeapWords,
    relaxed: bool,
}

impl Load for Stores {
    fn len(&self) -> usize {
        self.words.len()
    }

    fn line(&self, first: usize) -> [u64; 8] {
        self.words.line(first)
    }

    fn load(&self, index: usize) -> u64 {
        self.words.load(index)
    }

    fn acquire(&self) {
        self.words.acquire();
    }
}

impl WordStore for Stores {
    fn publish(&self, index: usize, value: u64) {
        if self.relaxed {
            self.words.store_relaxed(index, value);
        } else {
            self.words.publish(index, value);
        }
    }
}

/// The mutation under test.
#[derive(Clone, Copy, Default)]
struct Mutation {
    skip_fence: usize,
    relaxed: bool,
}

fn live(valid_until_s: u64, time_floor_s: u64) -> Live {
    Live {
        valid_until_monotonic_ns: valid_until_s * SECOND,
        valid_until_realtime_ns: valid_until_s * SECOND,
        state: SegmentState::Live,
        key_epoch: 1,
        time_floor_s,
    }
}

/// The token of every scenario: session `s`, expiry 10 s.
fn probe(reader: &Reader<Fences>) -> Probe {
    reader.probe(&TokenFacts { jti: "j", sid: "s", subject: SUBJECT, iat_s: 1, exp_s: 10 })
}

/// Runs `write` beside `readers` checks; none of them may return `Clear`.
fn never_clear(
    mutation: Mutation,
    geometry: Geometry,
    readers: usize,
    before: fn(&mut Writer<Stores>),
    write: fn(&mut Writer<Stores>),
) {
    let mut model = loom::model::Builder::new();
    model.max_branches = 100_000;
    model.preemption_bound = if readers > 1 { Some(3) } else { None };
    model.check(move || {
        let words = HeapWords::new(geometry.words());
        let stores = Stores { words: words.clone(), relaxed: mutation.relaxed };
        let mut writer = Writer::new(stores, geometry, 7, (1, 2), 0);
        before(&mut writer);
        let threads: Vec<_> = (0..readers)
            .map(|_| {
                let words = words.clone();
                thread::spawn(move || {
                    let fences = Fences { words, skip: mutation.skip_fence, seen: Cell::new(0) };
                    let reader = Reader::new(fences).unwrap();
                    let verdict = reader.check(&probe(&reader), 1, &Nine);
                    assert_ne!(verdict, SegmentLookup::Clear, "a revoked token was called good");
                })
            })
            .collect();
        write(&mut writer);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// A revocation arrives while the segment has lapsed; only then is the list promised to be
/// complete.
fn revoke_then_promise(mutation: Mutation, readers: usize) {
    let before = |writer: &mut Writer<Stores>| writer.set_live(&live(5, 0));
    never_clear(mutation, ONE_LINE, readers, before, |writer| {
        writer.insert(&SESSION);
        writer.set_live(&live(100, 0));
    });
}

/// The token expires by the daemon's time, which is ahead of the reader's wall clock, and its entry
/// is removed.
fn expire_then_drop(mutation: Mutation, readers: usize) {
    let before = |writer: &mut Writer<Stores>| {
        writer.insert(&SESSION);
        writer.set_live(&live(100, 8));
    };
    never_clear(mutation, ONE_LINE, readers, before, |writer| {
        writer.set_live(&live(100, 10));
        writer.remove(&SESSION);
    });
}

/// As `revoke_then_promise`, for an identifier whose subject is unknown: the count leads to the
/// other table.
fn revoke_unbound_then_promise(mutation: Mutation) {
    let before = |writer: &mut Writer<Stores>| writer.set_live(&live(5, 0));
    never_clear(mutation, ONE_LINE, 1, before, |writer| {
        writer.insert(&SegmentEntry::Token { jti: b"j", subject: None });
        writer.set_live(&live(100, 0));
    });
}

/// The entry is in the second line of its chain, while other entries come and go in the first line.
fn spilled_entry_stays_found(mutation: Mutation) {
    const FILL: [&[u8]; 8] = [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7"];
    let before = |writer: &mut Writer<Stores>| {
        for sid in FILL {
            writer.insert(&SegmentEntry::Session { sid, subject: Some(SUBJECT) });
        }
        writer.insert(&SESSION);
        writer.set_live(&live(100, 0));
    };
    never_clear(mutation, TWO_LINES, 1, before, |writer| {
        writer.remove(&SegmentEntry::Session { sid: FILL[0], subject: Some(SUBJECT) });
        writer.insert(&SegmentEntry::Token { jti: b"another", subject: Some(SUBJECT) });
        writer.insert(&SegmentEntry::Token { jti: b"a third", subject: Some(SUBJECT) });
    });
}

/// What an open stream does: it keeps the number of changes from before its check, and is looked up again when that differs.
fn good_stream_is_swept_again(mutation: Mutation) {
    let mut model = loom::model::Builder::new();
    model.max_branches = 100_000;
    model.check(move || {
        let words = HeapWords::new(ONE_LINE.words());
        let stores = Stores { words: words.clone(), relaxed: mutation.relaxed };
        let mut writer = Writer::new(stores, ONE_LINE, 7, (1, 2), 0);
        writer.set_live(&live(100, 0));
        let stream = thread::spawn({
            let words = words.clone();
            move || {
                let fences = Fences { words, skip: mutation.skip_fence, seen: Cell::new(0) };
                let reader = Reader::new(fences).unwrap();
                let changes = reader.changes();
                (changes, reader.check(&probe(&reader), 1, &Nine))
            }
        });
        writer.insert(&SESSION);
        let (changes, verdict) = stream.join().unwrap();
        let now = Reader::new(words).unwrap().changes();
        assert!(verdict != SegmentLookup::Clear || changes != now, "a revoked stream would go on");
    });
}

fn caught(mutant: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    std::panic::catch_unwind(mutant).is_err()
}

#[test]
fn revocation_is_visible_with_the_promise() {
    revoke_then_promise(Mutation::default(), 1);
}

#[test]
fn removed_entry_leaves_the_time_floor() {
    expire_then_drop(Mutation::default(), 1);
}

#[test]
fn two_readers_see_the_revocation() {
    expire_then_drop(Mutation::default(), 2);
}

#[test]
fn unbound_entry_is_found_by_its_count() {
    revoke_unbound_then_promise(Mutation::default());
}

#[test]
fn spilled_entry_is_found_while_its_line_changes() {
    spilled_entry_stays_found(Mutation::default());
}

#[test]
fn changes_count_every_revocation_that_a_stream_missed() {
    good_stream_is_swept_again(Mutation::default());
}

#[test]
fn without_first_fence_a_revocation_is_missed() {
    assert!(caught(|| revoke_then_promise(Mutation { skip_fence: 1, relaxed: false }, 1)));
}

#[test]
fn without_second_fence_an_expired_token_passes() {
    assert!(caught(|| expire_then_drop(Mutation { skip_fence: 2, relaxed: false }, 1)));
}

#[test]
fn without_release_ordering_a_revocation_is_missed() {
    assert!(caught(|| revoke_then_promise(Mutation { skip_fence: 0, relaxed: true }, 1)));
    assert!(caught(|| expire_then_drop(Mutation { skip_fence: 0, relaxed: true }, 1)));
    assert!(caught(|| good_stream_is_swept_again(Mutation { skip_fence: 0, relaxed: true })));
}
