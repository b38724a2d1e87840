//! The feed task: loads the revocations, keeps them current, and serves the attach socket.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sidegate_runtime::bind_error;
use sidegate_runtime::clock::reading;
use sidegate_runtime::fault_log::FaultLog;
use sidegate_runtime::feed::Source;
use sidegate_runtime::feed::driver::{self, Intervals};
use sidegate_runtime::feed::status::Status;
use sidegate_runtime::program::open_files_max;
use sidegate_runtime::socket::Listener;
use sidegate_shm::attach::{Allow, AttachServer, SegmentOffer};
use tokio::sync::watch;

use crate::config::{Config, FeedSource};
use crate::snapshot::{self, SnapshotWriter};
use crate::verifier::Verifier;

/// How often the segment's validity is extended: ten times before it would lapse.
const TICK_EVERY: Duration = Duration::from_millis(100);
/// The number of ticks between two sweeps for expired entries.
const TICKS_PER_SWEEP: u32 = 100;

/// The most connected readers of shared memory: a quarter of the open files, 1,024 at most.
pub fn readers_max() -> usize {
    (open_files_max() / 4).min(1024)
}

/// Follows the feed of `config` until `stop`.
pub async fn follow(config: Config, verifier: Arc<Verifier>, status: Arc<Status>, stop: watch::Receiver<bool>) {
    match config.feed.source.clone() {
        FeedSource::Redis(source) => follow_source(*source, config, verifier, status, stop).await,
        FeedSource::Issuer(source) => follow_source(*source, config, verifier, status, stop).await,
    }
}

async fn follow_source<S: Source>(
    source: S,
    config: Config,
    verifier: Arc<Verifier>,
    status: Arc<Status>,
    mut stop: watch::Receiver<bool>,
) {
    let staleness_max = Duration::from_millis(config.staleness.max_ms);
    let pace = Intervals::every(config.feed.probe_interval).waiting_for_replay(config.feed.replay_wait, staleness_max);
    let snapshot_file = config.feed.snapshot_file.clone();
    let _housekeeping = Housekeeping::start(Arc::clone(&verifier));
    let state = Arc::clone(verifier.state());
    // The feed may be down: the snapshot has the number of partitions.
    let checkpoints = match snapshot::load(snapshot_file.as_deref()) {
        Some(kept) => kept.restore(&state, reading()),
        None => match driver::partitions(&source, &pace, &status, &mut stop).await {
            Some(partitions) => {
                state.begin(partitions);
                Vec::new()
            }
            None => return,
        },
    };
    let writer = snapshot_file.map(|path| SnapshotWriter::start(path, verifier, Arc::clone(&status)));
    if let Some(Err(error)) = &writer {
        tracing::error!(%error, "starting the snapshot thread failed; SNAPSHOT_FILE is not written");
    }
    let partitions = state.index().partitions();
    driver::follow(Arc::new(source), partitions, checkpoints, state, pace, status, stop).await;
}

/// A thread beside the runtime, so that a busy runtime does not let readers' validity lapse. It
/// extends the validity, sweeps expired entries, and resizes the segment. Dropping stops it.
struct Housekeeping {
    stop: Arc<AtomicBool>,
}

impl Housekeeping {
    fn start(verifier: Arc<Verifier>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let keep = move || {
            let (mut ticks, faults): (u32, _) = (0, FaultLog::new());
            while !stopped.load(Ordering::Acquire) {
                ticks = ticks.wrapping_add(1);
                if let Some(segment) = verifier.segment() {
                    segment.tick(verifier.tokens(), verifier.check_time());
                    match segment.resize(verifier.tokens(), verifier.check_time()) {
                        Err(error) => {
                            if let Some(unlogged) = faults.happened(&error.to_string()) {
                                tracing::warn!(%error, unlogged, "the shared memory segment cannot grow; clients ask over the socket more often");
                            }
                        }
                        Ok(()) => {
                            if faults.ended() {
                                tracing::info!("the shared memory segment can grow again");
                            }
                        }
                    }
                }
                if ticks.is_multiple_of(TICKS_PER_SWEEP) {
                    verifier.expire();
                }
                std::thread::sleep(TICK_EVERY);
            }
            if let Some(segment) = verifier.segment() {
                segment.close();
            }
        };
        if let Err(error) = std::thread::Builder::new().name("housekeeping".into()).spawn(keep) {
            tracing::error!(%error, "starting the housekeeping thread failed; clients check every token over the socket");
        }
        Self { stop }
    }
}

impl Drop for Housekeeping {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// The attach socket's listener; closed when dropped.
#[derive(Debug)]
pub struct AttachListener {
    offer: Arc<SegmentOffer>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl AttachListener {
    /// Binds `ATTACH_SOCKET` and serves it from a thread; `None` if it is off.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub fn open(config: &Config) -> io::Result<Option<Self>> {
        let Some(path) = &config.attach.socket else { return Ok(None) };
        let bound = Listener::unix(path, config.listen.socket_mode, config.listen.socket_group);
        let bound = bound.map_err(|error| bind_error::unix("ATTACH_SOCKET", path, &error))?;
        let Listener::Unix(listener, file) = bound else { return Ok(None) };
        let offer = SegmentOffer::new()?;
        let allow = Allow { uids: config.attach.uids.clone(), gids: config.attach.gids.clone() };
        let mut server = AttachServer::new(listener.into_std()?, allow, Arc::clone(&offer))?.readers_max(readers_max());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serve = move || {
            let _removed_at_the_end = file;
            if let Err(error) = server.run(&stopped) {
                tracing::error!(%error, "serving ATTACH_SOCKET failed; new clients check every token over the socket until a restart");
            }
        };
        let thread = Some(std::thread::Builder::new().name("attach".into()).spawn(serve)?);
        Ok(Some(Self { offer, stop, thread }))
    }

    /// Where the publisher offers segments.
    pub const fn offer(&self) -> &Arc<SegmentOffer> {
        &self.offer
    }
}

impl Drop for AttachListener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _it_has_logged = thread.join();
        }
    }
}
