//! Assembles eBPF instructions (RFC 9669), with labels for jumps.
//!
//! The steering program is a few hundred instructions. Written here, it needs neither a compiler nor an object file, and
//! its constants come from the same source as those of the rest of the code.

/// One instruction as the kernel takes it (`struct bpf_insn`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register. `R0` is a result, `R1` to `R5` are arguments, `R6` to `R9` survive calls, `R10` is the frame pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their numbers say all")]
pub enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// The second operand of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A constant, sign-extended to 64 bits.
    Constant(i32),
    /// A register.
    In(Register),
}

impl From<i32> for Operand {
    fn from(constant: i32) -> Self {
        Self::Constant(constant)
    }
}

impl From<Register> for Operand {
    fn from(register: Register) -> Self {
        Self::In(register)
    }
}

/// A 64-bit operation (RFC 9669 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say all")]
pub enum Operation {
    Add = 0x00,
    Subtract = 0x10,
    Multiply = 0x20,
    Or = 0x40,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    ExclusiveOr = 0xa0,
    Move = 0xb0,
}

/// The condition of a jump; comparisons are unsigned (RFC 9669 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Equal.
    Equal = 0x10,
    /// Greater.
    Greater = 0x20,
    /// The operands have a bit in common.
    AnyBit = 0x40,
    /// Not equal.
    NotEqual = 0x50,
    /// Less.
    Less = 0xa0,
}

/// The width of a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 1 byte.
    Byte = 0x10,
    /// 2 bytes.
    Half = 0x08,
    /// 4 bytes.
    Word = 0x00,
    /// 8 bytes.
    Double = 0x18,
}

/// A place in the program that jumps go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// A program that is being written.
#[derive(Debug, Default)]
pub struct Assembler {
    code: Vec<Instruction>,
    /// The instruction at each label, once it is placed.
    places: Vec<Option<usize>>,
    /// Jumps and where they go.
    jumps: Vec<(usize, Label)>,
}

/// Instruction classes and modes.
mod class {
    pub(super) const LOAD_CONSTANT: u8 = 0x18;
    pub(super) const LOAD: u8 = 0x61;
    pub(super) const STORE_CONSTANT: u8 = 0x62;
    pub(super) const STORE: u8 = 0x63;
    /// Atomic, of 64 bits.
    pub(super) const ATOMIC: u8 = 0xdb;
    pub(super) const JUMP: u8 = 0x05;
    pub(super) const CALL: u8 = 0x85;
    pub(super) const EXIT: u8 = 0x95;
    pub(super) const ALU64: u8 = 0x07;
    pub(super) const TO_BIG_ENDIAN: u8 = 0xdc;
    pub(super) const REGISTER_OPERAND: u8 = 0x08;
}

/// Both register fields: `struct bpf_insn` has bit fields, whose order follows the byte order.
fn registers(destination: Register, source: u8) -> u8 {
    if cfg!(target_endian = "big") {
        (destination as u8) << 4 | source
    } else {
        destination as u8 | source << 4
    }
}

impl Assembler {
    fn push(&mut self, code: u8, destination: Register, source: u8, offset: i16, immediate: i32) {
        self.code.push(Instruction {
            code,
            registers: registers(destination, source),
            offset,
            immediate,
        });
    }

    /// A label that is not placed yet.
    pub fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// Places a label before the next instruction.
    pub fn place(&mut self, label: Label) {
        self.places[label.0] = Some(self.code.len());
    }

    /// `destination = destination OPERATION operand`, in 64 bits.
    pub fn operate(&mut self, operation: Operation, destination: Register, operand: impl Into<Operand>) {
        let code = class::ALU64 | operation as u8;
        match operand.into() {
            Operand::Constant(constant) => self.push(code, destination, 0, 0, constant),
            Operand::In(source) => {
                self.push(code | class::REGISTER_OPERAND, destination, source as u8, 0, 0);
            }
        }
    }

    /// `destination = operand`.
    pub fn set(&mut self, destination: Register, operand: impl Into<Operand>) {
        self.operate(Operation::Move, destination, operand);
    }

    /// `destination = constant`, of 64 bits.
    pub fn set_wide(&mut self, destination: Register, constant: u64) {
        self.push(class::LOAD_CONSTANT, destination, 0, 0, constant as i32);
        self.push(0, Register::R0, 0, 0, (constant >> 32) as i32);
    }

    /// `destination` = the map behind a descriptor of this process (RFC 9669 §5.4).
    pub fn set_map(&mut self, destination: Register, descriptor: i32) {
        const MAP_BY_DESCRIPTOR: u8 = 1;
        self.push(
            class::LOAD_CONSTANT,
            destination,
            MAP_BY_DESCRIPTOR,
            0,
            descriptor,
        );
        self.push(0, Register::R0, 0, 0, 0);
    }

    /// `destination` = the low `bits` (16, 32 or 64) of it, read as big-endian.
    pub fn read_big_endian(&mut self, destination: Register, bits: i32) {
        self.push(class::TO_BIG_ENDIAN, destination, 0, 0, bits);
    }

    /// `destination = *(base + offset)`, extended with zeros.
    pub fn load(&mut self, width: Width, destination: Register, base: Register, offset: i16) {
        self.push(class::LOAD | width as u8, destination, base as u8, offset, 0);
    }

    /// `*(base + offset) = operand`.
    pub fn store(&mut self, width: Width, base: Register, offset: i16, operand: impl Into<Operand>) {
        match operand.into() {
            Operand::Constant(constant) => {
                self.push(class::STORE_CONSTANT | width as u8, base, 0, offset, constant);
            }
            Operand::In(source) => self.push(class::STORE | width as u8, base, source as u8, offset, 0),
        }
    }

    /// `*(base + offset) += operand`, of 64 bits, atomically (RFC 9669 §5.3).
    pub fn add_atomically(&mut self, base: Register, offset: i16, operand: Register) {
        self.push(class::ATOMIC, base, operand as u8, offset, Operation::Add as i32);
    }

    /// Jumps in any case.
    pub fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(class::JUMP, Register::R0, 0, 0, 0);
    }

    /// Jumps if the condition holds between `left` and `right`.
    pub fn jump_if(&mut self, condition: Condition, left: Register, right: impl Into<Operand>, to: Label) {
        self.jumps.push((self.code.len(), to));
        let code = class::JUMP | condition as u8;
        match right.into() {
            Operand::Constant(constant) => self.push(code, left, 0, 0, constant),
            Operand::In(right) => self.push(code | class::REGISTER_OPERAND, left, right as u8, 0, 0),
        }
    }

    /// Calls a helper of the kernel (`enum bpf_func_id`).
    pub fn call(&mut self, helper: i32) {
        self.push(class::CALL, Register::R0, 0, 0, helper);
    }

    /// Returns `R0`.
    pub fn exit(&mut self) {
        self.push(class::EXIT, Register::R0, 0, 0, 0);
    }

    /// The program with all jumps resolved.
    ///
    /// # Panics
    ///
    /// If a label was jumped to but not placed, or a jump is too far: a mistake of whoever wrote the program.
    pub fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in self.jumps {
            let place = self.places[label.0].expect("every label is placed");
            // Relative to the instruction behind the jump.
            let distance = place as isize - at as isize - 1;
            self.code[at].offset =
                i16::try_from(distance).expect("no jump is longer than 32,767 instructions");
        }
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::Register::{R0, R1, R2, R10};
    use super::*;

    fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
        Instruction {
            code,
            registers,
            offset,
            immediate,
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn encodes_as_the_standard_says() {
        let mut program = Assembler::default();
        let end = program.label();
        program.set_wide(R1, 0x0102_0304_0506_0708);
        program.operate(Operation::Multiply, R1, R2);
        program.set_map(R2, 5);
        program.load(Width::Half, R0, R1, 16);
        program.store(Width::Double, R10, -8, R1);
        program.store(Width::Byte, R10, -9, 7);
        program.jump_if(Condition::Equal, R0, 5, end);
        program.read_big_endian(R0, 16);
        program.call(26);
        program.add_atomically(R0, 8, R1);
        program.place(end);
        program.exit();
        // RFC 9669 §5.4 (64-bit immediate), §4.1, §5.1, §4.3, §4.2, §5.3.
        let expected = [
            instruction(0x18, 0x01, 0, 0x0506_0708),
            instruction(0x00, 0x00, 0, 0x0102_0304),
            instruction(0x2f, 0x21, 0, 0),
            instruction(0x18, 0x12, 0, 5),
            instruction(0x00, 0x00, 0, 0),
            instruction(0x69, 0x10, 16, 0),
            instruction(0x7b, 0x1a, -8, 0),
            instruction(0x72, 0x0a, -9, 7),
            instruction(0x15, 0x00, 3, 5),
            instruction(0xdc, 0x00, 0, 16),
            instruction(0x85, 0x00, 0, 26),
            instruction(0xdb, 0x10, 8, 0),
            instruction(0x95, 0x00, 0, 0),
        ];
        assert_eq!(program.finish(), expected);
    }
}
