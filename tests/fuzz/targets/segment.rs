//! See `sidegate_fuzz::bodies::segment`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidegate_fuzz::bodies::segment(data));
