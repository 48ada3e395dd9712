//! What other hosts last said of themselves: for people to look at, not to decide on. Decisions are
//! made with what is said in their own exchange.

use std::collections::BTreeMap;
use std::time::Duration;

use super::members::Members;
use crate::ceiling::Measure;
use crate::host::Host;
use crate::message::{Report, Room, Talk};
use crate::model::{HostId, Time};

/// Hosts that are remembered.
const HEARD_MAX: usize = 64;
/// What is older says nothing of the cluster as it is now.
const CONTENTION_AGE_MAX: Duration = Duration::from_secs(900);

/// What another host last said of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// When.
    pub at: Time,
    /// Its load and state.
    pub report: Report,
    /// What the load is of.
    pub measure: Measure,
    /// What it could take, if it was asked and said so; without machines of its own.
    pub room: Option<Room>,
}

/// How the cluster goes without, as far as a host has heard.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClusterContention {
    /// The mean of the hosts' scores, from 0 to 100.
    pub score: u8,
    /// Of how many hosts, this one among them.
    pub hosts: usize,
    /// The host that scores most.
    pub worst: HostId,
    /// What it scores.
    pub worst_score: u8,
}

/// The other hosts, as last heard of.
#[derive(Clone, Debug, Default)]
pub(super) struct Others(BTreeMap<HostId, Heard>);

impl Others {
    /// Another host has said something, which is of `asked` if it was asked for that.
    pub(super) fn hear(&mut self, from: &HostId, talk: &Talk, asked: Measure, now: Time) {
        let (report, measure, room) = match talk {
            Talk::Inquire(report, _) | Talk::Accept(report) => (report, None, None),
            Talk::Decline { report: Some(report), .. } => (report, None, None),
            Talk::Offer { report, measure, .. } => (report, *measure, None),
            Talk::Standing(standing) => {
                let room = standing.room.as_ref();
                let room = room.map(|room| Room { tenants: Vec::new(), ..room.clone() });
                (&standing.report, asked, room)
            }
            Talk::Appraisal(said) => (&said.report, None, None),
            // Quotes are in the measure of their offer, which was this host's own.
            Talk::Decline { report: None, .. }
            | Talk::Quotes { .. }
            | Talk::Close { .. }
            | Talk::Probe(_)
            | Talk::Appraise(_) => return,
        };
        if self.0.len() >= HEARD_MAX && !self.0.contains_key(from) {
            let oldest = self.0.iter().min_by_key(|(_, heard)| heard.at).map(|(id, _)| id.clone());
            oldest.map(|id| self.0.remove(&id));
        }
        self.0.insert(from.clone(), Heard { at: now, report: *report, measure, room });
    }
}

impl Others {
    /// What each live member last said of itself.
    pub(super) fn of<'o>(
        &'o self,
        members: &'o Members,
    ) -> impl Iterator<Item = (&'o HostId, &'o Heard)> {
        self.0.iter().filter(|(host, _)| members.has(host))
    }

    /// How much of what is wanted in the cluster is not to be had, as far as this host has heard;
    /// `None` while nobody's score is known.
    pub(super) fn contention(
        &self,
        host: &Host,
        members: &Members,
        now: Time,
    ) -> Option<ClusterContention> {
        let own = host.view.contention().score().map(|score| (host.id(), score));
        let fresh = self.of(members).filter(|(_, heard)| now.since(heard.at) <= CONTENTION_AGE_MAX);
        let others = fresh.filter_map(|(host, heard)| Some((host, heard.report.contention?)));
        let scores: Vec<_> = own.into_iter().chain(others).collect();
        let (worst, worst_score) = scores.iter().max_by_key(|(_, score)| *score)?;
        let sum: usize = scores.iter().map(|(_, score)| usize::from(*score)).sum();
        Some(ClusterContention {
            // A mean of what is at most 100.
            score: (sum as f64 / scores.len() as f64).round() as u8,
            hosts: scores.len(),
            worst: (*worst).clone(),
            worst_score: *worst_score,
        })
    }
}
