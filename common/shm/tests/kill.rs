//! Kills a writer in the middle of its writes, repeatedly, while four other processes read.
//!
//! The binary starts itself in two more roles. `SIDEGATE_KILLS` is the number of kills (100 by
//! default). Promises lapse within a tenth of a second; every comparison of times uses the clock
//! that the promise was made on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests may fail loudly")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sidegate_shm::attach::{Allow, AttachServer, SegmentOffer};
use sidegate_shm::clock::{CoarseClock, SegmentClock as _};
use sidegate_shm::{
    AskReason, AttachError, Attachment, Geometry, Live, Publisher, Reader, SegmentEntry, SegmentLookup, SegmentState,
    Subject, TokenFacts,
};

const ROLE: &str = "SIDEGATE_KILL_ROLE";
const SOCKET: &str = "SIDEGATE_KILL_SOCKET";
const PROMISE_NS: u64 = 100_000_000;
/// The identifiers that the writer uses.
const IDS: u64 = 60_000;

fn name(n: u64) -> String {
    format!("session-{n}")
}

fn start(role: &str, socket: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "role", "--nocapture"])
        .env(ROLE, role)
        .env(SOCKET, socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The body of the other processes; does nothing unless the test below started it.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let socket = PathBuf::from(std::env::var_os(SOCKET).unwrap());
    match role.as_str() {
        "writer" => write_until_killed(&socket),
        _ => read_until_stopped(&socket),
    }
}

fn write_until_killed(socket: &Path) {
    let offer = SegmentOffer::new().unwrap();
    let mut publisher = Publisher::new(Geometry::for_entries(300), Arc::clone(&offer)).unwrap();
    let _ = std::fs::remove_file(socket);
    let mut server = AttachServer::new(UnixListener::bind(socket).unwrap(), Allow::default(), offer).unwrap();
    std::thread::spawn(move || server.run(&AtomicBool::new(false)));
    println!("ready");
    std::io::stdout().flush().unwrap();
    let names: Vec<String> = (0..IDS).map(name).collect();
    let entry = |n: u64| SegmentEntry::Session { sid: names[n as usize].as_bytes(), subject: Some(Subject(n / 2)) };
    for n in 0..IDS {
        publisher.insert(&entry(n));
        // Every third entry is removed again, so that slots and flags are cleared and set during
        // reads.
        if n % 3 == 2 {
            publisher.remove(&entry(n - 1));
        }
        if n % 64 == 0 {
            tick(&mut publisher);
        }
        if let Some(geometry) = publisher.wants_resize() {
            publisher.begin_resize(geometry).unwrap();
            (0..=n).filter(|n| n % 3 != 1).for_each(|n| publisher.feed(&entry(n)));
            publisher.switch();
        }
    }
    loop {
        tick(&mut publisher);
        publisher.insert(&entry(1));
        publisher.remove(&entry(1));
    }
}

fn tick(publisher: &mut Publisher) {
    let now = CoarseClock.now();
    let live = Live {
        valid_until_monotonic_ns: now.monotonic_ns + PROMISE_NS,
        valid_until_realtime_ns: now.realtime_ns + PROMISE_NS,
        state: SegmentState::Live,
        key_epoch: 1,
        time_floor_s: 1,
    };
    publisher.tick(&live, now);
}

/// The observations of one reader.
#[derive(Default)]
struct Observations {
    segments: u64,
    deaths: u64,
    clear: u64,
    revoked: u64,
    lapsed: u64,
}

fn read_until_stopped(socket: &Path) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = Arc::clone(&stop);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        stopper.store(true, Ordering::Relaxed);
    });
    let mut seen = Observations::default();
    let mut random = u64::from(std::process::id()) << 32 | 1;
    while !stop.load(Ordering::Relaxed) {
        match Attachment::connect(socket, Duration::from_millis(200)) {
            Ok((link, reader)) => follow(&link, reader, &stop, &mut seen, &mut random),
            Err(AttachError::Io(_) | AttachError::Closed | AttachError::NotYet | AttachError::Clocks) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("a segment was refused: {error}"),
        }
    }
    let Observations { segments, deaths, clear, revoked, lapsed } = seen;
    println!("seen {segments} {deaths} {clear} {revoked} {lapsed}");
}

/// Checks one writer's segments until it has been dead for so long that none may be valid.
fn follow(link: &Attachment, mut reader: Reader, stop: &AtomicBool, seen: &mut Observations, random: &mut u64) {
    let mut died_ns = None;
    let mut highest = 0;
    seen.segments += 1;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..2000 {
            // The clock is read before the check: the segment was valid at this time or earlier.
            let now = CoarseClock.now().monotonic_ns;
            let clear = look(&reader, random, &mut highest, seen);
            if let Some(died_ns) = died_ns {
                assert!(!clear || now < died_ns + PROMISE_NS, "accepted a dead writer's promise");
            }
        }
        match died_ns {
            Some(died_ns) if CoarseClock.now().monotonic_ns > died_ns + PROMISE_NS => return,
            Some(_) => {}
            None => match link.next(Duration::from_micros(100)) {
                Ok(None) => {}
                Ok(Some(next)) => {
                    reader = next;
                    highest = 0;
                    seen.segments += 1;
                }
                Err(AttachError::Closed | AttachError::Io(_)) => {
                    died_ns = Some(CoarseClock.now().monotonic_ns);
                    seen.deaths += 1;
                }
                Err(error) => panic!("a successor was refused: {error}"),
            },
        }
    }
}

/// Checks an identifier that may be revoked, and another that never is. True if either was called
/// good.
fn look(reader: &Reader, random: &mut u64, highest: &mut u64, seen: &mut Observations) -> bool {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    let n = *random % IDS / 3 * 3;
    let verdict = check(reader, &name(n), Subject(n / 2));
    match verdict {
        SegmentLookup::Clear => {
            // The writer counts up and keeps every third: below one that was seen, all must be
            // there.
            assert!(n > *highest, "{n} was lost below {highest}");
            seen.clear += 1;
        }
        SegmentLookup::Ask(AskReason::Revoked) => {
            *highest = (*highest).max(n);
            seen.revoked += 1;
        }
        SegmentLookup::Ask(AskReason::Lapsed | AskReason::NotLive) => seen.lapsed += 1,
        SegmentLookup::Ask(AskReason::Saturated) => {}
        SegmentLookup::Ask(reason) => panic!("an impossible reason: {reason:?}"),
    }
    let stranger = check(reader, "never", Subject(n + (1 << 40)));
    assert_ne!(stranger, SegmentLookup::Ask(AskReason::Revoked), "a torn word looked like an entry");
    verdict == SegmentLookup::Clear || stranger == SegmentLookup::Clear
}

fn check(reader: &Reader, name: &str, subject: Subject) -> SegmentLookup {
    let facts = TokenFacts { jti: name, sid: name, subject, iat_s: 1, exp_s: 1 << 40 };
    reader.check(&reader.probe(&facts), 1, &CoarseClock)
}

#[test]
fn f17_readers_survive_a_writer_that_is_killed_while_it_writes() {
    let kills: u64 = std::env::var("SIDEGATE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let directory = std::env::temp_dir().join(format!("sidegate-kill-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let socket = directory.join("attach.sock");
    let mut readers: Vec<Child> = (0..4).map(|_| start("reader", &socket)).collect();
    for kill in 0..kills {
        let mut writer = start("writer", &socket);
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains("ready"))), "the writer did not start");
        // At a random point of its work, sometimes late enough for every promise to lapse
        // afterwards.
        std::thread::sleep(Duration::from_millis(5 + kill * 7 % 60));
        writer.kill().unwrap();
        writer.wait().unwrap();
        if kill % 10 == 9 {
            std::thread::sleep(Duration::from_millis(150));
        }
    }
    let mut total = [0u64; 5];
    for reader in &mut readers {
        drop(reader.stdin.take());
        let mut said = String::new();
        reader.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(reader.wait().unwrap().success(), "a reader found something wrong:\n{said}");
        let line = said.lines().find_map(|line| line.split_once("seen ")).expect("a reader's account").1;
        for (sum, number) in total.iter_mut().zip(line.split(' ')) {
            *sum += number.parse::<u64>().unwrap();
        }
    }
    let _ = std::fs::remove_dir_all(&directory);
    let [segments, deaths, clear, revoked, lapsed] = total;
    println!("{kills} kills: {segments} segments, {deaths} deaths, {clear} clear, {revoked} revoked, {lapsed} lapsed");
    assert!(segments >= kills / 2 && deaths >= kills / 4, "{segments} segments, {deaths} deaths: too few to mean much");
    assert!(clear > 0 && revoked > 0 && lapsed > 0, "{clear} {revoked} {lapsed}");
}
