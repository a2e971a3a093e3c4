//! See `keyward::fuzzing::log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyward::fuzzing::log(bytes));
