//! Why things are as they are: of decision records, and of what the core says of itself.

use evenkeel_core::explain::{HostExplained, MachineExplained};
use evenkeel_core::load::Machine;
use evenkeel_core::model::MachineId;
use evenkeel_store::{StoreError, Wanted};

use super::Driver;
use crate::request::Question;

impl Driver {
    /// Answers a question about why.
    pub(crate) fn tell_why(&self, question: Question) {
        // Whoever asked may have gone away; that is no error.
        match question {
            Question::Machine(name, answer) => {
                let _ = answer.send(self.explain_machine(&name));
            }
            Question::Host(answer) => {
                let newest = self.store.decisions(&Wanted::newest(1)).map_err(in_words);
                let explained = newest.map(|newest| HostExplained {
                    record: newest.into_iter().next(),
                    ..self.balancer.explain_host(self.clock.now())
                });
                let _ = answer.send(explained);
            }
        }
    }

    fn explain_machine(&self, name: &str) -> Result<MachineExplained, String> {
        let host = self.balancer.host();
        let named =
            |(id, m): &(&MachineId, &Machine)| id.as_str() == name || &*m.facts.name == name;
        let found = host.view.machines().iter().find(named).map(|(id, _)| id);
        let explained = found.and_then(|id| self.balancer.explain(id, self.clock.now()));
        let mut explained = explained.ok_or_else(|| {
            format!("host `{}` has no machine `{name}` in its schedule", host.id())
        })?;
        let last = self.store.last_judgement(&explained.machine).map_err(in_words)?;
        if let Some(record) = last {
            explained.remember(record);
        }
        Ok(explained)
    }
}

fn in_words(error: impl Into<StoreError>) -> String {
    error.into().to_string()
}
