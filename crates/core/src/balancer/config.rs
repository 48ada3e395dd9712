//! What a balancer is configured with.

use std::time::Duration;

use crate::ceiling::Ceilings;
use crate::contention::STARVING;
use crate::control::Autonomy;
use crate::cost::Costing;
use crate::handoff::{Limits, Mode};
use crate::host::Settings;
use crate::load::Metering;
use crate::restraint::Restraint;
use crate::select::levelling::Levelling;
use crate::select::{Calm, MeanAware, Policy};

/// How long a recommendation holds unless told otherwise.
const RECOMMENDATION_TIME: Duration = Duration::from_secs(3600);

/// How a host balances.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Mean time between two rounds. Shorter reacts faster and asks more often.
    pub round: Duration,
    /// How far a round may come early or late, as a fraction of `round` below 1: hosts that were
    /// started together drift apart.
    pub jitter: f64,
    /// Time between two samples. A rate is a mean over this span.
    pub sample: Duration,
    /// How samples become rates.
    pub metering: Metering,
    /// When a difference is worth acting on, by half the difference and over a ceiling.
    pub calm: Calm,
    /// How much a move must be worth, where the mean is known and memory moves.
    pub levelling: Levelling,
    /// What an operator wants to be left alone besides, there.
    pub floor: Calm,
    /// What keeps a host from acting, although it could.
    pub restraint: Restraint,
    /// How much of each resource of a host may be in use.
    pub ceilings: Ceilings,
    /// Within which bounds migrations are worth it.
    pub costing: Costing,
    /// Limits of time for exchanges and handoffs.
    pub limits: Limits,
    /// Most handoffs under way at once, given and taken together; at least 1.
    pub handoffs_max: usize,
    /// By which rule to select.
    pub policy: Policy,
    /// Whether moves only pass entries on and memory follows later, straight to where the entry has
    /// ended: then a machine that is away from home already moves for nothing.
    pub tentative: bool,
    /// By which commit point machines are handed over.
    pub commit: Mode,
    /// How much it does by itself.
    pub mode: Autonomy,
    /// How long what it recommends holds.
    pub recommendation_time: Duration,
    /// Whether machines that break a rule where they are, by somebody else's doing, are moved.
    pub repair: bool,
    /// Whether disks that are on this host alone may be copied when their machine moves.
    pub copy_storage: bool,
    /// From which score on a machine starves and is helped first, from 1 to 100; `None` helps nobody
    /// first. See [`crate::contention`].
    pub starving: Option<u8>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            round: Duration::from_secs(30),
            jitter: 0.25,
            sample: Duration::from_secs(5),
            metering: Metering::default(),
            calm: Calm::default(),
            levelling: Levelling::default(),
            floor: Calm::NONE,
            restraint: Restraint::default(),
            ceilings: Ceilings::default(),
            costing: Costing::default(),
            limits: Limits::default(),
            handoffs_max: 1,
            policy: Policy::MeanAware(MeanAware::at_work()),
            tentative: false,
            commit: Mode::default(),
            mode: Autonomy::default(),
            recommendation_time: RECOMMENDATION_TIME,
            repair: true,
            copy_storage: false,
            starving: Some(STARVING),
        }
    }
}

impl Config {
    /// What the host is told of it.
    #[must_use]
    pub(super) fn settings(&self) -> Settings {
        // Half-difference keeps to its rule, and in plans nobody waits for anything.
        let levels = matches!(self.policy, Policy::MeanAware(_)) && !self.tentative;
        Settings {
            metering: self.metering,
            calm: self.calm,
            levelling: levels.then_some(self.levelling),
            floor: self.floor,
            restraint: self.restraint,
            ceilings: self.ceilings,
            costing: self.costing,
            tentative: self.tentative,
            commit: self.commit,
            autonomy: self.mode,
            repair: self.repair,
            copy_storage: self.copy_storage,
            starving: self.starving.filter(|_| levels),
        }
    }
}
