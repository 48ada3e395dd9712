//! What a host is told once, at its making.

use crate::ceiling::Ceilings;
use crate::commit::Mode;
use crate::control::Autonomy;
use crate::cost::Costing;
use crate::load::Metering;
use crate::restraint::Restraint;
use crate::select::Calm;
use crate::select::levelling::Levelling;

/// What a host is told once, at its making.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How samples become rates.
    pub metering: Metering,
    /// When a difference is worth acting on, by half the difference and over a ceiling.
    pub calm: Calm,
    /// How much a move must be worth, where it is judged by that.
    pub levelling: Option<Levelling>,
    /// What an operator wants to be left alone besides.
    pub floor: Calm,
    /// What keeps it from acting.
    pub restraint: Restraint,
    /// How much of each resource may be in use.
    pub ceilings: Ceilings,
    /// Within which bounds migrations are worth it.
    pub costing: Costing,
    /// Whether only entries move, and memory later: see [`Host::origin`](super::Host::origin).
    pub tentative: bool,
    /// By which commit point it hands machines over.
    pub commit: Mode,
    /// How much it does by itself, unless operators say otherwise.
    pub autonomy: Autonomy,
    /// Whether it gives away what breaks a rule.
    pub repair: bool,
    /// Whether disks that are on this host alone may be copied when their machine moves.
    pub copy_storage: bool,
    /// From which score on a machine starves, if any is to be helped first.
    pub starving: Option<u8>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            metering: Metering::default(),
            calm: Calm::default(),
            levelling: None,
            floor: Calm::NONE,
            restraint: Restraint::default(),
            ceilings: Ceilings::default(),
            costing: Costing::default(),
            tentative: false,
            commit: Mode::default(),
            autonomy: Autonomy::default(),
            repair: true,
            copy_storage: false,
            starving: None,
        }
    }
}
