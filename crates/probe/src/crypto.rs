//! The cryptographic primitives that the dissectors of `wire` ask for, and SHA-1 for Community ID.
//!
//! Nothing here protects a secret: QUIC Initial keys are public by design (RFC 9001 §5.2), and the digests name
//! fingerprints. Keys have a fixed size, so that a primitive fails only when the library cannot allocate; the packet then
//! does not open.

use aws_lc_rs::aead::quic::{AES_128, HeaderProtectionKey};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac};
use md5::Digest as _;

/// [`wire::l7::Crypto`] by aws-lc-rs, and MD5 by the crate `md-5` (aws-lc-rs offers none).
#[derive(Clone, Copy, Debug, Default)]
pub struct Crypto;

/// SHA-1 (FIPS 180-4), for Community ID only, whose version 1 prescribes it.
pub fn sha1(data: &[u8]) -> [u8; 20] {
    fixed(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, data).as_ref())
}

/// The bytes as an array; the library's digests have the length that their algorithm says.
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

impl wire::l7::Crypto for Crypto {
    fn sha256(&self, data: &[u8]) -> [u8; 32] {
        fixed(digest::digest(&digest::SHA256, data).as_ref())
    }

    fn md5(&self, data: &[u8]) -> [u8; 16] {
        md5::Md5::digest(data).into()
    }

    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> [u8; 32] {
        fixed(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref())
    }

    fn hmac_sha256_each(&self, key: &[u8], messages: &[&[u8]], macs: &mut [[u8; 32]]) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        for (mac, message) in macs.iter_mut().zip(messages) {
            *mac = fixed(hmac::sign(&key, message).as_ref());
        }
    }

    fn aes128_header_mask(&self, key: &[u8; 16], sample: &[u8; 16]) -> [u8; 5] {
        HeaderProtectionKey::new(&AES_128, key)
            .and_then(|key| key.new_mask(sample))
            .unwrap_or_default()
    }

    fn aes128_gcm_open(
        &self,
        key: &[u8; 16],
        nonce: &[u8; 12],
        associated: &[u8],
        data: &mut [u8],
    ) -> Option<usize> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).ok()?);
        let plaintext = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(associated), data);
        plaintext.ok().map(|plaintext| plaintext.len())
    }
}

#[cfg(test)]
mod tests {
    use super::{Crypto, sha1};
    use wire::l7::Crypto as _;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal"))
            .collect()
    }

    fn array<const N: usize>(text: &str) -> [u8; N] {
        hex(text).try_into().expect("the length of the array")
    }

    #[test]
    fn digests_of_abc() {
        // FIPS 180-4 examples; RFC 1321 appendix A.5.
        assert_eq!(sha1(b"abc"), array("a9993e364706816aba3e25717850c26c9cd0d89d"));
        let sha256 = array("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(Crypto.sha256(b"abc"), sha256);
        assert_eq!(Crypto.md5(b"abc"), array("900150983cd24fb0d6963f7d28e17f72"));
    }

    #[test]
    fn hmac_of_rfc_4231() {
        // RFC 4231 §4.3, test case 2.
        let mac = array("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let message = b"what do ya want for nothing?".as_slice();
        assert_eq!(Crypto.hmac_sha256(b"Jefe", message), mac);
        let mut macs = [[0; 32]; 3];
        Crypto.hmac_sha256_each(b"Jefe", &[message, b"", message], &mut macs);
        assert_eq!(macs, [mac, Crypto.hmac_sha256(b"Jefe", b""), mac]);
    }

    #[test]
    fn header_mask_of_rfc_9001() {
        // RFC 9001 appendix A.2.
        let key = array("9f50449e04a0e810283a1e9933adedd2");
        let sample = array("d1b1c98dd7689fb8ec11d242b123dc9b");
        assert_eq!(Crypto.aes128_header_mask(&key, &sample), array("437b9aec36"));
    }

    #[test]
    fn gcm_of_the_specification() {
        // McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test case 4.
        let key = array("feffe9928665731c6d6a8f9467308308");
        let nonce = array("cafebabefacedbaddecaf888");
        let associated = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plaintext = hex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let mut data = hex(
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47",
        );
        let sealed = data.clone();
        assert_eq!(
            Crypto.aes128_gcm_open(&key, &nonce, &associated, &mut data),
            Some(60)
        );
        assert_eq!(data[..60], plaintext);
        let mut damaged = sealed;
        damaged[0] ^= 1;
        assert_eq!(
            Crypto.aes128_gcm_open(&key, &nonce, &associated, &mut damaged),
            None
        );
        assert_eq!(
            Crypto.aes128_gcm_open(&key, &nonce, &associated, &mut []),
            None,
            "no room for a tag"
        );
    }
}
