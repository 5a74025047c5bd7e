//! Classic BPF: checking and running a filter program on frames that the kernel does not filter for us.
//!
//! The machine is the one of McCanne and Jacobson, "The BSD Packet Filter" (USENIX Winter 1993), as libpcap compiles
//! for it and as `SO_ATTACH_FILTER` takes it. A checked program always ends: jumps go forward only.

use thiserror::Error;

/// Longest program that the kernel takes (`BPF_MAXINSNS`).
pub const INSTRUCTIONS_MAX: usize = 4096;
/// Scratch memory words (`BPF_MEMWORDS`).
const MEMORY_WORDS: usize = 16;

/// One instruction, as in the kernel's `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation code.
    pub code: u16,
    /// Instructions to pass over if a condition holds.
    pub jump_true: u8,
    /// Instructions to pass over if it does not.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

/// Why a program cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProgramError {
    /// There is no instruction, or more than the kernel takes.
    #[error("a BPF program has 1 to {INSTRUCTIONS_MAX} instructions, not {0}")]
    Length(usize),
    /// An instruction that the machine does not have.
    #[error("BPF instruction {at}: code {code:#06x} is unknown")]
    Unknown {
        /// Its index.
        at: usize,
        /// Its code.
        code: u16,
    },
    /// A jump that leaves the program.
    #[error("BPF instruction {at} jumps out of the program")]
    Jump {
        /// Its index.
        at: usize,
    },
    /// An operand that the instruction does not take: a scratch word beyond 15, a division by zero, a shift beyond 31.
    #[error("BPF instruction {at}: operand {operand} is not allowed")]
    Operand {
        /// Its index.
        at: usize,
        /// Its operand.
        operand: u32,
    },
    /// The last instruction does not return.
    #[error("the last BPF instruction must return")]
    NoReturn,
}

// Instruction classes and fields (Linux uapi/linux/bpf_common.h).
const LD: u16 = 0x00;
const LDX: u16 = 0x01;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const ALU: u16 = 0x04;
const JMP: u16 = 0x05;
const RET: u16 = 0x06;
const MISC: u16 = 0x07;
const WORD: u16 = 0x00;
const HALF: u16 = 0x08;
const BYTE: u16 = 0x10;
const IMM: u16 = 0x00;
const ABS: u16 = 0x20;
const IND: u16 = 0x40;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const MSH: u16 = 0xa0;
const X: u16 = 0x08;
const RET_A: u16 = 0x10;
const TXA: u16 = 0x80;
const ADD: u16 = 0x00;
const SUB: u16 = 0x10;
const MUL: u16 = 0x20;
const DIV: u16 = 0x30;
const OR: u16 = 0x40;
const AND: u16 = 0x50;
const LSH: u16 = 0x60;
const RSH: u16 = 0x70;
const NEG: u16 = 0x80;
const MOD: u16 = 0x90;
const XOR: u16 = 0xa0;
const JA: u16 = 0x00;
const JEQ: u16 = 0x10;
const JGT: u16 = 0x20;
const JGE: u16 = 0x30;
const JSET: u16 = 0x40;

/// A checked program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    instructions: Box<[Instruction]>,
}

impl Program {
    /// Checks the instructions: every code known, every jump inside, every operand allowed, the end a return.
    pub fn new(instructions: &[Instruction]) -> Result<Self, ProgramError> {
        if instructions.is_empty() || instructions.len() > INSTRUCTIONS_MAX {
            return Err(ProgramError::Length(instructions.len()));
        }
        for (at, instruction) in instructions.iter().enumerate() {
            check(at, *instruction, instructions.len())?;
        }
        if instructions.last().is_some_and(|last| last.code & 0x07 != RET) {
            return Err(ProgramError::NoReturn);
        }
        Ok(Self {
            instructions: instructions.into(),
        })
    }

    /// The instructions, for the kernel.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// Whether the program passes a frame of which `frame` was captured out of `wire_length` bytes.
    pub fn passes(&self, frame: &[u8], wire_length: u32) -> bool {
        self.run(frame, wire_length) != 0
    }

    /// The program's value: bytes to keep, 0 for none. A load beyond the frame ends the program with 0.
    pub fn run(&self, frame: &[u8], wire_length: u32) -> u32 {
        let mut machine = Machine {
            a: 0,
            x: 0,
            memory: [0; MEMORY_WORDS],
        };
        let mut at = 0;
        while let Some(instruction) = self.instructions.get(at) {
            match machine.step(*instruction, frame, wire_length) {
                Step::Next(skip) => at += 1 + skip,
                Step::Return(value) => return value,
            }
        }
        0
    }
}

fn check(
    at: usize,
    Instruction {
        code,
        jump_true,
        jump_false,
        operand,
    }: Instruction,
    length: usize,
) -> Result<(), ProgramError> {
    let unknown = Err(ProgramError::Unknown { at, code });
    let refuse = Err(ProgramError::Operand { at, operand });
    match code & 0x07 {
        LD | LDX => {
            let known = matches!(
                (code & 0x07, code & 0xe0, code & 0x18),
                (LD, ABS | IND, WORD | HALF | BYTE) | (LD | LDX, IMM | LEN | MEM, WORD) | (LDX, MSH, BYTE)
            );
            if !known || code > 0xff {
                return unknown;
            }
            if code & 0xe0 == MEM && operand as usize >= MEMORY_WORDS {
                return refuse;
            }
        }
        ST | STX => {
            if code != ST && code != STX {
                return unknown;
            }
            if operand as usize >= MEMORY_WORDS {
                return refuse;
            }
        }
        ALU => {
            if code & 0xf0 > XOR || code > 0xff {
                return unknown;
            }
            let by_constant = code & X == 0;
            match code & 0xf0 {
                DIV | MOD if by_constant && operand == 0 => return refuse,
                LSH | RSH if by_constant && operand > 31 => return refuse,
                _ => {}
            }
        }
        JMP => {
            if code & 0xf0 > JSET || code > 0xff {
                return unknown;
            }
            let reach = if code & 0xf0 == JA {
                operand as usize
            } else {
                usize::from(jump_true.max(jump_false))
            };
            if at.saturating_add(1).saturating_add(reach) >= length {
                return Err(ProgramError::Jump { at });
            }
        }
        RET => {
            if code != RET && code != RET | RET_A {
                return unknown;
            }
        }
        _ => {
            if code != MISC && code != MISC | TXA {
                return unknown;
            }
        }
    }
    Ok(())
}

enum Step {
    Next(usize),
    Return(u32),
}

struct Machine {
    a: u32,
    x: u32,
    memory: [u32; MEMORY_WORDS],
}

impl Machine {
    fn step(&mut self, instruction: Instruction, frame: &[u8], wire_length: u32) -> Step {
        let Instruction {
            code,
            jump_true,
            jump_false,
            operand,
        } = instruction;
        match code & 0x07 {
            LD => match self.load(code, operand, frame, wire_length) {
                Some(value) => self.a = value,
                None => return Step::Return(0),
            },
            LDX => match self.load(code, operand, frame, wire_length) {
                Some(value) => self.x = value,
                None => return Step::Return(0),
            },
            ST => self.memory[operand as usize % MEMORY_WORDS] = self.a,
            STX => self.memory[operand as usize % MEMORY_WORDS] = self.x,
            ALU => match self.calculate(code, operand) {
                Some(value) => self.a = value,
                None => return Step::Return(0),
            },
            JMP => {
                let other = if code & X == 0 { operand } else { self.x };
                let holds = match code & 0xf0 {
                    JA => return Step::Next(operand as usize),
                    JEQ => self.a == other,
                    JGT => self.a > other,
                    JGE => self.a >= other,
                    _ => self.a & other != 0,
                };
                return Step::Next(usize::from(if holds { jump_true } else { jump_false }));
            }
            RET => return Step::Return(if code & RET_A != 0 { self.a } else { operand }),
            _ if code & TXA != 0 => self.a = self.x,
            _ => self.x = self.a,
        }
        Step::Next(0)
    }

    /// The value of a load; `None` beyond the frame.
    fn load(&self, code: u16, operand: u32, frame: &[u8], wire_length: u32) -> Option<u32> {
        let offset = match code & 0xe0 {
            IMM => return Some(operand),
            LEN => return Some(wire_length),
            MEM => return Some(self.memory[operand as usize % MEMORY_WORDS]),
            MSH => return Some(u32::from(*frame.get(operand as usize)? & 0x0f) * 4),
            IND => operand.checked_add(self.x)?,
            _ => operand,
        } as usize;
        match code & 0x18 {
            WORD => frame
                .get(offset..offset.checked_add(4)?)?
                .try_into()
                .ok()
                .map(u32::from_be_bytes),
            HALF => frame
                .get(offset..offset.checked_add(2)?)?
                .try_into()
                .ok()
                .map(|b| u32::from(u16::from_be_bytes(b))),
            _ => frame.get(offset).copied().map(u32::from),
        }
    }

    /// The value of a calculation; `None` for a division by zero, which ends the program with 0.
    fn calculate(&self, code: u16, operand: u32) -> Option<u32> {
        let other = if code & X == 0 { operand } else { self.x };
        Some(match code & 0xf0 {
            ADD => self.a.wrapping_add(other),
            SUB => self.a.wrapping_sub(other),
            MUL => self.a.wrapping_mul(other),
            DIV => self.a.checked_div(other)?,
            MOD => self.a.checked_rem(other)?,
            OR => self.a | other,
            AND => self.a & other,
            XOR => self.a ^ other,
            LSH => self.a.checked_shl(other).unwrap_or(0),
            RSH => self.a.checked_shr(other).unwrap_or(0),
            NEG => self.a.wrapping_neg(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn program(instructions: &[(u16, u8, u8, u32)]) -> Result<Program, ProgramError> {
        let instructions: Vec<_> = instructions
            .iter()
            .map(|&(code, jump_true, jump_false, operand)| Instruction {
                code,
                jump_true,
                jump_false,
                operand,
            })
            .collect();
        Program::new(&instructions)
    }

    /// `udp port 53` on IPv4 over Ethernet, without fragments or IPv6.
    fn udp_port_53() -> Program {
        program(&[
            (0x28, 0, 0, 12),      // ldh [12]
            (0x15, 0, 8, 0x0800),  // jeq #0x0800
            (0x30, 0, 0, 23),      // ldb [23]
            (0x15, 0, 6, 17),      // jeq #17
            (0xb1, 0, 0, 14),      // ldx 4*([14]&0xf)
            (0x48, 0, 0, 14),      // ldh [x+14]
            (0x15, 2, 0, 53),      // jeq #53
            (0x48, 0, 0, 16),      // ldh [x+16]
            (0x15, 0, 1, 53),      // jeq #53
            (0x06, 0, 0, 262_144), // ret #262144
            (0x06, 0, 0, 0),       // ret #0
        ])
        .expect("a program of libpcap")
    }

    fn udp_frame(destination_port: u16) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend([192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend(40_000_u16.to_be_bytes());
        frame.extend(destination_port.to_be_bytes());
        frame.extend([0, 8, 0, 0]);
        frame
    }

    #[test]
    fn passes_what_the_filter_names_and_nothing_else() {
        let filter = udp_port_53();
        assert!(filter.passes(&udp_frame(53), 42));
        assert!(!filter.passes(&udp_frame(54), 42));
        assert!(
            !filter.passes(&udp_frame(53)[..36], 42),
            "a load beyond the frame fails"
        );
        assert!(!filter.passes(&[], 0));
    }

    #[test]
    fn refuses_what_could_leave_the_program() {
        assert_eq!(program(&[]), Err(ProgramError::Length(0)));
        assert_eq!(
            program(&[(0x15, 1, 0, 0), (0x06, 0, 0, 0)]),
            Err(ProgramError::Jump { at: 0 })
        );
        assert_eq!(
            program(&[(0x05, 0, 0, u32::MAX), (0x06, 0, 0, 0)]),
            Err(ProgramError::Jump { at: 0 })
        );
        assert_eq!(
            program(&[(0x02, 0, 0, 16), (0x06, 0, 0, 0)]),
            Err(ProgramError::Operand { at: 0, operand: 16 })
        );
        assert_eq!(
            program(&[(0x34, 0, 0, 0), (0x06, 0, 0, 0)]),
            Err(ProgramError::Operand { at: 0, operand: 0 })
        );
        assert_eq!(program(&[(0x28, 0, 0, 12)]), Err(ProgramError::NoReturn));
        assert_eq!(
            program(&[(0xffff, 0, 0, 0)]),
            Err(ProgramError::Unknown { at: 0, code: 0xffff })
        );
    }

    #[test]
    fn a_division_by_zero_in_x_ends_with_nothing() {
        let filter = program(&[(0x3c, 0, 0, 0), (0x06, 0, 0, 1)]).expect("div x is allowed");
        assert!(!filter.passes(&[1, 2, 3], 3));
    }

    proptest! {
        #[test]
        fn any_program_that_passes_the_check_ends(
            instructions in proptest::collection::vec((0_u16..0x100, 0_u8..4, 0_u8..4, 0_u32..64), 1..40),
            frame in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut instructions = instructions;
            instructions.push((0x16, 0, 0, 0));
            if let Ok(program) = program(&instructions) {
                program.run(&frame, frame.len() as u32);
            }
        }
    }
}
