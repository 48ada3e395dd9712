//! What a host should give.

use crate::ceiling::Measure;
use crate::model::Resource;

/// What a host should give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToGive {
    /// Its load or the cluster is not known.
    Unknown,
    /// Nothing.
    Nothing,
    /// Some of its load, whatever that is of.
    Load,
    /// Some of a resource that it has too little of.
    Resource(Resource),
}

impl ToGive {
    /// What is to be given where loads are measured like this.
    #[must_use]
    pub const fn of(measure: Measure) -> Self {
        match measure {
            None => Self::Load,
            Some(resource) => Self::Resource(resource),
        }
    }

    /// Whether that is anything; `None` where it is not known.
    #[must_use]
    pub const fn is_something(self) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Nothing => Some(false),
            Self::Load | Self::Resource(_) => Some(true),
        }
    }

    /// What loads are to be measured in.
    #[must_use]
    pub const fn measure(self) -> Measure {
        match self {
            Self::Resource(resource) => Some(resource),
            Self::Unknown | Self::Nothing | Self::Load => None,
        }
    }
}
