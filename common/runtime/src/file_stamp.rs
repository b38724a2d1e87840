//! Whether a file was written or replaced since it was last looked at.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

/// Changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    modified: SystemTime,
    inode: u64,
    bytes: u64,
}

impl FileStamp {
    /// The file's stamp now; `None` while it cannot be looked at.
    pub fn of(path: impl AsRef<Path>) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self { modified: found.modified().ok()?, inode: found.ino(), bytes: found.len() })
    }
}
