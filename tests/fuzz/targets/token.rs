//! See `sidegate_fuzz::bodies::token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidegate_fuzz::bodies::token(data));
