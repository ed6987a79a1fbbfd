//! What the operator wrote, turned into settings that the rest of the house can trust.
//!
//! [`settings`] holds plain, validated values; nothing outside this folder sees TOML.

pub mod settings;
mod units;

pub use settings::*;
pub use units::{ByteSize, Percent};
