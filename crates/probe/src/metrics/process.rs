//! What the kernel says of this process.

use std::fs;
use std::io;

/// Resident memory of this process in bytes: the second field of `/proc/self/statm` (proc(5)), in pages.
pub fn resident_bytes() -> io::Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "/proc/self/statm has no resident size",
            )
        })?;
    Ok(pages.saturating_mul(page_bytes()))
}

/// The size of a page: `AT_PAGESZ` of the auxiliary vector, as `/proc/self/auxv` shows it; 4 KiB where it does not.
fn page_bytes() -> u64 {
    const AT_PAGESZ: u64 = 6;
    static PAGE_BYTES: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
        let vector = fs::read("/proc/self/auxv").unwrap_or_default();
        let word = |bytes: &[u8]| {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_ne_bytes(word)
        };
        let width = size_of::<usize>();
        vector
            .chunks_exact(2 * width)
            .map(|entry| (word(&entry[..width]), word(&entry[width..])))
            .find(|(tag, _)| *tag == AT_PAGESZ)
            .map_or(4096, |(_, bytes)| bytes)
    });
    *PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_becomes_resident() {
        let before = resident_bytes().unwrap();
        let block = vec![1_u8; 64 << 20];
        let after = resident_bytes().unwrap();
        assert!(after >= before + (32 << 20), "{before} then {after}");
        assert_eq!(block.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 64 << 20);
    }
}
