//! See `keyward_fuzz::peer_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyward_fuzz::peer_messages(bytes));
