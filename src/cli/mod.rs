//! One file per verb.

pub mod origin;
