//! The mark: a small file beside the store that says how far its log has come. An old copy of the store that was put back
//! ends before it.
//!
//! It is written after each commit that appends, and not synced: after a power cut it may be behind the store, which is no
//! harm. It is never ahead of a store that lost nothing.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use sidegate_common::log_protocol::Position;

use super::files;

/// A mark is written over the one before it, so all have one length.
const BYTES: usize = 128;

/// An open mark.
pub(super) struct Mark {
    file: File,
    failed: bool,
}

/// What a mark says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marked {
    /// The data set.
    pub(super) epoch: String,
    /// Its newest entry.
    pub(super) last: Position,
}

impl Mark {
    /// Opens the mark of the store at `store`, and says what stands in it; none if there is nothing readable.
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

    /// Writes it and waits for the disk.
    pub(super) fn begin(&self, epoch: &str, last: Position) -> io::Result<()> {
        self.file.write_all_at(&bytes(epoch, last), 0)?;
        self.file.sync_all()
    }

    /// Writes it. That it cannot is told once: a mark that is behind notices less, and alarms never falsely.
    pub(super) fn note(&mut self, epoch: &str, last: Position) {
        match self.file.write_all_at(&bytes(epoch, last), 0) {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(%error, "writing the embedded store's mark failed: a restored old copy may go unnoticed");
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
    fn what_is_written_is_read_back_and_nothing_else_is() {
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
