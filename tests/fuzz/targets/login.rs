//! See `sidegate_fuzz::login::bodies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidegate_fuzz::login::bodies(data));
