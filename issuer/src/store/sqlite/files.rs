//! The files of the embedded store: the database, SQLite's own files beside it, the lock and the
//! mark. Only the issuer's user may open them.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::OpenError;

/// The path of a file beside the store's.
pub(super) fn beside(store: &Path, suffix: &str) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Opens or creates a file that no other user can read.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Creates the store's file if it is missing, and removes other users' permissions from it and the
/// files beside it. SQLite creates its own files with the mode of the database.
pub(super) fn make_private(store: &Path) -> io::Result<()> {
    drop(open_private(store)?);
    for suffix in ["", "-wal", "-shm", ".lock", ".mark"] {
        let path = beside(store, suffix);
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 == 0 {
            continue;
        }
        match std::fs::set_permissions(&path, Permissions::from_mode(0o600)) {
            Ok(()) => {
                tracing::info!(path = %path.display(), was = format!("{mode:04o}"), "changed the file's mode to 0600")
            }
            Err(error) => tracing::warn!(
                path = %path.display(), mode = format!("{mode:04o}"), %error,
                "other users may open this file of the embedded store; its mode should be 0600"
            ),
        }
    }
    Ok(())
}

/// Locks the store for this process, for as long as the file is open.
pub(super) fn take_lock(store: &Path) -> Result<File, OpenError> {
    let lock_path = beside(store, ".lock");
    let file = open_private(&lock_path).map_err(|error| OpenError::Lock(lock_path.clone(), error))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse(store.to_path_buf(), lock_path)),
        Err(error) => Err(OpenError::Lock(lock_path, error.into())),
    }
}
