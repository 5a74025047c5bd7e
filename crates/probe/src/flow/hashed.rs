//! Keys that carry their hash, and maps that take it as it is.

use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A key with its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed<K> {
    /// Equal keys have equal hashes.
    pub hash: u64,
    /// The key.
    pub key: K,
}

impl<K> Hash for Hashed<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Passes the hash through that is there already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given(u64);

/// Makes [`Given`].
pub type BuildGiven = BuildHasherDefault<Given>;

impl Hasher for Given {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
