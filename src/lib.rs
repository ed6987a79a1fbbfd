//! Segue moves a running HTTP service from one instance to another before anyone notices.
//!
//! Read this file top to bottom: it is the table of contents, from the command line down to the
//! sockets, and each part uses only what stands below it. The parts that decide (`proxy::classify`,
//! `proxy::gate`, the samplers and comparisons of `tee`) do no I/O and read no clock.

pub mod cli;

// One process: what it can be asked, and what it owns.
pub mod admin;
pub mod control;

// A migration, and what runs the instances that it moves between.
pub mod instance;
pub mod migrate;

// The caller's path, in the order a request passes it.
pub mod proxy;

// The shadow's lane, never on a caller's path.
pub mod tee;

// Reaching instances; what was measured.
pub mod record;
pub mod upstream;

// What the demo and the tests need: an application, and callers for it.
pub mod load;
pub mod origin;

// What everything stands on.
pub mod allocator;
pub mod config;
pub mod credentials;
pub mod http1;
pub mod logging;
pub mod net;
pub mod service_manager;
pub mod store;
pub mod watch;
