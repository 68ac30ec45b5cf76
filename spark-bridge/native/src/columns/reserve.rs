//! Memory for a block's columns, taken once and not touched: growing step by step would copy what is there, and the
//! kernel would bring in every small page by a fault of its own.

use std::ffi::c_void;

use rustix::mm::{Advice, madvise};

/// Reservations are cut to this: a larger one may be refused by the kernel.
const LARGEST: usize = 64 << 20;
const HUGE_PAGE: usize = 2 << 20;

/// Makes room for `additional` more elements, as far as there is memory; asks for huge pages where that pays.
pub(super) fn reserve<T>(vec: &mut Vec<T>, additional: usize) {
    let additional = additional.min(LARGEST / size_of::<T>().max(1));
    if vec.try_reserve_exact(additional).is_err() {
        // It grows as it needs to, and fails where it cannot.
        return;
    }
    let start = vec.as_ptr().addr().next_multiple_of(HUGE_PAGE);
    let end = (vec.as_ptr().addr() + vec.capacity() * size_of::<T>()) / HUGE_PAGE * HUGE_PAGE;
    if end > start {
        let start_pointer = vec.as_mut_ptr().with_addr(start).cast::<c_void>();
        // SAFETY: the range lies in this vector's allocation, and the advice changes no byte of it.
        let _best_effort = unsafe { madvise(start_pointer, end - start, Advice::LinuxHugepage) };
    }
}
