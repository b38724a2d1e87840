//! See `sidegate_fuzz::request::authorization`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidegate_fuzz::request::authorization(data));
