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
use super::message::{MESSAGE_BYTES, Message};

/// How many readers may stay connected; those beyond get the segment and are let go.
const READERS_MAX: usize = 1024;
/// How often the thread looks whether it should stop.
const TURN: Duration = Duration::from_millis(200);
/// How long to wait when a connection could not be accepted.
const RETRY: Duration = Duration::from_millis(20);

/// Who may have the segment, beside what the socket's mode says: anyone, or those who are named.
#[derive(Clone, Debug, Default)]
pub struct Allow {
    /// User ids.
    pub uids: Vec<u32>,
    /// Group ids: the peer's primary one, which is all that the kernel tells.
    pub gids: Vec<u32>,
}

/// The segment that is handed out on attach: set by the publisher, handed out by the server.
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
    /// No segment yet.
    ///
    /// # Errors
    /// No file descriptors left.
    pub fn new() -> std::io::Result<Arc<Self>> {
        let (bell, rung) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        rung.set_nonblocking(true)?;
        Ok(Arc::new(Self { segment: Mutex::new(None), readers: AtomicUsize::new(0), bell, rung }))
    }

    /// Offers a segment in place of the one before.
    pub fn set(&self, id: u64, bytes: u64, fd: OwnedFd) {
        *self.segment.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(OfferedSegment { id, bytes, fd: Arc::new(fd) });
        // A full pipe means that the server is about to wake anyway.
        let _ = (&self.bell).write(&[1]);
    }

    /// How many readers are connected.
    pub fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }

    fn current(&self) -> Option<OfferedSegment> {
        self.segment.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl AttachServer {
    /// Serves `listener`, which the caller has bound with the mode it wants.
    ///
    /// # Errors
    /// The listener cannot be made non-blocking.
    pub fn new(listener: UnixListener, allow: Allow, offer: Arc<SegmentOffer>) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, allow, offer, peers: Vec::new(), readers_max: READERS_MAX })
    }

    /// Keeps at most so many readers connected, where that is fewer than 1,024: each has an open file.
    #[must_use]
    pub fn readers_max(self, most: usize) -> Self {
        Self { readers_max: self.readers_max.min(most), ..self }
    }

    /// Runs until `stop` is set, which it notices within a fifth of a second.
    ///
    /// # Errors
    /// The kernel refuses to poll; never something that a peer did.
    pub fn run(&mut self, stop: &AtomicBool) -> std::io::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.turn()?;
            self.offer.readers.store(self.peers.len(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn turn(&mut self) -> std::io::Result<()> {
        let ready = {
            let fixed = [self.listener.as_fd(), self.offer.rung.as_fd()];
            let all = fixed.into_iter().chain(self.peers.iter().map(|peer| peer.stream.as_fd()));
            let mut fds: Vec<PollFd<'_>> = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(TURN.subsec_nanos()) };
            match poll(&mut fds, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => return Ok(()),
                polled => polled?,
            };
            fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<bool>>()
        };
        // A reader has nothing to say: whatever makes its end readable ends the connection.
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
                // The peer's fault (gone already) or the machine's (no descriptors): try again, but not at once.
                Err(_) => return std::thread::sleep(RETRY),
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if !self.allow.permits(&stream) {
                let _ = send(&stream, &Message::Refused, None);
                continue;
            }
            let mut peer = Peer { stream, has: None };
            if peer.greet(self.offer.current()) && self.peers.len() < self.readers_max {
                self.peers.push(peer);
            }
        }
    }

    fn announce(&mut self) {
        let offer = self.offer.current();
        self.peers.retain_mut(|peer| {
            let news = offer.as_ref().filter(|offer| peer.has != Some(offer.id));
            news.is_none_or(|offer| peer.greet(Some(offer.clone())))
        });
    }
}

impl Peer {
    /// Sends what is on offer; false if the peer cannot take it, and is to be let go.
    fn greet(&mut self, offer: Option<OfferedSegment>) -> bool {
        let Some(offer) = offer else { return send(&self.stream, &Message::NotYet, None) };
        let (monotonic_ns, realtime_ns) = precise();
        let message = Message::Segment { id: offer.id, bytes: offer.bytes, monotonic_ns, realtime_ns };
        self.has = Some(offer.id);
        send(&self.stream, &message, Some(&offer.fd))
    }
}

/// Sends one message whole, without waiting.
fn send(stream: &UnixStream, message: &Message, fd: Option<&OwnedFd>) -> bool {
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
