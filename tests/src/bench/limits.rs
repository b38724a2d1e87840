//! The limits of the machine, measured in the same run as the values compared with them.

use std::hint::black_box;
use std::time::Instant;

/// Calls between two readings of the clock, so that the reading itself does not matter.
pub const BATCH: usize = 256;

/// A small generator: orders must be random, no more.
#[derive(Clone, Debug)]
pub struct Order(u64);

impl Default for Order {
    fn default() -> Self {
        Self(88_172_645_463_325_252)
    }
}

impl Order {
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.draw() % limit as u64) as usize
    }
}

/// Nanoseconds of one call.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub median: f64,
    pub p99: f64,
}

/// Times `calls` calls of `call` for each of `batches` batches; `before` runs before each batch and
/// does not count.
pub fn time(batches: usize, calls: usize, mut before: impl FnMut(), mut call: impl FnMut(usize)) -> Times {
    let mut all: Vec<f64> = (0..batches)
        .map(|_| {
            before();
            let begin = Instant::now();
            (0..calls).for_each(&mut call);
            begin.elapsed().as_nanos() as f64 / calls as f64
        })
        .collect();
    all.sort_by(f64::total_cmp);
    Times { median: all[all.len() / 2], p99: all[all.len() * 99 / 100] }
}

/// Memory for loads at random addresses, far larger than any cache.
#[derive(Debug)]
pub struct Memory {
    words: Vec<u64>,
    order: Order,
}

impl Default for Memory {
    fn default() -> Self {
        let words = (0..(256 << 20) / 8).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        Self { words, order: Order::default() }
    }
}

impl Memory {
    /// Dependent loads: each waits for the one before.
    pub fn loads(&mut self, batches: usize) -> Times {
        let mut at = 1;
        let times = time(
            batches,
            BATCH,
            || {},
            |_| {
                at = (self.words[at] ^ self.order.draw()) as usize % self.words.len();
            },
        );
        black_box(at);
        times
    }
}

/// Comparisons of two byte strings as long as a token.
pub fn compares(batches: usize, bytes: usize) -> Times {
    let (one, other) = (vec![7u8; bytes], vec![7u8; bytes]);
    time(batches, BATCH, || {}, |_| assert!(black_box(&one) == black_box(&other)))
}
