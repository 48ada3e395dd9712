//! The choice of a source that knows what room its target has.

use crate::ceiling::Measure;
use crate::decision::Reason;
use crate::host::{Host, Toward};
use crate::message::{Candidate, Room};
use crate::model::{MachineId, Time};
use crate::select::{Pair, Price};

/// What a mean-aware source knows of its target from a survey.
#[derive(Clone, Debug)]
pub(super) struct Surveyed {
    pub(super) room: Room,
    /// How many moves more than it saves a move may cost.
    pub(super) value_max: i32,
}

impl Surveyed {
    /// Selects with both prices, and with what the target has: the verdict on each candidate, and
    /// what comes back in return, with what it loads here.
    pub(super) fn choose(
        &self,
        pair: &Pair,
        toward: &Toward<'_>,
        (measure, candidates, prices): (Measure, &[Candidate], &[Result<Price, Reason>]),
        host: &Host,
        now: Time,
    ) -> (Vec<Reason>, Option<(Candidate, f64)>) {
        let open = |p: &Result<Price, Reason>| p.as_ref().err().copied().unwrap_or(Reason::Farther);
        let mut verdicts: Vec<_> = prices.iter().map(open).collect();
        let Some((mut donor, ids)) = host.side(measure, toward, &self.room, now) else {
            return (verdicts, None);
        };
        let index_of = |id: &MachineId| candidates.iter().position(|c| c.machine == *id);
        let places: Vec<_> = ids.iter().map(index_of).collect();
        for (piece, place) in donor.pieces.iter_mut().zip(&places) {
            match place.map(|index| prices[index]) {
                Some(Ok(price)) => piece.at_receiver = price.at_receiver,
                // There were too many to offer: it goes another time.
                None => piece.withheld = true,
                Some(Err(_)) => piece.movable = false,
            }
        }
        let mut receiver = host.side_of(measure, pair.receiver, &self.room, now);
        // The quotes have told where there is room.
        receiver.free_memory_bytes = f64::INFINITY;
        let how = (self.value_max, toward.mending);
        let choice = host.choose(measure, (&donor, &ids), (&receiver, &self.room), how, now);
        let Some(choice) = choice else {
            let open = verdicts.iter_mut().zip(candidates);
            for (verdict, candidate) in open.filter(|(v, _)| **v == Reason::Farther) {
                *verdict = host.unworthy(measure, &donor, &receiver, &ids, &candidate.machine);
            }
            return (verdicts, None);
        };
        if let Some(index) = places[choice.go] {
            verdicts[index] = Reason::Chosen;
        }
        let back = choice.back.map(|index| {
            let (tenant, piece) = (&self.room.tenants[index], &receiver.pieces[index]);
            (tenant.candidate.clone(), piece.at_donor)
        });
        (verdicts, back)
    }
}
