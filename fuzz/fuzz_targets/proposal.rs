//! See `keyward::fuzzing::proposal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyward::fuzzing::proposal(bytes));
