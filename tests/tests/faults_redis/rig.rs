//! One rig: a Redis, fault proxies to it, an issuer's store that writes, two verifiers that follow.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sidegate_common::log_protocol::RedisKeys;
use sidegate_common::revocation::{Revocation, Target};
use sidegate_runtime::clock::monotonic_ms;
use sidegate_tests::daemon::Launched;
use sidegate_tests::fault_proxy::FaultProxy;
use sidegate_tests::random::Random;
use sidegate_tests::redis::Redis;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{EMAIL, Issuer, Verifier};
use sidegate_tests::users;
use tokio::time::sleep;

use super::strike::Fault;
use super::truth::{Totals, Truth};
use super::watcher::{Outside, Watcher};
use super::writer::Writer;

/// With these options kill -9 loses nothing acknowledged; includes the user whose rights can be
/// removed.
pub const OPTIONS: &[&str] = &[
    "--appendonly",
    "yes",
    "--appendfsync",
    "always",
    "--repl-diskless-sync-delay",
    "0",
    "--user",
    "verifier",
    "on",
    ">secret",
    "~*",
    "&*",
    "+@all",
];
/// Limit of polls of a condition. Not a span of time, because a long run may be suspended and
/// resumed.
const LOOKS_MAX: u32 = 3_000;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

pub struct Rig {
    pub redis: Redis,
    pub verifiers: FaultProxy,
    pub issuers: FaultProxy,
    pub truth: Arc<Truth>,
    watcher: Watcher,
    inside: Launched,
    process: Verifier,
    outside: Outside,
    /// A second issuer, a process: its feed receives the writer's acknowledged entries.
    _standby: Issuer,
    /// The offsets of the processes' clocks.
    pub clocks: PathBuf,
    /// How many revocations earlier cycles' issuers have left in good order.
    settled: usize,
    _folder: Scratch,
}

impl Rig {
    pub async fn start(seed: u64) -> Self {
        let redis = Redis::with(OPTIONS).await;
        let (verifiers, issuers) = (FaultProxy::to(redis.port()).await, FaultProxy::to(redis.port()).await);
        let truth = Arc::new(Truth::default());
        Writer::start(&url(&issuers), seed, &truth).await.stop().await;
        let feed = format!("redis://verifier:secret@127.0.0.1:{}/", verifiers.port());
        let replay_wait = ("REPLAY_WAIT", "60s");
        let settings = [("REDIS_URL", feed.as_str()), ("PROBE_INTERVAL", "50ms"), ("MAX_STALENESS", "1s"), replay_wait];
        let inside = Launched::start(Scratch::new(), &settings);
        let folder = Scratch::new();
        let clocks = folder.file("clocks");
        std::fs::write(&clocks, "+0").expect("our own folder");
        let off = off_by(&clocks);
        let off: Vec<_> = off.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let database = folder.file("app.db");
        users::sqlite(&database, &[EMAIL]).await;
        let database = format!("sqlite://{}", database.display());
        let to = url(&issuers);
        let settings =
            [("REDIS_URL", to.as_str()), ("DATABASE_URL", &database), ("REDIS_REQUIRE_PERSISTENCE", "false")];
        let _standby = Issuer::start(&folder, "standby", &[&settings[..], &off].concat()).await;
        // Starts after an issuer that marks the new log as settled: nothing is proven before.
        let settings = [&[("REDIS_URL", feed.as_str()), replay_wait], &off[..]].concat();
        let process = Verifier::start(&folder, "process", &settings).await;
        let watcher = Watcher::start(Arc::clone(&inside.core), Arc::clone(&truth));
        let outside = Outside::default();
        Self {
            redis,
            verifiers,
            issuers,
            truth,
            watcher,
            inside,
            process,
            outside,
            _standby,
            clocks,
            settled: 0,
            _folder: folder,
        }
    }

    /// Writes, strikes, heals, and waits until every entry is proven and checked.
    pub async fn cycle(&mut self, seed: u64, fault: Fault) {
        let name = fault.name();
        println!("seed {seed}: {name}");
        let mut random = Random::new(seed);
        let mut writer = Writer::start(&url(&self.issuers), seed, &self.truth).await;
        sleep(Duration::from_millis(random.between(50, 300))).await;
        if fault == Fault::RollingRestart {
            writer = self.restart_an_issuer(writer, seed, &mut random).await;
        } else {
            self.strike(fault, &mut random).await;
        }
        self.outside.look(&self.process, &self.truth, &mut random, 20).await;

        let healed = monotonic_ms();
        let truth = Arc::clone(&self.truth);
        until("revocations are accepted again", async || truth.newest_ms() > healed).await;
        writer.pause().await;
        if truth.lost().is_some() {
            // The acknowledging issuer runs until it has replayed the entry, which is the condition
            // of the guarantee.
            until("the entries that Redis lost are replayed", async || self.log_has_what_was_lost().await).await;
        }
        let newest = monotonic_ms();
        until("the list is proven", async || self.watcher.look_at_all().0 > newest).await;
        self.watcher.assert_no_violation(&format!("seed {seed}, {name}: SIDEGATE_FAULT_SEED={seed}"));
        assert_eq!(self.watcher.look_at_all().1, 0, "everything acknowledged is held");
        let outside = &mut self.outside;
        until("the process' list is proven", async || {
            outside.look(&self.process, &self.truth, &mut random, 60).await > newest
        })
        .await;
        writer.stop().await;
        self.truth.lose(None);
        self.settled = self.truth.count();
        self.truth.assert_none_refreshed(&format!("seed {seed}, {name}: SIDEGATE_FAULT_SEED={seed}"));
        self.watcher.assert_no_violation(&format!("seed {seed}, {name}: SIDEGATE_FAULT_SEED={seed}"));
    }

    /// True if the log has every entry of this cycle's issuer that Redis may have lost.
    async fn log_has_what_was_lost(&self) -> bool {
        let mut range = redis::cmd("XRANGE");
        range.arg(RedisKeys::new("sidegate", 0).log()).arg("-").arg("+");
        let rows = range.query_async::<Vec<(String, Vec<Vec<u8>>)>>(&mut self.redis.connection().await).await;
        let Ok(rows) = rows else { return false };
        let entries = rows.iter().filter_map(|(_, fields)| Revocation::from_bytes(fields.get(1)?).ok());
        let names: HashSet<String> = entries.map(|entry| name_of(&entry.target)).collect();
        let lost = self.truth.since(self.settled);
        lost.iter().filter(|dead| self.truth.is_lost(dead)).all(|dead| names.contains(&dead.verified.claims().jti))
    }

    pub async fn end(mut self) -> Totals {
        if let Some(task) = self.inside.task.take() {
            self.inside.stop.send_replace(true);
            let _stopped = tokio::time::timeout(Duration::from_secs(20), task).await;
        }
        let refused = Totals::refused_by(&self.truth);
        let refreshes = self.truth.refreshes.load(Ordering::Relaxed);
        Totals { refused, refreshes, asked: self.outside.asked, ..self.watcher.totals() }
    }
}

/// The writer's name for a token, its session and its user.
fn name_of(target: &Target) -> String {
    match target {
        Target::Token { jti: id, .. } | Target::Session { sid: id, .. } => id.to_string(),
        Target::Subject { sub, .. } => sub.trim_start_matches("user-").to_owned(),
        Target::All { .. } | Target::Key { .. } | Target::ForeignSubject { .. } | Target::Claim { .. } => String::new(),
    }
}

/// Settings that shift a program's wall clock by the offset in `file`, if libfaketime is installed.
fn off_by(file: &Path) -> Vec<(&'static str, String)> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|path| path.exists());
    let Some(library) = found else {
        println!("clocks are not shifted: libfaketime is not installed");
        return Vec::new();
    };
    vec![
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

pub fn url(fault_proxy: &FaultProxy) -> String {
    format!("redis://127.0.0.1:{}/", fault_proxy.port())
}

/// Polls until the condition holds.
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    for _ in 0..LOOKS_MAX {
        if so().await {
            return;
        }
        sleep(BETWEEN_LOOKS).await;
    }
    panic!("never: {what}");
}
