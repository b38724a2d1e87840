//! The writer and readers as real threads over words on the heap: under Miri, which detects races
//! and undefined behaviour, and on the host. loom.rs explores the same protocol exhaustively.
//!
//! `cargo +nightly miri test -p sidegate-shm --test suite race live --target-dir target/miri`

use sidegate_shm::heap::HeapWords;
use sidegate_shm::{
    Geometry, Live, Now, Reader, SegmentClock, SegmentEntry, SegmentLookup, SegmentState, Subject, TokenFacts, Writer,
};

const SECOND: u64 = 1_000_000_000;
const ROUNDS: u64 = if cfg!(miri) { 12 } else { 3000 };

struct Nine;

impl SegmentClock for Nine {
    fn now(&self) -> Now {
        Now { monotonic_ns: 9 * SECOND, realtime_ns: 9 * SECOND }
    }
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

/// Sessions in a table of two lines are revoked, then promised, then expire by the floor, then are
/// removed: a reader must never call their tokens good.
#[test]
fn revoked_token_is_never_clear_while_entries_change() {
    let geometry = Geometry { table_lines: 2, unbound_lines: 1 };
    let words = HeapWords::new(geometry.words());
    let mut writer = Writer::new(words.clone(), geometry, 7, (1, 2), 0);
    writer.set_live(&live(5, 0));
    let names: Vec<String> = (0..12).map(|n| format!("session-{n}")).collect();
    let entry = |n: usize| {
        let subject = (n % 4 != 3).then_some(Subject(n as u64 / 2));
        SegmentEntry::Session { sid: names[n].as_bytes(), subject }
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (reader, names, done) = (Reader::new(words.clone()).unwrap(), &names, &done);
            scope.spawn(move || {
                let probes: Vec<_> = (0..names.len())
                    .map(|n| {
                        let subject = Subject(n as u64 / 2);
                        reader.probe(&TokenFacts { jti: "j", sid: &names[n], subject, iat_s: 1, exp_s: 10 })
                    })
                    .collect();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for probe in &probes {
                        assert_ne!(reader.check(probe, 1, &Nine), SegmentLookup::Clear);
                    }
                }
            });
        }
        for _ in 0..ROUNDS {
            (0..names.len()).for_each(|n| writer.insert(&entry(n)));
            // The floor never goes back, so the tokens stay expired after the first round; the
            // promise comes and goes.
            writer.set_live(&live(100, 0));
            writer.set_live(&live(100, 10));
            (0..names.len()).for_each(|n| assert!(writer.remove(&entry(n))));
            writer.set_live(&live(5, 10));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(writer.stats().entries, 0);
}
