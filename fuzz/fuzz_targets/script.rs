//! See `keyward::fuzzing::script`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyward::fuzzing::script(bytes));
