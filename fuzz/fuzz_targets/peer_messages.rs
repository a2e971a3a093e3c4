//! See `keyward::fuzzing::peer_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyward::fuzzing::peer_messages(bytes));
