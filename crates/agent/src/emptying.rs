//! Taking a host out and in again, and asking where a new machine fits: the API's side and the
//! driver's.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use evenkeel_core::appraisal::{Answer, Berth, Fit, Wish, WishId};
use evenkeel_core::effect::Input;
use evenkeel_core::load::Basis;
use evenkeel_core::message::Candidate;
use evenkeel_core::model::{HostState, MachineId, Requirements, Resources, Rules};
use evenkeel_store::{Standing, Store, StoreError};
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use crate::api::{self, Driver as Asked, Failed, Reply, Request};
use crate::driver::Driver;

/// Asks for a host to be emptied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRequest {
    /// Whatever the rest of the cluster can hold.
    #[serde(default)]
    pub force: bool,
    /// Until the host boots again, rather than until an operator says otherwise.
    #[serde(default)]
    pub until_boot: bool,
}

/// Asks where a new machine fits best.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlaceRequest {
    /// Memory that it may come to occupy, in bytes.
    pub memory_bytes: f64,
    /// Cores that it will use.
    #[serde(default)]
    pub cpu_cores: f64,
    /// Disk and network transfer that it will cause, in bytes per second.
    #[serde(default)]
    pub io_bytes_per_s: f64,
    /// Its rules.
    #[serde(default)]
    pub rules: Rules,
}

/// Where a new machine fits: `evenkeel.place/v1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// `evenkeel.place/v1`.
    pub format: String,
    /// Hosts that were asked; in a large cluster some of all, at random.
    pub asked: usize,
    /// Those that have answered, the best first.
    pub hosts: Vec<Berth>,
}

/// Who waits for what becomes of a wish.
#[derive(Debug)]
pub(crate) enum Waiter {
    Drain(DrainRequest, Reply<Fit>),
    Place(Reply<Placement>),
}

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

impl Waiter {
    pub(crate) fn refuse(self, why: String) {
        match self {
            Self::Drain(_, reply) => drop(reply.send(Err(why))),
            Self::Place(reply) => drop(reply.send(Err(why))),
        }
    }
}

/// Says whether the host takes part; that it is to be emptied is said otherwise.
pub(crate) async fn set_state(
    State(driver): State<Asked>,
    Json(state): Json<HostState>,
) -> Result<Json<()>, Failed> {
    if state == HostState::Draining {
        let why = "a host is emptied by `POST /api/v1/drain`, which looks first whether the rest \
                   can hold its machines";
        return Err(api::problem(StatusCode::CONFLICT, why.to_owned()));
    }
    let failed = StatusCode::INTERNAL_SERVER_ERROR;
    api::ask(&driver, failed, |reply| Request::SetState(state, reply)).await.map(Json)
}

pub(crate) async fn drain(
    State(driver): State<Asked>,
    Json(request): Json<DrainRequest>,
) -> Result<Json<Fit>, Failed> {
    let make = |reply| {
        let wish = Wish::Drain { force: request.force };
        Request::Wish(Box::new(wish), Waiter::Drain(request, reply))
    };
    api::ask(&driver, StatusCode::CONFLICT, make).await.map(Json)
}

pub(crate) async fn place(
    State(driver): State<Asked>,
    Json(request): Json<PlaceRequest>,
) -> Result<Json<Placement>, Failed> {
    let bad = |why: String| api::problem(StatusCode::BAD_REQUEST, why);
    let PlaceRequest { memory_bytes, cpu_cores, io_bytes_per_s, rules } = request;
    rules.check().map_err(|e| bad(e.to_string()))?;
    let factors = Resources { cpu_cores, memory_bytes, io_bytes_per_s };
    if !factors.is_plausible() {
        return Err(bad(format!("no machine uses {factors:?}")));
    }
    let candidate = Candidate {
        machine: MachineId::new("new").map_err(|e| bad(e.to_string()))?,
        name: "new".to_owned(),
        basis: Basis::Actual,
        factors,
        at_donor: 0.0,
        memory_bytes,
        needs: Requirements::default(),
        anti_affinity: rules.anti_affinity.clone(),
        margin: None,
        cost: None,
        rules: Some(rules),
        ties: None,
        mends: None,
    };
    let make =
        |reply| Request::Wish(Box::new(Wish::Place(Box::new(candidate))), Waiter::Place(reply));
    api::ask(&driver, StatusCode::SERVICE_UNAVAILABLE, make).await.map(Json)
}
