//! Hostile attach servers: what the client must refuse, and how it names it. The tests of the
//! module for Envoy use them too.

use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use sidegate_shm::attach::{AttachMessage, MessageError};
use sidegate_shm::segment::SEALS;
use sidegate_shm::{AttachError, Geometry, LayoutError, SegmentError, Writer};

/// What a hostile daemon sends.
pub enum Lie {
    Bytes(Vec<u8>),
    /// A segment, announced with the right time.
    Segment {
        id: u64,
        bytes: usize,
        fd: OwnedFd,
    },
}

/// Serves the lie at `path`, in place of what was there.
pub fn serve(path: &Path, lie: Arc<Lie>) {
    let _not_there = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            send_lie(&stream.unwrap(), &lie);
        }
    });
}

fn send_lie(mut stream: &UnixStream, lie: &Lie) {
    let (id, bytes, fd) = match lie {
        Lie::Bytes(bytes) => {
            let _the_client_may_be_gone = stream.write_all(bytes);
            return;
        }
        Lie::Segment { id, bytes, fd } => (*id, *bytes, fd),
    };
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let _the_client_may_be_gone =
        rustix::net::sendmsg(stream, &[IoSlice::new(&message(id, bytes))], &mut control, SendFlags::NOSIGNAL);
}

fn nanoseconds(clock: rustix::time::ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn message(id: u64, bytes: usize) -> Vec<u8> {
    let (monotonic, realtime) = (rustix::time::ClockId::Monotonic, rustix::time::ClockId::Realtime);
    let (monotonic_ns, realtime_ns) = (nanoseconds(monotonic), nanoseconds(realtime));
    AttachMessage::Segment { id, bytes: bytes as u64, monotonic_ns, realtime_ns }.encode().into()
}

fn sealed(bytes: &[u8], seals: SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create(c"hostile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    assert_eq!(rustix::io::pwrite(&fd, bytes, 0).unwrap(), bytes.len());
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

/// A complete valid segment, and its id.
fn image() -> (Vec<u8>, u64) {
    let geometry = Geometry::for_entries(0);
    let (writer, fd) = Writer::create(geometry).unwrap();
    let mut bytes = vec![0; geometry.bytes() as usize];
    assert_eq!(rustix::io::pread(&fd, &mut bytes, 0).unwrap(), bytes.len());
    (bytes, writer.id())
}

/// A lie, and whether an error is the one that it must cause.
pub type Case = (Lie, fn(&AttachError) -> bool);

/// Answers that are not even a segment.
pub fn messages() -> Vec<Case> {
    let says = |bytes: &[u8]| Lie::Bytes(bytes.to_vec());
    let (bytes, id) = image();
    let mut newer = message(id, bytes.len());
    newer[8] = 9;
    vec![
        (says(b""), |error| matches!(error, AttachError::Closed)),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), |error| matches!(error, AttachError::Message(MessageError::Magic))),
        (says(&[0xff; 64]), |error| matches!(error, AttachError::Message(MessageError::Magic))),
        (says(&AttachMessage::Refused.encode()), |error| matches!(error, AttachError::Refused)),
        (says(&AttachMessage::NotYet.encode()), |error| matches!(error, AttachError::NotYet)),
        (says(&newer), |error| matches!(error, AttachError::Message(MessageError::Version(9)))),
    ]
}

/// Segments that each fail another of the segment's checks.
pub fn segments() -> Vec<Case> {
    use AttachError::Segment;
    use SegmentError::{Layout, Unsealed};
    let (good, id) = image();
    let of = |bytes: &[u8], seals| Lie::Segment { id, bytes: bytes.len(), fd: sealed(bytes, seals) };
    let patched = |word: usize, value: u64| {
        let mut bytes = good.clone();
        bytes[word * 8..word * 8 + 8].copy_from_slice(&value.to_ne_bytes());
        of(&bytes, SEALS)
    };
    let other = Lie::Segment { id: id ^ 1, bytes: good.len(), fd: sealed(&good, SEALS) };
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let file = Lie::Segment { id, bytes: 4096, fd: file.into() };
    vec![
        (patched(0, 7), |error| matches!(error, Segment(Layout(LayoutError::Magic)))),
        (patched(1, 2), |error| matches!(error, Segment(Layout(LayoutError::Version(2))))),
        (patched(5, 1 << 40), |error| matches!(error, Segment(Layout(LayoutError::Checksum)))),
        (of(&good[..64], SEALS), |error| matches!(error, Segment(Layout(LayoutError::Size(64))))),
        (of(&good[..good.len() - 4096], SEALS), |error| matches!(error, Segment(Layout(LayoutError::Length { .. })))),
        (of(&good, SEALS - SealFlags::SHRINK), |error| matches!(error, Segment(Unsealed))),
        (other, |error| matches!(error, AttachError::OtherSegment)),
        (file, |error| matches!(error, Segment(Unsealed))),
    ]
}

/// Segments with a valid header and `noise` after it, and their ids.
pub fn noisy() -> Vec<(Lie, u64)> {
    let with = |noise: u64| {
        let (mut bytes, id) = image();
        bytes[128..].chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&noise.to_ne_bytes()));
        (Lie::Segment { id, bytes: bytes.len(), fd: sealed(&bytes, SEALS) }, id)
    };
    [0, u64::MAX, 1, 0x8000_0000_0000_0001, 0x6fff_ffff_ffff_ffff].map(with).into()
}
