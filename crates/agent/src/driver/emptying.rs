//! Taking this host out and in again, and where a new machine fits.

use std::collections::BTreeMap;

use evenkeel_core::appraisal::{Answer, Wish, WishId};
use evenkeel_core::effect::Input;
use evenkeel_core::model::HostState;
use evenkeel_store::{Standing, Store, StoreError};
use tracing::{error, info, warn};

use super::Driver;
use crate::request::{Placement, Waiter};

/// Wishes under way, and whether this host takes part.
#[derive(Debug)]
pub(crate) struct Wishes {
    waiting: BTreeMap<WishId, Waiter>,
    next: u64,
    state: HostState,
    boot: String,
}

impl Wishes {
    /// What the store says of whether this host takes part, and the inputs by which the core learns
    /// it. What was said until the host boots again is forgotten once it has.
    pub(crate) fn recover(
        store: &mut Store,
        boot: String,
    ) -> Result<(Self, Vec<Input>), StoreError> {
        let mut wishes = Self { waiting: BTreeMap::new(), next: 0, state: HostState::Active, boot };
        let Some(standing) = store.standing()? else { return Ok((wishes, Vec::new())) };
        let mut inputs = vec![Input::SetState(standing.state)];
        if standing.boot.is_some_and(|boot| boot != wishes.boot) {
            info!("this host was emptied before it was booted; it takes part again");
            store.keep_standing(&Standing { state: HostState::Active, boot: None })?;
            inputs.push(Input::SetState(HostState::Active));
        } else {
            wishes.state = standing.state;
        }
        Ok((wishes, inputs))
    }
}

impl Driver {
    pub(crate) fn wish(&mut self, wish: Wish, waiter: Waiter) {
        let id = WishId(self.wishes.next);
        self.wishes.next += 1;
        self.wishes.waiting.insert(id, waiter);
        self.feed(Input::Wish(id, wish));
    }

    /// Keeps whether this host takes part, which has been decided.
    fn keep_state(&mut self, state: HostState, until_boot: bool) -> Result<(), String> {
        let boot = until_boot.then(|| self.wishes.boot.clone());
        self.store.keep_standing(&Standing { state, boot }).map_err(|e| e.to_string())?;
        self.wishes.state = state;
        Ok(())
    }

    pub(crate) fn set_state(&mut self, state: HostState) -> Result<(), String> {
        self.keep_state(state, false)?;
        info!(?state, "an operator has said whether this host takes part");
        self.feed(Input::SetState(state));
        Ok(())
    }

    /// Tells whoever waits for it. Returns what to tell the core if something failed. Whoever asked
    /// may have gone away.
    pub(crate) fn answered(&mut self, id: WishId, answer: Answer) -> Option<Input> {
        match (self.wishes.waiting.remove(&id)?, answer) {
            (Waiter::Drain(request, reply), Answer::Drain(fit)) => {
                if fit.begins {
                    if let Err(why) = self.keep_state(HostState::Draining, request.until_boot) {
                        error!(why, "this host is not emptied");
                        let _ = reply.send(Err(why));
                        return Some(Input::SetState(self.wishes.state));
                    }
                    warn!(machines = fit.machines, "this host is being emptied");
                }
                let _ = reply.send(Ok(fit));
            }
            (Waiter::Place(reply), Answer::Place(hosts, asked)) => {
                let format = "evenkeel.place/v1".to_owned();
                let _ = reply.send(Ok(Placement { format, asked, hosts }));
            }
            (waiter, Answer::Refused(why)) => waiter.refuse(why),
            (waiter, _) => waiter.refuse("the agent has answered another question".to_owned()),
        }
        None
    }
}
