//! The manifest: the signed claims about a batch (`docs/formats/sealed-batch.md` §3).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::jws::{Compact, Digest, JwsError};

/// `alg` of a manifest.
pub(super) const ALGORITHM: &str = "PS256";
/// `typ` of a manifest.
pub(super) const TYPE: &str = "dpi-manifest+jwt";
/// The version of the format that this program writes and reads.
pub(super) const VERSION: u32 = 1;
/// Longest manifest that is read, in bytes. One of a 4,096-bit key has about 1,400.
pub const MAX_MANIFEST_BYTES: usize = 4096;

/// What the rows of a batch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Flow records.
    Flow,
    /// The books (design §9).
    Ledger,
    /// What happened to the probe itself.
    Event,
}

impl Kind {
    /// The name in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Ledger => "ledger",
            Self::Event => "event",
        }
    }
}

/// The random identity of a chain: one for each start of a probe (design D7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(pub [u8; 16]);

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::hex(&self.0))
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a chain is named by 32 lower-case hexadecimal digits")]
pub struct NotAChainId;

impl FromStr for ChainId {
    type Err = NotAChainId;

    fn from_str(text: &str) -> Result<Self, NotAChainId> {
        let digits = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let value = digits
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten()
            .ok_or(NotAChainId)?;
        Ok(Self(value.to_be_bytes()))
    }
}

impl Serialize for ChainId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChainId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A place in a chain and the digest of the manifest that stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The chain.
    pub chain: ChainId,
    /// The position in it.
    pub seq: u64,
    /// Digest of the manifest's ASCII bytes.
    pub manifest: Digest,
}

/// The protected header of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// `PS256`.
    pub alg: String,
    /// `dpi-manifest+jwt`.
    pub typ: String,
    /// Fingerprint of the probe's certificate.
    #[serde(rename = "x5t#S256")]
    pub certificate: Digest,
}

/// The claims of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Version of the format: 1.
    pub v: u32,
    /// Probe id.
    pub iss: String,
    /// What the rows are.
    pub kind: Kind,
    /// The chain.
    pub chain: ChainId,
    /// Position in the chain, from 0.
    pub seq: u64,
    /// Digest of the manifest before; null only at the start of a chain that knows none.
    #[serde(deserialize_with = "Option::deserialize")]
    pub prev: Option<Digest>,
    /// At seq 0: the chain that `prev` belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_chain: Option<ChainId>,
    /// At seq 0: the position that `prev` belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_seq: Option<u64>,
    /// When it was sealed, in seconds since 1970.
    pub iat: i64,
    /// Schema fingerprint.
    pub schema: Digest,
    /// Number of rows.
    pub rows: u32,
    /// Root of the Merkle tree.
    pub root: Digest,
    /// Digest of the stream with the manifest zeroed.
    pub body: Digest,
}

impl Claims {
    /// What in the claims contradicts itself, if anything does.
    fn contradiction(&self) -> Option<String> {
        if self.v != VERSION {
            return Some(format!(
                "version {} is not known to this program, which reads version {VERSION}",
                self.v
            ));
        }
        if self.iss.is_empty() || self.iss.len() > 256 {
            return Some("the issuer has no name, or one of more than 256 bytes".into());
        }
        let named = (self.prev_chain.is_some(), self.prev_seq.is_some());
        let expected = self.seq == 0 && self.prev.is_some();
        if named != (expected, expected) {
            return Some("prev_chain and prev_seq must stand at seq 0 with a prev, and nowhere else".into());
        }
        if self.seq > 0 && self.prev.is_none() {
            return Some("prev is null inside a chain".into());
        }
        None
    }
}

/// A manifest, read but not verified.
#[derive(Clone, Debug)]
pub struct Manifest<'a> {
    /// The parts.
    pub jws: Compact<'a>,
    /// The protected header.
    pub header: Header,
    /// The claims.
    pub claims: Claims,
}

impl<'a> Manifest<'a> {
    /// Reads a manifest. Says nothing about whether its signature holds.
    pub fn parse(jws: &'a str) -> Result<Self, JwsError> {
        let jws = Compact::parse(jws)?;
        let header: Header = jws.header()?;
        if header.alg != ALGORITHM || header.typ != TYPE {
            let reason = format!("alg must be {ALGORITHM} and typ {TYPE}");
            return Err(JwsError::Json {
                part: "header",
                reason,
            });
        }
        let claims: Claims = jws.claims()?;
        if let Some(reason) = claims.contradiction() {
            return Err(JwsError::Json {
                part: "claims",
                reason,
            });
        }
        Ok(Self { jws, header, claims })
    }
}
