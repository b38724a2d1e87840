//! See `sidegate_fuzz::bodies::jwks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidegate_fuzz::bodies::jwks(data));
