//! See `keyward::fuzzing::forward`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyward::fuzzing::forward(bytes));
