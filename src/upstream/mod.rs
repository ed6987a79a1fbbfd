//! Reaching an instance: endpoints and their health (shared by all threads), connections (one
//! thread's own). Used by the caller's path and by the shadow's lane, each with its own limits.

mod added;
mod address;
mod connect;
mod endpoint;
pub mod health;
mod lease;
mod pool;
pub mod resolve;
pub mod tls;

pub use added::Added;
pub use connect::{ConnectError, Upgraded};
pub use endpoint::{Address, Endpoint, Instance, Limits};
pub use lease::{AnswerBody, AnswerFault, Lease, SendError, SendFault};
pub use pool::{Pool, Want};
