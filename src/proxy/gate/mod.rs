//! Who may go to which instance, and when: the close → parked → drained → resume protocol.
//!
//! ```text
//!   controller                      member (a worker of this process, or a whole predecessor)
//!   close g, park ───────────────►  new requests of the parked classes wait
//!                 ◄─────────────── parked g            (no request is admitted to g any more)
//!                 ◄─────────────── drained g           (every exchange of g that must end has ended)
//!   resume g+1, active ──────────►  waiting requests go, at a paced rate, to the active instance
//!                 ◄─────────────── resumed g+1
//!                 ◄─────────────── over g              (nothing of g or before is in flight at all)
//! ```
//!
//! [`member`] is a member's side and [`controller`] the other one; both are pure state machines and
//! are explored together, exhaustively, by the model in `tests/switchover_fails_nothing`. [`local`]
//! carries a member out on a worker: plain cells, no atomics. It holds the requests that wait (`line`)
//! and knows where each exchange in flight stands (`flight`).

pub mod controller;
mod flight;
mod line;
pub mod local;
pub mod member;

pub use local::{Admission, Gate, Guard, Refused};
pub use member::{Command, Event};
