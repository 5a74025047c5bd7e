//! The little of JOSE that evidence needs: base64url, compact serialisation (RFC 7515 §3.1) and digests as claims.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::merkle::{Hash, sha256};

/// Why a compact JWS cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Not three parts with dots between.
    #[error("it is not a JWS in compact serialisation (three parts with dots between)")]
    Parts,
    /// A part is not canonical base64url.
    #[error("its {0} is not canonical base64url")]
    Base64(&'static str),
    /// A part is not the JSON object that the format asks for.
    #[error("its {part} does not fit: {reason}")]
    Json {
        /// Header or claims.
        part: &'static str,
        /// What the JSON reader says.
        reason: String,
    },
}

/// Bytes as base64url without padding.
pub fn to_base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of *canonical* base64url: no padding, no foreign characters, unused bits zero. So one value has one spelling.
pub fn from_base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// A SHA-256 digest that is written as base64url in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub Hash);

impl Digest {
    /// The digest of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(sha256(data))
    }

    /// From base64url.
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self(from_base64url(text)?.try_into().ok()?))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_base64url(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("`{text:.64}` is not a SHA-256 digest in base64url"))
        })
    }
}

/// The parts of a compact JWS. Nothing is verified yet.
#[derive(Clone, Debug)]
pub struct Compact<'a> {
    /// What the signature is over: header and payload as they stand.
    pub signing_input: &'a str,
    header: Vec<u8>,
    payload: Vec<u8>,
    /// The signature's bytes.
    pub signature: Vec<u8>,
}

impl<'a> Compact<'a> {
    /// Takes a compact JWS apart.
    pub fn parse(jws: &'a str) -> Result<Self, JwsError> {
        let (signing_input, signature) = jws.rsplit_once('.').ok_or(JwsError::Parts)?;
        let (header, payload) = signing_input.split_once('.').ok_or(JwsError::Parts)?;
        if payload.contains('.') {
            return Err(JwsError::Parts);
        }
        let part = |text, name| from_base64url(text).ok_or(JwsError::Base64(name));
        Ok(Self {
            signing_input,
            header: part(header, "header")?,
            payload: part(payload, "payload")?,
            signature: part(signature, "signature")?,
        })
    }

    /// The protected header.
    pub fn header<T: for<'de> Deserialize<'de>>(&self) -> Result<T, JwsError> {
        from_json(&self.header, "header")
    }

    /// The claims.
    pub fn claims<T: for<'de> Deserialize<'de>>(&self) -> Result<T, JwsError> {
        from_json(&self.payload, "claims")
    }
}

fn from_json<T: for<'de> Deserialize<'de>>(json: &[u8], part: &'static str) -> Result<T, JwsError> {
    serde_json::from_slice(json).map_err(|error| JwsError::Json {
        part,
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_has_one_spelling() {
        assert_eq!(from_base64url("AQ"), Some(vec![1]));
        for other in ["AR", "AQ==", "AQ\n", " AQ", "A", "A+", "A/"] {
            assert_eq!(from_base64url(other), None, "{other:?}");
        }
    }

    #[test]
    fn three_parts() {
        assert!(Compact::parse("e30.e30.AQ").is_ok());
        for wrong in ["", "e30", "e30.e30", "e30.e30.AQ.AQ"] {
            assert_eq!(Compact::parse(wrong).unwrap_err(), JwsError::Parts, "{wrong:?}");
        }
        assert_eq!(
            Compact::parse("e30.e30.AR").unwrap_err(),
            JwsError::Base64("signature")
        );
    }
}
