//! The daemon's side of the attach socket: one thread, no runtime.

use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::client::precise;
use super::message::{AttachMessage, MESSAGE_BYTES};

/// The most readers that stay connected; further ones get the segment and are disconnected.
const READERS_MAX: usize = 1024;
/// How often the thread checks for a stop.
const POLL_TIMEOUT: Duration = Duration::from_millis(200);
/// The wait after a failed accept.
const RETRY: Duration = Duration::from_millis(20);

/// Who may have the segment beside what the socket's mode permits: everyone if both lists are
/// empty.
#[derive(Clone, Debug, Default)]
pub struct Allow {
    /// User ids.
    pub uids: Vec<u32>,
    /// Group ids: the peer's primary group, the only one that the kernel reports.
    pub gids: Vec<u32>,
}

/// The current segment: set by the publisher, sent by the server.
#[derive(Debug)]
pub struct SegmentOffer {
    segment: Mutex<Option<OfferedSegment>>,
    readers: AtomicUsize,
    bell: UnixStream,
    rung: UnixStream,
}

#[derive(Clone, Debug)]
struct OfferedSegment {
    id: u64,
    bytes: u64,
    fd: Arc<OwnedFd>,
}

/// Serves one listening socket.
#[derive(Debug)]
pub struct AttachServer {
    listener: UnixListener,
    allow: Allow,
    offer: Arc<SegmentOffer>,
    peers: Vec<Peer>,
    readers_max: usize,
}

#[derive(Debug)]
struct Peer {
    stream: UnixStream,
    has: Option<u64>,
}

impl Allow {
    fn permits(&self, stream: &UnixStream) -> bool {
        if self.uids.is_empty() && self.gids.is_empty() {
            return true;
        }
        rustix::net::sockopt::socket_peercred(stream)
            .is_ok_and(|peer| self.uids.contains(&peer.uid.as_raw()) || self.gids.contains(&peer.gid.as_raw()))
    }
}

impl SegmentOffer {
    /// A server without a segment yet.
    ///
    /// No file descriptors left.
    /// No file descriptors left.
    pub fn new() -> std::io::Result<Arc<Self>> {
        let (bell, rung) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        rung.set_nonblocking(true)?;
        Ok(Arc::new(Self { segment: Mutex::new(None), readers: AtomicUsize::new(0), bell, rung }))
    }

    /// Offers a segment in place of the previous one.
    pub fn set(&self, id: u64, bytes: u64, fd: OwnedFd) {
        *self.segment.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(OfferedSegment { id, bytes, fd: Arc::new(fd) });
        // A full pipe wakes the server anyway.
        let _ = (&self.bell).write(&[1]);
    }

    /// The number of connected readers.
    pub fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }

    fn current(&self) -> Option<OfferedSegment> {
        self.segment.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl AttachServer {
    /// Serves `listener`, which the caller has bound with its mode.
    ///
    /// # Errors
    /// The listener cannot be made non-blocking.
    pub fn new(listener: UnixListener, allow: Allow, offer: Arc<SegmentOffer>) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, allow, offer, peers: Vec::new(), readers_max: READERS_MAX })
    }

    /// Limits the connected readers to `most`, at most 1,024: each has an open file.
    #[must_use]
    pub fn readers_max(self, most: usize) -> Self {
        Self { readers_max: self.readers_max.min(most), ..self }
    }

    /// Runs until `stop` is set, which takes effect within a fifth of a second.
    ///
    /// # Errors
    /// The kernel rejects a poll; peers cannot cause an error.
    pub fn run(&mut self, stop: &AtomicBool) -> std::io::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.poll_once()?;
            self.offer.readers.store(self.peers.len(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn poll_once(&mut self) -> std::io::Result<()> {
        let ready = {
            let fixed = [self.listener.as_fd(), self.offer.rung.as_fd()];
            let all = fixed.into_iter().chain(self.peers.iter().map(|peer| peer.stream.as_fd()));
            let mut fds: Vec<PollFd<'_>> = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(POLL_TIMEOUT.subsec_nanos()) };
            match poll(&mut fds, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => return Ok(()),
                polled => polled?,
            };
            fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<bool>>()
        };
        // A reader never sends: anything that makes its connection readable ends it.
        let mut spoke = ready[2..].iter();
        self.peers.retain(|_| !spoke.next().copied().unwrap_or(false));
        if ready[1] {
            while (&self.offer.rung).read(&mut [0; 64]).is_ok_and(|n| n > 0) {}
            self.announce();
        }
        if ready[0] {
            self.accept();
        }
        Ok(())
    }

    fn accept(&mut self) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                // Either the peer's fault (gone already) or the machine's (no descriptors): try
                // again after a wait.
                Err(_) => return std::thread::sleep(RETRY),
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if !self.allow.permits(&stream) {
                let _ = send(&stream, &AttachMessage::Refused, None);
                continue;
            }
            let mut peer = Peer { stream, has: None };
            if peer.send_segment(self.offer.current()) && self.peers.len() < self.readers_max {
                self.peers.push(peer);
            }
        }
    }

    fn announce(&mut self) {
        let offer = self.offer.current();
        self.peers.retain_mut(|peer| {
            let news = offer.as_ref().filter(|offer| peer.has != Some(offer.id));
            news.is_none_or(|offer| peer.send_segment(Some(offer.clone())))
        });
    }
}

impl Peer {
    /// Sends the current segment; false if the peer cannot receive it and must be disconnected.
    fn send_segment(&mut self, offer: Option<OfferedSegment>) -> bool {
        let Some(offer) = offer else { return send(&self.stream, &AttachMessage::NotYet, None) };
        let (monotonic_ns, realtime_ns) = precise();
        let message = AttachMessage::Segment { id: offer.id, bytes: offer.bytes, monotonic_ns, realtime_ns };
        self.has = Some(offer.id);
        send(&self.stream, &message, Some(&offer.fd))
    }
}

/// Sends one complete message without blocking.
fn send(stream: &UnixStream, message: &AttachMessage, fd: Option<&OwnedFd>) -> bool {
    let bytes = message.encode();
    let fds = fd.map(|fd| [fd.as_fd()]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(fds) = &fds
        && !control.push(SendAncillaryMessage::ScmRights(fds))
    {
        return false;
    }
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
    sent == Ok(MESSAGE_BYTES)
}
