//! A switchover fails no request: none is refused, lost, or answered by two instances.

mod model;
