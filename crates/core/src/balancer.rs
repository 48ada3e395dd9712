//! The surface of the core: one host's balancer.
//!
//! [`Balancer::handle`] takes something that happened and returns what to do about it. What this host
//! deals with is divided into parts, each of which owns what it knows.
//!
//! | file | holds |
//! | --- | --- |
//! | `config` | what a balancer is configured with |
//! | `scene`, `members` | what every part stands on |
//! | `dealings`, `conversation` | whose an input is; what is said in exchanges |
//! | `rounds`, `crowd`, `repair` | whom this host asks by itself, and for what |
//! | `drain`, `questions` | how it empties itself, and what it asks several others |
//! | `orders`, `recommendations` | what operators order, and what they are asked |
//! | `seats`, `swaps`, `twins`, `pauses` | rules across a label; second halves of swaps; what runs twice; pauses |
//! | `heard`, `explanation` | what others say of themselves, and why nothing moves, for people |

mod config;
mod conversation;
mod crowd;
mod dealings;
mod drain;
mod explanation;
mod heard;
mod members;
mod orders;
mod pauses;
mod questions;
mod recommendations;
mod repair;
mod rounds;
mod scene;
mod seats;
mod swaps;
mod twins;

use rand::Rng;

pub use self::config::Config;
use self::dealings::Dealings;
pub use self::drain::Drain;
use self::explanation::Explainer;
pub use self::heard::{ClusterContention, Heard};
pub use self::orders::{Directed, Outcome, Stage};
pub use self::recommendations::Recommendation;
pub use self::twins::{Leftover, Twin};
use crate::control::PauseRegister;
use crate::effect::{Effect, Input};
use crate::exchange::Exchange;
use crate::explain::{HostExplained, MachineExplained};
use crate::handoff::{Handoff, Recovered};
use crate::host::Host;
use crate::load::Machine;
use crate::model::{Entry, HostId, HostProfile, MachineId, MoveId, Rules, TARGET_LOAD_MAX, Time};
use crate::port::{LookId, Order, Rewrite};
use crate::turn::Turn;

/// One host's balancer.
#[derive(Clone, Debug)]
pub struct Balancer {
    host: Host,
    /// The look at the hypervisor that was ordered last.
    looks: LookId,
    dealings: Dealings,
}

impl Balancer {
    /// A balancer for this host, with what its store holds.
    #[must_use]
    pub fn new(config: Config, profile: HostProfile, recovered: Recovered) -> Self {
        let mut host = Host::new(profile, config.settings());
        host.control.pause.clone_from(&recovered.pause);
        let dealings = Dealings::new(config, &host, recovered);
        Self { host, looks: LookId::default(), dealings }
    }

    /// Takes what happened at `now`, which must not lie before the `now` of an earlier call, and
    /// appends what to do about it to `out`.
    pub fn handle(&mut self, input: Input, now: Time, rng: &mut impl Rng, out: &mut Vec<Effect>) {
        let first = out.len();
        let turn = &mut Turn::new(&mut self.host, &mut self.looks, now, rng, out);
        self.dealings.take_in(input, turn);
        self.dealings.go_on(first, turn);
    }

    /// The host and what it knows of itself.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The live members; with this host among them where the driver shares one list.
    #[must_use]
    pub fn members(&self) -> &[HostId] {
        self.dealings.scene.members.all()
    }

    /// Every other host that this one has heard of and that was not removed.
    pub fn known_hosts(&self) -> impl Iterator<Item = &HostId> {
        self.dealings.seats.known_hosts()
    }

    /// The handoffs under way.
    pub fn handoffs(&self) -> impl Iterator<Item = &Handoff> {
        self.dealings.scene.handoffs.iter()
    }

    /// The host that this one is talking to, if any.
    #[must_use]
    pub fn talking_to(&self) -> Option<&HostId> {
        self.dealings.exchange.as_ref().map(Exchange::peer)
    }

    /// What each live member last said of itself, as far as this host has heard anything.
    pub fn heard(&self) -> impl Iterator<Item = (&HostId, &Heard)> {
        self.dealings.others.of(&self.dealings.scene.members)
    }

    /// How much of what is wanted in the cluster is not to be had, as far as this host has heard;
    /// `None` while nobody's score is known.
    #[must_use]
    pub fn cluster_contention(&self, now: Time) -> Option<ClusterContention> {
        self.dealings.others.contention(&self.host, &self.dealings.scene.members, now)
    }

    /// Machines of this host that were seen running on another one, too.
    pub fn twins(&self) -> impl Iterator<Item = (&MachineId, &Twin)> {
        self.dealings.twins.twins()
    }

    /// Machines that are defined here and do not run, and were seen running on another host.
    pub fn leftovers(&self) -> impl Iterator<Item = (&MachineId, &Leftover)> {
        self.dealings.twins.leftovers()
    }

    /// What this host knows of pauses.
    #[must_use]
    pub const fn pause(&self) -> Option<&PauseRegister> {
        self.host.control.pause.as_ref()
    }

    /// How far this host is, if it is being emptied.
    #[must_use]
    pub fn drain(&self, now: Time) -> Option<Drain> {
        let draining = self.dealings.draining.as_ref()?;
        Some(draining.progress(&self.host, &self.dealings.scene, now))
    }

    /// Moves that operators have ordered: those under way, and the newest that have ended.
    pub fn directed(&self) -> impl Iterator<Item = &Directed> {
        self.dealings.orders.iter()
    }

    /// What waits for an operator's word, the oldest first.
    pub fn recommendations(&self) -> impl Iterator<Item = &Recommendation> {
        self.dealings.recommendations.iter()
    }

    /// Whether there is nothing to do as far as this host knows: it knows the cluster, is not above
    /// its limit or has found nobody to give to for some time, and nothing is under way.
    #[must_use]
    pub fn is_content(&self, now: Time) -> bool {
        let Dealings { scene, rounds, .. } = &self.dealings;
        let idle = !self.dealings.is_busy() && scene.handoffs.iter().next().is_none();
        rounds.is_content(idle, scene, &self.host, now)
    }

    /// Why a machine of this host is where it is; `None` if it has none of that id.
    #[must_use]
    pub fn explain(&self, id: &MachineId, now: Time) -> Option<MachineExplained> {
        self.explainer().machine(id, now)
    }

    /// Why this host does not give.
    #[must_use]
    pub fn explain_host(&self, now: Time) -> HostExplained {
        self.explainer().host(now)
    }

    const fn explainer(&self) -> Explainer<'_> {
        let Dealings { scene, others, draining, .. } = &self.dealings;
        Explainer { host: &self.host, scene, others, draining: draining.as_ref() }
    }

    /// Whether a machine of this host could be ordered to another, or anywhere, as far as this host
    /// knows by itself.
    ///
    /// # Errors
    /// Why not, in words; nothing changes then.
    pub fn can_migrate(&self, machine: &MachineId, to: Option<&HostId>) -> Result<(), String> {
        self.dealings.orders.can_begin(machine, to, &self.dealings.scene, &self.host)
    }

    /// Whether a recommendation could be followed now, as far as this host knows by itself.
    ///
    /// # Errors
    /// Why not, in words; nothing changes then.
    pub fn can_approve(&self, id: MoveId) -> Result<&Recommendation, String> {
        self.dealings.can_approve(id, &self.host)
    }

    /// Whether an operator's word that `fenced` runs nothing would settle where a machine is.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn can_claim(&self, machine: &MachineId, fenced: &HostId) -> Result<(), String> {
        self.dealings.scene.handoffs.can_claim(machine, fenced)
    }

    /// The order that programs a target load for a machine of this host, or with `None` removes it,
    /// so that it counts as measured again.
    ///
    /// # Errors
    /// Why not, in words; nothing changes then.
    pub fn program_target(
        &self,
        machine: &MachineId,
        target: Option<f64>,
    ) -> Result<Order, String> {
        if let Some(load) =
            target.filter(|t| !(t.is_finite() && (0.0..=TARGET_LOAD_MAX).contains(t)))
        {
            return Err(format!("a target load of {load} is out of range: 0 to {TARGET_LOAD_MAX}"));
        }
        self.edited(machine, |entry| Entry { target_load: target, ..entry })
    }

    /// The order that gives a machine of this host these rules, if its rules still are `over`.
    ///
    /// # Errors
    /// Why not, in words; nothing changes then.
    pub fn set_rules(
        &self,
        machine: &MachineId,
        rules: Rules,
        over: Option<&Rules>,
    ) -> Result<Order, String> {
        rules.check().map_err(|error| error.to_string())?;
        let known = self.host.view.machines().get(machine);
        if let (Some(over), Some(entry)) = (over, known.and_then(Machine::entry))
            && *over != entry.rules
        {
            return Err(format!(
                "the rules of machine `{machine}` were changed since they were read; nothing has \
                 changed by this"
            ));
        }
        self.edited(machine, |entry| Entry { rules, ..entry })
    }

    fn edited(
        &self,
        machine: &MachineId,
        edit: impl FnOnce(Entry) -> Entry,
    ) -> Result<Order, String> {
        let host = self.host.id();
        let known = self.host.view.machines().get(machine);
        let known = known.ok_or_else(|| format!("host `{host}` has no machine `{machine}`"))?;
        if self.dealings.scene.handoffs.moves(machine) {
            return Err(format!("machine `{}` is being moved; try again later", known.facts.name));
        }
        let entry = known.facts.entry.as_ref().map_err(|why| {
            format!("the schedule entry of machine `{}` cannot be read: {why}", known.facts.name)
        })?;
        let rewrite = Rewrite { over: Some(entry.clone()), entry: edit(entry.clone()) };
        Ok(Order::WriteEntry(machine.clone(), rewrite))
    }
}
