//! The daemon: one driver of the core.
