//! See `keyward::fuzzing::http_list`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyward::fuzzing::http_list(bytes));
