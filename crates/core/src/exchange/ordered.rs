//! The choice of a source whose operator has ordered one machine to be moved.

use crate::ceiling::Measure;
use crate::control::Authority;
use crate::decision::Reason;
use crate::host::Host;
use crate::message::Candidate;
use crate::model::MachineId;
use crate::select::{Pair, Price, improves};

/// What an operator has ordered.
#[derive(Clone, Debug)]
pub struct Ordered {
    /// The machine.
    pub machine: MachineId,
    /// On whose word: loads are judged unless it is [`Authority::Told`].
    pub authority: Authority,
    /// What is to come back in return, of a recommendation that was a swap.
    pub in_return: Option<Candidate>,
}

impl Ordered {
    /// The verdict on the machine, which alone was offered, and what comes back in return with what
    /// that loads here.
    pub(super) fn choose(
        &self,
        pair: &Pair,
        (measure, prices): (Measure, &[Result<Price, Reason>]),
        host: &Host,
    ) -> (Vec<Reason>, Option<(Candidate, f64)>) {
        let back = self.in_return.as_ref().map(|c| (c.clone(), host.price(measure, &c.factors)));
        let judge = |price: &Result<Price, Reason>| {
            let price = (*price)?;
            if self.authority == Authority::Told {
                return Ok(());
            }
            let (at_donor, at_receiver) =
                back.as_ref().map_or((0.0, 0.0), |(c, here)| (*here, c.at_donor));
            let net = Price {
                at_donor: price.at_donor - at_donor,
                at_receiver: price.at_receiver - at_receiver,
            };
            improves(pair, net, &host.settings.calm)
        };
        let verdicts: Vec<_> =
            prices.iter().map(|price| judge(price).err().unwrap_or(Reason::Chosen)).collect();
        let goes = verdicts.contains(&Reason::Chosen);
        (verdicts, back.filter(|_| goes))
    }
}
