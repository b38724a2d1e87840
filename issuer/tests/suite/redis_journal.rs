//! `REVOCATION_JOURNAL` against real Redis: the log is rebuilt from the journal after a loss of the
//! data, a restart of the issuer, and both at once.

use crate::support::redis::{PREFIX, RedisServer};
use crate::support::store::*;
use crate::support::{Scratch, eventually};
use sidegate_common::log_protocol::RedisKeys;
use sidegate_common::revocation::Revocation;
use sidegate_common::time::UnixTime;
use sidegate_issuer::domain::traits::Store as _;
use sidegate_issuer::store::redis::{JournalSettings, RedisStore};
use sidegate_runtime::clock::monotonic_ms;

/// A `since` that no data set of a test has.
const LONG_AGO: &str = "1000";

/// An issuer's store with a journal, and its heartbeat.
struct Issuer {
    store: RedisStore,
    beat: tokio::task::JoinHandle<()>,
}

impl Issuer {
    async fn start(server: &RedisServer, folder: &Scratch, sole: bool) -> Self {
        Self::start_with(server, folder, sole, || Some(monotonic_ms())).await
    }

    /// Starts an issuer whose feed is proven complete as `proven` says.
    async fn start_with(server: &RedisServer, folder: &Scratch, sole: bool, proven: fn() -> Option<u64>) -> Self {
        let settings = JournalSettings { path: folder.file("journal"), sole };
        let mut opened = None;
        // The previous issuer may still hold the journal's lock.
        eventually("the journal is free", async || {
            opened = store_at(&server.url()).journaling(&settings).ok();
            opened.is_some()
        })
        .await;
        let store = opened.unwrap();
        store.initialise().await.unwrap();
        let beat = tokio::spawn(store.clone().watch(STRICT, proven));
        Self { store, beat }
    }

    fn die(self) {
        self.beat.abort();
    }
}

fn meta() -> String {
    RedisKeys::new(PREFIX, 0).meta()
}

async fn since(server: &RedisServer) -> Option<String> {
    server.command(&["HGET", &meta(), "since"]).await
}

/// Sets `since` of the data set to long ago, and waits until the journal has a proof that covers
/// entry `last`.
async fn noted(server: &RedisServer, folder: &Scratch) {
    let _set: i64 = server.command(&["HSET", &meta(), "since", LONG_AGO]).await;
    let last = server.log(0).await.last().unwrap().0;
    let needle = [last.ms.to_be_bytes(), last.sequence.to_be_bytes(), 1000_u64.to_be_bytes()].concat();
    eventually("the journal has a proof", async || {
        let bytes = std::fs::read(folder.file("journal")).unwrap();
        bytes.windows(needle.len()).any(|window| window == needle)
    })
    .await;
}

async fn ended_sessions(store: &RedisStore) {
    for number in 1..=3 {
        log_in(store, number).await;
    }
    log_out(store, 1).await.unwrap();
    store.revoke_subject(&user(2)).await.unwrap();
    revoke_token(store, 9).await.unwrap();
}

async fn has_everything(server: &RedisServer) {
    eventually("the log has everything again", async || {
        server.times(&session(1)).await > 0 && server.times(&token(9)).await > 0 && since(server).await.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn journal_keeps_since_after_redis_lost_its_data() {
    let (server, folder) = (RedisServer::start(&[]).await, Scratch::new("journal"));
    let issuer = Issuer::start(&server, &folder, false).await;
    ended_sessions(&issuer.store).await;
    // An entry of another issuer, received by the feed.
    let received = Revocation { target: token(8), expires_at: UnixTime(4_000_000_000) };
    issuer.store.observer().expect("a journal").revoked(0, &received);
    noted(&server, &folder).await;
    let _ok: String = server.command(&["FLUSHALL"]).await;
    has_everything(&server).await;
    assert_eq!(server.times(&token(8)).await, 1, "the other issuer's as well");
    assert_eq!(since(&server).await.as_deref(), Some(LONG_AGO));
}

#[tokio::test(flavor = "multi_thread")]
async fn journal_survives_issuer_restart_and_data_loss() {
    let (mut server, folder) = (RedisServer::start(&["--appendonly", "no"]).await, Scratch::new("journal"));
    let issuer = Issuer::start(&server, &folder, false).await;
    ended_sessions(&issuer.store).await;
    noted(&server, &folder).await;
    issuer.die();
    server.kill();
    server.restart().await;
    let again = Issuer::start(&server, &folder, false).await;
    has_everything(&server).await;
    assert_eq!(since(&server).await.as_deref(), Some(LONG_AGO));
    assert!(again.store.probe().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn journal_survives_issuer_restart_and_restored_backup() {
    let (mut server, folder) = (RedisServer::start(&["--appendonly", "no"]).await, Scratch::new("journal"));
    let issuer = Issuer::start(&server, &folder, false).await;
    for number in 1..=3 {
        log_in(&issuer.store, number).await;
    }
    let _ok: String = server.command(&["SAVE"]).await;
    log_out(&issuer.store, 1).await.unwrap();
    revoke_token(&issuer.store, 9).await.unwrap();
    noted(&server, &folder).await;
    issuer.die();
    server.kill();
    server.restart().await;
    assert_eq!(server.log(0).await, []);
    let again = Issuer::start(&server, &folder, false).await;
    has_everything(&server).await;
    eventually("the session has ended again", async || !is_there(&again.store, 1).await).await;
    assert!(is_there(&again.store, 3).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn journal_without_a_proof_restores_its_entries() {
    let (mut server, folder) = (RedisServer::start(&["--appendonly", "no"]).await, Scratch::new("journal"));
    let issuer = Issuer::start_with(&server, &folder, false, || None).await;
    log_in(&issuer.store, 1).await;
    log_in(&issuer.store, 3).await;
    let _ok: String = server.command(&["SAVE"]).await;
    log_out(&issuer.store, 1).await.unwrap();
    revoke_token(&issuer.store, 9).await.unwrap();
    issuer.die();
    server.kill();
    server.restart().await;
    assert_eq!(server.log(0).await, []);
    let again = Issuer::start(&server, &folder, false).await;
    has_everything(&server).await;
    eventually("the session has ended again", async || !is_there(&again.store, 1).await).await;
    assert!(is_there(&again.store, 3).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_backup_with_an_old_proof_moves_since() {
    let mut server = RedisServer::start(&["--appendonly", "no"]).await;
    let folder = Scratch::new("journal");
    // The journal's proof is too old: the store only knows that the log was longer.
    let issuer = Issuer::start(&server, &folder, false).await;
    log_in(&issuer.store, 1).await;
    let _set: i64 = server.command(&["HSET", &meta(), "since", LONG_AGO]).await;
    let _ok: String = server.command(&["SAVE"]).await;
    log_out(&issuer.store, 1).await.unwrap();
    noted(&server, &folder).await;
    issuer.die();
    server.kill();
    // Only the store's time in the proof is aged: what other issuers revoked since is unknown.
    age_proofs(&folder);
    server.restart().await;
    let _again = Issuer::start(&server, &folder, false).await;
    eventually("since has moved to now", async || {
        since(&server).await.is_some_and(|since| since.parse::<u64>().unwrap() > 1_000_000)
    })
    .await;
}

/// Makes the store's time in every proof a thousand seconds older, checksum included.
fn age_proofs(folder: &Scratch) {
    let bytes = std::fs::read(folder.file("journal")).unwrap();
    let (mut out, mut at) = (bytes[..8].to_vec(), 8);
    while at < bytes.len() {
        let length = usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        let mut payload = bytes[at + 6..at + 6 + length].to_vec();
        if payload[0] == b'P' {
            let now = u64::from_be_bytes(payload[27..35].try_into().unwrap()) - 1000;
            payload[27..35].copy_from_slice(&now.to_be_bytes());
        }
        let framed = [&bytes[at..at + 2], &payload].concat();
        let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&framed);
        out.extend([&bytes[at..at + 2], &sum.to_be_bytes(), &payload].concat());
        at += 6 + length;
    }
    std::fs::write(folder.file("journal"), out).unwrap();
}
