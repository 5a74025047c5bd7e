//! The one place where processor and kernel are told how memory will be used.
//!
//! A flow table of millions of flows does not fit into any cache: a packet would wait for its bucket, then for its
//! flow. A batch of packets asks for all buckets, then for all flows, and waits once. On pages of 4 KiB it would still
//! wait, for the translation of each address: the table is laid on huge pages.

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the lines of a value that will be used soon; nothing happens beyond the end of the slice.
#[inline]
pub fn ask_for<T>(values: &[T], index: usize) {
    ask_for_head(values, index, size_of::<T>());
}

/// Asks for the lines of the first `bytes` of a value.
#[inline]
pub fn ask_for_head<T>(values: &[T], index: usize, bytes: usize) {
    if let Some(value) = values.get(index) {
        let start = std::ptr::from_ref(value).cast::<i8>();
        // From the start of its first line on, to that of its last byte.
        let lead = start.addr() % LINE;
        for line in 0..(lead + bytes).div_ceil(LINE) {
            let place = start.wrapping_add(line * LINE).wrapping_sub(lead);
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the hint touches no memory and raises no fault, whatever the address; this one lies on a cache
            // line of `value`.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(place);
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = place;
        }
    }
}

/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Asks for huge pages below a vector that has its final capacity and is used all over. A kernel without them refuses,
/// and nothing changes but speed.
pub fn on_huge_pages<T>(values: &Vec<T>) {
    let start = values.as_ptr() as usize;
    let end = start + values.capacity() * size_of::<T>();
    // Only whole huge pages: what lies before and behind belongs to others.
    let (start, end) = (start.next_multiple_of(HUGE_PAGE), end / HUGE_PAGE * HUGE_PAGE);
    if start < end {
        // SAFETY: MADV_HUGEPAGE changes how the kernel backs the range, never what it holds or whether it may be accessed;
        // the range lies within the vector's allocation.
        let refused =
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) } != 0;
        if refused {
            tracing::debug!(error = %std::io::Error::last_os_error(), "no huge pages for the flow table");
        }
    }
}
