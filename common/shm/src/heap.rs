//! Words on the heap, so that loom, Miri and tests can run the code for mapped memory.

#[cfg(loom)]
use loom::sync::Arc;
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use std::sync::Arc;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::words::{Load, WordStore};

/// Words on the heap, shared by every clone.
#[derive(Clone, Debug)]
pub struct HeapWords(Arc<[AtomicU64]>);

impl HeapWords {
    /// `words` words, all zero.
    pub fn new(words: usize) -> Self {
        let zeros: Vec<AtomicU64> = (0..words).map(|_| AtomicU64::new(0)).collect();
        #[cfg(loom)]
        return Self(Arc::from_std(zeros.into()));
        #[cfg(not(loom))]
        return Self(zeros.into());
    }

    /// Stores a word without ordering: the bug of a broken writer, for tests that must detect it.
    pub fn store_relaxed(&self, index: usize, value: u64) {
        self.0[index].store(value, Ordering::Relaxed);
    }
}

impl Load for HeapWords {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn line(&self, first: usize) -> [u64; 8] {
        std::array::from_fn(|i| self.0[first + i].load(Ordering::Relaxed))
    }

    fn load(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::Relaxed)
    }

    fn acquire(&self) {
        fence(Ordering::Acquire);
    }
}

impl WordStore for HeapWords {
    fn publish(&self, index: usize, value: u64) {
        self.0[index].store(value, Ordering::Release);
    }
}
