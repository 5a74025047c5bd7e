//! The steering rule (design §2) as an eBPF program for `PACKET_FANOUT_EBPF`.
//!
//! The kernel runs it on every frame and gives the frame to the socket whose number it returns. It finds the inner-most
//! IP packet and computes from its addresses what [`wire::flowkey::steering`] and [`wire::flowkey::worker_of`] compute
//! for capture files, so that both directions of a flow and every fragment reach one worker. It never changes a frame,
//! and the kernel's own defragmentation is never asked for.
//!
//! How deep it looks: up to [`TUNNELS`] tunnels of these: IP in IP, GRE with checksum, key and sequence number
//! (Ethernet, IP, MPLS or VLAN inside), ERSPAN types I to III, VXLAN, Geneve with options, GTP-U with up to
//! [`EXTENSIONS`] extension headers, Ethernet pseudowires over MPLS; between them up to [`TAGS`] VLAN tags, `PPPoE`, up to [`LABELS`] MPLS labels; up to
//! [`EXTENSIONS`] IPv6 extension headers. What it does not open, it steers by the outer addresses, which both directions
//! share as well; what has no IP packet goes to worker 0. It opens nothing that [`wire::decode::steering_hash`] does not
//! open: a datagram that only looks like a tunnel must not be torn from its flow.
//!
//! In one thing it knows less than [`wire::decode::steering_hash`]: an Ethernet pseudowire without control word whose
//! destination address begins with 4 or 6 is taken for IP, as routers take it (RFC 8469), and steered by what would be its
//! addresses. The two directions of its flows may then meet different workers.

use std::io;

use super::assembler::Condition::{AnyBit, Equal, Greater, Less, NotEqual};
use super::assembler::Operation::{Add, And, ExclusiveOr, Multiply, Or, ShiftLeft, ShiftRight, Subtract};
use super::assembler::Register::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};
use super::assembler::{Assembler, Instruction, Label, Operand, Register, Width};
use super::{LoadedProgram, ProgramKind};

/// Tunnels that are looked into.
pub const TUNNELS: usize = 4;
/// VLAN tags that are passed over before each IP header, beside one that the kernel took out.
pub const TAGS: usize = 4;
/// MPLS labels that are passed over before each IP header.
pub const LABELS: usize = 4;
/// IPv6 or GTP-U extension headers that are passed over.
pub const EXTENSIONS: usize = 4;

/// Ports of UDP tunnels that `wire` opens and this program does not: L2TP, GTP version 0, Teredo, LISP, VXLAN-GPE, CAPWAP,
/// GUE, MPLS, TZSP.
const CLOSED_TUNNELS: [i32; 9] = [1701, 3386, 3544, 4341, 4790, 5247, 6080, 6635, 37008];

/// How the frames of a socket start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// With an Ethernet header.
    Ethernet,
    /// With an IP header.
    Ip,
}

/// `bpf_skb_load_bytes` (`enum bpf_func_id`).
const LOAD_BYTES: i32 = 26;
/// Fields of `struct __sk_buff`.
const LENGTH: i16 = 0;
const PACKET_TYPE: i16 = 4;
const PROTOCOL: i16 = 16;

/// Bytes of the frame are loaded to here, relative to the frame pointer.
const BUFFER: i16 = -40;
/// Where a packet must end whose tunnel a port number announced: where the IP packet around says that it ends itself.
const END: i16 = -48;
/// Where the first of the IP packets around ends: nothing behind it is read.
const LIMIT: i16 = -56;
/// An end that no packet reaches.
const NOWHERE: i16 = -64;
/// A byte that is loaded to see whether it is there.
const OPTION: i16 = -72;
/// R6 the context, R7 the offset reached, R8 the next protocol or `EtherType`, R9 the hash so far (0: none).
struct Steering {
    code: Assembler,
    done: Label,
    /// Where each level's headers begin.
    levels: Vec<Level>,
}

#[derive(Clone, Copy)]
struct Level {
    ethernet: Label,
    ether_type: Label,
    /// IP of the version that its first byte says.
    ip: Label,
    ip4: Label,
    ip6: Label,
    /// What an IP packet carries.
    carried: Label,
}

/// Assembles the program for frames that start with `link` and `workers` sockets.
pub fn program(link: Link, workers: u32) -> Vec<Instruction> {
    let mut code = Assembler::default();
    let done = code.label();
    let levels = (0..=TUNNELS)
        .map(|_| Level {
            ethernet: code.label(),
            ether_type: code.label(),
            ip: code.label(),
            ip4: code.label(),
            ip6: code.label(),
            carried: code.label(),
        })
        .collect();
    let mut steering = Steering { code, done, levels };
    steering.start(link);
    for level in 0..=TUNNELS {
        // The kernel refuses code that nothing leads to.
        steering.level(
            level,
            level > 0 || link == Link::Ethernet,
            level > 0 || link == Link::Ip,
        );
    }
    steering.finish(workers);
    steering.code.finish()
}

/// Assembles and loads the program.
pub fn load(link: Link, workers: u32) -> io::Result<LoadedProgram> {
    LoadedProgram::load(ProgramKind::SocketFilter, &program(link, workers), "dpi_steering")
}

impl Steering {
    fn start(&mut self, link: Link) {
        let first = self.levels[0];
        let code = &mut self.code;
        code.set(R6, R1);
        code.set(R7, 0);
        code.set(R9, 0);
        // 0 - 1, but the kernel's verifier cannot know that: states that differ in what is known of a number would each be
        // followed to the end, and there would be too many.
        code.load(Width::Word, R0, R6, LENGTH);
        code.set(R1, R0);
        code.operate(ExclusiveOr, R1, -1);
        code.operate(And, R0, R1);
        code.operate(Subtract, R0, 1);
        for slot in [NOWHERE, END, LIMIT] {
            self.keep(slot, R0);
        }
        let code = &mut self.code;
        match link {
            Link::Ip => code.jump(first.ip),
            Link::Ethernet => {
                // A frame that was received starts behind its Ethernet header, one that this host sends before it.
                code.load(Width::Word, R0, R6, PACKET_TYPE);
                code.jump_if(Equal, R0, i32::from(libc::PACKET_OUTGOING), first.ethernet);
                code.load(Width::Word, R8, R6, PROTOCOL);
                code.read_big_endian(R8, 16);
                code.jump(first.ether_type);
            }
        }
    }

    /// Loads `length` bytes at R7 + `offset` into the buffer; ends where the frame is shorter.
    fn fetch(&mut self, offset: i32, length: i32) {
        let done = self.done;
        self.load(R7, offset, BUFFER, length, done);
    }

    /// Loads `length` bytes at `base` + `offset` of the frame to the stack.
    fn load(&mut self, base: Register, offset: i32, to: i16, length: i32, otherwise: Label) {
        let code = &mut self.code;
        code.set(R1, R6);
        code.set(R2, base);
        if offset != 0 {
            code.operate(Add, R2, offset);
        }
        code.set(R3, R10);
        code.operate(Add, R3, i32::from(to));
        code.set(R4, length);
        code.call(LOAD_BYTES);
        code.jump_if(NotEqual, R0, 0, otherwise);
    }

    /// A big-endian field of the buffer.
    fn field(&mut self, to: Register, at: i16, bits: i32) {
        let width = match bits {
            8 => Width::Byte,
            16 => Width::Half,
            32 => Width::Word,
            _ => Width::Double,
        };
        self.code.load(width, to, R10, BUFFER + at);
        if bits > 8 {
            self.code.read_big_endian(to, bits);
        }
    }

    fn skip(&mut self, bytes: i32) {
        self.code.operate(Add, R7, bytes);
    }

    fn level(&mut self, number: usize, has_ethernet: bool, has_ip_of_any_version: bool) {
        let level = self.levels[number];
        if has_ethernet {
            self.code.place(level.ethernet);
            self.fetch(12, 2);
            self.field(R8, 0, 16);
            self.skip(14);
            self.code.place(level.ether_type);
            self.below_ip(number);
        }
        if has_ip_of_any_version {
            self.code.place(level.ip);
            self.fetch(0, 1);
            self.ip_by_version(level);
        }
        self.code.place(level.ip4);
        self.ip4(level);
        self.code.place(level.ip6);
        self.ip6();
        self.code.place(level.carried);
        if let Some(&next) = self.levels.get(number + 1) {
            self.tunnels(next);
        } else {
            let done = self.done;
            self.code.jump(done);
        }
    }

    /// The buffer holds the first byte of what must be an IP packet.
    fn ip_by_version(&mut self, level: Level) {
        let done = self.done;
        self.field(R0, 0, 8);
        let code = &mut self.code;
        code.operate(ShiftRight, R0, 4);
        code.jump_if(Equal, R0, 4, level.ip4);
        code.jump_if(Equal, R0, 6, level.ip6);
        code.jump(done);
    }

    /// From an `EtherType` in R8 to IP.
    fn below_ip(&mut self, number: usize) {
        let (level, done) = (self.levels[number], self.done);
        let untagged = self.code.label();
        for _ in 0..TAGS {
            let tagged = self.code.label();
            // IEEE 802.1Q and 802.1ad, and the numbers before 802.1ad.
            for ether_type in [0x8100, 0x88a8, 0x9100, 0x9200, 0x9300] {
                self.code.jump_if(Equal, R8, ether_type, tagged);
            }
            self.code.jump(untagged);
            self.code.place(tagged);
            self.fetch(2, 2);
            self.field(R8, 0, 16);
            self.skip(4);
        }
        self.code.place(untagged);
        let (mpls, not_pppoe) = (self.code.label(), self.code.label());
        self.code.jump_if(Equal, R8, 0x0800, level.ip4);
        self.code.jump_if(Equal, R8, 0x86dd, level.ip6);
        self.code.jump_if(Equal, R8, 0x8847, mpls);
        self.code.jump_if(Equal, R8, 0x8848, mpls);
        // RFC 2516 §4: version and type 1, code 0; then PPP.
        self.code.jump_if(NotEqual, R8, 0x8864, not_pppoe);
        self.fetch(0, 8);
        self.skip(8);
        self.field(R0, 0, 16);
        self.code.jump_if(NotEqual, R0, 0x1100, done);
        self.field(R8, 6, 16);
        self.code.jump_if(Equal, R8, 0x0021, level.ip4);
        self.code.jump_if(Equal, R8, 0x0057, level.ip6);
        self.code.place(not_pppoe);
        self.code.jump(done);
        self.code.place(mpls);
        let bottom = self.code.label();
        for _ in 0..LABELS {
            self.fetch(0, 4);
            self.skip(4);
            self.field(R0, 0, 32);
            self.code.jump_if(AnyBit, R0, 0x100, bottom);
        }
        self.code.jump(done);
        self.code.place(bottom);
        self.fetch(0, 1);
        self.field(R0, 0, 8);
        self.code.operate(ShiftRight, R0, 4);
        self.code.jump_if(Equal, R0, 4, level.ip4);
        self.code.jump_if(Equal, R0, 6, level.ip6);
        // RFC 4385 §5: an associated channel.
        self.code.jump_if(Equal, R0, 1, done);
        let Some(next) = self.levels.get(number + 1).map(|level| level.ethernet) else {
            self.code.jump(done);
            return;
        };
        self.code.jump_if(NotEqual, R0, 0, next);
        // RFC 4448 §4.6: a pseudowire's control word begins with four zero bits; so do many MAC addresses. Where the frame
        // stands shows by its `EtherType`, as in `wire::link`.
        let worded = self.code.label();
        self.jump_if_ethernet_at(0, next);
        self.jump_if_ethernet_at(4, worded);
        self.fetch(0, 2);
        self.field(R0, 0, 16);
        self.code.jump_if(NotEqual, R0, 0, next);
        self.code.place(worded);
        self.skip(4);
        self.code.jump(next);
    }

    /// Jumps if an Ethernet header with an `EtherType` that leads on to IP stands at R7 + `offset`: `is_ethernet_at` of
    /// `wire::link`.
    fn jump_if_ethernet_at(&mut self, offset: i32, to: Label) {
        let short = self.code.label();
        self.load(R7, offset + 12, BUFFER, 2, short);
        self.field(R0, 0, 16);
        for ether_type in [0x0800, 0x86dd, 0x8100, 0x88a8, 0x9100, 0x8847, 0x8848, 0x8864] {
            self.code.jump_if(Equal, R0, ether_type, to);
        }
        self.code.place(short);
    }

    fn ip4(&mut self, level: Level) {
        let done = self.done;
        self.fetch(0, 20);
        self.field(R0, 0, 8);
        self.code.set(R1, R0);
        self.code.operate(ShiftRight, R1, 4);
        self.code.jump_if(NotEqual, R1, 4, done);
        // R8: the header's length, R4: the packet's, 0 where segmentation offload left it out.
        self.code.operate(And, R0, 0x0f);
        self.code.operate(ShiftLeft, R0, 2);
        self.code.jump_if(Less, R0, 20, done);
        self.code.set(R8, R0);
        // All options must be there.
        self.code.operate(Add, R0, R7);
        self.load(R0, -1, OPTION, 1, done);
        self.field(R4, 2, 16);
        let stated = self.code.label();
        self.code.jump_if(Equal, R4, 0, stated);
        self.code.jump_if(Less, R4, R8, done);
        self.code.place(stated);
        self.believe(R8);
        self.field(R1, 12, 32);
        self.field(R2, 16, 32);
        for address in [R1, R2] {
            // IPv4-mapped, as `Address` holds it; the upper half is 0.
            self.code.set_wide(R3, 0xffff_0000_0000);
            self.code.operate(Or, address, R3);
            self.finish_word(address);
        }
        self.code.set(R9, R1);
        self.code.operate(Add, R9, R2);
        self.finish_word(R9);
        // A fragment is never looked into: the others of its datagram cannot be.
        self.field(R0, 6, 16);
        self.code.jump_if(AnyBit, R0, 0x3fff, done);
        self.code.operate(Add, R7, R8);
        self.field(R8, 9, 8);
        self.code.jump(level.carried);
    }

    /// R4 is the length of the packet at R7, 0 where it is not stated, and `header` that of its header. Ends where the
    /// header is beyond the end of a packet around it, or the packet must fit into the outer one and does not.
    fn believe(&mut self, header: impl Into<Operand>) {
        let done = self.done;
        let (unstated, longer) = (self.code.label(), self.code.label());
        // R3: the packet's end.
        self.recall(R3, NOWHERE);
        self.code.jump_if(Equal, R4, 0, unstated);
        self.code.set(R3, R7);
        self.code.operate(Add, R3, R4);
        self.code.place(unstated);
        self.recall(R2, LIMIT);
        self.code.set(R1, R7);
        self.code.operate(Add, R1, header);
        self.code.jump_if(Greater, R1, R2, done);
        self.recall(R0, END);
        self.code.jump_if(Greater, R3, R0, done);
        self.keep(END, R3);
        self.code.jump_if(Greater, R3, R2, longer);
        self.keep(LIMIT, R3);
        self.code.place(longer);
    }

    /// Stores a register on the stack. The verifier knows a copy for a copy and would carry over what a comparison tells
    /// of one; a result of an operation is not one.
    fn keep(&mut self, at: i16, value: Register) {
        self.code.operate(Or, value, 0);
        self.code.store(Width::Double, R10, at, value);
    }

    /// Loads what [`Self::keep`] stored.
    fn recall(&mut self, to: Register, at: i16) {
        self.code.load(Width::Double, to, R10, at);
        self.code.operate(Or, to, 0);
    }

    /// `finish` of `wire::flowkey`; uses R3.
    fn finish_word(&mut self, word: Register) {
        let code = &mut self.code;
        for _ in 0..2 {
            code.set(R3, word);
            code.operate(ShiftRight, R3, 32);
            code.operate(ExclusiveOr, word, R3);
            code.set_wide(R3, 0xd6e8_feb8_6659_fd93);
            code.operate(Multiply, word, R3);
        }
        code.set(R3, word);
        code.operate(ShiftRight, R3, 32);
        code.operate(ExclusiveOr, word, R3);
    }

    /// `spread` of `wire::flowkey` for the address at `at` in the buffer; uses R3.
    fn spread(&mut self, to: Register, at: i16) {
        self.field(to, at, 64);
        self.code.set_wide(R3, 0x9e37_79b9_7f4a_7c15);
        self.code.operate(Multiply, to, R3);
        self.field(R3, at + 8, 64);
        self.code.operate(ExclusiveOr, to, R3);
        self.finish_word(to);
    }

    fn ip6(&mut self) {
        let done = self.done;
        self.fetch(0, 40);
        self.field(R0, 0, 8);
        self.code.operate(ShiftRight, R0, 4);
        self.code.jump_if(NotEqual, R0, 6, done);
        self.field(R4, 4, 16);
        let unstated = self.code.label();
        self.code.jump_if(Equal, R4, 0, unstated);
        self.code.operate(Add, R4, 40);
        self.code.place(unstated);
        self.believe(40);
        self.spread(R1, 8);
        self.spread(R2, 24);
        self.code.set(R9, R1);
        self.code.operate(Add, R9, R2);
        self.finish_word(R9);
        self.field(R8, 6, 8);
        self.skip(40);
        // A jumbogram states its length in an option: nothing that is in a tunnel is one.
        let short = self.code.label();
        self.code.jump_if(NotEqual, R4, 0, short);
        self.code.jump_if(Equal, R8, 0, done);
        self.code.place(short);
        let carried = self.code.label();
        for _ in 0..EXTENSIONS {
            let (fragment, other, next) = (self.code.label(), self.code.label(), self.code.label());
            self.code.jump_if(Equal, R8, 44, fragment);
            // Hop-by-hop options, routing, destination options.
            for extension in [0, 43, 60] {
                self.code.jump_if(Equal, R8, extension, other);
            }
            self.code.jump(carried);
            self.code.place(fragment);
            self.fetch(0, 8);
            // RFC 6946: offset 0 without more is a whole packet.
            self.field(R0, 2, 16);
            self.code.jump_if(AnyBit, R0, 0xfff9, done);
            self.field(R8, 0, 8);
            self.skip(8);
            self.code.jump(next);
            self.code.place(other);
            self.fetch(0, 2);
            self.field(R8, 0, 8);
            self.field(R0, 1, 8);
            self.code.operate(Add, R0, 1);
            self.code.operate(ShiftLeft, R0, 3);
            self.code.operate(Add, R7, R0);
            self.code.place(next);
        }
        self.code.place(carried);
    }

    /// From the protocol in R8 into a tunnel, if it is one.
    fn tunnels(&mut self, next: Level) {
        let done = self.done;
        let (gre, udp) = (self.code.label(), self.code.label());
        self.code.jump_if(Equal, R8, 17, udp);
        // A protocol number leaves no doubt: whatever length is stated inside.
        self.recall(R0, NOWHERE);
        self.keep(END, R0);
        // IPv4, IPv6, and the older IP within IP.
        for protocol in [4, 41, 94] {
            self.code.jump_if(Equal, R8, protocol, next.ip);
        }
        self.code.jump_if(Equal, R8, 47, gre);
        self.code.jump(done);
        self.code.place(gre);
        self.gre(next);
        self.code.place(udp);
        self.udp(next);
    }

    fn gre(&mut self, next: Level) {
        let done = self.done;
        self.fetch(0, 4);
        self.skip(4);
        self.field(R0, 0, 16);
        // Source routes and versions other than 0 are not read.
        self.code.jump_if(AnyBit, R0, 0x4007, done);
        for flag in [0x8000, 0x2000, 0x1000] {
            let (absent, present) = (self.code.label(), self.code.label());
            self.code.jump_if(AnyBit, R0, flag, present);
            self.code.jump(absent);
            self.code.place(present);
            self.skip(4);
            self.code.place(absent);
        }
        self.field(R8, 2, 16);
        let (erspan, erspan_three, plain) = (self.code.label(), self.code.label(), self.code.label());
        self.code.jump_if(Equal, R8, 0x6558, next.ethernet);
        self.code.jump_if(Equal, R8, 0x88be, erspan);
        self.code.jump_if(Equal, R8, 0x22eb, erspan_three);
        self.code.jump(next.ether_type);
        // Type I has no header of its own, type II has 8 bytes; type III 12, and with the O bit 8 more.
        self.code.place(erspan);
        self.code.jump_if(AnyBit, R0, 0x1000, plain);
        self.code.jump(next.ethernet);
        self.code.place(plain);
        self.skip(8);
        self.code.jump(next.ethernet);
        self.code.place(erspan_three);
        self.fetch(0, 12);
        self.skip(12);
        let optional = self.code.label();
        self.field(R0, 11, 8);
        self.code.jump_if(AnyBit, R0, 1, optional);
        self.code.jump(next.ethernet);
        self.code.place(optional);
        self.skip(8);
        self.code.jump(next.ethernet);
    }

    fn udp(&mut self, next: Level) {
        let done = self.done;
        let (vxlan, geneve, gtp) = (self.code.label(), self.code.label(), self.code.label());
        self.fetch(0, 16);
        self.field(R1, 0, 16);
        self.field(R2, 2, 16);
        // As `wire` does: the destination, and the source only where the destination is no tunnel's. Those that are not
        // opened here are steered by the outer addresses.
        for port in [R2, R1] {
            for (number, to) in [(4789, vxlan), (8472, vxlan), (6081, geneve), (2152, gtp)] {
                self.code.jump_if(Equal, port, number, to);
            }
            for number in CLOSED_TUNNELS {
                self.code.jump_if(Equal, port, number, done);
            }
        }
        self.code.jump(done);
        // RFC 7348 §5: flags 08, everything reserved 0; or the group policy extension, flags 88. `wire` believes others too
        // where the checksums inside hold, which cannot be looked at here.
        self.code.place(vxlan);
        let plain = self.code.label();
        self.field(R0, 15, 8);
        self.code.jump_if(NotEqual, R0, 0, done);
        self.field(R0, 8, 8);
        self.code.jump_if(Equal, R0, 0x88, plain);
        self.field(R0, 8, 32);
        self.code.jump_if(NotEqual, R0, 0x0800_0000, done);
        self.code.place(plain);
        self.skip(16);
        self.code.jump(next.ethernet);
        // RFC 8926 §3.4: version 0, the options' length in words, the O and C flags, EtherType.
        self.code.place(geneve);
        self.field(R1, 8, 8);
        self.code.jump_if(AnyBit, R1, 0xc0, done);
        self.field(R0, 9, 8);
        self.code.jump_if(AnyBit, R0, 0x3f, done);
        self.field(R0, 15, 8);
        self.code.jump_if(NotEqual, R0, 0, done);
        self.field(R8, 10, 16);
        self.code.jump_if(Less, R8, 0x0600, done);
        self.code.operate(ShiftLeft, R1, 2);
        self.code.operate(Add, R7, R1);
        self.skip(16);
        self.code.jump_if(Equal, R8, 0x6558, next.ethernet);
        self.code.jump(next.ether_type);
        self.code.place(gtp);
        self.gtp(next);
    }

    /// 3GPP TS 29.281 §5.1: version 1, protocol type GTP, message G-PDU, the length of what follows the 8 bytes.
    fn gtp(&mut self, next: Level) {
        let done = self.done;
        self.field(R0, 8, 8);
        self.code.set(R1, R0);
        self.code.operate(And, R1, 0xf0);
        self.code.jump_if(NotEqual, R1, 0x30, done);
        self.field(R1, 9, 8);
        self.code.jump_if(NotEqual, R1, 0xff, done);
        self.field(R1, 10, 16);
        self.field(R2, 4, 16);
        self.code.operate(Subtract, R2, 16);
        self.code.jump_if(NotEqual, R1, R2, done);
        self.skip(16);
        let optional = self.code.label();
        self.code.jump_if(AnyBit, R0, 0x07, optional);
        self.code.jump(next.ip);
        self.code.place(optional);
        let chained = self.code.label();
        self.skip(4);
        self.code.jump_if(AnyBit, R0, 0x04, chained);
        self.code.jump(next.ip);
        self.code.place(chained);
        self.fetch(-1, 1);
        self.field(R8, 0, 8);
        // §5.2.1: each extension header gives its length in words and, in its last byte, the type of the next.
        for _ in 0..EXTENSIONS {
            self.code.jump_if(Equal, R8, 0, next.ip);
            self.fetch(0, 1);
            self.field(R0, 0, 8);
            self.code.jump_if(Equal, R0, 0, done);
            self.code.operate(ShiftLeft, R0, 2);
            self.code.operate(Add, R7, R0);
            self.fetch(-1, 1);
            self.field(R8, 0, 8);
        }
        self.code.jump_if(Equal, R8, 0, next.ip);
        self.code.jump(done);
    }

    /// [`wire::flowkey::worker_of`]: the upper 64 bits of the hash times the number of workers.
    fn finish(&mut self, workers: u32) {
        self.code.place(self.done);
        let code = &mut self.code;
        code.set_wide(R1, u64::from(workers));
        code.set(R0, R9);
        code.operate(ShiftRight, R0, 32);
        code.operate(Multiply, R0, R1);
        code.set_wide(R2, 0xffff_ffff);
        code.operate(And, R9, R2);
        code.operate(Multiply, R9, R1);
        code.operate(ShiftRight, R9, 32);
        code.operate(Add, R0, R9);
        code.operate(ShiftRight, R0, 32);
        code.exit();
    }
}
