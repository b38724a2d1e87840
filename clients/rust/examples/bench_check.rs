//! What a check of a token seen before costs, beside the machine's own limits measured in the same run.
//!
//! `cargo run --release -p sidegate-client --example bench_check [--quick] [--writer]`. Prints one line a row: median and
//! 99th percentile in nanoseconds over batches of checks of tokens in random order. `--writer` lets the daemon's end add
//! 10,000 revocations a second meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark may fail loudly")]

#[path = "../tests/kit/mod.rs"]
mod kit;

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kit::{Claims, Daemon, Scratch};
use sidegate_shm::{Entry, Geometry, Subject};

/// Checks a batch: enough that reading the clock does not matter.
const BATCH: usize = 256;

/// A small generator: the order must be random, nothing more.
struct Order(u64);

impl Order {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

struct Times {
    median: f64,
    p99: f64,
}

/// Nanoseconds of one call, by batches of [`BATCH`].
fn time(batches: usize, mut call: impl FnMut()) -> Times {
    time_of(batches, || {}, |_| call())
}

/// The same, with something to do before each batch that does not count.
fn time_of(batches: usize, mut before: impl FnMut(), mut call: impl FnMut(usize)) -> Times {
    let mut all: Vec<f64> = (0..batches)
        .map(|_| {
            before();
            let begin = Instant::now();
            (0..BATCH).for_each(&mut call);
            begin.elapsed().as_nanos() as f64 / BATCH as f64
        })
        .collect();
    all.sort_by(f64::total_cmp);
    Times { median: all[all.len() / 2], p99: all[all.len() * 99 / 100] }
}

fn row(name: &str, times: &Times, goal: Option<f64>) {
    let goal = goal.map(|goal| format!("   goal {goal:.0}")).unwrap_or_default();
    println!("{name:<52} median {:8.1} ns   p99 {:8.1} ns{goal}", times.median, times.p99);
}

fn limits(batches: usize) {
    let (one, other) = (vec![7u8; 280], vec![7u8; 280]);
    row("compare 280 bytes", &time(batches, || assert!(black_box(&one) == black_box(&other))), None);
    let words: Vec<u64> = (0..64 << 20 >> 3).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let big: Vec<u64> = words.iter().cycle().take(words.len() * 4).copied().collect();
    for (name, memory) in [("dependent random load, 64 MiB", &words), ("dependent random load, 256 MiB", &big)] {
        let (mut at, mut order) = (1, Order(88_172_645_463_325_252));
        let times = time(batches, || at = (memory[at] ^ order.next()) as usize % memory.len());
        black_box(at);
        row(name, &times, None);
    }
}

/// One row: `tokens` distinct tokens known to this process, `revoked` entries in the segment.
fn checks(tokens: usize, revoked: u64, batches: usize, writer: bool, goal: f64) {
    let scratch = Scratch::new();
    let daemon = Daemon::with(&scratch.0, Geometry::for_entries(revoked));
    {
        let mut publisher = daemon.state.publisher.lock().unwrap();
        for n in 0..revoked {
            let sid = (n | 1 << 63).to_be_bytes();
            publisher.insert(&Entry::Session { sid: &sid, subject: Some(Subject(mix(n / 2) >> 16)) });
            if n % 65_536 == 0 {
                drop(publisher);
                daemon.state.tick();
                publisher = daemon.state.publisher.lock().unwrap();
            }
        }
    }
    daemon.state.tick();
    let stats = daemon.state.publisher.lock().unwrap().stats();
    let sidegate = scratch.builder().tokens(tokens).connect();
    let known: Vec<String> = (0..tokens as u64)
        .map(|n| {
            let token = Claims { exp: u64::MAX >> 1, ..kit::claims(n) }.token();
            sidegate.check(&token).unwrap();
            token
        })
        .collect();
    let known: Vec<String> = known.into_iter().filter(|token| sidegate.try_cached(token).is_some()).collect();
    // A token whose line is crowded is asked about; a bucket that is full drops one: both are few.
    assert!(known.len() * 100 >= tokens * 90, "{} of {tokens} known", known.len());
    let state = Arc::clone(&daemon.state);
    let noise = writer.then(|| {
        std::thread::spawn(move || {
            let mut n = 1u64 << 62;
            while !state.stop.load(Ordering::Relaxed) {
                for _ in 0..100 {
                    n += 1;
                    let entry = Entry::Session { sid: &n.to_be_bytes(), subject: Some(Subject(mix(n) >> 16)) };
                    state.publisher.lock().unwrap().insert(&entry);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        })
    });
    // A token that is to be checked has just come in, so it is copied to where the caches have it before the clock starts.
    let mut order = Order(88_172_645_463_325_252);
    let received: Vec<RefCell<String>> = (0..BATCH).map(|_| RefCell::new(String::new())).collect();
    let mut missed = 0u64;
    let calls = (batches * BATCH) as u64;
    let receive = || {
        for place in &received {
            let token = &known[(order.next() % known.len() as u64) as usize];
            let mut place = place.borrow_mut();
            place.clear();
            place.push_str(token);
        }
    };
    let times = time_of(batches, receive, |at| {
        missed += u64::from(black_box(sidegate.try_cached(&received[at].borrow())).is_none());
    });
    assert!(missed * 20 < calls, "{missed} of {calls} were not answered in process");
    let length = known[0].len();
    row(&format!("check: {tokens} tokens of {length} B, {revoked} revoked"), &times, Some(goal));
    let each = stats.bytes as f64 / stats.entries.max(1) as f64;
    println!(
        "    segment {} MiB, {each:.1} B an entry, load {:.2}, {missed} asked",
        stats.bytes >> 20,
        stats.used as f64 / stats.slots as f64
    );
    daemon.state.stop.store(true, Ordering::Relaxed);
    if let Some(noise) = noise {
        noise.join().unwrap();
    }
}

fn mix(n: u64) -> u64 {
    let n = (n ^ n >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    n ^ n >> 33
}

fn main() {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    let (quick, writer) = (has("--quick"), has("--writer"));
    let batches = if quick { 400 } else { 4000 };
    limits(batches);
    checks(1, 1_000_000, batches, writer, 40.0);
    checks(10_000, 1_000_000, batches, writer, 200.0);
    checks(100_000, 1_000_000, batches, writer, 500.0);
    if !quick {
        checks(1_000_000, 10_000_000, batches, writer, 900.0);
    }
}
