//! A dropped secret is wiped from memory: the test reads its old address through /proc.

#![allow(clippy::unwrap_used, missing_docs)] // helpers outside of test functions

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};

use sidegate_common::secret::Secret;

/// One test at a time: one test's canary may get the address of the other's.
static ALONE: Mutex<()> = Mutex::new(());

const CANARY: &[u8; 256] = &[0xa7; 256];

/// The allocator may write to the first bytes of freed memory, also the canary's byte.
const ALLOCATOR_BYTES: usize = 16;

/// How many bytes of the canary are still in the `length` bytes at `address`, without the
/// allocator's.
fn left(address: usize, length: usize) -> usize {
    let (address, length) = (address + ALLOCATOR_BYTES, length - ALLOCATOR_BYTES);
    let mut found = vec![0; length];
    File::open("/proc/self/mem").unwrap().read_exact_at(&mut found, u64::try_from(address).unwrap()).unwrap();
    found.iter().zip(CANARY).filter(|(found, canary)| found == canary).count()
}

#[test]
fn dropped_secret_is_wiped() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let secret = Secret::new(CANARY.to_vec());
    let address = secret.expose().as_ptr().addr();
    assert_eq!(left(address, CANARY.len()), CANARY.len() - ALLOCATOR_BYTES, "the address is right");
    drop(secret);
    assert_eq!(left(address, CANARY.len()), 0);
    // The counter-test: bytes that are not secret stay, except where the allocator writes.
    let plain = CANARY.to_vec();
    // Stops the compiler from optimising the unused bytes away.
    let address = std::hint::black_box(&plain).as_ptr().addr();
    drop(plain);
    assert!(left(address, CANARY.len()) > 200, "freed memory cannot be looked at this way here");
}

#[test]
fn copy_of_a_secret_is_wiped() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let secret = Secret::new(CANARY.to_vec());
    let copy = secret.clone();
    let address = copy.expose().as_ptr().addr();
    drop(copy);
    assert_eq!(left(address, CANARY.len()), 0);
    assert!(secret.matches(CANARY));
}
