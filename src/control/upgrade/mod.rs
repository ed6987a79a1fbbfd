//! Upgrading Segue itself: a successor takes over from a running process, and no caller is refused.
//!
//! ```text
//!   successor                                predecessor
//!   hello ─────────────────────────────────►  no switchover from here on
//!         ◄───────────── offer, with the sockets; its store is closed, and its migrations are let go
//!   opens the store, starts its workers
//!   ready ─────────────────────────────────►
//!         ◄───────────── yours
//!   accepts; holds the gates;                accepts no more; finishes what it has
//!   goes on with the migrations
//!   gate commands, cut, blockers ──────────►  obeys like a worker
//!         ◄───────────── told
//!         ◄───────────── end of the line: nothing of it is in flight any more
//! ```
//!
//! The *same* listening sockets go over ([`protocol`] passes their descriptors), so a connection that waits in
//! the kernel's queue is accepted by whichever process comes first. Before `yours` the predecessor owns
//! everything and takes the store back, and its migrations up again, if the successor goes away; after it the
//! successor does.

mod handover;
mod protocol;
mod takeover;

use std::path::{Path, PathBuf};

pub use self::handover::{Door, Given, HandoverError, Successor};
pub use self::takeover::{Predecessor, TakeoverError};

/// Where a running process is found, in the directory of its store: whoever may open the store may ask
/// for it.
fn door(store: &Path) -> PathBuf {
    store.join("upgrade.sock")
}
