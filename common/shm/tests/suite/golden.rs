//! The byte layout, word by word: a change must change the golden file and the layout's version.

use std::fmt::Write as _;

use sidegate_shm::heap::HeapWords;
use sidegate_shm::words::Load as _;
use sidegate_shm::{Geometry, Live, SegmentEntry, SegmentState, Subject, Writer};

const GOLDEN: &str = include_str!("../golden/segment-v1.txt");

/// A segment with one entry of each kind, under a fixed key.
fn segment() -> HeapWords {
    let geometry = Geometry { table_lines: 5, unbound_lines: 3 };
    let words = HeapWords::new(geometry.words());
    let mut writer =
        Writer::new(words.clone(), geometry, 0x1122_3344_5566_7788, (0x0706_0504_0302_0100, 8), 1_800_000_000);
    let subject = Some(Subject(0xa1b2_c3d4_e5f6));
    writer.insert(&SegmentEntry::Token { jti: b"AAECAwQFBgcICQoLDA0ODw", subject });
    writer.insert(&SegmentEntry::Session { sid: b"EBESExQVFhcYGRobHB0eHw", subject });
    writer.insert(&SegmentEntry::Subject { subject: Subject(0xa1b2_c3d4_e5f6), threshold_s: 1_799_999_999 });
    writer.insert(&SegmentEntry::Token { jti: b"unbound", subject: None });
    for n in 0..9u8 {
        writer.insert(&SegmentEntry::Session { sid: &[b'a' + n], subject: Some(Subject(5)) });
    }
    writer.raise_iat_floor(1_700_000_000);
    writer.set_successor(0x99);
    writer.set_live(&Live {
        valid_until_monotonic_ns: 123_000_000_000,
        valid_until_realtime_ns: 1_800_000_001_000_000_000,
        state: SegmentState::Live,
        key_epoch: 7,
        time_floor_s: 1_800_000_000,
    });
    words
}

fn dump(words: &HeapWords) -> String {
    let mut out = String::new();
    for index in 0..words.len() {
        let word = words.load(index);
        if word != 0 {
            writeln!(out, "{index:5} {word:016x}").unwrap();
        }
    }
    out
}

#[test]
fn layout_matches_the_golden_file() {
    assert_eq!(dump(&segment()), GOLDEN, "docs/shm.md, the layout's version and the golden file change together");
}
