//! The journal as a file: what a restart, a torn tail, a wrong clock and a full disk leave of it.

use super::*;
use crate::domain::session::TokenLifetimes;
use sidegate_common::log_protocol::Position;
use sidegate_common::revocation::Target;
use std::os::unix::fs::PermissionsExt as _;

const LIFETIMES: TokenLifetimes =
    TokenLifetimes { access_ttl: 1, idle_ttl: 1, absolute_ttl: 1, retry_window: 0, lifetime_max: 60 };

fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("sidegate-journal-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder.join("journal")
}

fn owner(sole: bool) -> Owner {
    Owner { prefix: "{test:0}".into(), partitions: 2, sole }
}

fn open(path: &Path) -> Journal {
    Journal::open(path, &owner(false), StoreCounts::default()).unwrap()
}

fn key(kid: &str) -> ReplayEntry {
    let position = Some(Position { ms: unix_now().0 * 1000, sequence: 0 });
    ReplayEntry::done(1, Target::Key { kid: kid.into() }, &LIFETIMES, position, UnixTime(5))
}

fn proof() -> Proof {
    let last = Position { ms: 5, sequence: 0 };
    Proof { epoch: "e".into(), replid: "r".into(), last, since: UnixTime(7), now: UnixTime(1000) }
}

/// Entries as the file has them.
async fn held(journal: Journal) -> Vec<(ReplayEntry, bool)> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        journal.each(|replay_entry, own| all.push((replay_entry, own))).unwrap();
        all
    });
    reading.await.unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart_and_private() {
    let path = scratch("restart");
    let journal = open(&path);
    assert!(matches!(Journal::open(&path, &owner(false), StoreCounts::default()), Err(JournalError::InUse(_))));
    assert!(journal.acknowledged(&key("k1")).await);
    journal.logged(1, &key("k1").revocation);
    journal.logged(0, &key("k2").revocation);
    journal.revoked(0, &key("k3").revocation);
    journal.proven(1, proof()).await;
    drop(journal);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let journal = open(&path);
    assert_eq!(journal.proofs(), HashMap::from([(1, proof())]));
    let held = held(journal).await;
    let kinds: Vec<_> = held
        .iter()
        .map(|(replay_entry, own)| (replay_entry.partition, replay_entry.position.is_some(), *own))
        .collect();
    assert_eq!(
        kinds,
        [(1, true, true), (0, false, false)],
        "our own is not written twice, and a key that was only pushed not at all"
    );
}

#[tokio::test]
async fn completeness_is_claimed_only_while_no_revocation_can_be_missing() {
    let path = scratch("claims");
    let journal = open(&path);
    assert_eq!(journal.complete_since(1, UnixTime(1000)), None, "nothing was ever proven");
    journal.proven(1, proof()).await;
    assert_eq!(journal.complete_since(1, UnixTime(1100)), Some(UnixTime(7)));
    assert_eq!(journal.complete_since(1, UnixTime(1101)), None, "others may have revoked since");
    assert_eq!(journal.complete_since(0, UnixTime(1000)), None, "of another partition");
    drop(journal);
    let sole = Journal::open(&path, &owner(true), StoreCounts::default()).unwrap();
    assert_eq!(sole.complete_since(1, UnixTime(9_999_999)), Some(UnixTime(7)), "there are no others");
}

#[tokio::test]
async fn a_torn_tail_is_dropped_and_a_hole_proves_nothing() {
    let path = scratch("torn");
    let journal = open(&path);
    assert!(journal.acknowledged(&key("k1")).await);
    journal.proven(1, proof()).await;
    drop(journal);
    let whole = std::fs::read(&path).unwrap();
    let more = Record::Entry { own: true, partition: 1, position: None, revocation: key("k2").revocation }.to_bytes();
    std::fs::write(&path, [whole.as_slice(), &more[..more.len() - 1]].concat()).unwrap();
    let journal = open(&path);
    assert_eq!(journal.proofs().len(), 1);
    drop(journal);
    let mut holed = [whole.as_slice(), &more, &more].concat();
    holed[whole.len() + 8] ^= 1;
    std::fs::write(&path, holed).unwrap();
    let journal = open(&path);
    assert_eq!(journal.proofs().len(), 0);
    assert_eq!(held(journal).await.len(), 1);
}

#[tokio::test]
async fn what_is_no_journal_of_ours_is_left_alone() {
    let path = scratch("foreign");
    for (bytes, misplaced) in [
        (b"something else".to_vec(), false),
        (b"SGJRNL\0\x02".to_vec(), false),
        ([&MAGIC[..], &Record::Head { partitions: 9, prefix: "other".into() }.to_bytes()].concat(), true),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let refused = Journal::open(&path, &owner(false), StoreCounts::default()).err().unwrap();
        assert_eq!(matches!(refused, JournalError::Misplaced(_)), misplaced, "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

#[tokio::test]
async fn what_has_expired_leaves_the_file() {
    let path = scratch("expiry");
    let journal = open(&path);
    let mut old = key("old");
    old.revocation.expires_at = UnixTime(1_000_000_000);
    assert!(journal.acknowledged(&old).await && journal.acknowledged(&key("new")).await);
    drop(journal);
    let before = std::fs::metadata(&path).unwrap().len();
    let journal = open(&path);
    assert!(std::fs::metadata(&path).unwrap().len() < before);
    assert_eq!(held(journal).await.len(), 1);
}

#[tokio::test]
async fn a_clock_that_is_ahead_drops_nothing_that_has_not_expired_by_the_store() {
    let path = scratch("ahead");
    let journal = open(&path);
    journal.proven(1, proof()).await;
    let mut old = key("k1");
    // By this host's clock it has expired long ago; by the store's, which said 1000 at the last proof, it has not.
    old.revocation.expires_at = UnixTime(2000);
    assert!(journal.acknowledged(&old).await);
    drop(journal);
    assert_eq!(held(open(&path)).await.len(), 1);
}

#[test]
fn a_full_disk_is_answered_as_such_and_ends_the_proofs() {
    let counts = StoreCounts::default();
    let hole = Arc::new(AtomicBool::new(false));
    let writer = Writer {
        path: scratch("full"),
        head: Record::Head { partitions: 1, prefix: String::new() },
        file: OpenOptions::new().write(true).open("/dev/full").unwrap(),
        bytes: 0,
        compacted: 0,
        hole: Arc::clone(&hole),
        failing: None,
        counts: counts.clone(),
    };
    let (jobs, queue) = mpsc::channel();
    let (done, written) = oneshot::channel();
    jobs.send(Job::Write(b"x".to_vec(), Some(done))).unwrap();
    drop(jobs);
    writer.run(&queue);
    assert_eq!(written.blocking_recv(), Ok(false));
    assert!(hole.load(Ordering::Acquire) && counts.journal_failures.get() == 1);
}
