//! Filter programs: one that passes validation ends, on any frame.
#![no_main]

use probe::capture::bpf::{Instruction, Program};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&count, rest)) = data.split_first() else {
        return;
    };
    let length = usize::from(count % 64) * 8;
    let (code, frame) = rest.split_at(length.min(rest.len()));
    let instructions = code
        .chunks_exact(8)
        .map(|c| Instruction {
            code: u16::from_le_bytes([c[0], c[1]]),
            jump_true: c[2],
            jump_false: c[3],
            operand: u32::from_le_bytes([c[4], c[5], c[6], c[7]]),
        })
        .collect();
    if let Ok(program) = Program::new(instructions) {
        program.run(frame, frame.len() as u32);
    }
});
