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

/// mimalloc aligns every block to a word by itself. Asked for an alignment, as the crate's own allocator asks each time,
/// its version 3 sets aside a word more than it needs, in blocks of another size, and takes the long way to find one.
struct Allocator;

/// Blocks are aligned to this, however small they are.
const WORD: usize = size_of::<usize>();

// SAFETY: what is aligned to a word at most comes from mimalloc's plain functions, which take and give blocks of the size
// that was asked for and are aligned to a word; all else is left to the crate. Both free alike, whatever a block came from.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= WORD {
            // SAFETY: any size may be asked for.
            return unsafe { mi_malloc(layout.size()).cast() };
        }
        // SAFETY: the same layout, as the caller vouches for it.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= WORD {
            // SAFETY: any size may be asked for.
            return unsafe { mi_zalloc(layout.size()).cast() };
        }
        // SAFETY: the same layout, as the caller vouches for it.
        unsafe { MiMalloc.alloc_zeroed(layout) }
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
