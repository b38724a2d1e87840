//! A fake verifier: the real segment, publisher and attach server, and `/verify` over a real Unix
//! socket; only the tokens are simplified, with a checksum as their signature.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sidegate_client::{Builder, Sidegate};
use sidegate_shm::attach::{Allow, AttachServer, SegmentOffer};
use sidegate_shm::clock::{CoarseClock, NANOS, SegmentClock as _};
use sidegate_shm::{Geometry, Live, Publisher, SegmentEntry, SegmentState, Subject};

/// A directory that is removed when dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sidegate-client-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn builder(&self) -> Builder {
        Sidegate::builder()
            .socket(self.0.join("verifier.sock"))
            .attach_socket(self.0.join("attach.sock"))
            .timeout(Duration::from_secs(20))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The claims of a test token.
#[derive(Clone, Debug)]
pub struct Claims {
    pub sub: String,
    pub sid: String,
    pub jti: String,
    pub scope: String,
    pub iat: u64,
    pub exp: u64,
}

/// Claims number `n`, good for an hour.
pub fn claims(n: u64) -> Claims {
    let now = CoarseClock.now().realtime_ns / NANOS;
    Claims {
        sub: format!("user-{n}"),
        sid: format!("session-{n:015}"),
        jti: format!("token-{n:016}"),
        scope: "read write".into(),
        iat: now,
        exp: now + 3600,
    }
}

impl Claims {
    pub fn token(&self) -> String {
        let Self { sub, sid, jti, scope, iat, exp } = self;
        let json = format!(
            r#"{{"iss":"sidegate","aud":"sidegate","sub":"{sub}","client_id":"toy","iat":{iat},"exp":{exp},"jti":"{jti}","sid":"{sid}","scope":"{scope}"}}"#
        );
        let body = encode(json.as_bytes());
        format!("toy.{body}.{}", signature(&body))
    }
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64url, as in a real token.
fn encode(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let wide = chunk.iter().chain(&[0, 0]).take(3).fold(0u32, |wide, byte| wide << 8 | u32::from(*byte));
        let letter = |at: usize| char::from(LETTERS[(wide >> (18 - 6 * at) & 63) as usize]);
        out.extend((0..=chunk.len()).map(letter));
    }
    out
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for chunk in text.as_bytes().chunks(4) {
        let mut wide = 0;
        for at in 0..4 {
            let value = match chunk.get(at) {
                Some(letter) => LETTERS.iter().position(|known| known == letter)?,
                None => 0,
            };
            wide = wide << 6 | value as u32;
        }
        out.extend(&wide.to_be_bytes()[1..chunk.len()]);
    }
    Some(out)
}

fn signature(body: &str) -> String {
    encode(&Sha256::digest(body.as_bytes()))
}

pub fn subject(sub: &str) -> Subject {
    let hash = Sha256::digest(sub.as_bytes());
    Subject(hash[..6].iter().fold(0, |tag, byte| tag << 8 | u64::from(*byte)))
}

/// Shared by the threads of the fake verifier.
pub struct State_ {
    pub publisher: Mutex<Publisher>,
    pub dead: Mutex<HashSet<String>>,
    pub epoch: AtomicU64,
    pub asked: AtomicU64,
    pub stop: AtomicBool,
    pub stale: AtomicBool,
    /// The length of promises, in milliseconds.
    pub promise_ms: AtomicU64,
}

pub struct Daemon {
    pub state: Arc<State_>,
    threads: Vec<std::thread::JoinHandle<()>>,
    paths: [PathBuf; 2],
}

impl Daemon {
    pub fn start(dir: &Path) -> Self {
        Self::with(dir, Geometry::for_entries(1000))
    }

    pub fn with(dir: &Path, geometry: Geometry) -> Self {
        let offer = SegmentOffer::new().unwrap();
        let state = Arc::new(State_ {
            publisher: Mutex::new(Publisher::new(geometry, Arc::clone(&offer)).unwrap()),
            dead: Mutex::default(),
            epoch: AtomicU64::new(1),
            asked: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            promise_ms: AtomicU64::new(1000),
        });
        let paths = [dir.join("verifier.sock"), dir.join("attach.sock")];
        let [checks, attach] = paths.each_ref().map(|path| {
            let _ = std::fs::remove_file(path);
            UnixListener::bind(path).unwrap()
        });
        state.tick();
        let (ticking, attaching, serving) = (Arc::clone(&state), Arc::clone(&state), Arc::clone(&state));
        let mut server = AttachServer::new(attach, Allow::default(), offer).unwrap();
        checks.set_nonblocking(true).unwrap();
        let threads = vec![
            std::thread::spawn(move || {
                while !ticking.stop.load(Ordering::Relaxed) {
                    ticking.tick();
                    std::thread::sleep(Duration::from_millis(50));
                }
            }),
            std::thread::spawn(move || server.run(&attaching.stop).unwrap()),
            std::thread::spawn(move || {
                while !serving.stop.load(Ordering::Relaxed) {
                    match checks.accept() {
                        Ok((stream, _)) => {
                            let state = Arc::clone(&serving);
                            std::thread::spawn(move || state.serve(stream));
                        }
                        Err(_) => std::thread::sleep(Duration::from_millis(1)),
                    }
                }
            }),
        ];
        Self { state, threads, paths }
    }

    pub fn asked(&self) -> u64 {
        self.state.asked.load(Ordering::Relaxed)
    }

    /// Ends a session: in the exact set first, then in the segment.
    pub fn revoke_session(&self, claims: &Claims) {
        self.state.dead.lock().unwrap().insert(claims.sid.clone());
        let entry = SegmentEntry::Session { sid: claims.sid.as_bytes(), subject: Some(subject(&claims.sub)) };
        self.state.publisher.lock().unwrap().insert(&entry);
    }

    pub fn bump_epoch(&self) {
        self.state.epoch.fetch_add(1, Ordering::Relaxed);
        self.state.tick();
    }

    /// Makes a larger segment with the entries, and switches to it.
    pub fn grow(&self, entries: &[Claims]) {
        let mut publisher = self.state.publisher.lock().unwrap();
        publisher.begin_resize(Geometry::for_entries(5000)).unwrap();
        for claims in entries {
            publisher.feed(&SegmentEntry::Session { sid: claims.sid.as_bytes(), subject: Some(subject(&claims.sub)) });
        }
        publisher.switch();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        for path in &self.paths {
            let _ = std::fs::remove_file(path);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl State_ {
    pub fn tick(&self) {
        let now = CoarseClock.now();
        let promise = self.promise_ms.load(Ordering::Relaxed) * 1_000_000;
        let live = Live {
            valid_until_monotonic_ns: now.monotonic_ns + promise,
            valid_until_realtime_ns: now.realtime_ns + promise,
            state: if self.stale.load(Ordering::Relaxed) { SegmentState::Closed } else { SegmentState::Live },
            key_epoch: self.epoch.load(Ordering::Relaxed),
            time_floor_s: now.realtime_ns / NANOS,
        };
        self.publisher.lock().unwrap().tick(&live, now);
    }

    fn serve(&self, mut stream: UnixStream) {
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut buffer = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let mut chunk = [0; 16384];
            match stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(n) => buffer.extend(&chunk[..n]),
                Err(_) => continue,
            }
            while let Some((token, used)) = request(&buffer) {
                buffer.drain(..used);
                let (status, body) = self.check(&token);
                let length = body.len();
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        }
    }

    fn check(&self, token: &str) -> (u16, String) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        // Read before the check: a change meanwhile must make the client ask again.
        let epoch = self.epoch.load(Ordering::Relaxed);
        let segment = self.publisher.lock().unwrap().segment();
        let no = |status, code: &str| (status, format!(r#"{{"code":"{code}","title":"no"}}"#));
        let mut parts = token.split('.');
        let (Some("toy"), Some(body), Some(mac), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return no(401, "token_invalid");
        };
        if mac != signature(body) {
            return no(401, "token_invalid");
        }
        if self.stale.load(Ordering::Relaxed) {
            return no(503, "stale");
        }
        let json = String::from_utf8(decode(body).unwrap()).unwrap();
        let claims: serde_json::Value = serde_json::from_str(&json).unwrap();
        if claims["exp"].as_u64().unwrap() <= CoarseClock.now().realtime_ns / NANOS {
            return no(401, "token_expired");
        }
        let dead = self.dead.lock().unwrap();
        if ["sid", "jti", "sub"].iter().any(|name| dead.contains(claims[name].as_str().unwrap())) {
            return no(401, "token_revoked");
        }
        (200, format!(r#"{{"claims":{json},"segment":"{segment:x}","epoch":{epoch}}}"#))
    }
}

/// The body of the first complete request in the buffer, and the bytes that the request takes.
fn request(buffer: &[u8]) -> Option<(String, usize)> {
    let text = std::str::from_utf8(buffer).unwrap();
    let head = text.find("\r\n\r\n")? + 4;
    assert!(text.starts_with("POST /verify HTTP/1.1\r\n"), "{text}");
    let length = text[..head].lines().find_map(|line| line.strip_prefix("Content-Length: "))?.parse::<usize>().unwrap();
    let body = text.get(head..head + length)?;
    Some((body.to_owned(), head + length))
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never happened: {what}");
}
