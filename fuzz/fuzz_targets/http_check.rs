//! See `keyward_fuzz::http_check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyward_fuzz::http_check(bytes));
