//! pcap and pcapng files, compressed or not: reading ends, with frames that lie within their block.
#![no_main]

use std::cell::RefCell;
use std::io::Cursor;

use probe::capture::{FileSource, MAX_FRAME_BYTES, Next, OwnedFrames};

thread_local! {
    // One buffer for all runs, as a worker has it.
    static BLOCK: RefCell<OwnedFrames> = RefCell::default();
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // A small compressed file may hold gigabytes: reading them takes longer than the fuzzer waits.
    if data.starts_with(&[0x1f, 0x8b]) || data.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return;
    }
    let Ok(mut source) = FileSource::from_reader("fuzz", Cursor::new(data.to_vec())) else {
        return;
    };
    BLOCK.with_borrow_mut(|block| {
        let (mut bytes, mut errors) = (0, 0);
        loop {
            match source.fill(block) {
                Ok(Next::End) => break,
                Ok(_) => {
                    for header in &block.headers {
                        let end = header.offset as usize + header.captured_length as usize;
                        assert!(end <= block.bytes.len() && header.captured_length <= MAX_FRAME_BYTES);
                        bytes += header.captured_length as usize;
                    }
                }
                Err(error) => {
                    assert!(!error.to_string().contains('\n'));
                    errors += 1;
                }
            }
        }
        assert!(bytes <= data.len() && errors <= 3);
    });
});
