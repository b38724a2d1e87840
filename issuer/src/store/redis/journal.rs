//! A local file with every revocation that this issuer acknowledged or received, from which the log is built again after Redis
//! lost its data (`REVOCATION_JOURNAL`); those of all tokens or a key only once they are known to be in the log. It holds identifiers, never a token.

mod format;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use sidegate_common::revocation::{Revocation, Target};
use sidegate_common::revocation_state::Observer;
use sidegate_common::time::UnixTime;
use sidegate_runtime::clock::unix_now;
use tokio::sync::oneshot;

use super::replay_entry::ReplayEntry;
use crate::store::counts::StoreCounts;
pub(super) use format::Proof;
use format::{End, MAGIC, Record};

/// How much may be written at once before it is synced.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// How many chunks are read ahead of who replays them.
const CHUNKS_AHEAD: usize = 4;
/// A journal is written anew when it has grown to twice what was alive in it, and by this much.
const COMPACTION_BYTES_MIN: u64 = 16 << 20;

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refuses.
    #[error("REVOCATION_JOURNAL: {0}: {1}")]
    Io(PathBuf, io::Error),
    /// Another issuer writes to it.
    #[error("REVOCATION_JOURNAL: another process has {0} open: each issuer needs a journal of its own")]
    InUse(PathBuf),
    /// Not a journal, or of another version.
    #[error("REVOCATION_JOURNAL: {0} is not a journal of this version of Sidegate; move it away")]
    Foreign(PathBuf),
    /// Of another data set.
    #[error(
        "REVOCATION_JOURNAL: {0} belongs to another REDIS_PREFIX or REVOCATION_PARTITIONS; move it away, or set another file"
    )]
    Misplaced(PathBuf),
}

/// How errors name it.
pub(super) const NAME: &str = "the journal";
/// What is wrong with it while logouts are refused for its sake.
pub(super) const UNWRITABLE: &str = "REVOCATION_JOURNAL cannot be written";
/// How much room there must be for the next entry, in bytes.
const ROOM_BYTES: u64 = 256;

enum Job {
    Write(Vec<u8>, Option<oneshot::Sender<bool>>),
    /// Answered once everything before it has been written.
    Flush(mpsc::Sender<()>),
    /// Answered with whether the next entry could be written.
    LogHead(oneshot::Sender<bool>),
}

/// A journal that is written to.
pub(super) struct Journal {
    path: PathBuf,
    jobs: mpsc::Sender<Job>,
    state: Mutex<State>,
    /// An entry could not be written: nothing is proven any more until the log has been read anew, by a restart.
    holed: Arc<AtomicBool>,
    /// Whether this is the only issuer, so that no other can have revoked anything.
    sole: bool,
    _lock: File,
}

#[derive(Default)]
struct State {
    proofs: HashMap<u16, Proof>,
    /// Own entries that were written recently, in two generations: the feed brings them once more.
    written: [HashSet<Vec<u8>>; 2],
}

/// What a journal belongs to.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) prefix: String,
    pub(super) partitions: u16,
    /// `REVOCATION_JOURNAL_SOLE`.
    pub(super) sole: bool,
}

impl Observer for Journal {
    /// Writes an entry that the feed brought, unless it is one of our own. A revocation of many users' tokens waits for
    /// [`Journal::logged`]: one that a failover took away must not come back by us.
    fn revoked(&self, partition: u16, revocation: &Revocation) {
        if !matches!(revocation.target, Target::All { .. } | Target::Key { .. } | Target::Claim { .. }) {
            self.received(partition, revocation);
        }
    }

    fn logged(&self, partition: u16, revocation: &Revocation) {
        self.received(partition, revocation);
    }
}

impl Journal {
    fn received(&self, partition: u16, revocation: &Revocation) {
        let replay_entry = ReplayEntry {
            partition,
            revocation: revocation.clone(),
            position: None,
            keep_sessions: false,
            moved: false,
        };
        let key = replay_entry.key().1;
        if self.locked().written.iter().any(|generation| generation.contains(&key)) {
            return;
        }
        let entry = Record::Entry { own: false, partition, position: None, revocation: replay_entry.revocation };
        let sent = self.jobs.send(Job::Write(entry.to_bytes(), None));
        // The writer lives as long as this does.
        debug_assert!(sent.is_ok(), "the writer thread has ended");
    }

    /// Opens or makes the journal at `path`, drops what has expired, and starts its writer.
    pub(super) fn open(path: &Path, owner: &Owner, counts: StoreCounts) -> Result<Self, JournalError> {
        let failed = |error| JournalError::Io(path.to_owned(), error);
        let lock_path = beside(path, ".lock");
        let lock = private().write(true).create(true).truncate(false).open(&lock_path).map_err(failed)?;
        let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&lock, exclusive).map_err(|_| JournalError::InUse(path.to_owned()))?;
        let head = Record::Head { partitions: owner.partitions, prefix: owner.prefix.clone() };
        let proofs = match File::open(path) {
            Ok(file) => examine(path, file, &head)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
            Err(error) => return Err(failed(error)),
        };
        let (file, bytes) = compact(path, &head, &proofs).map_err(failed)?;
        let (jobs, queue) = mpsc::channel();
        counts.journal_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let holed = Arc::new(AtomicBool::new(false));
        let hole = Arc::clone(&holed);
        let writer = Writer { path: path.to_owned(), head, file, bytes, compacted: bytes, hole, failing: None, counts };
        let thread = std::thread::Builder::new().name("journal".to_owned());
        thread.spawn(move || writer.run(&queue)).map_err(failed)?;
        let state = Mutex::new(State { proofs, ..State::default() });
        Ok(Self { path: path.to_owned(), jobs, state, holed, sole: owner.sole, _lock: lock })
    }

    /// Writes an entry that the log has taken; true once it is on disk.
    pub(super) async fn acknowledged(&self, replay_entry: &ReplayEntry) -> bool {
        let entry = Record::Entry {
            own: true,
            partition: replay_entry.partition,
            position: replay_entry.position,
            revocation: replay_entry.revocation.clone(),
        };
        self.locked().written[0].insert(replay_entry.key().1);
        let (done, written) = oneshot::channel();
        let sent = self.jobs.send(Job::Write(entry.to_bytes(), Some(done))).is_ok();
        sent && written.await.unwrap_or(false)
    }

    /// True if the next entry could be written: there is room for it, and the last one was written unless room was all it
    /// lacked.
    pub(super) async fn is_writable(&self) -> bool {
        let (done, found) = oneshot::channel();
        self.jobs.send(Job::LogHead(done)).is_ok() && found.await.unwrap_or(false)
    }

    /// Records that everything the partition's log had at that moment has been received.
    pub(super) async fn proven(&self, partition: u16, proof: Proof) {
        if self.holed.load(Ordering::Acquire) {
            return;
        }
        let (done, written) = oneshot::channel();
        let sent = self.jobs.send(Job::Write(Record::Proof(partition, proof.clone()).to_bytes(), Some(done))).is_ok();
        let written = sent && written.await.unwrap_or(false);
        if written {
            let mut state = self.locked();
            state.proofs.insert(partition, proof);
            let older = std::mem::take(&mut state.written[0]);
            state.written[1] = older;
        }
    }

    /// The last proof of each partition, as the file had it at the start.
    pub(super) fn proofs(&self) -> HashMap<u16, Proof> {
        self.locked().proofs.clone()
    }

    /// Since when the journal is complete at `now` (the store's clock), if that is known. A revocation
    /// that the feed did not bring is recent enough for a running issuer to replay it; if this is the
    /// only issuer, no other can have revoked.
    pub(super) fn complete_since(&self, partition: u16, now: UnixTime) -> Option<UnixTime> {
        let state = self.locked();
        let proof = state.proofs.get(&partition).filter(|_| !self.holed.load(Ordering::Acquire))?;
        let recent = now.0.saturating_sub(proof.now.0) <= super::log_observer::COVERED.as_secs();
        (self.sole || recent).then_some(proof.since)
    }

    /// Visits every entry in the file that has not expired; blocks.
    pub(super) fn each(&self, mut visit: impl FnMut(ReplayEntry, bool)) -> io::Result<()> {
        let (done, flushed) = mpsc::channel();
        if self.jobs.send(Job::Flush(done)).is_ok() {
            let _whatever_came_of_it = flushed.recv();
        }
        let now = surely_past(&self.locked().proofs);
        let mut file = BufReader::new(File::open(&self.path)?);
        file.seek(io::SeekFrom::Start(MAGIC.len() as u64))?;
        format::read(file, |record| {
            if let Record::Entry { own, partition, position, revocation } = record
                && revocation.expires_at >= now
            {
                visit(ReplayEntry { partition, revocation, position, keep_sessions: false, moved: false }, own);
            }
        })?;
        Ok(())
    }

    /// The same for one partition, off the runtime's threads, some at a time.
    pub(super) fn replay_entries(
        self: &Arc<Self>,
        of: u16,
        at_once: usize,
    ) -> tokio::sync::mpsc::Receiver<io::Result<Vec<ReplayEntry>>> {
        let (chunks, stream) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        let journal = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let mut chunk = Vec::with_capacity(at_once);
            let read = journal.each(|replay_entry, _| {
                if replay_entry.partition == of {
                    chunk.push(replay_entry);
                }
                if chunk.len() == at_once {
                    // Who has gone away needs no more.
                    let _gone = chunks.blocking_send(Ok(std::mem::take(&mut chunk)));
                }
            });
            let _gone = chunks.blocking_send(read.map(|()| chunk));
        });
        stream
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Reads a journal's proofs. One with a hole in it proves nothing; a torn tail was never acknowledged.
fn examine(path: &Path, file: File, head: &Record) -> Result<HashMap<u16, Proof>, JournalError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => JournalError::Foreign(path.to_owned()),
        _ => JournalError::Io(path.to_owned(), error),
    };
    let mut file = BufReader::new(file);
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic).map_err(failed)?;
    if magic != *MAGIC {
        return Err(JournalError::Foreign(path.to_owned()));
    }
    let (mut first, mut proofs) = (None, HashMap::new());
    let (good, end) = format::read(&mut file, |record| {
        if let Record::Proof(partition, proof) = &record {
            proofs.insert(*partition, proof.clone());
        }
        first.get_or_insert(record);
    })
    .map_err(failed)?;
    if first.is_some_and(|first| first != *head) {
        return Err(JournalError::Misplaced(path.to_owned()));
    }
    if end == End::Torn {
        let mut rest = Vec::new();
        file.seek(io::SeekFrom::Start(good)).and_then(|_| file.read_to_end(&mut rest)).map_err(failed)?;
        tracing::warn!(bytes = rest.len(), "the journal's last write was cut off; dropping those bytes");
        if format::has_record(&rest) {
            tracing::error!(
                at = good,
                "the journal is damaged: all after this offset is dropped, and for now a log rebuilt from it counts as incomplete"
            );
            proofs.clear();
        }
    }
    Ok(proofs)
}

/// A moment that has passed: what expired before it can be dropped. This host's clock may be ahead; what the store's clock said
/// at the last proof is certain.
fn surely_past(proofs: &HashMap<u16, Proof>) -> UnixTime {
    let now = unix_now();
    proofs.values().map(|proof| proof.now).max().map_or(now, |proven| proven.min(now))
}

/// Writes the journal anew without what has expired: beside it first, and then in its place. Gives the file, to be
/// appended to, and its length.
fn compact(path: &Path, head: &Record, proofs: &HashMap<u16, Proof>) -> io::Result<(File, u64)> {
    let new_path = beside(path, ".new");
    let file = private().write(true).create(true).truncate(true).open(&new_path)?;
    let mut out = BufWriter::with_capacity(BATCH_BYTES_MAX, file);
    let mut bytes = MAGIC.len() as u64;
    out.write_all(MAGIC)?;
    let mut written = Ok(());
    let now = surely_past(proofs);
    let mut put = |record: &Record| {
        let record = record.to_bytes();
        bytes += record.len() as u64;
        if written.is_ok() {
            written = out.write_all(&record);
        }
    };
    put(head);
    match File::open(path) {
        Ok(old) => {
            let mut old = BufReader::with_capacity(BATCH_BYTES_MAX, old);
            old.seek(io::SeekFrom::Start(MAGIC.len() as u64))?;
            format::read(old, |record| match &record {
                Record::Entry { revocation, .. } if revocation.expires_at >= now => put(&record),
                _ => {}
            })?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    proofs.iter().for_each(|(partition, proof)| put(&Record::Proof(*partition, proof.clone())));
    written?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    std::fs::rename(&new_path, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()?;
    Ok((file, bytes))
}

/// The thread that writes: whatever has queued up goes to disk in one go, and only then is anybody answered.
struct Writer {
    path: PathBuf,
    head: Record,
    file: File,
    bytes: u64,
    compacted: u64,
    hole: Arc<AtomicBool>,
    /// Why the last write failed, if it did.
    failing: Option<io::ErrorKind>,
    counts: StoreCounts,
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            let mut batch = Batch::default();
            batch.take(job);
            while batch.bytes.len() < BATCH_BYTES_MAX
                && let Ok(job) = queue.try_recv()
            {
                batch.take(job);
            }
            let written = self.write(&batch.bytes);
            match &written {
                Err(error) => {
                    self.hole.store(true, Ordering::Release);
                    self.counts.journal_failures.inc();
                    // Once for as long as it lasts: the metric counts every failure.
                    if self.failing.is_none() {
                        tracing::error!(%error, setting = "REVOCATION_JOURNAL", path = %self.path.display(), "journal write failed: revocations are answered 503; repair the disk, then restart the issuer, as the journal has a gap until then");
                    }
                    self.failing = Some(error.kind());
                }
                Ok(()) if !batch.bytes.is_empty() => self.works_again(),
                Ok(()) => {}
            }
            for look in batch.looks {
                let _gone = look.send(self.is_writable());
            }
            for waiting in batch.waiting {
                let _gone = waiting.send(written.is_ok());
            }
            for flush in batch.flushes {
                let _gone = flush.send(());
            }
            self.compact_if_due();
        }
    }

    fn works_again(&mut self) {
        if self.failing.take().is_some() {
            tracing::info!(path = %self.path.display(), "journal writes work again");
        }
    }

    fn is_writable(&mut self) -> bool {
        use rustix::fs::{FallocateFlags, fallocate};
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.bytes, ROOM_BYTES) {
            Ok(()) => {
                if matches!(self.failing, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
                    self.works_again();
                }
                self.failing.is_none()
            }
            Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
                if self.failing.replace(io::ErrorKind::StorageFull).is_none() {
                    tracing::error!(setting = "REVOCATION_JOURNAL", path = %self.path.display(), "no room for the journal: revocations are answered 503");
                }
                false
            }
            // A file system that cannot say.
            Err(_) => self.failing.is_none(),
        }
    }

    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(batch).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.bytes += batch.len() as u64,
            // Half a record must not stand before the next one.
            Err(_) => {
                self.file.set_len(self.bytes)?;
                self.file.seek(io::SeekFrom::Start(self.bytes))?;
            }
        }
        self.counts.journal_bytes.set(i64::try_from(self.bytes).unwrap_or(i64::MAX));
        written
    }

    fn compact_if_due(&mut self) {
        if self.bytes < self.compacted * 2 + COMPACTION_BYTES_MIN {
            return;
        }
        let mut proofs = HashMap::new();
        let read = File::open(&self.path).and_then(|file| {
            let mut file = BufReader::with_capacity(BATCH_BYTES_MAX, file);
            file.seek(io::SeekFrom::Start(MAGIC.len() as u64))?;
            format::read(file, |record| {
                if let Record::Proof(partition, proof) = record {
                    proofs.insert(partition, proof);
                }
            })
        });
        match read.and_then(|_| compact(&self.path, &self.head, &proofs)) {
            Ok((file, bytes)) => (self.file, self.bytes, self.compacted) = (file, bytes, bytes),
            Err(error) => {
                // The old file is whole and stays in use; the next attempt comes when it has doubled again.
                self.compacted = self.bytes;
                tracing::error!(%error, "journal compaction failed");
            }
        }
    }
}

/// What goes to disk in one go, and who waits for it.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    waiting: Vec<oneshot::Sender<bool>>,
    flushes: Vec<mpsc::Sender<()>>,
    looks: Vec<oneshot::Sender<bool>>,
}

impl Batch {
    fn take(&mut self, job: Job) {
        match job {
            Job::Write(bytes, done) => {
                self.bytes.extend(bytes);
                self.waiting.extend(done);
            }
            Job::Flush(done) => self.flushes.push(done),
            Job::LogHead(done) => self.looks.push(done),
        }
    }
}
