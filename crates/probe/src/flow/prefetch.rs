//! The one place where memory is asked for ahead of its use.
//!
//! A flow table of millions of flows does not fit into any cache: a packet would wait for its bucket, then for its
//! flow. A batch of packets asks for all buckets, then for all flows, and waits once.

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the lines of a value that will be used soon; nothing happens beyond the end of the slice.
#[inline]
pub fn ask_for<T>(values: &[T], index: usize) {
    if let Some(value) = values.get(index) {
        let start = std::ptr::from_ref(value).cast::<i8>();
        for line in 0..size_of::<T>().div_ceil(LINE) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the hint touches no memory and raises no fault, whatever the address; this one lies within
            // `value`, or on the cache line of its last byte.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line * LINE));
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = (start, line);
        }
    }
}
