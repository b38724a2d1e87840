//! Property tests: the table against a plain list of entries.

use proptest::prelude::*;
use sidegate_shm::heap::HeapWords;
use sidegate_shm::{
    AskReason, Geometry, Live, Now, Reader, SegmentClock, SegmentEntry, SegmentLookup, SegmentState, Stats, Subject,
    TokenFacts, Writer,
};

struct Still;

impl SegmentClock for Still {
    fn now(&self) -> Now {
        Now { monotonic_ns: 1, realtime_ns: 1 }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Model {
    Token(u8, Option<u8>),
    Session(u8, Option<u8>),
    Subject(u8, u8),
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Model),
    Remove(prop::sample::Index),
}

const IDS: [&str; 25] = [
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t", "u", "v", "w",
    "x", "y",
];

fn entry(model: &Model) -> SegmentEntry<'static> {
    let subject = |tag: &Option<u8>| tag.map(|tag| Subject(u64::from(tag)));
    match model {
        Model::Token(id, tag) => SegmentEntry::Token { jti: IDS[usize::from(*id)].as_bytes(), subject: subject(tag) },
        Model::Session(id, tag) => {
            SegmentEntry::Session { sid: IDS[usize::from(*id)].as_bytes(), subject: subject(tag) }
        }
        Model::Subject(tag, at) => {
            SegmentEntry::Subject { subject: Subject(u64::from(*tag)), threshold_s: u64::from(*at) }
        }
    }
}

/// Whether a token of the small world is revoked: an entry's subject is the token's own.
fn dead(entries: &[Model], jti: u8, sid: u8, subject: u8, iat: u8) -> bool {
    entries.iter().any(|entry| match *entry {
        Model::Token(id, of) => id == jti && of.is_none_or(|of| of == subject),
        Model::Session(id, of) => id == sid && of.is_none_or(|of| of == subject),
        Model::Subject(of, at) => of == subject && iat <= at,
    })
}

/// The subject of an identifier: each belongs to one, which an entry may or may not know.
fn owner(id: u8) -> u8 {
    id % 5
}

fn models() -> impl Strategy<Value = Model> {
    let id = 0..IDS.len() as u8;
    let known = prop::bool::weighted(0.8);
    prop_oneof![
        (id.clone(), known).prop_map(|(id, known)| Model::Token(id, known.then_some(owner(id)))),
        (id, known).prop_map(|(id, known)| Model::Session(id, known.then_some(owner(id)))),
        (0..5u8, 1..9u8).prop_map(|(of, at)| Model::Subject(of, at)),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![3 => models().prop_map(Op::Insert), 1 => any::<prop::sample::Index>().prop_map(Op::Remove)];
    prop::collection::vec(op, 0..160)
}

fn pair(geometry: Geometry, key: u64) -> (Writer<HeapWords>, Reader<HeapWords>) {
    let words = HeapWords::new(geometry.words());
    let mut writer = Writer::new(words.clone(), geometry, 7, (key, !key), 0);
    writer.set_live(&Live {
        valid_until_monotonic_ns: 2,
        valid_until_realtime_ns: 2,
        state: SegmentState::Live,
        key_epoch: 1,
        time_floor_s: 0,
    });
    (writer, Reader::new(words).unwrap())
}

fn verdict(reader: &Reader<HeapWords>, jti: u8, sid: u8, subject: u8, iat: u8) -> SegmentLookup {
    let probe = reader.probe(&TokenFacts {
        jti: IDS[usize::from(jti)],
        sid: IDS[usize::from(sid)],
        subject: Subject(u64::from(subject)),
        iat_s: u64::from(iat),
        exp_s: 10,
    });
    reader.check(&probe, 1, &Still)
}

/// Runs the operations; `exact` forbids asking about a token that is not revoked.
fn run(geometry: Geometry, key: u64, ops: &[Op], exact: bool) {
    let (mut writer, reader) = pair(geometry, key);
    let mut entries: Vec<Model> = Vec::new();
    for op in ops {
        match op {
            Op::Insert(model) => {
                writer.insert(&entry(model));
                entries.push(model.clone());
            }
            Op::Remove(index) if !entries.is_empty() => {
                let gone = entries.swap_remove(index.index(entries.len()));
                assert!(writer.remove(&entry(&gone)), "{gone:?} was not there");
            }
            Op::Remove(_) => {}
        }
        assert_eq!(writer.stats().entries, entries.len() as u64);
    }
    for jti in 0..IDS.len() as u8 {
        for (distance, iat) in [(0, 1), (5, 5), (10, 9), (15, 3), (20, 8)] {
            let subject = owner(jti);
            let sid = (jti + distance) % IDS.len() as u8;
            let found = verdict(&reader, jti, sid, subject, iat);
            if dead(&entries, jti, sid, subject, iat) {
                assert!(matches!(found, SegmentLookup::Ask(AskReason::Revoked | AskReason::Saturated)), "{found:?}");
            } else if exact {
                assert_eq!(found, SegmentLookup::Clear);
            }
        }
    }
    for gone in entries.drain(..).rev() {
        assert!(writer.remove(&entry(&gone)));
    }
    let empty = Stats { slots: writer.stats().slots, bytes: writer.stats().bytes, ..Stats::default() };
    assert_eq!(writer.stats(), empty, "something stayed behind");
    for jti in 0..IDS.len() as u8 {
        assert_eq!(verdict(&reader, jti, jti, jti % 5, 0), SegmentLookup::Clear);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn f19_revoked_token_is_never_clear_in_a_full_table(lines in 1..6u64, key: u64, ops in ops()) {
        run(Geometry { table_lines: lines, unbound_lines: lines.min(2) }, key, &ops, false);
    }

    #[test]
    fn reader_asks_only_about_revoked_tokens_if_there_is_room(key: u64, ops in ops().prop_map(|mut ops| { ops.truncate(30); ops })) {
        run(Geometry { table_lines: 4096, unbound_lines: 256 }, key, &ops, true);
    }

    #[test]
    fn probe_round_trips(key: u64, jti in "[!-~]{1,40}", sid in "[!-~]{1,40}", subject in 0..1u64 << 48) {
        let (_, reader) = pair(Geometry { table_lines: 64, unbound_lines: 1 }, key);
        let probe = reader.probe(&TokenFacts { jti: &jti, sid: &sid, subject: Subject(subject), iat_s: 5, exp_s: 6 });
        prop_assert_eq!(sidegate_shm::Probe::from_words(probe.to_words()), probe);
    }
}

#[test]
fn subject_with_100000_logouts_displaces_no_others() {
    let geometry = Geometry::for_entries(10_000);
    let (mut writer, reader) = pair(geometry, 11);
    let names: Vec<String> = (0..100_000).map(|n| format!("session-{n}")).collect();
    let noisy = Some(Subject(99));
    for name in &names {
        writer.insert(&SegmentEntry::Session { sid: name.as_bytes(), subject: noisy });
    }
    let stats = writer.stats();
    assert!(stats.used <= 32, "{stats:?}");
    assert_eq!((stats.entries, stats.crowded_subjects, stats.saturated_lines), (100_000, 1, 0));
    for name in [&names[0], &names[50_000], &names[99_999]] {
        let facts = TokenFacts { jti: "j", sid: name, subject: Subject(99), iat_s: 1, exp_s: 9 };
        assert_eq!(reader.check(&reader.probe(&facts), 1, &Still), SegmentLookup::Ask(AskReason::Revoked));
    }
    for other in (0..50_000).filter(|tag| *tag != 99) {
        let facts = TokenFacts { jti: "j", sid: "s", subject: Subject(other), iat_s: 1, exp_s: 9 };
        assert_eq!(reader.check(&reader.probe(&facts), 1, &Still), SegmentLookup::Clear);
    }
    for name in &names {
        assert!(writer.remove(&SegmentEntry::Session { sid: name.as_bytes(), subject: noisy }));
    }
    assert_eq!(writer.stats().used, 0);
}

#[test]
fn watermark_past_32_bits_asks_about_all_its_tokens() {
    let (mut writer, reader) = pair(Geometry::for_entries(0), 3);
    writer.insert(&SegmentEntry::Subject { subject: Subject(1), threshold_s: 1 << 40 });
    for iat_s in [0, 1 << 33, 1 << 40] {
        let facts = TokenFacts { jti: "j", sid: "s", subject: Subject(1), iat_s, exp_s: u64::MAX };
        assert_eq!(reader.check(&reader.probe(&facts), 1, &Still), SegmentLookup::Ask(AskReason::Revoked));
    }
}

#[test]
fn sixteen_bytes_per_entry_suffice_after_any_growth() {
    let mut geometry = Geometry::for_entries(0);
    let (mut writer, _) = pair(geometry, 5);
    let mut id = 0u64;
    while id < 200_000 {
        writer.insert(&SegmentEntry::Session { sid: &id.to_be_bytes(), subject: Some(Subject(id / 2)) });
        id += 1;
        if let Some(next) = writer.wants_resize() {
            assert!(next.bytes() > geometry.bytes());
            geometry = next;
            (writer, _) = pair(geometry, 5);
            (0..id).for_each(|id| {
                writer.insert(&SegmentEntry::Session { sid: &id.to_be_bytes(), subject: Some(Subject(id / 2)) });
            });
        }
        if id > 100_000 {
            assert!(geometry.bytes() <= 16 * id + 8192, "{} bytes for {id}", geometry.bytes());
        }
    }
    assert_eq!(writer.stats().crowded_subjects, 0);
    (0..id - 1000).for_each(|id| {
        writer.remove(&SegmentEntry::Session { sid: &id.to_be_bytes(), subject: Some(Subject(id / 2)) });
    });
    let smaller = writer.wants_resize().expect("an almost empty table shrinks");
    assert!(smaller.bytes() * 10 < geometry.bytes());
}
