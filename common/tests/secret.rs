//! A dropped secret is gone from this process' memory: looked for where it was, through /proc.

#![allow(clippy::unwrap_used, missing_docs)] // helpers outside of test functions

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};

use sidegate_common::secret::Secret;

/// One test at a time: the other's canary may be put where the first one's was.
static ALONE: Mutex<()> = Mutex::new(());

const CANARY: &[u8; 256] = &[0xa7; 256];

/// Once freed, the first bytes are the allocator's: what it writes there at random may be the canary's byte.
const ALLOCATORS: usize = 16;

/// How many bytes of the canary are still there, `length` bytes from `address` on but for the allocator's.
fn left(address: usize, length: usize) -> usize {
    let (address, length) = (address + ALLOCATORS, length - ALLOCATORS);
    let mut found = vec![0; length];
    File::open("/proc/self/mem").unwrap().read_exact_at(&mut found, u64::try_from(address).unwrap()).unwrap();
    found.iter().zip(CANARY).filter(|(found, canary)| found == canary).count()
}

#[test]
fn a_dropped_secret_is_wiped_and_plain_bytes_are_not() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let secret = Secret::new(CANARY.to_vec());
    let address = secret.expose().as_ptr().addr();
    assert_eq!(left(address, CANARY.len()), CANARY.len() - ALLOCATORS, "it is looked for at the right place");
    drop(secret);
    assert_eq!(left(address, CANARY.len()), 0);
    // The test can fail: what is not a secret stays behind, but for what the allocator writes over its first bytes.
    let plain = CANARY.to_vec();
    // Or the compiler would see that nobody reads it, and not write it at all.
    let address = std::hint::black_box(&plain).as_ptr().addr();
    drop(plain);
    assert!(left(address, CANARY.len()) > 200, "freed memory cannot be looked at this way here");
}

#[test]
fn a_copy_is_wiped_as_well() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let secret = Secret::new(CANARY.to_vec());
    let copy = secret.clone();
    let address = copy.expose().as_ptr().addr();
    drop(copy);
    assert_eq!(left(address, CANARY.len()), 0);
    assert!(secret.matches(CANARY));
}
