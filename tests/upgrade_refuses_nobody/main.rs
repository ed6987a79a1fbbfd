//! Upgrading Segue itself: no caller is refused, cut or answered twice, the gates hold over both
//! processes, and a successor that cannot take over changes nothing.

#[path = "../support/mod.rs"]
mod support;

mod callers;
mod gates;
mod refusals;
mod stage;
