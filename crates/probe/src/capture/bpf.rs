//! Classic BPF: filter programs run on frames of capture files.
//!
//! The instruction set of McCanne and Jacobson's paper as `pcap_compile` emits it. A program is validated once, as the
//! kernel does; then it cannot fail, loop or read outside the frame. A load outside the frame, and a division by zero,
//! reject the frame.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;
use wire::decode::LinkType;

/// The kernel's limit too (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Scratch memory words.
const MEMORY_WORDS: usize = 16;

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to pass over if the condition holds.
    pub jump_true: u8,
    /// Instructions to pass over if it does not.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

/// Why a program was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidProgram {
    /// It has no instructions, or more than the limit.
    #[error("a filter program has 1 to {MAX_INSTRUCTIONS} instructions, not {0}")]
    Length(usize),
    /// An operation that does not exist.
    #[error("filter instruction {at}: unknown operation {code:#06x}")]
    Operation {
        /// Index of the instruction.
        at: usize,
        /// Its operation.
        code: u16,
    },
    /// A jump past the end.
    #[error("filter instruction {at} jumps past the end of the program")]
    Jump {
        /// Index of the instruction.
        at: usize,
    },
    /// A memory word that does not exist, a division by the constant 0, or a shift by 32 and more.
    #[error("filter instruction {at}: operand {operand} is not allowed")]
    Operand {
        /// Index of the instruction.
        at: usize,
        /// Its operand.
        operand: u32,
    },
    /// The last instruction does not return.
    #[error("the filter program does not end with a return")]
    NoReturn,
}

/// A validated program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    instructions: Arc<[Instruction]>,
}

/// Operations: class, size or operation, mode or source.
mod op {
    pub(super) const LD_W_ABS: u16 = 0x20;
    pub(super) const LD_H_ABS: u16 = 0x28;
    pub(super) const LD_B_ABS: u16 = 0x30;
    pub(super) const LD_W_IND: u16 = 0x40;
    pub(super) const LD_H_IND: u16 = 0x48;
    pub(super) const LD_B_IND: u16 = 0x50;
    pub(super) const LD_LEN: u16 = 0x80;
    pub(super) const LD_IMM: u16 = 0x00;
    pub(super) const LD_MEM: u16 = 0x60;
    pub(super) const LDX_IMM: u16 = 0x01;
    pub(super) const LDX_MEM: u16 = 0x61;
    pub(super) const LDX_LEN: u16 = 0x81;
    pub(super) const LDX_MSH: u16 = 0xb1;
    pub(super) const ST: u16 = 0x02;
    pub(super) const STX: u16 = 0x03;
    pub(super) const ADD: u16 = 0x04;
    pub(super) const SUB: u16 = 0x14;
    pub(super) const MUL: u16 = 0x24;
    pub(super) const DIV: u16 = 0x34;
    pub(super) const OR: u16 = 0x44;
    pub(super) const AND: u16 = 0x54;
    pub(super) const LSH: u16 = 0x64;
    pub(super) const RSH: u16 = 0x74;
    pub(super) const NEG: u16 = 0x84;
    pub(super) const MOD: u16 = 0x94;
    pub(super) const XOR: u16 = 0xa4;
    pub(super) const JA: u16 = 0x05;
    pub(super) const JEQ: u16 = 0x15;
    pub(super) const JGT: u16 = 0x25;
    pub(super) const JGE: u16 = 0x35;
    pub(super) const JSET: u16 = 0x45;
    pub(super) const RET_K: u16 = 0x06;
    pub(super) const RET_A: u16 = 0x16;
    pub(super) const TAX: u16 = 0x07;
    pub(super) const TXA: u16 = 0x87;
    /// The second operand is X, not the constant.
    pub(super) const X: u16 = 0x08;
}

impl Program {
    /// Validates a program.
    pub fn new(instructions: Vec<Instruction>) -> Result<Self, InvalidProgram> {
        let count = instructions.len();
        if count == 0 || count > MAX_INSTRUCTIONS {
            return Err(InvalidProgram::Length(count));
        }
        for (at, instruction) in instructions.iter().enumerate() {
            let Instruction {
                code,
                jump_true,
                jump_false,
                operand,
            } = *instruction;
            let inside =
                |distance: u64| (at as u64).saturating_add(1).saturating_add(distance) < count as u64;
            let ok = match code {
                op::LD_MEM | op::LDX_MEM | op::ST | op::STX if operand as usize >= MEMORY_WORDS => {
                    return Err(InvalidProgram::Operand { at, operand });
                }
                op::DIV | op::MOD if operand == 0 => return Err(InvalidProgram::Operand { at, operand }),
                op::LSH | op::RSH if operand >= 32 => return Err(InvalidProgram::Operand { at, operand }),
                op::JA if !inside(u64::from(operand)) => return Err(InvalidProgram::Jump { at }),
                op::LD_W_ABS
                | op::LD_H_ABS
                | op::LD_B_ABS
                | op::LD_W_IND
                | op::LD_H_IND
                | op::LD_B_IND
                | op::LD_LEN
                | op::LD_IMM
                | op::LD_MEM
                | op::LDX_IMM
                | op::LDX_MEM
                | op::LDX_LEN
                | op::LDX_MSH
                | op::ST
                | op::STX
                | op::NEG
                | op::JA
                | op::RET_K
                | op::RET_A
                | op::TAX
                | op::TXA => true,
                _ => match code & !op::X {
                    op::JEQ | op::JGT | op::JGE | op::JSET => {
                        if !inside(u64::from(jump_true)) || !inside(u64::from(jump_false)) {
                            return Err(InvalidProgram::Jump { at });
                        }
                        true
                    }
                    op::ADD
                    | op::SUB
                    | op::MUL
                    | op::DIV
                    | op::OR
                    | op::AND
                    | op::LSH
                    | op::RSH
                    | op::MOD
                    | op::XOR => true,
                    _ => false,
                },
            };
            if !ok {
                return Err(InvalidProgram::Operation { at, code });
            }
        }
        match instructions.last().map(|last| last.code) {
            Some(op::RET_K | op::RET_A) => Ok(Self {
                instructions: instructions.into(),
            }),
            _ => Err(InvalidProgram::NoReturn),
        }
    }

    /// A program that accepts every frame, cut to `snaplen` bytes.
    pub fn accept_all(snaplen: u32) -> Self {
        let accept = Instruction {
            code: op::RET_K,
            jump_true: 0,
            jump_false: 0,
            operand: snaplen,
        };
        Self {
            instructions: Arc::new([accept]),
        }
    }

    /// The instructions.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The instructions as the kernel and libpcap take them (`linux/filter.h`, struct `sock_filter`).
    pub(super) fn sock_filters(&self) -> Vec<libc::sock_filter> {
        let of = |instruction: &Instruction| libc::sock_filter {
            code: instruction.code,
            jt: instruction.jump_true,
            jf: instruction.jump_false,
            k: instruction.operand,
        };
        self.instructions.iter().map(of).collect()
    }

    /// How many bytes of the frame to keep; 0 to reject it. `frame` is what was captured of `wire_length` bytes.
    pub fn run(&self, frame: &[u8], wire_length: u32) -> u32 {
        self.evaluate(frame, wire_length).unwrap_or(0)
    }

    fn evaluate(&self, frame: &[u8], wire_length: u32) -> Option<u32> {
        let (mut a, mut x) = (0_u32, 0_u32);
        let mut memory = [0_u32; MEMORY_WORDS];
        let mut at = 0_usize;
        loop {
            let instruction = self.instructions.get(at)?;
            let k = instruction.operand;
            let second = if instruction.code & op::X == 0 { k } else { x };
            let mut jump = |condition: bool| {
                at += usize::from(if condition {
                    instruction.jump_true
                } else {
                    instruction.jump_false
                });
            };
            match instruction.code {
                op::LD_W_ABS => a = word(frame, k)?,
                op::LD_H_ABS => a = half(frame, k)?,
                op::LD_B_ABS => a = byte(frame, k)?,
                op::LD_W_IND => a = word(frame, x.checked_add(k)?)?,
                op::LD_H_IND => a = half(frame, x.checked_add(k)?)?,
                op::LD_B_IND => a = byte(frame, x.checked_add(k)?)?,
                op::LD_LEN => a = wire_length,
                op::LD_IMM => a = k,
                op::LD_MEM => a = *memory.get(k as usize)?,
                op::LDX_IMM => x = k,
                op::LDX_MEM => x = *memory.get(k as usize)?,
                op::LDX_LEN => x = wire_length,
                op::LDX_MSH => x = (byte(frame, k)? & 0x0f) << 2,
                op::ST => *memory.get_mut(k as usize)? = a,
                op::STX => *memory.get_mut(k as usize)? = x,
                op::NEG => a = a.wrapping_neg(),
                op::TAX => x = a,
                op::TXA => a = x,
                op::JA => at = at.checked_add(k as usize)?,
                op::RET_K => return Some(k),
                op::RET_A => return Some(a),
                code => match code & !op::X {
                    op::ADD => a = a.wrapping_add(second),
                    op::SUB => a = a.wrapping_sub(second),
                    op::MUL => a = a.wrapping_mul(second),
                    op::DIV => a = a.checked_div(second)?,
                    op::MOD => a = a.checked_rem(second)?,
                    op::OR => a |= second,
                    op::AND => a &= second,
                    op::XOR => a ^= second,
                    op::LSH => a = a.checked_shl(second).unwrap_or(0),
                    op::RSH => a = a.checked_shr(second).unwrap_or(0),
                    op::JEQ => jump(a == second),
                    op::JGT => jump(a > second),
                    op::JGE => jump(a >= second),
                    op::JSET => jump(a & second != 0),
                    // Not in a validated program.
                    _ => return None,
                },
            }
            // Every jump goes forward, so that the loop ends.
            at += 1;
        }
    }
}

fn field<const N: usize>(frame: &[u8], offset: u32) -> Option<[u8; N]> {
    frame.get(offset as usize..)?.first_chunk::<N>().copied()
}

fn word(frame: &[u8], offset: u32) -> Option<u32> {
    field(frame, offset).map(u32::from_be_bytes)
}

fn half(frame: &[u8], offset: u32) -> Option<u32> {
    field(frame, offset).map(|bytes| u32::from(u16::from_be_bytes(bytes)))
}

fn byte(frame: &[u8], offset: u32) -> Option<u32> {
    field::<1>(frame, offset).map(|[byte]| u32::from(byte))
}

/// One filter expression compiled for every link type for which it makes sense.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    compiled: BTreeMap<LinkType, Result<Program, String>>,
}

impl Filters {
    /// Adds the program for a link type, or the compiler's message why there is none.
    pub fn insert(&mut self, link_type: LinkType, compiled: Result<Program, String>) {
        self.compiled.insert(link_type, compiled);
    }

    /// The program for frames of a link type, or why there is none.
    pub fn get(&self, link_type: LinkType) -> Result<&Program, &str> {
        match self.compiled.get(&link_type) {
            Some(Ok(program)) => Ok(program),
            Some(Err(message)) => Err(message),
            None => Err("filters are not supported for this link type"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn program(code: &[(u16, u8, u8, u32)]) -> Result<Program, InvalidProgram> {
        Program::new(
            code.iter()
                .map(|&(code, jump_true, jump_false, operand)| Instruction {
                    code,
                    jump_true,
                    jump_false,
                    operand,
                })
                .collect(),
        )
    }

    /// What `tcpdump -ddd 'udp port 53'` prints for Ethernet and IPv4 alone.
    fn udp_port_53() -> Program {
        program(&[
            (0x28, 0, 0, 12),
            (0x15, 0, 10, 0x0800),
            (0x30, 0, 0, 23),
            (0x15, 0, 8, 17),
            (0x28, 0, 0, 20),
            (0x45, 6, 0, 0x1fff),
            (0xb1, 0, 0, 14),
            (0x48, 0, 0, 14),
            (0x15, 2, 0, 53),
            (0x48, 0, 0, 16),
            (0x15, 0, 1, 53),
            (0x06, 0, 0, 262_144),
            (0x06, 0, 0, 0),
        ])
        .unwrap()
    }

    fn datagram(destination_port: u16) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x80, 0x00]);
        frame.extend(destination_port.to_be_bytes());
        frame.extend([0, 8, 0, 0]);
        frame
    }

    #[test]
    fn runs_a_compiled_filter() {
        let filter = udp_port_53();
        assert_eq!(filter.run(&datagram(53), 42), 262_144);
        assert_eq!(filter.run(&datagram(54), 42), 0);
        assert_eq!(
            filter.run(&datagram(53)[..36], 42),
            0,
            "a load past the end rejects"
        );
        assert_eq!(filter.run(&[], 0), 0);
    }

    #[test]
    fn computes_like_the_paper() {
        let run = |code: &[(u16, u8, u8, u32)]| program(code).unwrap().run(&[0x12, 0x34, 0x56, 0x78], 1500);
        assert_eq!(run(&[(0x20, 0, 0, 0), (0x16, 0, 0, 0)]), 0x1234_5678);
        assert_eq!(run(&[(0x80, 0, 0, 0), (0x16, 0, 0, 0)]), 1500);
        // A 7, M[3] = A, X = M[3], A = X * X - 9, shifted left by 1, negated twice.
        let code = [
            (0x00, 0, 0, 7),
            (0x02, 0, 0, 3),
            (0x61, 0, 0, 3),
            (0x2c, 0, 0, 0),
            (0x14, 0, 0, 9),
            (0x64, 0, 0, 1),
            (0x84, 0, 0, 0),
            (0x84, 0, 0, 0),
            (0x16, 0, 0, 0),
        ];
        assert_eq!(run(&code), 80);
        // Division by X = 0 rejects.
        assert_eq!(run(&[(0x00, 0, 0, 7), (0x3c, 0, 0, 0), (0x06, 0, 0, 1)]), 0);
        // ldxb 4*([0]&0xf): 0x12 & 0x0f = 2 words.
        assert_eq!(run(&[(0xb1, 0, 0, 0), (0x87, 0, 0, 0), (0x16, 0, 0, 0)]), 8);
    }

    #[test]
    fn refuses_what_the_kernel_refuses() {
        assert_eq!(program(&[]), Err(InvalidProgram::Length(0)));
        assert_eq!(program(&[(0x00, 0, 0, 1)]), Err(InvalidProgram::NoReturn));
        assert_eq!(
            program(&[(0xff, 0, 0, 1), (0x06, 0, 0, 0)]),
            Err(InvalidProgram::Operation { at: 0, code: 0xff })
        );
        assert_eq!(
            program(&[(0x15, 0, 1, 1), (0x06, 0, 0, 0)]),
            Err(InvalidProgram::Jump { at: 0 })
        );
        assert_eq!(
            program(&[(0x05, 0, 0, u32::MAX), (0x06, 0, 0, 0)]),
            Err(InvalidProgram::Jump { at: 0 })
        );
        assert_eq!(
            program(&[(0x34, 0, 0, 0), (0x06, 0, 0, 0)]),
            Err(InvalidProgram::Operand { at: 0, operand: 0 })
        );
        assert_eq!(
            program(&[(0x02, 0, 0, 16), (0x06, 0, 0, 0)]),
            Err(InvalidProgram::Operand { at: 0, operand: 16 })
        );
        let long = vec![
            Instruction {
                code: 0x06,
                jump_true: 0,
                jump_false: 0,
                operand: 0
            };
            MAX_INSTRUCTIONS + 1
        ];
        assert_eq!(
            Program::new(long),
            Err(InvalidProgram::Length(MAX_INSTRUCTIONS + 1))
        );
    }

    proptest! {
        #[test]
        fn a_validated_program_ends(
            code in proptest::collection::vec(
                (
                    prop_oneof![
                        proptest::sample::select(vec![
                            0x20_u16, 0x28, 0x30, 0x40, 0x48, 0x50, 0x80, 0x00, 0x60, 0x01, 0x61, 0xb1, 0x02, 0x03, 0x04,
                            0x0c, 0x34, 0x3c, 0x64, 0x6c, 0x74, 0x84, 0x94, 0x9c, 0x05, 0x15, 0x1d, 0x25, 0x35, 0x45, 0x07,
                            0x87,
                        ]),
                        any::<u16>(),
                    ],
                    0..4_u8,
                    0..4_u8,
                    prop_oneof![0..40_u32, any::<u32>()],
                ),
                0..40,
            ),
            frame in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut code = code;
            code.push((0x06, 0, 0, 7));
            if let Ok(program) = program(&code) {
                let kept = program.run(&frame, frame.len() as u32);
                let before = &code[..code.len() - 1];
                prop_assert!(kept == 0 || kept == 7 || before.iter().any(|&(code, ..)| matches!(code, 0x06 | 0x16)));
            }
        }
    }
}
