//! See `keyward_fuzz::forward`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyward_fuzz::forward(bytes));
