//! Read-only or not.
