//! HTTP/1.1 (RFC 9112) as both sides of the proxy speak it: heads, bodies, and the wire they go over.
//!
//! Why not a general library's connection: a proxy sends one request and waits for its answer, on one
//! thread. A connection that is polled by whoever waits for it needs no task of its own, no channels and no
//! wake-up between the two, which is half of the instructions of a request (see `docs/performance.md`).
//! What a library does better stays a library's: `httparse` parses what is not written as usual, `http`
//! holds what was parsed.
//!
//! ```text
//!  caller ── server::Connection ── Request<server::Body> ──► forward ──► client::Connection ── instance
//!     ◄──────── writer ◄────────────── Reply<client::Body> ◄────────────────────┘
//! ```

mod chunked;
pub mod client;
mod date;
pub mod head;
mod incoming;
mod outgoing;
mod reply;
pub mod server;
#[cfg(test)]
mod tests;
mod wire;

pub use incoming::BodyError;
pub use reply::{Headers, Reply};
