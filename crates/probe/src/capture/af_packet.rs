//! A live interface through an AF_PACKET TPACKET_V3 ring (Linux `Documentation/networking/packet_mmap.rst`).
//!
//! The kernel writes frames into blocks of a ring that this process maps; a block belongs to one side at a time, and its
//! status word says to which. Frames are read in place. All `unsafe` of the project is in [`ring`] below this
//! module; what is parsed here are bytes of a block that is ours.
//!
//! Nothing is taken from the host: a packet socket sees copies.

mod ring;

use std::time::Duration;

use thiserror::Error;
use wire::decode::LinkType;

use self::ring::{PacketSocket, Ring};
use super::bpf::Program;
use super::{FrameHeader, Frames, Next};

/// Bytes of one block: a super-frame of segmentation offload (64 KiB and more) must fit.
const BLOCK_BYTES: usize = 1 << 20;
/// The kernel hands a block over at the latest after this time, full or not.
const BLOCK_TIMEOUT_MS: u32 = 1;
/// How often an interface that is down is looked at again.
const DOWN_RETRY: Duration = Duration::from_millis(200);

/// Why an interface cannot be captured from.
#[derive(Debug, Error)]
pub enum AfPacketError {
    /// There is no such interface.
    #[error("interface {interface}: there is no such interface; `ip link` lists them")]
    NoInterface {
        /// The name.
        interface: String,
    },
    /// The process may not open a packet socket.
    #[error(
        "interface {interface}: no permission to capture; CAP_NET_RAW is missing: run as root, or once \
         `setcap cap_net_raw,cap_net_admin+ep $(readlink -f $(command -v python3))`"
    )]
    Permission {
        /// The name.
        interface: String,
    },
    /// The link layer of the interface is not supported.
    #[error("interface {interface}: its link type (ARPHRD {hardware}) is not supported")]
    LinkType {
        /// The name.
        interface: String,
        /// The ARPHRD number (Linux `if_arp.h`).
        hardware: u16,
    },
    /// A step of the set-up failed.
    #[error("interface {interface}: {step} failed: {source}")]
    Setup {
        /// The name.
        interface: String,
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The interface was removed while capturing.
    #[error("interface {interface}: it was removed while capturing; what was metered is exported")]
    Vanished {
        /// The name.
        interface: String,
    },
    /// Waiting for frames failed.
    #[error("interface {interface}: reading failed: {source}; what was metered is exported")]
    Read {
        /// The name.
        interface: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// What to capture.
#[derive(Clone, Debug)]
pub struct AfPacketSettings {
    /// Interface name.
    pub interface: String,
    /// Memory of the ring in bytes; at least two blocks of 1 MiB are used.
    pub ring_bytes: usize,
    /// Whether to put the interface into promiscuous mode.
    pub promiscuous: bool,
    /// A filter that the kernel runs; what it passes over is not delivered and not counted.
    pub filter: Option<Program>,
    /// How long [`AfPacket::next_block`] waits before it says that nothing came.
    pub idle_timeout: Duration,
}

/// What the kernel counted for this socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounts {
    /// Frames that passed the filter, the dropped ones among them.
    pub packets: u64,
    /// Frames that the ring had no room for.
    pub drops: u64,
    /// How often the ring was full.
    pub freezes: u64,
}

/// An open ring on one interface.
#[derive(Debug)]
pub struct AfPacket {
    interface: String,
    link_type: LinkType,
    idle_timeout: Duration,
    socket: PacketSocket,
    ring: Ring,
    block: usize,
    headers: Vec<FrameHeader>,
    delivered: u64,
    counts: KernelCounts,
    damaged_blocks: u64,
    down: bool,
}

impl AfPacket {
    /// Opens the interface. On the loopback interface every packet is seen once, when it is received.
    pub fn open(settings: &AfPacketSettings) -> Result<Self, AfPacketError> {
        let interface = settings.interface.clone();
        let setup = |step| {
            let interface = interface.clone();
            move |source| AfPacketError::Setup {
                interface,
                step,
                source,
            }
        };
        let index = ring::interface_index(&interface).ok_or_else(|| AfPacketError::NoInterface {
            interface: interface.clone(),
        })?;
        let socket = PacketSocket::open().map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => AfPacketError::Permission {
                interface: interface.clone(),
            },
            _ => setup("opening a packet socket")(source),
        })?;
        let hardware = socket
            .hardware_type(&interface)
            .map_err(setup("asking for the link type"))?;
        let link_type = link_type(hardware).ok_or_else(|| AfPacketError::LinkType {
            interface: interface.clone(),
            hardware,
        })?;
        socket.use_version_3().map_err(setup("choosing TPACKET_V3"))?;
        if hardware == libc::ARPHRD_LOOPBACK {
            socket.ignore_outgoing().map_err(setup("ignoring sent packets"))?;
        }
        if let Some(filter) = &settings.filter {
            socket
                .attach_filter(filter.instructions())
                .map_err(setup("attaching the filter"))?;
        }
        let blocks = (settings.ring_bytes / BLOCK_BYTES).max(2);
        let ring =
            Ring::map(&socket, BLOCK_BYTES, blocks, BLOCK_TIMEOUT_MS).map_err(setup("mapping the ring"))?;
        if settings.promiscuous {
            socket
                .join_promiscuous(index)
                .map_err(setup("promiscuous mode"))?;
        }
        socket.bind(index).map_err(setup("binding"))?;
        Ok(Self {
            interface,
            link_type,
            idle_timeout: settings.idle_timeout,
            socket,
            ring,
            block: 0,
            headers: Vec::with_capacity(BLOCK_BYTES / 128),
            delivered: 0,
            counts: KernelCounts::default(),
            damaged_blocks: 0,
            down: false,
        })
    }

    /// The link type of its frames.
    pub fn link_type(&self) -> LinkType {
        self.link_type
    }

    /// Memory that the ring takes in bytes.
    pub fn ring_bytes(&self) -> usize {
        self.ring.bytes()
    }

    /// Frames handed over so far.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Blocks that the kernel filled in a way that could not be read; their frames are lost. Any is a bug.
    pub fn damaged_blocks(&self) -> u64 {
        self.damaged_blocks
    }

    /// The kernel's counts since the interface was opened.
    pub fn kernel_counts(&mut self) -> KernelCounts {
        // The kernel clears its counters with every reading. A socket that was open once can be asked for ever.
        if let Ok((packets, drops, freezes)) = self.socket.take_statistics() {
            self.counts.packets += u64::from(packets);
            self.counts.drops += u64::from(drops);
            self.counts.freezes += u64::from(freezes);
        }
        self.counts
    }

    /// Hands the next block over, or says that nothing came within the idle timeout. An interface that is down is
    /// waited for.
    pub fn next_block(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, AfPacketError> {
        if !self.ring.is_ours(self.block) {
            self.wait()?;
            if !self.ring.is_ours(self.block) {
                return Ok(Next::Idle);
            }
        }
        self.down = false;
        let bytes = self.ring.block(self.block);
        self.headers.clear();
        let complete = read_block(bytes, self.link_type, &mut self.headers);
        if complete.is_none() {
            self.damaged_blocks += 1;
        }
        if !self.headers.is_empty() {
            take(Frames {
                bytes,
                headers: &self.headers,
                first_number: self.delivered + 1,
            });
            self.delivered += self.headers.len() as u64;
        }
        self.ring.give_back(self.block);
        self.block = (self.block + 1) % self.ring.blocks();
        Ok(Next::Block)
    }

    fn wait(&mut self) -> Result<(), AfPacketError> {
        let failed = match self.socket.wait(self.idle_timeout) {
            Ok(()) => return Ok(()),
            Err(source) => source,
        };
        if failed.raw_os_error() != Some(libc::ENETDOWN) {
            return Err(AfPacketError::Read {
                interface: self.interface.clone(),
                source: failed,
            });
        }
        if ring::interface_index(&self.interface).is_none() {
            return Err(AfPacketError::Vanished {
                interface: self.interface.clone(),
            });
        }
        if !self.down {
            self.down = true;
            tracing::warn!(interface = %self.interface, "the interface went down; waiting for it to come back");
        }
        std::thread::sleep(DOWN_RETRY);
        Ok(())
    }
}

/// The LINKTYPE of the frames that a packet socket of type `SOCK_RAW` gives for an ARPHRD number.
fn link_type(hardware: u16) -> Option<LinkType> {
    const ETHERNET: LinkType = LinkType(1);
    const RAW_IP: LinkType = LinkType(101);
    const IEEE802_11: LinkType = LinkType(105);
    const IEEE802_11_RADIOTAP: LinkType = LinkType(127);
    match hardware {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Some(ETHERNET),
        libc::ARPHRD_NONE
        | libc::ARPHRD_PPP
        | libc::ARPHRD_TUNNEL
        | libc::ARPHRD_TUNNEL6
        | libc::ARPHRD_SIT
        | libc::ARPHRD_IPGRE => Some(RAW_IP),
        libc::ARPHRD_IEEE80211 => Some(IEEE802_11),
        libc::ARPHRD_IEEE80211_RADIOTAP => Some(IEEE802_11_RADIOTAP),
        _ => None,
    }
}

/// Reads the frame headers of a block (`struct tpacket_block_desc`, then one `struct tpacket3_hdr` a frame). `None` if the
/// block contradicts itself; the headers read until then are kept.
fn read_block(block: &[u8], link_type: LinkType, headers: &mut Vec<FrameHeader>) -> Option<()> {
    // struct tpacket_hdr_v1: status 8, packets 12, offset of the first 16.
    let packets = word(block, 12)?;
    let mut at = word(block, 16)? as usize;
    for _ in 0..packets {
        let header = block.get(at..)?;
        let next = word(header, 0)? as usize;
        let seconds = i64::from(word(header, 4)?);
        let nanoseconds = i64::from(word(header, 8)?);
        let captured_length = word(header, 12)?;
        let status = word(header, 20)?;
        let start = at.checked_add(usize::from(half(header, 24)?))?;
        let vlan = word(header, 32)?;
        block.get(start..start.checked_add(captured_length as usize)?)?;
        let stripped_vlan = (status & libc::TP_STATUS_VLAN_VALID != 0).then_some((vlan & 0x0fff) as u16);
        // The tag that the kernel took out was on the wire.
        let tag_length = if stripped_vlan.is_some() { 4 } else { 0 };
        headers.push(FrameHeader {
            time: seconds * 1_000_000_000 + nanoseconds,
            offset: start as u32,
            captured_length,
            wire_length: word(header, 16)?.saturating_add(tag_length),
            link_type,
            stripped_vlan,
            checksum_offloaded: status & libc::TP_STATUS_CSUMNOTREADY != 0,
        });
        at = at.checked_add(next)?;
    }
    Some(())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A block with one frame of `data`, as the kernel lays it out.
    fn block_of(data: &[u8], status: u32, vlan: u32) -> Vec<u8> {
        let mut block = vec![0; 48];
        block[12..16].copy_from_slice(&1_u32.to_ne_bytes());
        block[16..20].copy_from_slice(&48_u32.to_ne_bytes());
        let words = [0, 7, 9, data.len() as u32, data.len() as u32 + 10, status];
        block.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        block.extend(82_u16.to_ne_bytes());
        block.extend(96_u16.to_ne_bytes());
        block.extend([0; 4]);
        block.extend(vlan.to_ne_bytes());
        block.resize(48 + 82, 0);
        block.extend(data);
        block
    }

    #[test]
    fn reads_time_lengths_and_the_vlan_that_the_kernel_took_out() {
        let block = block_of(
            b"frame",
            libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_CSUMNOTREADY,
            0x2007,
        );
        let mut headers = Vec::new();
        assert_eq!(read_block(&block, LinkType(1), &mut headers), Some(()));
        let expected = FrameHeader {
            time: 7_000_000_009,
            offset: 130,
            captured_length: 5,
            wire_length: 19,
            link_type: LinkType(1),
            stripped_vlan: Some(7),
            checksum_offloaded: true,
        };
        assert_eq!(headers, [expected]);
        assert_eq!(&block[130..135], b"frame");
    }

    #[test]
    fn a_block_that_ends_early_gives_no_frame() {
        let block = block_of(b"frame", 0, 0);
        let mut headers = Vec::new();
        assert_eq!(
            read_block(&block[..block.len() - 1], LinkType(1), &mut headers),
            None
        );
        assert!(headers.is_empty());
    }

    proptest! {
        #[test]
        fn any_block_is_read_within_its_bounds(block in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut headers = Vec::new();
            read_block(&block, LinkType(1), &mut headers);
            for header in headers {
                prop_assert!(header.offset as usize + header.captured_length as usize <= block.len());
            }
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let settings = AfPacketSettings {
            interface: "nosuchif0".to_owned(),
            ring_bytes: 0,
            promiscuous: false,
            filter: None,
            idle_timeout: Duration::from_millis(1),
        };
        let error = AfPacket::open(&settings)
            .map(|_| ())
            .expect_err("no such interface")
            .to_string();
        assert!(
            error.contains("nosuchif0") && error.contains("ip link"),
            "{error}"
        );
    }
}

#[cfg(all(test, feature = "root-tests"))]
mod live_tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn the_loopback_interface_gives_every_packet_once() {
        let mut capture = AfPacket::open(&AfPacketSettings {
            interface: "lo".to_owned(),
            ring_bytes: 4 * BLOCK_BYTES,
            promiscuous: false,
            filter: None,
            idle_timeout: Duration::from_millis(50),
        })
        .expect("root may capture on lo");
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = receiver.local_addr().expect("bound");
        let marker = b"one packet in each direction of the ring, seen once";
        for _ in 0..300 {
            sender.send_to(marker, address).expect("sent");
        }
        let (mut seen, mut idle) = (0, 0);
        while idle < 2 {
            let next = capture.next_block(&mut |frames| {
                for header in frames.headers {
                    let end = (header.offset + header.captured_length) as usize;
                    seen += usize::from(frames.bytes[..end].ends_with(marker));
                }
            });
            idle += usize::from(next.expect("lo stays up") == Next::Idle);
        }
        assert_eq!(seen, 300);
        let counts = capture.kernel_counts();
        assert!(counts.packets >= 300 && counts.drops == 0, "{counts:?}");
        assert_eq!(capture.damaged_blocks(), 0);
    }
}
