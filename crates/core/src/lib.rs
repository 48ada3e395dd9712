//! The deciding half of Evenkeel.
//!
//! Nothing here does I/O, reads a clock, starts a thread or draws a random number of its own: time,
//! randomness and measurements come in as arguments, and what shall happen goes out as data. The
//! agent and the simulator are two thin drivers of this one crate. See `ARCHITECTURE.md`.

pub mod acquaintance;
pub mod advantage;
pub mod agreement;
pub mod appraisal;
pub mod balancer;
pub mod ceiling;
pub mod commit;
pub mod contention;
pub mod control;
pub mod cost;
pub mod decision;
pub mod effect;
pub mod estimate;
pub mod exchange;
pub mod explain;
pub mod failures;
pub mod flocks;
pub mod forecast;
pub mod handoff;
pub mod history;
pub mod host;
pub mod load;
pub mod message;
pub mod model;
pub mod named;
pub mod port;
pub mod printable;
pub mod reason;
pub mod record;
pub mod restraint;
pub mod rules;
pub mod select;
pub mod survey;
pub mod swap;
pub mod turn;
pub mod witness;
