//! See `sidegate_fuzz::request::routes`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidegate_fuzz::request::routes(data));
