//! IMAP: see `l7_support.rs`.
#![no_main]

mod l7_support;

libfuzzer_sys::fuzz_target!(|data: &[u8]| l7_support::check(data, 143, true));
