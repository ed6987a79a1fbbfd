//! The allocator: no lock between threads, and memory that is not in use goes back to the system.
//!
//! Connections come and go in thousands. The allocator keeps what they held until something else is allocated, which in a
//! process that has fallen idle never comes; so threads that serve connections ask for it.
#![allow(unsafe_code, reason = "an allocator is spoken to in no other way")]

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys::{mi_collect, mi_free, mi_malloc, mi_realloc, mi_zalloc};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Asks mimalloc for plain blocks, and for an alignment only when a plain one has come out without it.
///
/// Asked for an alignment, as the crate's own allocator asks each time, its version 3 sets aside as much more as the
/// alignment takes, in blocks of a larger size, and takes the long way to find one and to free it. But it lays blocks of
/// one size from the start of a page: those of a multiple of 128 bytes, like every task's, are aligned to 128 anyway.
struct Allocator;

/// Blocks are aligned to this, however small they are.
const WORD: usize = size_of::<usize>();

/// What mimalloc gave, unless it has to be aligned and is not.
fn fitting(block: *mut u8, layout: Layout) -> Option<*mut u8> {
    if layout.align() <= WORD || block.addr().is_multiple_of(layout.align()) {
        return Some(block);
    }
    // SAFETY: it came from mimalloc just now.
    unsafe { mi_free(block.cast()) };
    None
}

// SAFETY: a block comes from mimalloc's plain functions, which take and give blocks of the size that was asked for and are
// aligned to a word, and is given away only if it is aligned as asked for; all else is left to the crate. Both free alike,
// whatever a block came from.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: any size may be asked for.
        let block = unsafe { mi_malloc(layout.size()).cast() };
        // SAFETY: the same layout, as the caller vouches for it.
        fitting(block, layout).unwrap_or_else(|| unsafe { MiMalloc.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: any size may be asked for.
        let block = unsafe { mi_zalloc(layout.size()).cast() };
        // SAFETY: the same layout, as the caller vouches for it.
        fitting(block, layout).unwrap_or_else(|| unsafe { MiMalloc.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: it came from one of the functions above.
        unsafe { mi_free(block.cast()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= WORD {
            // SAFETY: it came from `alloc` with the same alignment.
            return unsafe { mi_realloc(block.cast(), size).cast() };
        }
        // SAFETY: the same block and layout, as the caller vouches for them.
        unsafe { MiMalloc.realloc(block, layout, size) }
    }
}

/// Gives back to the system what this thread has freed. Takes up to a millisecond.
pub fn give_back() {
    // SAFETY: works on the allocator's own lists, from any thread, at any time.
    unsafe { mi_collect(true) }
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_usable_size;

    use super::*;

    /// What is allocated, its address and how much memory it takes.
    fn take(layout: Layout, zeroed: bool) -> (*mut u8, usize) {
        // SAFETY: of some size, and freed by `give`.
        unsafe {
            let block = if zeroed { ALLOCATOR.alloc_zeroed(layout) } else { ALLOCATOR.alloc(layout) };
            (block, mi_usable_size(block.cast()))
        }
    }

    fn give(block: *mut u8, layout: Layout) {
        // SAFETY: from `take`, once.
        unsafe { ALLOCATOR.dealloc(block, layout) }
    }

    #[test]
    fn every_block_is_aligned_as_asked_for() {
        for align in (0..=13).map(|bits| 1 << bits) {
            for size in [1, 24, 40, 100, 592, 1000, 1792, 2049, 5000, 20_000] {
                let Ok(layout) = Layout::from_size_align(size, align) else { continue };
                let held = [true, false, true, false].map(|zeroed| take(layout, zeroed));
                for (block, usable) in held {
                    assert!(block.addr().is_multiple_of(align) && usable >= size, "{layout:?}: {block:?}");
                    give(block, layout);
                }
            }
        }
    }

    #[test]
    fn a_task_takes_no_more_than_its_size_although_it_is_aligned() {
        // One of HTTP/2's connections; blocks of this size there are.
        let layout = Layout::from_size_align(1792, 128).unwrap();
        let (block, usable) = take(layout, false);
        give(block, layout);
        assert_eq!(usable, 1792);
    }
}
