//! See `keyward::fuzzing::snapshot`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyward::fuzzing::snapshot(bytes));
