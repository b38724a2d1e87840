//! Tests of the snapshot: round trip, damage, clocks, temporary files.

use super::*;
use crate::testing;
use sidegate_common::clock::CheckTime;
use sidegate_common::revocation::{Id, SubjectTag};
use sidegate_common::revocation_state::{OnStale, Unavailable};
use sidegate_common::token_checker::TokenChecker;

/// A checker whose list is unproven.
fn tokens() -> Arc<TokenChecker> {
    testing::unproven(OnStale::Deny)
}

fn entries() -> Vec<Revocation> {
    let subject = Some(SubjectTag::of("42"));
    let id = |text| Id::parse(text).unwrap();
    let targets = [
        Target::Token { jti: id("AAECAwQFBgcICQoLDA0ODw"), subject },
        Target::Session { sid: id("order-17"), subject: None },
        Target::Subject { sub: "42".into(), threshold: UnixTime(9) },
        Target::Key { kid: "k".into() },
    ];
    targets.map(|target| Revocation { target, expires_at: UnixTime(4_000_000_000) }).to_vec()
}

fn checkpoint() -> Checkpoint {
    let lineage = Lineage { epoch: "e".into(), replication_id: "h".into() };
    Checkpoint { lineage, last: Position { ms: 5, sequence: 1 }, since: UnixTime(3), proven: UnixTime(1_700_000_000) }
}

const NOW: UnixTime = UnixTime(1_700_000_000);

#[test]
fn snapshot_of_a_fast_clock_is_not_resumed() {
    let path = scratch("ahead");
    let before = tokens();
    entries().iter().for_each(|entry| assert!(before.state().apply(0, entry)));
    write(&path, &[checkpoint()], before.state().index(), UnixTime(1_700_003_600)).unwrap();
    let after = tokens();
    let now = ClockReading { wall_ms: 1_700_000_001_000, monotonic_ms: 50_000_000 };
    assert!(read(&path).unwrap().unwrap().restore(after.state(), now).is_empty());
    assert_eq!(after.state().index().counts().total(), 4, "its entries count all the same");
    std::fs::remove_file(path).unwrap();
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("sidegate-snapshot-{}-{name}", std::process::id()))
}

#[test]
fn snapshot_round_trips_and_is_stale() {
    let path = scratch("whole");
    let before = tokens();
    entries().iter().for_each(|entry| assert!(before.state().apply(0, entry)));
    let all = Revocation { target: Target::All { threshold: UnixTime(77) }, expires_at: UnixTime(0) };
    before.state().apply(0, &all);
    before.state().since(0, UnixTime(66));
    assert_eq!(write(&path, &[checkpoint()], before.state().index(), NOW).unwrap(), 4);
    let kept = read(&path).unwrap().unwrap();
    let after = tokens();
    let now = ClockReading { wall_ms: 1_700_000_001_000, monotonic_ms: 50_000_000 };
    assert_eq!(kept.restore(after.state(), now), vec![checkpoint()]);
    assert_eq!(after.state().index().counts(), before.state().index().counts());
    assert_eq!(after.state().index().marks(0), (UnixTime(77), UnixTime(66)));
    let (token, _) = testing::verified("a-jti");
    let at = CheckTime { monotonic_ms: now.monotonic_ms, ..testing::AT };
    assert!(after.check(&token, at).is_err());
    assert!(matches!(after.ensure_ready(at), Err(Unavailable::Stale(_))), "a second old, and stale all the same");
    std::fs::remove_file(path).unwrap();
}

/// The log may have entries that it has not confirmed yet, and a restart must not lose them.
#[test]
fn snapshot_has_unconfirmed_pushes() {
    let path = scratch("unconfirmed");
    let (before, after) = (tokens(), tokens());
    let all = Revocation { target: Target::All { threshold: UnixTime(77) }, expires_at: UnixTime(0) };
    for (sequence, entry) in (0..).zip(entries().into_iter().chain([all])) {
        assert!(before.state().push(0, &(Position { ms: 9, sequence }, entry)));
    }
    assert_eq!(before.state().index().counts().total(), 0);
    write(&path, &[checkpoint()], before.state().index(), NOW).unwrap();
    read(&path)
        .unwrap()
        .unwrap()
        .restore(after.state(), ClockReading { wall_ms: 1_700_000_001_000, monotonic_ms: 50_000_000 });
    let mut held = vec![];
    after.state().index().each(|revocation| held.push(revocation));
    assert!(entries().iter().all(|entry| held.contains(entry)), "{held:?}");
    assert_eq!((held.len(), after.state().index().marks(0).0), (4, UnixTime(77)));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn freshly_booted_machine_waits_for_the_log() {
    let path = scratch("boot");
    write(&path, &[checkpoint()], tokens().state().index(), NOW).unwrap();
    let after = tokens();
    let now = ClockReading { wall_ms: 1_700_000_001_000, monotonic_ms: 10 };
    read(&path).unwrap().unwrap().restore(after.state(), now);
    assert_eq!(after.state().proven(), None);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn damaged_or_other_file_is_rejected() {
    let path = scratch("cut");
    let before = tokens();
    entries().iter().for_each(|entry| assert!(before.state().apply(0, entry)));
    write(&path, &[checkpoint()], before.state().index(), NOW).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for cut in 0..bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        assert!(matches!(read(&path), Err(SnapshotError::Damaged)), "cut at {cut}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &flipped).unwrap();
        assert!(read(&path).is_err(), "bit {bit} flipped");
    }
    let other = String::from_utf8_lossy(&bytes[..10]).replace("\"v\":2", "\"v\":1");
    std::fs::write(&path, [other.as_bytes(), &bytes[10..]].concat()).unwrap();
    assert!(matches!(read(&path), Err(SnapshotError::Damaged)), "another format");
    std::fs::remove_file(&path).unwrap();
    assert!(read(&path).unwrap().is_none());
}

/// Verifiers that share a folder do not overwrite each other's temporary files, and a planted
/// link is not followed.
#[test]
fn snapshot_has_a_unique_temporary_name() {
    let folder = scratch("folder");
    std::fs::create_dir(&folder).unwrap();
    let (path, victim) = (folder.join("list"), folder.join("victim"));
    std::fs::write(&victim, "as it was").unwrap();
    for name in ["list.new", "list"] {
        std::os::unix::fs::symlink(&victim, folder.join(name)).unwrap();
    }
    assert!(matches!(read(&path), Err(SnapshotError::Io(_))), "a link is no snapshot");
    assert_ne!(temporary(&path), temporary(&path));
    write(&path, &[checkpoint()], tokens().state().index(), NOW).unwrap();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "as it was");
    assert!(std::fs::symlink_metadata(&path).unwrap().is_file() && read(&path).unwrap().is_some());
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3, "no temporary file is left");
    std::fs::remove_dir_all(folder).unwrap();
}
