//! Real sealed segments over real attach sockets: what a reader gets, what a hostile reader cannot
//! do, what is rejected.

use std::fs::OpenOptions;
use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use memmap2::MmapOptions;
use proptest::prelude::*;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use sidegate_shm::attach::{Allow, AttachMessage, AttachServer, SegmentOffer, dial};
use sidegate_shm::clock::{CoarseClock, SegmentClock as _};
use sidegate_shm::{
    AskReason, AttachError, Attachment, Geometry, LayoutError, Live, Publisher, Reader, SegmentEntry, SegmentError,
    SegmentLookup, SegmentState, Subject, TokenFacts, Writer,
};

const WAIT: Duration = Duration::from_secs(20);

/// A directory that is removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sidegate-shm-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("attach.sock")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An attach server on its own thread.
struct Served {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    scratch: Scratch,
}

impl Served {
    fn new(offer: &Arc<SegmentOffer>, allow: Allow) -> Self {
        let scratch = Scratch::new();
        let listener = UnixListener::bind(scratch.socket()).unwrap();
        let mut server = AttachServer::new(listener, allow, Arc::clone(offer)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = Some(std::thread::spawn(move || server.run(&stopped).unwrap()));
        Self { stop, thread, scratch }
    }

    fn attach(&self) -> Result<(Attachment, Reader), AttachError> {
        Attachment::connect(&self.scratch.socket(), WAIT)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn far() -> Live {
    Live {
        valid_until_monotonic_ns: u64::MAX,
        valid_until_realtime_ns: u64::MAX,
        state: SegmentState::Live,
        key_epoch: 1,
        time_floor_s: 0,
    }
}

/// A fixed number for a name.
fn subject(name: &str) -> Subject {
    Subject(name.bytes().fold(7, |sum, byte| (sum * 1009 + u64::from(byte)) % (1 << 48)))
}

fn facts(n: &str) -> TokenFacts<'_> {
    TokenFacts { jti: n, sid: n, subject: subject(n), iat_s: 1, exp_s: 1 << 40 }
}

fn check(reader: &Reader, n: &str) -> SegmentLookup {
    reader.check(&reader.probe(&facts(n)), 1, &CoarseClock)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never happened: {what}");
}

#[test]
fn readers_follow_a_growing_segment() {
    let offer = SegmentOffer::new().unwrap();
    let mut publisher = Publisher::new(Geometry::for_entries(0), Arc::clone(&offer)).unwrap();
    let served = Served::new(&offer, Allow::default());
    publisher.tick(&far(), CoarseClock.now());
    let (link, reader) = served.attach().unwrap();
    eventually("the reader is counted", || publisher.readers() == 1);
    assert_eq!(check(&reader, "one"), SegmentLookup::Clear);
    let one = SegmentEntry::Session { sid: b"one", subject: Some(subject("one")) };
    publisher.insert(&one);
    assert_eq!(check(&reader, "one"), SegmentLookup::Ask(AskReason::Revoked));

    // Growth under load: entries come from the index and from the feed, some from both; the old
    // segment is still written.
    let names: Vec<String> = (0..480).map(|n| format!("{n}")).collect();
    let entry = |n: &'_ str| (n.to_owned(), subject(n));
    let index: Vec<(String, Subject)> = names.iter().map(|n| entry(n)).collect();
    let as_entry = |(sid, subject): &(String, Subject)| -> (Vec<u8>, Subject) { (sid.clone().into_bytes(), *subject) };
    for (sid, subject) in index[..400].iter().map(as_entry) {
        publisher.insert(&SegmentEntry::Session { sid: &sid, subject: Some(subject) });
    }
    let wanted = publisher.wants_resize().expect("a full table wants to grow");
    assert!(wanted.bytes() > Geometry::for_entries(0).bytes());
    publisher.begin_resize(wanted).unwrap();
    assert_eq!(publisher.wants_resize(), None, "one at a time");
    for (at, (sid, subject)) in index.iter().map(as_entry).enumerate() {
        if at >= 400 {
            publisher.insert(&SegmentEntry::Session { sid: &sid, subject: Some(subject) });
        }
        publisher.feed(&SegmentEntry::Session { sid: &sid, subject: Some(subject) });
    }
    publisher.feed(&one);
    let old = publisher.segment();
    publisher.tick(&far(), CoarseClock.now());
    publisher.switch();
    assert_ne!(publisher.segment(), old);
    assert_eq!(reader.successor(), Some(publisher.segment()));
    assert!(reader.wants_replacing(&CoarseClock));
    let next = link.next(WAIT).unwrap().expect("the successor is announced");
    assert_eq!(next.id(), publisher.segment());
    for name in &names {
        assert!(matches!(check(&next, name), SegmentLookup::Ask(_)), "{name} was lost in growing");
        assert!(matches!(check(&reader, name), SegmentLookup::Ask(_)), "{name} was lost in the old segment");
    }
    publisher.insert(&SegmentEntry::Token { jti: b"late", subject: None });
    for reader in [&reader, &next] {
        assert_eq!(check(reader, "late"), SegmentLookup::Ask(AskReason::Revoked), "both are written");
        assert_eq!(check(reader, "some other one"), SegmentLookup::Clear);
    }
    publisher.close();
    for reader in [&reader, &next] {
        assert_eq!(check(reader, "some other one"), SegmentLookup::Ask(AskReason::NotLive));
    }
    drop((link, next, reader));
    eventually("the reader is no longer counted", || publisher.readers() == 0);
}

#[test]
fn retired_segment_keeps_its_expiry() {
    let offer = SegmentOffer::new().unwrap();
    let mut publisher = Publisher::new(Geometry::for_entries(0), Arc::clone(&offer)).unwrap();
    let served = Served::new(&offer, Allow::default());
    let now = CoarseClock.now();
    let promised = Live { valid_until_monotonic_ns: now.monotonic_ns + 300_000_000, ..far() };
    publisher.tick(&promised, now);
    let (_link, reader) = served.attach().unwrap();
    publisher.begin_resize(Geometry::for_entries(500)).unwrap();
    publisher.switch();
    publisher.tick(&far(), CoarseClock.now());
    assert_eq!(reader.live().valid_until_monotonic_ns, promised.valid_until_monotonic_ns);
    eventually("the old promise lapses", || check(&reader, "x") == SegmentLookup::Ask(AskReason::Lapsed));
    publisher.tick(&far(), CoarseClock.now());
    publisher.insert(&SegmentEntry::Token { jti: b"x", subject: None });
    assert_eq!(reader.live().valid_until_monotonic_ns, promised.valid_until_monotonic_ns);
}

#[test]
fn hostile_reader_cannot_change_the_segment() {
    let (mut writer, fd) = Writer::create(Geometry::for_entries(100)).unwrap();
    writer.set_live(&far());
    let reader = Reader::open(&fd).unwrap();
    let refused = |what: &str, result: std::io::Result<()>| {
        let error = result.expect_err(what);
        assert!(
            matches!(error.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::Other)
                || error.raw_os_error() == Some(5),
            "{what}: {error:?}"
        );
    };
    let attempts = |how: &str, fd: &OwnedFd| {
        let errno = |result: rustix::io::Result<()>| result.map_err(std::io::Error::from);
        refused(&format!("{how}: write"), errno(rustix::io::pwrite(fd, &[0; 64], 0).map(drop)));
        refused(&format!("{how}: truncate"), errno(rustix::fs::ftruncate(fd, 0)));
        refused(&format!("{how}: grow"), errno(rustix::fs::ftruncate(fd, 1 << 24)));
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        refused(&format!("{how}: punch"), errno(rustix::fs::fallocate(fd, hole, 0, 4096)));
        refused(&format!("{how}: map"), MmapOptions::new().len(4096).map_raw(fd.as_raw_fd()).map(drop));
        refused(&format!("{how}: seal"), errno(rustix::fs::fcntl_add_seals(fd, SealFlags::WRITE)));
    };
    attempts("as given", &fd);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let reopened = OpenOptions::new().read(true).write(true).open(path).unwrap();
    attempts("opened again", &OwnedFd::from(reopened));
    // Through /proc/self/mem: forced writes work on private mappings only.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("memfd:sidegate") && line.contains("r--s")).unwrap();
    let start = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
    let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem").unwrap();
    refused("own memory", memory.write_at(&[0; 8], start).map(drop));

    writer.insert(&SegmentEntry::Token { jti: b"abc", subject: None });
    assert_eq!(check(&reader, "abc"), SegmentLookup::Ask(AskReason::Revoked), "the daemon goes on writing");
}

#[test]
fn other_users_are_rejected_at_the_attach_socket() {
    let offer = SegmentOffer::new().unwrap();
    let _publisher = Publisher::new(Geometry::for_entries(0), Arc::clone(&offer)).unwrap();
    let me = rustix::process::getuid().as_raw();
    let group = rustix::process::getgid().as_raw();
    let allow = |uids: &[u32], gids: &[u32]| Allow { uids: uids.to_vec(), gids: gids.to_vec() };
    let stranger = Served::new(&offer, allow(&[me + 1], &[group + 1]));
    assert!(matches!(stranger.attach(), Err(AttachError::Refused)));
    assert!(Served::new(&offer, allow(&[me], &[])).attach().is_ok());
    assert!(Served::new(&offer, allow(&[me + 1], &[group])).attach().is_ok());
}

#[test]
fn attach_reports_a_missing_segment_and_a_dead_daemon() {
    let offer = SegmentOffer::new().unwrap();
    let served = Served::new(&offer, Allow::default());
    assert!(matches!(served.attach(), Err(AttachError::NotYet)));
    let _publisher = Publisher::new(Geometry::for_entries(0), Arc::clone(&offer)).unwrap();
    let (link, _reader) = served.attach().unwrap();
    assert!(link.next(Duration::from_millis(20)).unwrap().is_none());
    drop(served);
    assert!(matches!(link.next(WAIT), Err(AttachError::Closed)));
    let unbound = Scratch::new();
    assert!(matches!(Attachment::connect(&unbound.socket(), WAIT), Err(AttachError::Io(_))));
}

/// The client's error for a peer that sends `bytes`, with or without a descriptor.
fn error_for(bytes: &[u8], fd: Option<&OwnedFd>) -> AttachError {
    let scratch = Scratch::new();
    let listener = UnixListener::bind(scratch.socket()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            match fd {
                None => stream.write_all(bytes).unwrap(),
                Some(fd) => send_with(&stream, bytes, fd),
            }
        });
        Attachment::connect(&scratch.socket(), WAIT).map(drop).expect_err("a hostile daemon")
    })
}

fn send_with(stream: &UnixStream, bytes: &[u8], fd: &OwnedFd) {
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
}

#[test]
fn hostile_daemon_causes_typed_errors() {
    let (writer, fd) = Writer::create(Geometry::for_entries(0)).unwrap();
    let nanos = |clock| {
        let time = rustix::time::clock_gettime(clock);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    };
    let message = |id: u64, bytes: u64, monotonic_off: u64, realtime_off: u64| {
        AttachMessage::Segment {
            id,
            bytes,
            monotonic_ns: nanos(rustix::time::ClockId::Monotonic) + monotonic_off,
            realtime_ns: nanos(rustix::time::ClockId::Realtime) + realtime_off,
        }
        .encode()
    };
    // A minute of slack suffices for a slow machine; these are off by an hour.
    let hour = 3_600_000_000_000;
    let bytes = Geometry::for_entries(0).bytes();
    assert!(matches!(error_for(b"", None), AttachError::Closed));
    assert!(matches!(error_for(b"HTTP/1.1 400 Bad Request\r\n\r\n", None), AttachError::Message(_)));
    assert!(matches!(error_for(&[0; 64], None), AttachError::Message(_)));
    assert!(matches!(error_for(&message(writer.id(), bytes, hour, 0), Some(&fd)), AttachError::Clocks));
    assert!(matches!(error_for(&message(writer.id(), bytes, 0, hour), Some(&fd)), AttachError::Clocks));
}

fn memfd(bytes: &[u8], seals: SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create(c"hostile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::io::pwrite(&fd, bytes, 0).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

fn image(writer_fd: &OwnedFd, bytes: usize) -> Vec<u8> {
    let mut image = vec![0; bytes];
    assert_eq!(rustix::io::pread(writer_fd, &mut image, 0).unwrap(), bytes);
    image
}

#[test]
fn file_that_is_not_a_sealed_segment_is_rejected() {
    let all = sidegate_shm::segment::SEALS;
    let (_writer, fd) = Writer::create(Geometry::for_entries(0)).unwrap();
    let good = image(&fd, Geometry::for_entries(0).bytes() as usize);
    let refused = |fd: OwnedFd| Reader::open(&fd).map(drop).unwrap_err();
    let layout = |bytes: &[u8]| match refused(memfd(bytes, all)) {
        SegmentError::Layout(error) => error,
        other => panic!("{other:?}"),
    };
    assert!(Reader::open(memfd(&good, all)).is_ok());
    for missing in [SealFlags::SHRINK, SealFlags::FUTURE_WRITE, SealFlags::GROW, SealFlags::SEAL] {
        assert!(matches!(refused(memfd(&good, all - missing)), SegmentError::Unsealed), "{missing:?}");
    }
    let plain = std::fs::File::open("/proc/self/exe").unwrap();
    assert!(matches!(refused(plain.into()), SegmentError::Unsealed));
    assert!(matches!(layout(&good[..100]), LayoutError::Size(100)));
    assert!(matches!(layout(&good[..good.len() - 64]), LayoutError::Length { .. }));
    assert!(matches!(layout(&good[..good.len() - 1]), LayoutError::Length { .. } | LayoutError::Size(_)));
    let patched = |word: usize, value: u64| {
        let mut bytes = good.clone();
        bytes[word * 8..word * 8 + 8].copy_from_slice(&value.to_ne_bytes());
        layout(&bytes)
    };
    assert_eq!(patched(0, 1), LayoutError::Magic);
    assert_eq!(patched(1, 2), LayoutError::Version(2));
    assert_eq!(patched(4, 512), LayoutError::Checksum);
    assert_eq!(patched(11, 0), LayoutError::Checksum);
    let holes = rustix::fs::memfd_create(c"holes", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&holes, good.len() as u64).unwrap();
    rustix::fs::fcntl_add_seals(&holes, all).unwrap();
    assert!(matches!(refused(holes), SegmentError::Sparse));
    let endless = rustix::fs::memfd_create(c"endless", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&endless, 1 << 50).unwrap();
    rustix::fs::fcntl_add_seals(&endless, all).unwrap();
    assert!(matches!(refused(endless), SegmentError::Layout(LayoutError::Size(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any header, even one with a valid checksum: an error, or a reader that never leaves the
    /// segment.
    #[test]
    fn any_header_is_safe_to_read(
        changes in prop::collection::vec((2..11usize, prop_oneof![any::<u64>(), 0..2000u64]), 0..4),
        body: u64,
    ) {
        use std::hash::Hasher as _;
        let geometry = Geometry { table_lines: 7, unbound_lines: 2 };
        let (_writer, fd) = Writer::create(geometry).unwrap();
        let mut bytes = image(&fd, geometry.bytes() as usize);
        for (word, value) in changes {
            bytes[word * 8..word * 8 + 8].copy_from_slice(&value.to_ne_bytes());
        }
        for (index, chunk) in bytes[4096..].chunks_exact_mut(8).enumerate() {
            chunk.copy_from_slice(&body.rotate_left(index as u32).to_ne_bytes());
        }
        let word = |at: usize| u64::from_ne_bytes(bytes[at * 8..at * 8 + 8].try_into().unwrap());
        let mut hasher = siphasher::sip::SipHasher24::new_with_keys(word(8), word(9));
        hasher.write(&bytes[..88]);
        let checksum = hasher.finish();
        bytes[88..96].copy_from_slice(&checksum.to_ne_bytes());
        if let Ok(reader) = Reader::open(memfd(&bytes, sidegate_shm::segment::SEALS)) {
            for name in ["a", "bb", "ccc", "dddd"] {
                let _verdict = check(&reader, name);
            }
        }
    }
}

#[test]
fn dial_never_blocks() {
    let scratch = Scratch::new();
    let listener = UnixListener::bind(scratch.socket()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let mut waiting = Vec::new();
    let full = (0..64).find_map(|_| match dial(&scratch.socket()) {
        Ok(stream) => {
            waiting.push(stream);
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(full.expect("a backlog of one fills").kind(), std::io::ErrorKind::WouldBlock);
}
