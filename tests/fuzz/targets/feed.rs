//! See `sidegate_fuzz::bodies::feed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidegate_fuzz::bodies::feed(data));
