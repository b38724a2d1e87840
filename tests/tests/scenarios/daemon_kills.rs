//! Kills the real daemon in the middle of its writes, repeatedly, while four processes check tokens
//! with the real client.
//!
//! The binary starts itself once more for each reader. `SIDEGATE_KILLS` sets the number of kills
//! (100 by default).

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use sidegate_client::{Denied, Sidegate};
use sidegate_common::claims::Claims;
use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::time::UnixTime;
use sidegate_shm::clock::{CoarseClock, NANOS, SegmentClock as _};
use sidegate_shm::{Attachment, Reader, SegmentLookup, SegmentState, Subject, TokenFacts};
use sidegate_tests::daemon::{claims, sign};
use sidegate_tests::program::Program;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{SECRET, Stack, Store};

const ROLE: &str = "SIDEGATE_READER_OF";
/// Sessions that the readers check; the writer revokes them in ascending order.
const SESSIONS: u64 = 200_000;
/// How long a segment stays valid after its daemon's death.
const TRUSTED_NS: u64 = NANOS;
/// How long the daemon stays down in some rounds.
const AWAY_NS: u64 = 1_500_000_000;

fn monotonic_ns() -> u64 {
    CoarseClock.now().monotonic_ns
}

fn gone(n: u64) -> Claims {
    let sub = format!("user-{}", n / 2);
    Claims { sid: format!("gone-{n}"), jti: format!("token-{n}"), ..claims(&sub) }
}

/// The log entry of session `n`; every fifth does not name the user.
fn entry(n: u64) -> Vec<u8> {
    let claims = gone(n);
    let subject = (!n.is_multiple_of(5)).then(|| SubjectTag::of(&claims.sub));
    let sid = Id::parse(&claims.sid).expect("an id");
    Revocation { target: Target::Session { sid, subject }, expires_at: UnixTime(claims.exp + 70) }.to_bytes()
}

/// Appends every ARGV but the first, like the issuer's script: KEYS meta, log; ARGV[1] channel.
const APPEND: &str = r"
local meta, log, channel = KEYS[1], KEYS[2], ARGV[1]
local epoch, last = unpack(redis.call('HMGET', meta, 'epoch', 'last'))
for i = 2, #ARGV do
  local id = redis.call('XADD', log, '*', 'r', ARGV[i])
  redis.call('SPUBLISH', channel, '1 ' .. epoch .. ' ' .. last .. ' ' .. id .. ' ' .. ARGV[i])
  last = id
end
redis.call('HSET', meta, 'last', last)";

/// Revokes session after session until paused; `acknowledged` counts those that Redis has accepted.
async fn storm(mut connection: MultiplexedConnection, running: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) {
    let keys = sidegate_common::log_protocol::RedisKeys::new("sidegate", 0);
    let mut next = 0;
    while next < SESSIONS {
        if running.load(Ordering::Acquire) {
            let mut command = redis::cmd("EVAL");
            command.arg(APPEND).arg(2).arg(keys.meta()).arg(keys.log()).arg(keys.channel());
            (next..next + 4).for_each(|n| {
                command.arg(entry(n));
            });
            command.query_async::<()>(&mut connection).await.expect("appended");
            next += 4;
            acknowledged.store(next, Ordering::Release);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The test's message to its readers: a daemon died at `at_ns`, and every session below
/// `acknowledged` was revoked before the next daemon starts, which is not before `until_ns`.
#[derive(Clone, Copy)]
struct Death {
    at_ns: u64,
    until_ns: u64,
    acknowledged: u64,
}

#[derive(Default)]
struct Seen {
    good: u64,
    good_in_memory: u64,
    revoked: u64,
    cannot_tell: u64,
    segments: u64,
    highest: u64,
}

/// A reader process: the client, and every segment that the process could attach to.
struct Observer {
    sidegate: Sidegate,
    attach: PathBuf,
    deaths: Arc<Mutex<VecDeque<Death>>>,
    /// From each time on, sessions below the number must be denied.
    dead_below: VecDeque<(u64, u64)>,
    settled: u64,
    last: Option<Death>,
    held: Vec<(u64, Reader)>,
    link: Option<Attachment>,
    seen: Seen,
    random: u64,
}

/// The body of the readers; does nothing unless started by the test below.
#[test]
fn reader() {
    let Some(folder) = std::env::var_os(ROLE).map(PathBuf::from) else { return };
    let deaths = Arc::new(Mutex::new(VecDeque::new()));
    let (sender, ended) = (Arc::clone(&deaths), Arc::new(AtomicBool::new(false)));
    let at_end = Arc::clone(&ended);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let numbers: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            let death = Death { at_ns: numbers[0], until_ns: numbers[1], acknowledged: numbers[2] };
            sender.lock().unwrap().push_back(death);
        }
        at_end.store(true, Ordering::Release);
    });
    let attach = folder.join("a.sock");
    let sidegate = Sidegate::builder().socket(folder.join("v.sock")).attach_socket(&attach).connect();
    let mut observer = Observer {
        sidegate,
        attach,
        deaths,
        dead_below: VecDeque::new(),
        settled: 0,
        last: None,
        held: Vec::new(),
        link: None,
        seen: Seen::default(),
        random: u64::from(std::process::id()) << 32 | 1,
    };
    while !ended.load(Ordering::Acquire) {
        observer.hear();
        observer.attach();
        for _ in 0..100 {
            observer.check();
        }
        observer.look_at_segments();
    }
    let Seen { good, good_in_memory, revoked, cannot_tell, segments, highest } = observer.seen;
    println!("seen {good} {good_in_memory} {revoked} {cannot_tell} {segments} {highest}");
}

impl Observer {
    fn hear(&mut self) {
        for death in self.deaths.lock().unwrap().drain(..) {
            self.dead_below.push_back((death.at_ns + TRUSTED_NS, death.acknowledged));
            self.last = Some(death);
        }
        let now = monotonic_ns();
        while let Some(&(from_ns, below)) = self.dead_below.front()
            && from_ns < now
        {
            self.settled = self.settled.max(below);
            self.dead_below.pop_front();
        }
    }

    /// Attaches to the offered segment, over a separate connection.
    fn attach(&mut self) {
        let at_ns = monotonic_ns();
        let reader = match &self.link {
            Some(link) => match link.next(Duration::from_micros(50)) {
                Ok(next) => next,
                Err(_) => {
                    self.link = None;
                    return;
                }
            },
            None => match Attachment::connect(&self.attach, Duration::from_millis(200)) {
                Ok((link, reader)) => {
                    self.link = Some(link);
                    Some(reader)
                }
                Err(_) => return,
            },
        };
        if let Some(reader) = reader {
            self.seen.segments += 1;
            self.held.push((at_ns, reader));
        }
    }

    /// Checks that no segment of a dead daemon is accepted a second after its death.
    fn look_at_segments(&mut self) {
        let Some(last) = self.last else { return };
        let facts = TokenFacts { jti: "none", sid: "none", subject: Subject(1), iat_s: u64::MAX, exp_s: u64::MAX };
        self.held.retain(|(since_ns, reader)| {
            let now = monotonic_ns();
            let clear =
                reader.check(&reader.probe(&facts), reader.live().key_epoch, &CoarseClock) == SegmentLookup::Clear;
            let lapsed = *since_ns < last.at_ns && now > last.at_ns + TRUSTED_NS;
            assert!(!(clear && lapsed), "a segment was accepted more than a second after its daemon's death");
            !lapsed
        });
    }

    fn check(&mut self) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        // Few enough that most have been seen before, on both sides of the writer's position.
        let n = self.settled.saturating_sub(200) + self.random % 600;
        let stays = self.random.is_multiple_of(3);
        let claims = if stays { claims(&format!("stays-{}", n % 50)) } else { gone(n) };
        // The same token each time, so that it is known: its times are those of its quarter of a
        // day.
        let iat = claims.iat - claims.iat % 21_600;
        let claims = Claims { iat, exp: iat + 2 * 21_600, ..claims };
        let token = sign(&claims);
        let before_ns = monotonic_ns();
        let cached = self.sidegate.try_cached(&token);
        self.seen.good_in_memory += u64::from(cached.is_some());
        let answer = cached.unwrap_or_else(|| self.sidegate.check(&token));
        let after_ns = monotonic_ns();
        match answer {
            Ok(verified) => {
                assert_eq!(verified.subject(), claims.sub, "another user's token");
                self.seen.good += 1;
                let away =
                    self.last.is_some_and(|last| before_ns > last.at_ns + TRUSTED_NS && after_ns < last.until_ns);
                assert!(!away, "accepted more than a second after the daemon's death");
                assert!(stays || n >= self.settled, "{n} is accepted, although all below {} are revoked", self.settled);
            }
            Err(Denied::Revoked) => {
                assert!(!stays, "{} was never revoked", claims.sub);
                self.seen.revoked += 1;
                self.seen.highest = self.seen.highest.max(n);
            }
            Err(Denied::Stale | Denied::Unavailable(_)) => {
                self.seen.cannot_tell += 1;
                std::thread::sleep(Duration::from_micros(300));
            }
            Err(other) => panic!("unexpected reason: {other}"),
        }
    }
}

fn start_reader(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "daemon_kills::reader", "--nocapture"])
        .env(ROLE, folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn settings(folder: &Scratch, redis: &str, on_stale: &str) -> BTreeMap<String, String> {
    let path = |name: &str| folder.file(name).to_str().unwrap().to_owned();
    [
        ("VERIFIER_SOCKET", path("v.sock")),
        ("ATTACH_SOCKET", path("a.sock")),
        ("VERIFIER_ADMIN_LISTEN", "off".into()),
        ("JWT_SECRET_KEY", SECRET.into()),
        ("REDIS_URL", redis.into()),
        ("ON_STALE", on_stale.into()),
        ("MAX_STALENESS", "2s".into()),
        ("WORKER_THREADS", "1".into()),
        ("RUST_LOG", "error".into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn is_live(attach: &Path) -> bool {
    Attachment::connect(attach, Duration::from_secs(1))
        .is_ok_and(|(_, reader)| reader.live().state == SegmentState::Live)
}

/// Starts a daemon, lets it work for a time that varies between rounds, kills it, and notifies the
/// readers.
async fn round(
    kill: u64,
    folder: &Scratch,
    redis: &str,
    running: &AtomicBool,
    taken: &AtomicU64,
    readers: &mut [Child],
) {
    let on_stale = if kill.is_multiple_of(2) { "deny" } else { "allow" };
    let mut daemon = Program::ours("sidegate-verifier", &settings(folder, redis, on_stale), &folder.file("daemon.log"));
    running.store(true, Ordering::Release);
    let started = Instant::now();
    // Every fourth is killed while it starts; the others once they answer for their list and the
    // writer's entries arrive.
    let attach = folder.file("a.sock");
    while UnixStream::connect(&attach).is_err() || !(kill.is_multiple_of(4) || is_live(&attach)) {
        assert!(daemon.running() && started.elapsed() < Duration::from_secs(60), "{}", daemon.output());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(kill * 7 % 45)).await;
    daemon.kill();
    let at_ns = monotonic_ns() + 10_000_000;
    running.store(false, Ordering::Release);
    // The writer may have been in its last batch, which does not count as acknowledged yet.
    let away_ns = if kill % 50 == 25 { AWAY_NS } else { 0 };
    let line = format!("{at_ns} {} {}\n", at_ns + away_ns, taken.load(Ordering::Acquire));
    for reader in readers.iter_mut() {
        let _seen_when_it_is_waited_for = reader.stdin.as_mut().unwrap().write_all(line.as_bytes());
    }
    tokio::time::sleep(Duration::from_nanos(away_ns)).await;
    while monotonic_ns() < at_ns {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Runs at most 100 kills on one log, and returns the readers' counts.
async fn kills(from: u64, count: u64) -> [u64; 6] {
    let stack = Stack::with(Store::Redis, 0, &[("RUST_LOG", "error")], &[]).await;
    let redis = stack.redis.as_ref().expect("on Redis");
    // The log is complete since the beginning of time, so that tokens older than the log can be
    // checked.
    let meta = sidegate_common::log_protocol::RedisKeys::new("sidegate", 0).meta();
    let mut since = redis::cmd("HSET");
    since.arg(meta).arg("since").arg(1);
    since.query_async::<()>(&mut redis.connection().await).await.expect("set");
    let (running, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let storm = tokio::spawn(storm(redis.connection().await, Arc::clone(&running), Arc::clone(&acknowledged)));
    let folder = Scratch::new();
    let mut readers: Vec<Child> = (0..4).map(|_| start_reader(folder.path())).collect();
    for kill in from..from + count {
        round(kill, &folder, &redis.url(), &running, &acknowledged, &mut readers).await;
    }
    storm.abort();
    let mut total = [0; 6];
    for reader in &mut readers {
        drop(reader.stdin.take());
        let mut said = String::new();
        reader.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(reader.wait().unwrap().success(), "a reader found something wrong:\n{said}");
        let line = said.lines().find_map(|line| line.split_once("seen ")).expect("a reader's counts").1;
        for (sum, number) in total.iter_mut().zip(line.split(' ')) {
            *sum += number.parse::<u64>().unwrap();
        }
        let highest: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(highest < acknowledged.load(Ordering::Acquire) + 4, "{highest} was never revoked");
    }
    total
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_survive_a_daemon_killed_while_writing() {
    if std::env::var_os(ROLE).is_some() {
        return;
    }
    let wanted: u64 = std::env::var("SIDEGATE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let mut total = [0; 6];
    let mut done = 0;
    while done < wanted {
        let count = (wanted - done).min(100);
        let seen = kills(done, count).await;
        total.iter_mut().zip(seen).for_each(|(sum, more)| *sum += more);
        done += count;
    }
    let [good, in_memory, revoked, cannot_tell, segments, _] = total;
    println!(
        "kills: {wanted} of the daemon: {good} good ({in_memory} in memory), {revoked} revoked, {cannot_tell} untold, {segments} segments"
    );
    assert!(good > 0 && in_memory > 0 && revoked > 0 && cannot_tell > 0, "{total:?}");
    assert!(segments * 2 >= wanted, "{segments} segments: too few for a conclusion");
}
