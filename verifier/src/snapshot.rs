//! The snapshot (`SNAPSHOT_FILE`): the list from which a restarted verifier starts, stale until it
//! has caught up with the log.
//!
//! Format 2: one line of JSON (the checkpoints of the log), then each entry as in the log after its
//! length (u16 BE), then a length of zero, the count (u64 BE), and the CRC-64/XZ of everything
//! before it (u64 BE). A file is replaced by rename, so a crash leaves the old one intact. A file
//! that is cut short, of another format, or with another checksum is rejected as a whole, and the
//! log is read from its start.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crc::{CRC_64_XZ, Crc, Digest, Table};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sidegate_common::index::Index;
use sidegate_common::log_protocol::Position;
use sidegate_common::revocation::{ENTRY_BYTES_MAX, Revocation, Target};
use sidegate_common::revocation_state::RevocationState;
use sidegate_common::sync::{Checkpoint, Lineage, Sink as _};
use sidegate_common::time::{CLOCK_SKEW_SECONDS, ClockReading, UnixTime};
use sidegate_runtime::feed::backoff::random;
use sidegate_runtime::feed::status::Status;

use crate::verifier::Verifier;

const VERSION: u32 = 2;
static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_XZ);
/// The age at which a dead process' temporary file is removed.
const ABANDONED_AFTER: Duration = Duration::from_secs(60 * 60);
/// How often the list is written at run time; it is also written on a stop.
const WRITE_EVERY: Duration = Duration::from_secs(60);
/// The retry interval after a failed write.
const RETRY_EVERY: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The file's data about one partition.
#[derive(Debug, Serialize, Deserialize)]
struct Partition {
    epoch: String,
    #[serde(rename = "history")]
    replication_id: String,
    last: String,
    since: u64,
    proven: u64,
    /// The partition's watermarks: the last revoked `iat`, and the last that cannot be checked.
    all: u64,
    unknowable: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    v: u32,
    /// The verifier's time at writing, seconds since 1970: entries expired by then are not in the
    /// file.
    time: u64,
    partitions: Vec<Partition>,
}

/// A list read from disk.
#[derive(Debug)]
pub struct Kept {
    head: Head,
    checkpoints: Vec<Checkpoint>,
    entries: Vec<Revocation>,
}

/// Why a snapshot is not used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not a snapshot of this format, or damaged.
    #[error("damaged, or not a snapshot of format {VERSION}")]
    Damaged,
    /// The content differs from what was written.
    #[error("its checksum is wrong")]
    Checksum,
}

/// A reader or writer with a running checksum.
struct Summed<T> {
    inner: T,
    digest: Digest<'static, u64, Table<16>>,
}

impl<T> Summed<T> {
    fn new(inner: T) -> Self {
        Self { inner, digest: CRC.digest() }
    }
}

impl<T: io::Read> io::Read for Summed<T> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.digest.update(&into[..count]);
        Ok(count)
    }
}

impl<T: io::Write> io::Write for Summed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.digest.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Reads the snapshot; `None` if there is no file.
///
/// # Errors
/// The file cannot be read, or is not a complete snapshot.
pub fn read(path: &Path) -> Result<Option<Kept>, SnapshotError> {
    let opened = File::options().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut file = BufReader::new(file);
    let mut line = Vec::new();
    file.by_ref().take(16 << 20).read_until(b'\n', &mut line)?;
    let head: Head = serde_json::from_slice(&line).map_err(|_| SnapshotError::Damaged)?;
    let checkpoints: Option<Vec<_>> = head.partitions.iter().map(checkpoint).collect();
    let checkpoints = checkpoints.ok_or(SnapshotError::Damaged)?;
    if head.v != VERSION || checkpoints.is_empty() || checkpoints.len() > usize::from(u16::MAX) {
        return Err(SnapshotError::Damaged);
    }
    let mut file = Summed::new(file);
    file.digest.update(&line);
    let entries = read_entries(&mut file)?;
    let mut sum = [0; 8];
    file.inner.read_exact(&mut sum).map_err(|_| SnapshotError::Damaged)?;
    if u64::from_be_bytes(sum) != file.digest.finalize() {
        return Err(SnapshotError::Checksum);
    }
    Ok(Some(Kept { head, checkpoints, entries }))
}

fn read_entries(file: &mut impl io::Read) -> Result<Vec<Revocation>, SnapshotError> {
    let mut entries = Vec::new();
    let mut bytes = [0; ENTRY_BYTES_MAX];
    loop {
        let mut length = [0; 2];
        file.read_exact(&mut length).map_err(|_| SnapshotError::Damaged)?;
        let length = usize::from(u16::from_be_bytes(length));
        if length == 0 {
            break;
        }
        let entry = bytes.get_mut(..length).ok_or(SnapshotError::Damaged)?;
        file.read_exact(entry).map_err(|_| SnapshotError::Damaged)?;
        entries.push(Revocation::from_bytes(entry).map_err(|_| SnapshotError::Damaged)?);
    }
    let mut count = [0; 8];
    file.read_exact(&mut count).map_err(|_| SnapshotError::Damaged)?;
    if u64::from_be_bytes(count) == entries.len() as u64 { Ok(entries) } else { Err(SnapshotError::Damaged) }
}

fn checkpoint(partition: &Partition) -> Option<Checkpoint> {
    Some(Checkpoint {
        lineage: Lineage {
            epoch: partition.epoch.as_str().into(),
            replication_id: partition.replication_id.as_str().into(),
        },
        last: Position::parse(&partition.last)?,
        since: UnixTime(partition.since),
        proven: UnixTime(partition.proven),
    })
}

impl Kept {
    /// The number of entries.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Adds all entries to `state`, which then counts as stale whatever the file's age, since this
    /// process has proven nothing. Returns where to resume in the log; nothing (so that all of it
    /// is read) if the writer's clock was ahead, since entries it dropped as expired may still
    /// matter.
    pub fn restore(self, state: &RevocationState, now: ClockReading) -> Vec<Checkpoint> {
        state.begin(self.checkpoints.len() as u16);
        for revocation in &self.entries {
            state.apply(0, revocation);
        }
        for (partition, kept) in (0..).zip(&self.head.partitions) {
            let all = Revocation {
                target: Target::All { threshold: UnixTime(kept.all) },
                expires_at: UnixTime(u64::from(u32::MAX)),
            };
            state.apply(partition, &all);
            if kept.unknowable > 0 {
                state.since(partition, UnixTime(kept.unknowable));
            }
            let age_ms = now.wall_ms.saturating_sub(kept.proven.saturating_mul(1000));
            let age_ms = age_ms.max(state.staleness().max_ms + 1);
            // A machine that has just booted has no monotonic time so far back: it waits for the
            // log.
            if let Some(monotonic_ms) = now.monotonic_ms.checked_sub(age_ms).filter(|moment| *moment > 0) {
                let as_of = ClockReading { wall_ms: now.wall_ms.saturating_sub(age_ms), monotonic_ms };
                state.fresh(partition, as_of, 0);
            }
        }
        if self.head.time > now.wall_ms / 1000 + 2 * CLOCK_SKEW_SECONDS { Vec::new() } else { self.checkpoints }
    }
}

/// Writes `index` to `path` at `now`. The checkpoints must have been taken before: the index may
/// have more entries than they cover.
///
/// # Errors
/// The file cannot be written; the old one is unchanged.
pub fn write(path: &Path, checkpoints: &[Checkpoint], index: &Index, now: UnixTime) -> io::Result<u64> {
    let partition = |(number, checkpoint): (u16, &Checkpoint)| {
        let mut pushed = UnixTime(0);
        index.each_unconfirmed(|of, revocation| match revocation.target {
            Target::All { threshold } if of == number => pushed = pushed.max(threshold),
            _ => {}
        });
        let (all, unknowable) = index.marks(number);
        Partition {
            epoch: checkpoint.lineage.epoch.to_string(),
            replication_id: checkpoint.lineage.replication_id.to_string(),
            last: checkpoint.last.to_string(),
            since: checkpoint.since.0,
            proven: checkpoint.proven.0,
            all: all.max(pushed).0,
            unknowable: unknowable.0,
        }
    };
    let head = Head { v: VERSION, time: now.0, partitions: (0..).zip(checkpoints).map(partition).collect() };
    let temporary = temporary(path);
    let new = File::options().create_new(true).write(true).mode(0o600).open(&temporary)?;
    let written = write_list(new, &head, index).and_then(|count| std::fs::rename(&temporary, path).map(|()| count));
    if written.is_err() {
        let _nothing_more_can_be_done = std::fs::remove_file(&temporary);
    }
    written
}

fn write_list(file: File, head: &Head, index: &Index) -> io::Result<u64> {
    let mut file = Summed::new(BufWriter::new(file));
    serde_json::to_writer(&mut file, head)?;
    file.write_all(b"\n")?;
    let (mut count, mut failed) = (0_u64, None);
    let mut put = |revocation: &Revocation| {
        let bytes = revocation.to_bytes();
        let written = file.write_all(&(bytes.len() as u16).to_be_bytes()).and_then(|()| file.write_all(&bytes));
        count += 1;
        failed = failed.take().or(written.err());
    };
    // Unconfirmed pushes are included, as a lost connection keeps them: the log may have them. They
    // come first: a push confirmed meanwhile is in the index before it leaves these.
    index.each_unconfirmed(|_, revocation| {
        if !matches!(revocation.target, Target::All { .. }) {
            put(revocation);
        }
    });
    index.each(|revocation| put(&revocation));
    if let Some(error) = failed {
        return Err(error);
    }
    file.write_all(&[0; 2])?;
    file.write_all(&count.to_be_bytes())?;
    let Summed { inner: mut file, digest } = file;
    file.write_all(&digest.finalize().to_be_bytes())?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(count)
}

/// A unique temporary name beside the file: processes in containers may all have pid 1.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(format!(".{}-{:013x}.new", std::process::id(), (random() * (1_u64 << 52) as f64) as u64));
    path.with_file_name(name)
}

/// Removes temporary files that dead processes have left beside the file.
#[allow(clippy::disallowed_methods)] // compared with the file system's clock
fn remove_abandoned(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else { return };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = file.file_name();
        let ours = found.to_str().is_some_and(|found| {
            found.strip_prefix(name).is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".new"))
        });
        let modified = file.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        if ours && age.is_some_and(|age| age >= ABANDONED_AFTER) {
            let _it_stays_then = std::fs::remove_file(file.path());
        }
    }
}

/// A thread that writes the list periodically, and once more when dropped.
#[derive(Debug)]
pub struct SnapshotWriter {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl SnapshotWriter {
    /// Writes the revocations of `verifier` to `path`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(path: PathBuf, verifier: Arc<Verifier>, status: Arc<Status>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let keep = move || {
            remove_abandoned(&path);
            let (mut due, mut failing) = (Instant::now(), false);
            loop {
                let last = stopped.load(Ordering::Acquire);
                if last || Instant::now() >= due {
                    match write_once(&path, verifier.state().index(), &status, verifier.check_time().now) {
                        // Not complete yet: checked again in the next round.
                        None => {}
                        Some(written) => {
                            due = Instant::now() + if written.is_ok() { WRITE_EVERY } else { RETRY_EVERY };
                            failing = report(&written, failing, &path);
                        }
                    }
                }
                if last {
                    return;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        };
        let thread = Some(std::thread::Builder::new().name("snapshot".into()).spawn(keep)?);
        Ok(Self { stop, thread })
    }
}

/// Writes the list if it is complete; returns the error of a failed write.
fn write_once(path: &Path, index: &Index, status: &Status, now: UnixTime) -> Option<Result<u64, io::Error>> {
    let checkpoints = status.checkpoints()?;
    Some(write(path, &checkpoints, index, now))
}

/// Logs when writes begin to fail and when they work again. True while they fail.
fn report(written: &Result<u64, io::Error>, failing: bool, path: &Path) -> bool {
    match (written, failing) {
        (Ok(entries), false) => tracing::debug!(entries, "wrote the snapshot"),
        (Ok(entries), true) => tracing::info!(entries, path = %path.display(), "snapshot writes work again"),
        (Err(error), false) => tracing::warn!(
            %error,
            setting = "SNAPSHOT_FILE",
            path = %path.display(),
            "snapshot write failed; keeping the previous one"
        ),
        (Err(error), true) => tracing::debug!(%error, "snapshot write still failing"),
    }
    written.is_err()
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _it_has_logged = thread.join();
        }
    }
}

/// Reads the configured snapshot; a damaged one is logged and skipped.
pub fn load(path: Option<&Path>) -> Option<Kept> {
    let path = path?;
    match read(path) {
        Ok(Some(kept)) => {
            tracing::info!(entries = kept.entries(), "starting from the snapshot, stale until the log is caught up");
            Some(kept)
        }
        Ok(None) => None,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "SNAPSHOT_FILE is not used: the whole log is read");
            None
        }
    }
}

#[cfg(test)]
mod tests;
