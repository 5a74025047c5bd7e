//! The versions whose Initial packets can be opened.

use std::borrow::Cow;

/// A version of QUIC, as far as Initial packets differ between versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// The number on the wire.
    pub(super) number: u32,
    /// The name in records.
    name: &'static str,
    /// The salt of the initial secret (RFC 9001 §5.2).
    pub(super) salt: [u8; 20],
    /// Version 2 has its own key labels and packet type numbers (RFC 9369 §3).
    pub(super) second: bool,
    /// Google's own versions have their own frame types.
    pub(super) google_frames: bool,
}

/// What a long header's type bits mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Initial,
    ZeroRtt,
    Handshake,
    Retry,
}

impl Version {
    /// The version of that number, if it is known.
    pub(super) fn find(number: u32) -> Option<&'static Self> {
        // RFC 9000 §15: numbers of this form are reserved, to make a server negotiate. Clients protect such a packet as
        // one of the version that they prefer; the drafts were most used with it.
        let number = if number & 0x0f0f_0f0f == 0x0a0a_0a0a {
            RESERVED
        } else {
            number
        };
        VERSIONS.iter().find(|version| version.number == number)
    }

    /// Whether it stands for the numbers that are reserved to provoke a version negotiation.
    pub(super) fn is_reserved(&self) -> bool {
        self.number == RESERVED
    }

    /// The packet type of a long header's first byte.
    pub(super) fn kind(&self, first: u8) -> Kind {
        let bits = (first >> 4) & 0b11;
        // RFC 9369 §3.2: version 2 counts from Retry.
        match if self.second {
            bits.wrapping_sub(1) & 0b11
        } else {
            bits
        } {
            0 => Kind::Initial,
            1 => Kind::ZeroRtt,
            2 => Kind::Handshake,
            _ => Kind::Retry,
        }
    }
}

/// The name of a version; other numbers as `0x1a2a3a4a`.
pub(super) fn name(number: u32) -> Cow<'static, str> {
    match Version::find(number) {
        Some(version) if !version.is_reserved() => Cow::Borrowed(version.name),
        _ => Cow::Owned(format!("0x{number:08x}")),
    }
}

/// The number under which all reserved versions are in the table.
const RESERVED: u32 = 0x0a0a_0a0a;

const SALT_V1: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc,
    0xbb, 0x7f, 0x0a,
];
const SALT_V2: [u8; 20] = [
    0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9,
    0xbd, 0x2e, 0xd9,
];
const SALT_V2_DRAFT: [u8; 20] = [
    0xa7, 0x07, 0xc2, 0x03, 0xa5, 0x9b, 0x47, 0x18, 0x4a, 0x1d, 0x62, 0xca, 0x57, 0x04, 0x06, 0xea, 0x7a,
    0xe3, 0xe5, 0xd3,
];
const SALT_DRAFT_29: [u8; 20] = [
    0xaf, 0xbf, 0xec, 0x28, 0x99, 0x93, 0xd2, 0x4c, 0x9e, 0x97, 0x86, 0xf1, 0x9c, 0x61, 0x11, 0xe0, 0x43,
    0x90, 0xa8, 0x99,
];
const SALT_DRAFT_23: [u8; 20] = [
    0xc3, 0xee, 0xf7, 0x12, 0xc7, 0x2e, 0xbb, 0x5a, 0x11, 0xa7, 0xd2, 0x43, 0x2b, 0xb4, 0x63, 0x65, 0xbe,
    0xf9, 0xf5, 0x02,
];
const SALT_DRAFT_22: [u8; 20] = [
    0x7f, 0xbc, 0xdb, 0x0e, 0x7c, 0x66, 0xbb, 0xe9, 0x19, 0x3a, 0x96, 0xcd, 0x21, 0x51, 0x9e, 0xbd, 0x7a,
    0x02, 0x64, 0x4a,
];

const SALT_T050: [u8; 20] = [
    0x7f, 0xf5, 0x79, 0xe5, 0xac, 0xd0, 0x72, 0x91, 0x55, 0x80, 0x30, 0x4c, 0x43, 0xa2, 0x36, 0x7c, 0x60,
    0x48, 0x83, 0x10,
];
const SALT_T051: [u8; 20] = [
    0x7a, 0x4e, 0xde, 0xf4, 0xe7, 0xcc, 0xee, 0x5f, 0xa4, 0x50, 0x6c, 0x19, 0x12, 0x4f, 0xc8, 0xcc, 0xda,
    0x6e, 0x03, 0x3d,
];

const SALT_Q050: [u8; 20] = [
    0x50, 0x45, 0x74, 0xef, 0xd0, 0x66, 0xfe, 0x2f, 0x9d, 0x94, 0x5c, 0xfc, 0xdb, 0xd3, 0xa7, 0xf0, 0xd3,
    0xb5, 0x6b, 0x45,
];

const fn version(number: u32, name: &'static str, salt: [u8; 20]) -> Version {
    Version {
        number,
        name,
        salt,
        second: false,
        google_frames: false,
    }
}

pub(super) const VERSIONS: &[Version] = &[
    version(0x0000_0001, "1", SALT_V1),
    Version {
        number: 0x6b33_43cf,
        name: "2",
        salt: SALT_V2,
        second: true,
        google_frames: false,
    },
    Version {
        number: 0x709a_50c4,
        name: "2-draft",
        salt: SALT_V2_DRAFT,
        second: true,
        google_frames: false,
    },
    version(0xff00_0022, "draft-34", SALT_V1),
    version(0xff00_0021, "draft-33", SALT_V1),
    version(0xff00_0020, "draft-32", SALT_DRAFT_29),
    version(0xff00_001f, "draft-31", SALT_DRAFT_29),
    version(0xff00_001e, "draft-30", SALT_DRAFT_29),
    version(0xff00_001d, "draft-29", SALT_DRAFT_29),
    version(0xff00_001c, "draft-28", SALT_DRAFT_23),
    version(0xff00_001b, "draft-27", SALT_DRAFT_23),
    version(0xff00_001a, "draft-26", SALT_DRAFT_23),
    version(0xff00_0019, "draft-25", SALT_DRAFT_23),
    version(0xff00_0018, "draft-24", SALT_DRAFT_23),
    version(0xff00_0017, "draft-23", SALT_DRAFT_23),
    version(0xff00_0016, "draft-22", SALT_DRAFT_22),
    version(RESERVED, "reserved", SALT_DRAFT_29),
    // Google's last version with a handshake of its own.
    Version {
        number: 0x5130_3530,
        name: "Q050",
        salt: SALT_Q050,
        second: false,
        google_frames: true,
    },
    // Google's versions that carried TLS before the RFC.
    Version {
        number: 0x5430_3530,
        name: "T050",
        salt: SALT_T050,
        second: false,
        google_frames: true,
    },
    Version {
        number: 0x5430_3531,
        name: "T051",
        salt: SALT_T051,
        second: false,
        google_frames: true,
    },
    // mvfst, Meta's implementation, numbered its own deployments of the drafts.
    version(0xface_b00e, "mvfst-e", SALT_DRAFT_23),
    version(0xface_b002, "mvfst-2", SALT_DRAFT_23),
    version(0xface_b001, "mvfst-1", SALT_DRAFT_22),
];
