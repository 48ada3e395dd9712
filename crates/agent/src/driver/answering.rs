//! What is asked of this host over its API.

use std::collections::BTreeMap;

use evenkeel_core::effect::Input;
use evenkeel_core::model::HostId;
use evenkeel_desk::brief::Grants;
use evenkeel_desk::{Brief, Listed};
use tracing::warn;

use super::Driver;
use crate::authority;
use crate::request::{Request, Reset};
use crate::status::Status;

impl Driver {
    pub(super) fn answer(&mut self, request: Request) {
        // Whoever asked may have gone away; that is no error.
        match request {
            Request::Status(answer) => {
                let (change, now) = (self.hours.change, self.clock.now());
                let accused = self.carrier.accused();
                let mut status = Status::of(&self.balancer, &self.progress, change, accused, now);
                status.knows_others = !self.addresses.is_empty() || self.seeded;
                let _ = answer.send(Ok(Status { silent: self.silent(), ..status }));
            }
            Request::Brief(answer) => {
                let (grants, version) = (Grants::default(), env!("CARGO_PKG_VERSION"));
                let now = self.clock.now();
                let brief = Brief::of(&self.balancer, &self.progress, grants, version, now);
                let _ = answer.send(Ok(brief));
            }
            Request::Hosts(answer) => drop(answer.send(Ok(self.listed()))),
            Request::Operate(operation) => self.operate(operation),
            Request::Insight(question) => self.tell_why(question),
            Request::SetState(state, answer) => {
                let _ = answer.send(self.set_state(state));
            }
            Request::Wish(wish, waiter) => self.wish(*wish, waiter),
            Request::Address(host, answer) => {
                let known = self.addresses.get(&host).copied();
                let _ = answer.send(known.ok_or_else(|| {
                    format!("host `{host}` has never been seen here: `evenkeel status` names the members")
                }));
            }
            Request::RemoveHost(host, answer) => {
                let (net, removed) = (self.net.clone(), self.removed.clone());
                tokio::spawn(async move {
                    let done = net.remove(&host).await.map_err(|e| e.to_string());
                    if done.is_ok() {
                        let _ = removed.send(host).await;
                    }
                    let _ = answer.send(done);
                });
            }
            Request::Forget(host, answer) => drop(answer.send(self.forget(&host))),
            Request::Reset(what, answer) => drop(answer.send(self.reset(what))),
            Request::RenewCertificate(answer) => {
                let (net, directory) = (self.net.clone(), self.identity_dir.clone());
                tokio::spawn(async move {
                    let _ = answer.send(authority::renew(net, directory).await);
                });
            }
            Request::Claim(machine, fenced, answer) => {
                let settled = self.balancer.can_claim(&machine, &fenced);
                if settled.is_ok() {
                    warn!(%machine, host = %fenced, "claimed by an operator who has fenced the host");
                    self.feed(Input::Claim { machine, fenced });
                }
                let _ = answer.send(settled);
            }
            Request::Edit(edit) => self.edit(edit),
        }
    }

    /// Every host that is known here: this one, the living, and those that were seen before.
    fn listed(&self) -> Vec<Listed> {
        let (here, alive) = (self.balancer.host().id(), self.balancer.members());
        let mut hosts: BTreeMap<&HostId, bool> =
            self.addresses.keys().map(|host| (host, false)).collect();
        hosts.extend(alive.iter().chain([here]).map(|host| (host, true)));
        hosts.into_iter().map(|(host, alive)| Listed { host: host.clone(), alive }).collect()
    }

    /// Forgets what was learned from others.
    fn reset(&mut self, what: Reset) -> Result<(), String> {
        match what {
            Reset::Pause => {
                self.store.forget_pause().map_err(|e| e.to_string())?;
                self.feed(Input::ForgetPause);
            }
            Reset::Mean => self.feed(Input::ForgetMean),
        }
        warn!(what = what.name(), "an operator has had this forgotten");
        Ok(())
    }
}
