//! Accepting callers.
