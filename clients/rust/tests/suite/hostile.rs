//! The client with a hostile attach socket and with invalid segments: it falls back to the socket
//! for checks.

use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use crate::fake_daemon::{Daemon, Scratch, claims, eventually};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use sidegate_client::{Denied, Sidegate};
use sidegate_shm::attach::{AttachMessage, MessageError};
use sidegate_shm::segment::SEALS;
use sidegate_shm::{AttachError, Attachment, Geometry, LayoutError, SegmentError, Writer};

/// What a hostile daemon sends: bytes, perhaps with a descriptor.
struct Lie {
    bytes: Vec<u8>,
    fd: Option<OwnedFd>,
}

fn serve(path: &Path, lie: Arc<Lie>) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            send_lie(&stream.unwrap(), &lie);
        }
    });
}

fn send_lie(mut stream: &UnixStream, lie: &Lie) {
    let Some(fd) = &lie.fd else {
        let _the_client_may_be_gone = stream.write_all(&lie.bytes);
        return;
    };
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let _the_client_may_be_gone =
        rustix::net::sendmsg(stream, &[IoSlice::new(&lie.bytes)], &mut control, SendFlags::NOSIGNAL);
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

/// The typed error that `lie` causes, after a client that met it has worked over the socket.
fn met(lie: impl Fn() -> Lie) -> AttachError {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch.0);
    let attach = scratch.0.join("hostile.sock");
    serve(&attach, Arc::new(lie()));
    let sidegate: Sidegate = scratch.builder().attach_socket(&attach).connect();
    let (good, bad) = (claims(1), claims(2));
    daemon.revoke_session(&bad);
    for _ in 0..3 {
        assert_eq!(sidegate.check(&good.token()).unwrap().subject(), good.sub);
        assert_eq!(sidegate.check(&bad.token()), Err(Denied::Revoked));
    }
    assert_eq!((sidegate.segment(), daemon.asked()), (None, 6), "every check was asked over the socket");
    let again = scratch.0.join("again.sock");
    serve(&again, Arc::new(lie()));
    Attachment::connect(&again, std::time::Duration::from_secs(20)).map(drop).expect_err("a lie")
}

#[test]
fn hostile_attach_socket_falls_back_to_the_check_socket() {
    let says = |bytes: &[u8]| met(|| Lie { bytes: bytes.to_vec(), fd: None });
    assert!(matches!(says(b""), AttachError::Closed));
    assert!(matches!(says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), AttachError::Message(MessageError::Magic)));
    assert!(matches!(says(&[0xff; 64]), AttachError::Message(MessageError::Magic)));
    assert!(matches!(says(&AttachMessage::Refused.encode()), AttachError::Refused));
    assert!(matches!(says(&AttachMessage::NotYet.encode()), AttachError::NotYet));
    let (bytes, id) = image();
    let newer = || {
        let mut message = message(id, bytes.len());
        message[8] = 9;
        Lie { bytes: message, fd: None }
    };
    assert!(matches!(met(newer), AttachError::Message(MessageError::Version(9))));
}

#[test]
fn invalid_segment_falls_back_to_the_check_socket() {
    let (good, id) = image();
    let of = |bytes: Vec<u8>, seals: SealFlags| {
        met(move || Lie { bytes: message(id, bytes.len()), fd: Some(sealed(&bytes, seals)) })
    };
    let layout = |bytes: Vec<u8>| match of(bytes, SEALS) {
        AttachError::Segment(SegmentError::Layout(error)) => error,
        other => panic!("{other:?}"),
    };
    let patched = |word: usize, value: u64| {
        let mut bytes = good.clone();
        bytes[word * 8..word * 8 + 8].copy_from_slice(&value.to_ne_bytes());
        bytes
    };
    assert_eq!(layout(patched(0, 7)), LayoutError::Magic);
    assert_eq!(layout(patched(1, 2)), LayoutError::Version(2));
    assert_eq!(layout(patched(5, 1 << 40)), LayoutError::Checksum);
    assert_eq!(layout(good[..64].to_vec()), LayoutError::Size(64));
    assert!(matches!(layout(good[..good.len() - 4096].to_vec()), LayoutError::Length { .. }));
    let unsealed = of(good.clone(), SEALS - SealFlags::SHRINK);
    assert!(matches!(unsealed, AttachError::Segment(SegmentError::Unsealed)));
    let other = good.clone();
    let other = met(move || Lie { bytes: message(id ^ 1, other.len()), fd: Some(sealed(&other, SEALS)) });
    assert!(matches!(other, AttachError::OtherSegment));
    let file = met(move || Lie {
        bytes: message(id, 4096),
        fd: Some(std::fs::File::open(std::env::current_exe().unwrap()).unwrap().into()),
    });
    assert!(matches!(file, AttachError::Segment(SegmentError::Unsealed)));
}

/// A valid header with random data after it: the daemon alone decides about tokens.
#[test]
fn random_data_in_a_segment_accepts_no_token() {
    for noise in [0, u64::MAX, 1, 0x8000_0000_0000_0001, 0x6fff_ffff_ffff_ffff] {
        let (mut bytes, id) = image();
        for chunk in bytes[128..].chunks_exact_mut(8) {
            chunk.copy_from_slice(&noise.to_ne_bytes());
        }
        let scratch = Scratch::new();
        let daemon = Daemon::start(&scratch.0);
        let attach = scratch.0.join("hostile.sock");
        let lie = Lie { bytes: message(id, bytes.len()), fd: Some(sealed(&bytes, SEALS)) };
        serve(&attach, Arc::new(lie));
        let sidegate = scratch.builder().attach_socket(&attach).connect();
        eventually("attached: it looks like one", || sidegate.segment() == Some(id));
        let mine = claims(1);
        assert_eq!(sidegate.check(&mine.token()).unwrap().subject(), mine.sub);
        daemon.revoke_session(&mine);
        assert_eq!(sidegate.check(&mine.token()), Err(Denied::Revoked));
    }
}
