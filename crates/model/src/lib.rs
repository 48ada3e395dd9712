//! The handoff, checked exhaustively.
//!
//! A [`World`] is two or three hosts and one machine. The hosts run the very code that agents run
//! ([`evenkeel_core::handoff::Handoffs`]); their stores, their hypervisors and the network between them
//! are modelled, with everything that can happen to them:
//!
//! - a message is delivered at any time after it was said, any number of times, or never;
//! - an agent is killed at any time, above all before and after each record that it writes;
//! - a record cannot be written;
//! - a migration ends in every way that libvirt can give ([`Outcome`]);
//! - a host loses its power, and starts what is to be started at boot when it is back;
//! - a store is lost;
//! - an operator fences a host and claims what another one holds.
//!
//! `stateright` visits every state within the [`Bounds`] on how often each of these happens, and
//! checks the [`Broken`] invariants in all of them.

mod hypervisor;
mod node;
pub mod seats;
mod world;

pub use hypervisor::{Copy, Outcome, Stage, Step};
pub use node::{Letter, Node};
pub use world::{Action, Bounds, Broken, Left, Sabotage, Setup, State, World};
