//! The caller's path, in the order a request passes it.

pub mod listener;
pub mod worker;

pub mod connection;

pub mod caller;

pub mod route;

pub mod classify;

pub mod gate;

pub mod forward;

pub mod tunnel;

pub mod respond;

pub mod access;
pub mod crew;
pub mod gates;
pub mod loads;
pub mod plan;
pub mod report;
pub mod service;
