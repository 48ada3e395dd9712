//! What a host would say of its machines now, given how another one said it stands. Nothing is agreed
//! on: the target has the last word on what only it knows.

use super::{Host, Toward};
use crate::advantage::priced;
use crate::ceiling::Measure;
use crate::decision::{Judged, Reason};
use crate::message::Room;
use crate::model::{HostId, MachineId, Time};
use crate::select::mean_aware::Side;
use crate::select::{Pair, Price, half_difference, relief};

impl Host {
    /// Every machine judged against a host that said what room it has: by the rule that knows the
    /// mean. `load` is that host's.
    #[must_use]
    pub fn judge_with_room(
        &self,
        measure: Measure,
        peer: &HostId,
        load: f64,
        room: &Room,
        now: Time,
    ) -> Vec<Judged> {
        let toward = Toward { labels: room.labels.as_ref(), ..Toward::of(peer) };
        let Some((donor, ids)) = self.side(measure, &toward, room, now) else { return Vec::new() };
        let receiver = self.side_of(measure, load, room, now);
        let pair = Pair { donor: donor.load, receiver: load };
        let (mut judged, _) = self.candidates(measure, &toward, &pair, now);
        let own = self.gauge(now);
        let chosen = self.choose(measure, (&donor, &ids), (&receiver, room), (0, false), now);
        let chosen = chosen.map(|choice| ids[choice.go].clone());
        for judged in &mut judged {
            let known = self.view.machines().get(&judged.machine).zip(judged.factors);
            let Some((machine, factors)) = known else { continue };
            judged.at_receiver = Some(priced(&factors, &room.rates));
            if judged.verdict != Reason::Farther {
                continue;
            }
            let fits = machine.facts.memory_bytes <= room.free_memory_bytes;
            let admitted = room
                .gauge
                .as_ref()
                .map_or(Ok(()), |gauge| gauge.admits(&factors, &machine.margin, own.as_ref()));
            judged.verdict = match admitted {
                _ if !fits => Reason::NoMemory,
                Err(reason) => reason,
                Ok(()) => match &chosen {
                    Some(id) if *id == judged.machine => Reason::Chosen,
                    Some(_) => Reason::Farther,
                    None => self.unworthy(measure, &donor, &receiver, &ids, &judged.machine),
                },
            };
        }
        judged
    }

    /// Why none of the machines that may go is chosen: of one of them.
    pub(crate) fn unworthy(
        &self,
        measure: Measure,
        donor: &Side,
        receiver: &Side,
        ids: &[MachineId],
        machine: &MachineId,
    ) -> Reason {
        let pieces = ids.iter().zip(&donor.pieces).filter(|_| !self.settings.tentative);
        let piece = pieces.into_iter().find(|(id, _)| *id == machine).map(|(_, piece)| *piece);
        let small = piece.is_some_and(|piece| {
            let alone = Side { pieces: vec![piece], ..*donor };
            relief::choose(&alone, receiver, 0.0).is_some()
        });
        match (small, self.levelling(measure).is_some()) {
            (false, _) => Reason::NoImprovement,
            (true, true) => Reason::NotYet,
            (true, false) => Reason::GainSmall,
        }
    }

    /// Every machine judged against a host that said its load: by half-difference, as if it priced
    /// them as this host does.
    #[must_use]
    pub fn judge_by_half(&self, peer: &HostId, pair: &Pair, now: Time) -> Vec<Judged> {
        let (mut judged, candidates) = self.candidates(None, &Toward::of(peer), pair, now);
        let price = |load: f64| Price { at_donor: load, at_receiver: load };
        let prices: Vec<_> = candidates.iter().map(|c| Ok(price(c.at_donor))).collect();
        let verdicts = half_difference(pair, &prices, &self.settings.calm);
        for (judged, verdict) in judged.iter_mut().zip(verdicts) {
            judged.verdict = verdict;
        }
        judged
    }
}
