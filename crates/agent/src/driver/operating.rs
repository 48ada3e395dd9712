//! What operators say to this host about moving machines.

use evenkeel_core::effect::{Input, MoveOrder};
use evenkeel_core::model::{HostId, MachineId, MoveId};
use rand::Rng;
use tracing::info;

use super::Driver;
use crate::request::Operation;
use crate::status::{MoveStatus, RecommendationStatus};

impl Driver {
    pub(crate) fn operate(&mut self, operation: Operation) {
        // Whoever asked may have gone away; that is no error.
        match operation {
            Operation::Migrate(machine, to, answer) => {
                let _ = answer.send(self.migrate(machine, to));
            }
            Operation::Move(id, answer) => drop(answer.send(self.directed(id))),
            Operation::Recommendations(answer) => {
                let host = self.balancer.host().id();
                let all = self.balancer.recommendations();
                let all = all.map(|r| RecommendationStatus::of(host, r)).collect();
                let _ = answer.send(Ok(all));
            }
            Operation::Approve(id, answer) => {
                let could = self.balancer.can_approve(id).map(|_| ());
                let done = could.and_then(|()| {
                    self.feed(Input::Approve(id));
                    self.directed(id)
                });
                let _ = answer.send(done);
            }
            Operation::Skip(id, answer) => {
                let known = self.balancer.recommendations().any(|r| r.id == id);
                self.feed(Input::Skip(id));
                let host = self.balancer.host().id();
                let gone = || format!("host `{host}` recommends no move `{id}`");
                let _ = answer.send(known.then_some(()).ok_or_else(gone));
            }
            Operation::Pause(wish, answer) => {
                let pause = wish.map(|wish| wish.pause(self.clock.now())).transpose();
                let done = pause.map(|pause| self.feed(Input::Pause(pause)));
                let _ = answer.send(done);
            }
        }
    }

    fn migrate(&mut self, machine: MachineId, to: Option<HostId>) -> Result<MoveStatus, String> {
        self.balancer.can_migrate(&machine, to.as_ref())?;
        let id = MoveId(self.rng.next_u64());
        let wanted = to.as_ref().map_or("wherever it fits best", HostId::as_str);
        info!(%machine, to = wanted, "an operator orders a move");
        self.feed(Input::Migrate(MoveOrder { id, machine, to }));
        self.directed(id)
    }

    fn directed(&self, id: MoveId) -> Result<MoveStatus, String> {
        let found = self.balancer.directed().find(|directed| directed.id == id);
        found.map(|directed| MoveStatus::of(directed, &self.progress)).ok_or_else(|| {
            format!(
                "host `{}` knows no move `{id}`: its agent was started again meanwhile, or it \
                 ended long ago; what was under way goes on, and `evenkeel history` says what \
                 became of it",
                self.balancer.host().id()
            )
        })
    }
}
