//! See `keyward::fuzzing::machine`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyward::fuzzing::machine(bytes));
