//! The reader's side of the attach socket.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags};
use rustix::time::{ClockId, clock_gettime};

use super::message::{AttachMessage, MESSAGE_BYTES, MessageError};
use crate::clock::NANOS;
use crate::reader::Reader;
use crate::segment::SegmentError;

/// How far the daemon's clock reading may lie outside the duration of the handshake.
const CLOCK_SLACK_NS: u64 = 20_000_000;

/// A connection that delivers segments.
#[derive(Debug)]
pub struct Attachment {
    stream: UnixStream,
}

/// Why no segment can be used.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No daemon at the socket, or no answer in time.
    #[error("attach socket: {0}")]
    Io(#[from] std::io::Error),
    /// The daemon closed the connection.
    #[error("the daemon closed the connection")]
    Closed,
    /// Another protocol.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The daemon does not give the segment to this process.
    #[error("this process may not attach")]
    Refused,
    /// The daemon has no segment yet.
    #[error("the daemon has no segment yet")]
    NotYet,
    /// The message announced a descriptor, but none arrived.
    #[error("no file descriptor came")]
    NoDescriptor,
    /// The daemon's clocks differ from this process's, as in another time namespace, so no expiry
    /// could be checked.
    #[error("the daemon's clocks differ from ours")]
    Clocks,
    /// The file is not a valid sealed segment.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The descriptor is of another segment than the announced one.
    #[error("the segment differs from the announced one")]
    OtherSegment,
}

/// Connects to a Unix socket without blocking: a full backlog is an error, and so is a socket
/// without a listener.
///
/// # Errors
/// The error of the system call.
pub fn dial(path: &Path) -> std::io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, rustix::net::SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

impl Attachment {
    /// Connects, and receives the current segment.
    ///
    /// # Errors
    /// Why the segment cannot be used; checks over the socket may still work.
    pub fn connect(path: &Path, timeout: Duration) -> Result<(Self, Reader), AttachError> {
        let before = precise();
        let stream = dial(path)?;
        stream.set_read_timeout(Some(timeout))?;
        let attachment = Self { stream };
        let (message, fd) = attachment.receive()?;
        let after = precise();
        if let AttachMessage::Segment { monotonic_ns, realtime_ns, .. } = message {
            let between = |low: u64, value: u64, high: u64| {
                low.saturating_sub(CLOCK_SLACK_NS) <= value && value <= high.saturating_add(CLOCK_SLACK_NS)
            };
            if !between(before.0, monotonic_ns, after.0) || !between(before.1, realtime_ns, after.1) {
                return Err(AttachError::Clocks);
            }
        }
        Ok((attachment, open(message, fd)?))
    }

    /// Waits up to `timeout` for the daemon to announce another segment; `None` if there was none.
    ///
    /// # Errors
    /// [`AttachError::Closed`] when the daemon is gone; otherwise why the announced segment cannot
    /// be used.
    pub fn next(&self, timeout: Duration) -> Result<Option<Reader>, AttachError> {
        self.stream.set_read_timeout(Some(timeout))?;
        match self.receive() {
            Err(AttachError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
            Ok((message, fd)) => open(message, fd).map(Some),
        }
    }

    fn receive(&self) -> Result<(AttachMessage, Option<OwnedFd>), AttachError> {
        let mut bytes = [0; MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // The message is far smaller than a socket's buffer and sent by one call, so it arrives
        // complete or not at all.
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = loop {
            match rustix::net::recvmsg(&self.stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
                Err(rustix::io::Errno::INTR) => {}
                got => break got.map_err(std::io::Error::from)?,
            }
        };
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        match got.bytes {
            0 => Err(AttachError::Closed),
            MESSAGE_BYTES => Ok((AttachMessage::decode(&bytes)?, fd)),
            _ => Err(MessageError::Magic.into()),
        }
    }
}

fn open(message: AttachMessage, fd: Option<OwnedFd>) -> Result<Reader, AttachError> {
    match message {
        AttachMessage::Refused => Err(AttachError::Refused),
        AttachMessage::NotYet => Err(AttachError::NotYet),
        AttachMessage::Segment { id, bytes, .. } => {
            let reader = Reader::open(fd.ok_or(AttachError::NoDescriptor)?)?;
            if (reader.id(), reader.bytes()) != (id, bytes) {
                return Err(AttachError::OtherSegment);
            }
            Ok(reader)
        }
    }
}

/// The precise, not the coarse clocks: monotonic and real, in nanoseconds.
pub(super) fn precise() -> (u64, u64) {
    let read = |clock| {
        let time = clock_gettime(clock);
        (time.tv_sec.max(0) as u64).saturating_mul(NANOS).saturating_add(time.tv_nsec.max(0) as u64)
    };
    (read(ClockId::Monotonic), read(ClockId::Realtime))
}
