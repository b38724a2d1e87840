//! The mark: a small file beside the store with the position of the log's last entry. If an old
//! copy of the store is restored, its log ends before the mark.
//!
//! The mark is written after each commit that appends, and not synced: after a power cut it may be
//! behind the store, which is harmless. It is never ahead of a store that lost nothing.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use sidegate_common::log_protocol::Position;

use super::files;

/// All marks have one length, because each overwrites the previous one.
const BYTES: usize = 128;

/// An open mark.
pub(super) struct Mark {
    file: File,
    failed: bool,
}

/// Contents of a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marked {
    /// The data set.
    pub(super) epoch: String,
    /// The newest entry's position.
    pub(super) last: Position,
}

impl Mark {
    /// Opens the mark of the store at `store` and reads it; `None` if it is unreadable.
    pub(super) fn open(store: &Path) -> io::Result<(Self, Option<Marked>)> {
        let mut file = files::open_private(&files::beside(store, ".mark"))?;
        let mut text = String::new();
        let read = match (&mut file).take(BYTES as u64).read_to_string(&mut text) {
            Ok(_) => parse(&text),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            Err(error) => return Err(error),
        };
        Ok((Self { file, failed: false }, read))
    }

    /// Writes the mark and syncs it.
    pub(super) fn begin(&self, epoch: &str, last: Position) -> io::Result<()> {
        self.file.write_all_at(&bytes(epoch, last), 0)?;
        self.file.sync_all()
    }

    /// Writes the mark. A failure is logged once: a mark that is behind detects less, and never
    /// raises a false alarm.
    pub(super) fn note(&mut self, epoch: &str, last: Position) {
        match self.file.write_all_at(&bytes(epoch, last), 0) {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(%error, "writing the embedded store's .mark file failed: a restored old copy may go unnoticed");
            }
            Err(_) => {}
        }
    }
}

fn bytes(epoch: &str, last: Position) -> Vec<u8> {
    format!("{:<width$}\n", format!("1 {epoch} {last}"), width = BYTES - 1).into_bytes()
}

fn parse(text: &str) -> Option<Marked> {
    let mut words = text.split_ascii_whitespace();
    if words.next()? != "1" {
        return None;
    }
    Some(Marked { epoch: words.next()?.to_owned(), last: Position::parse(words.next()?)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_mark_is_read_back() {
        let last = Position { ms: u64::MAX, sequence: u64::MAX };
        let written = bytes(&"e".repeat(64), last);
        assert_eq!(written.len(), BYTES);
        let text = String::from_utf8(written).unwrap();
        assert_eq!(parse(&text), Some(Marked { epoch: "e".repeat(64), last }));
        for other in ["", "1", "1 e", "2 e 1-1", "1 e 1", "\0\0\0"] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }
}
