//! Segue moves a running HTTP service from one instance to another before anyone notices.
//!
//! Read this file top to bottom: it is the table of contents, in the order a request and then a
//! migration passes through the house. Dependencies point down the list only where the module
//! comments say so; the pure parts (`classify`, `sample`, `record`) do no I/O and read no clock.

pub mod admin;
pub mod cli;
pub mod config;
pub mod control;
pub mod credentials;
pub mod load;
pub mod logging;
pub mod migrate;
pub mod net;
pub mod origin;
pub mod proxy;
pub mod record;
pub mod service_manager;
pub mod store;
pub mod tee;
pub mod upstream;
pub mod watch;
