//! What runs an application, and how much it may use: the seam between a migration and the machines.
//!
//! ```text
//!            create      start             stop       destroy
//!  nothing ─────────► made ─────► running ─────► made ─────────► nothing
//!                                  │    ▲
//!                            fence ▼    │ unfence
//!                                  frozen
//! ```
//!
//! A migration journals what it is about to do, does it, and journals that it is done. It may die between any
//! two of these and will then do the step again, so every call of a [`Provider`] may be repeated: a second
//! create finds what the first one made, and destroying what is gone is no error.

mod allocation;
pub mod bypass;
pub mod docker;
#[cfg(feature = "ec2")]
pub mod ec2;
mod external;
mod history;
pub mod process;
mod provider;
mod providers;
mod reach;
mod scrape;
mod sight;
mod spec;
mod stand_in;
mod usage;
mod wire;

pub use allocation::{Used, starting};
pub use history::{Gathering, Minute, average};
pub use provider::{Finding, Gravity, Provider, ProviderError, Resized, Running, State};
pub use providers::Providers;
pub use reach::{places, takes_connections};
pub use scrape::counter;
pub use sight::{Missed, Sight};
pub use spec::{InstanceId, InvalidId, Role, Spec};
pub use usage::{IoUsage, Pressure, Throttling, Usage};

pub use crate::config::{
    Allocation, Docker, Ec2, External, Millicores, Process, ServiceProtocol, Volume, Workload,
};
