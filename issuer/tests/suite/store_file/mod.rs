//! The embedded store's file: on a full disk, replaced by an old copy, and its permissions.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use sidegate_common::log_protocol::Position;
use sidegate_issuer::domain::session::{Refusal, Rotated, Rotation};
use sidegate_issuer::domain::traits::Store as _;
use sidegate_issuer::store::sqlite::{ClockMs, EmbeddedStore, OpenError};

use crate::conformance::LIFETIMES;
use crate::support::{Scratch, eventually};

fn clock() -> ClockMs {
    Arc::new(sidegate_runtime::clock::wall_ms)
}

async fn try_open(folder: &Path) -> Result<EmbeddedStore, OpenError> {
    EmbeddedStore::open(&format!("sqlite://{}", folder.join("store.db").display()), LIFETIMES, clock()).await
}

/// Opens the store once the previous one in this process is closed.
async fn open(folder: &Path) -> EmbeddedStore {
    let mut opened = None;
    eventually("the store opens", async || {
        opened = try_open(folder).await.ok();
        opened.is_some()
    })
    .await;
    opened.unwrap()
}

/// Closes the store: SQLite removes the write-ahead log with the last connection.
async fn close(store: EmbeddedStore, folder: &Path) {
    drop(store);
    eventually("the store is closed", async || !folder.join("store.db-wal").exists()).await;
}

/// A file system of two megabytes, unmounted when dropped.
struct SmallDisk(Scratch);

impl SmallDisk {
    /// `None`, with a message, if this user may not mount.
    fn mount() -> Option<Self> {
        let folder = Scratch::new("small-disk");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(folder.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            Ok(output) => {
                println!("NOT RUN: cannot mount a tmpfs: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("NOT RUN: cannot mount a tmpfs: {error}");
                None
            }
        }
    }

    /// Writes until the file system is full.
    fn fill(&self) {
        let file = self.0.file("filler");
        let mut size = 4 * 1024 * 1024;
        while size >= 512 {
            let mut out = std::fs::File::options().create(true).append(true).open(&file).unwrap();
            if std::io::Write::write_all(&mut out, &vec![0; size]).is_err() {
                size /= 2;
            }
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.file("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_refuses_until_there_is_space() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = open(disk.0.path()).await;
    let before = crate::conformance::new_session("1");
    store.create(&before).await.unwrap();
    let mut acknowledged = 0;
    for round in 0..3 {
        disk.fill();
        // The space left in the files themselves is used up first.
        let mut refused = false;
        for user in 0..2000 {
            match store.revoke_subject(&format!("user-{round}-{user}")).await {
                Ok(_) => acknowledged += 1,
                Err(_) => refused = true,
            }
            if refused {
                break;
            }
        }
        assert!(refused, "the disk is full");
        assert!(store.read(0, &before.sid).await.unwrap().is_some(), "existing data can be read");
        disk.make_room();
        store.probe().await.unwrap();
        let after = crate::conformance::new_session("2");
        store.create(&after).await.unwrap();
        let rotation = Rotation { sid: after.sid.clone(), sub: after.sub.clone(), presented: 0 };
        assert!(matches!(store.rotate(&rotation).await.unwrap(), Rotated::Traded { .. }));
        store.revoke_subject("2").await.unwrap();
        acknowledged += 1;
    }
    let (mut entries, mut after) = (0, Position::START);
    loop {
        let (page, complete) = store.feed().page(after, 1000).await.unwrap();
        entries += page.len();
        after = page.last().map_or(after, |entry| entry.position);
        if complete {
            break;
        }
    }
    assert!(entries >= acknowledged, "{entries} entries, {acknowledged} acknowledged");
    assert_eq!(store.feed().head().last, after, "followers receive all of them");
}

fn put_back(copy: &Path, folder: &Path) {
    std::fs::copy(copy, folder.join("store.db")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_old_copy_is_a_new_data_set_without_sessions() {
    let folder = Scratch::new("old-copy");
    let (path, copy) = (folder.path(), folder.file("copy"));
    let store = open(path).await;
    let (ended, kept) = (crate::conformance::new_session("1"), crate::conformance::new_session("2"));
    store.create(&ended).await.unwrap();
    store.create(&kept).await.unwrap();
    close(store, path).await;
    std::fs::copy(path.join("store.db"), &copy).unwrap();

    // A restart alone changes nothing, and neither does a copy after which nothing was revoked.
    let store = open(path).await;
    let epoch = store.feed().head().epoch;
    close(store, path).await;
    put_back(&copy, path);
    let store = open(path).await;
    assert_eq!(store.feed().head().epoch, epoch);

    let subject = sidegate_common::revocation::SubjectTag::of("1");
    let ending = sidegate_issuer::domain::session::EndSession {
        sid: ended.sid.clone(),
        partition: 0,
        sub: Some("1".into()),
        subject: Some(subject),
        exp_seen: sidegate_common::time::UnixTime(0),
        known: false,
    };
    store.end(&ending).await.unwrap();
    close(store, path).await;
    for without_mark in [false, true] {
        let lost_at = sidegate_runtime::clock::unix_now();
        put_back(&copy, path);
        if without_mark {
            std::fs::remove_file(path.join("store.db.mark")).unwrap();
        }
        let store = open(path).await;
        let head = store.feed().head();
        assert_ne!(head.epoch, epoch, "verifiers see that it is another (mark gone: {without_mark})");
        assert!(head.since >= lost_at, "those that start from now on refuse older tokens");
        for new in [&ended, &kept] {
            let rotation = Rotation { sid: new.sid.clone(), sub: new.sub.clone(), presented: 0 };
            assert_eq!(store.rotate(&rotation).await.unwrap(), Rotated::Refused(Refusal::Revoked));
        }
        let again = crate::conformance::new_session("1");
        assert!(store.create(&again).await.unwrap().issued > head.since);
        close(store, path).await;
        let store = open(path).await;
        assert_eq!(store.feed().head().epoch, head.epoch, "renewed only once");
        store.revoke_subject("9").await.unwrap();
        close(store, path).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn store_without_a_mark_is_accepted() {
    let folder = Scratch::new("no-mark");
    let path = folder.path();
    let store = open(path).await;
    store.revoke_subject("1").await.unwrap();
    let head = store.feed().head();
    close(store, path).await;
    std::fs::remove_file(path.join("store.db.mark")).unwrap();
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", path.join("store.db").display())).await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 0").execute(&pool).await.unwrap();
    pool.close().await;
    let store = open(path).await;
    assert_eq!(store.feed().head(), head);
    assert!(path.join("store.db.mark").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_issuers_user_may_open_the_files() {
    let folder = Scratch::new("modes");
    let path = folder.path();
    let mode = |name: &str| std::fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
    for name in ["store.db", "store.db.lock"] {
        std::fs::write(path.join(name), "").unwrap();
        std::fs::set_permissions(path.join(name), std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    let store = open(path).await;
    store.revoke_subject("1").await.unwrap();
    for name in ["store.db", "store.db-wal", "store.db-shm", "store.db.lock", "store.db.mark"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    let Err(refused) = try_open(path).await else { panic!("it serves one process") };
    let message = refused.to_string();
    for word in ["store.db.lock", "STORE_URL", "REDIS_URL"] {
        assert!(message.contains(word), "{message}");
    }
}
