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
/// alignment takes, in blocks of a larger size, and takes the long way to find one. But it lays blocks of one size from
/// the start of a page: those of a multiple of 128 bytes, like every task's, are aligned to 128 anyway.
struct Allocator;

/// Blocks are aligned to this, however small they are.
const WORD: usize = size_of::<usize>();

/// What mimalloc gave, unless it has to be aligned and is not: then it is freed.
///
/// # Safety
///
/// `block` came from mimalloc, or is null, and nobody else has it.
unsafe fn fitting(block: *mut u8, layout: Layout) -> Option<*mut u8> {
    if layout.align() <= WORD || block.addr().is_multiple_of(layout.align()) {
        return Some(block);
    }
    // SAFETY: as the caller vouches.
    unsafe { mi_free(block.cast()) };
    None
}

// SAFETY: a block comes from mimalloc's plain functions, which take and give blocks of the size that was asked for and are
// aligned to a word, and is given away only if it is aligned as asked for; all else is left to the crate. Both free alike,
// whatever a block came from.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: any size may be asked for, and nobody has the block yet.
        let block = unsafe { fitting(mi_malloc(layout.size()).cast(), layout) };
        // SAFETY: the same layout, as the caller vouches for it.
        block.unwrap_or_else(|| unsafe { MiMalloc.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: any size may be asked for, and nobody has the block yet.
        let block = unsafe { fitting(mi_zalloc(layout.size()).cast(), layout) };
        // SAFETY: the same layout, as the caller vouches for it.
        block.unwrap_or_else(|| unsafe { MiMalloc.alloc_zeroed(layout) })
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

    /// One block, freed when dropped.
    struct Taken {
        block: *mut u8,
        layout: Layout,
    }

    impl Taken {
        fn new(layout: Layout, zeroed: bool) -> Self {
            // SAFETY: of some size, and freed by `drop`.
            let block =
                unsafe { if zeroed { ALLOCATOR.alloc_zeroed(layout) } else { ALLOCATOR.alloc(layout) } };
            Self { block, layout }
        }

        fn resize(&mut self, size: usize) {
            // SAFETY: its own block and layout; some size.
            self.block = unsafe { ALLOCATOR.realloc(self.block, self.layout, size) };
            self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        }

        fn is_aligned(&self) -> bool {
            self.block.addr().is_multiple_of(self.layout.align())
        }

        fn fill(&mut self, byte: u8) {
            // SAFETY: all of its own block.
            unsafe { self.block.write_bytes(byte, self.layout.size()) }
        }

        fn begins_with(&self, byte: u8, length: usize) -> bool {
            // SAFETY: no more than its own block, which somebody has written to so far.
            let bytes = unsafe { std::slice::from_raw_parts(self.block, length) };
            bytes.iter().all(|other| *other == byte)
        }
    }

    impl Drop for Taken {
        fn drop(&mut self) {
            // SAFETY: its own block and layout, for the last time.
            unsafe { ALLOCATOR.dealloc(self.block, self.layout) }
        }
    }

    #[test]
    fn every_block_is_aligned_as_asked_for_and_keeps_what_is_in_it() {
        for align in (0..=17).map(|bits| 1 << bits) {
            for size in [1, 24, 40, 100, 592, 1000, 1792, 2049, 5000, 20_000] {
                let layout = Layout::from_size_align(size, align).unwrap();
                let mut held = [(); 3].map(|()| Taken::new(layout, false));
                assert!(held.iter().all(Taken::is_aligned), "{layout:?}");
                for (taken, size) in held.iter_mut().zip([size * 3, size.div_ceil(2), size]) {
                    taken.fill(7);
                    let kept = taken.layout.size().min(size);
                    taken.resize(size);
                    assert!(taken.is_aligned() && taken.begins_with(7, kept), "{layout:?}");
                }
                // Their memory is used again.
                drop(held);
                let held = [(); 3].map(|()| Taken::new(layout, true));
                assert!(
                    held.iter().all(|taken| taken.is_aligned() && taken.begins_with(0, size)),
                    "{layout:?}"
                );
            }
        }
    }

    #[test]
    fn a_task_takes_no_more_than_its_size_although_it_is_aligned() {
        // One of HTTP/2's connections; blocks of this size there are.
        let taken = Taken::new(Layout::from_size_align(1792, 128).unwrap(), false);
        // SAFETY: mimalloc's own block.
        assert_eq!(unsafe { mi_usable_size(taken.block.cast()) }, 1792);
    }
}
