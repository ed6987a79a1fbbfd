//! The allocator: no lock between threads, and memory that is not in use goes back to the system.
//!
//! Connections come and go in thousands. The allocator keeps what they held until something else is allocated, which in a
//! process that has fallen idle never comes; so threads that serve connections ask for it.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives back to the system what this thread has freed. Takes up to a millisecond.
#[allow(unsafe_code, reason = "the crate has no safe name for it")]
pub fn give_back() {
    // SAFETY: works on the allocator's own lists, from any thread, at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
