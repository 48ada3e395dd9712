//! Which names are those of hosts: gossip and witnesses tell names, certificates prove them.
//!
//! ```text
//!   membership: "there is `c`"     ──▶  vouched for: a member
//!                                       else call it; a member once it has shown its certificate
//!   a witness:  "I know `c`, `d`"  ──▶  vouched for: heard by the core
//!                                       else ask for the certificates first; what none proves is left out
//!   a list of removed hosts        ──▶  the core forgets those that it revokes
//! ```

use std::collections::BTreeSet;

use evenkeel_core::effect::Input;
use evenkeel_core::message::{Message, Witness};
use evenkeel_core::model::HostId;
use evenkeel_membership as membership;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::Driver;

/// Hosts that are called at once to see whether there are such.
const CALLED_MAX: usize = 16;
/// Answers of witnesses that wait for proof. One more is dropped, as if it had been lost.
const UNPROVEN_MAX: usize = 16;

/// What waits for proof.
#[derive(Debug)]
pub(crate) struct Vouching {
    called: BTreeSet<HostId>,
    answers: usize,
    done: mpsc::Sender<Proved>,
}

/// What is proved now, or cannot be.
#[derive(Debug)]
pub(crate) enum Proved {
    /// A host was called.
    Called(HostId),
    /// Certificates were asked for what this says.
    Asked(HostId, Box<Message>),
}

impl Vouching {
    /// Nothing waits yet. What is done arrives at the receiver.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Proved>) {
        // Each of those that are under way says one word.
        let (done, receiver) = mpsc::channel(CALLED_MAX + UNPROVEN_MAX);
        (Self { called: BTreeSet::new(), answers: 0, done }, receiver)
    }
}

impl Driver {
    /// Tells the core of the members that are hosts for sure, and calls others to see.
    pub(crate) fn tell_members(&mut self) {
        let mut members = Vec::new();
        let mut unproven = Vec::new();
        for member in self.membership.members() {
            if self.net.vouches(&member.host) {
                members.push((member.host.clone(), member.addr));
            } else {
                unproven.push((member.host.clone(), member.addr));
            }
        }
        for (host, addr) in &members {
            if self.addresses.insert(host.clone(), *addr) != Some(*addr)
                && let Err(error) = self.store.remember(host, *addr)
            {
                warn!(%error, "member's address not remembered");
                self.unremembered.insert(host.clone(), *addr);
            }
        }
        for (host, addr) in unproven {
            let vouching = &mut self.vouching;
            if vouching.called.len() >= CALLED_MAX || !vouching.called.insert(host.clone()) {
                continue;
            }
            let (net, done) = (self.net.clone(), vouching.done.clone());
            tokio::spawn(async move {
                if let Err(why) = net.meet(&host, addr).await {
                    debug!(%host, %why, "a name that was told is not known to be a host's");
                }
                let _ = done.send(Proved::Called(host)).await;
            });
        }
        self.feed(Input::Members(members.into_iter().map(|(host, _)| host).collect()));
    }

    /// A certificate was seen that is news.
    pub(crate) fn met(&mut self, host: &HostId, certificate: &[u8]) {
        if let Err(error) = self.store.keep_certificate(host, certificate) {
            warn!(%host, %error, "after a restart this host has to meet that one again");
        }
        if self.membership.member(host).is_some() {
            self.tell_members();
        }
    }

    /// Another host says something. Whom it names that this host does not know, it is asked to prove.
    pub(crate) fn hear(&mut self, from: HostId, message: Message) {
        let Message::Witness(_, Witness::Answer(answer)) = &message else {
            return self.feed(Input::Message(from, message));
        };
        let names: Vec<HostId> =
            answer.hosts.iter().filter(|host| !self.is_host(host)).cloned().collect();
        if names.is_empty() {
            return self.feed(Input::Message(from, message));
        }
        let Some(addr) = self.addresses.get(&from).copied() else { return };
        if self.vouching.answers >= UNPROVEN_MAX {
            return debug!(host = %from, "an answer is dropped: others wait for certificates");
        }
        self.vouching.answers += 1;
        let (net, done) = (self.net.clone(), self.vouching.done.clone());
        tokio::spawn(async move {
            net.ask_for_proof(&names, &from, addr).await;
            let _ = done.send(Proved::Asked(from, Box::new(message))).await;
        });
    }

    pub(crate) fn proved(&mut self, proved: Proved) {
        match proved {
            Proved::Called(host) => {
                self.vouching.called.remove(&host);
            }
            Proved::Asked(from, mut message) => {
                self.vouching.answers -= 1;
                if let Message::Witness(_, Witness::Answer(answer)) = &mut *message {
                    let (hosts, invented): (Vec<_>, Vec<_>) = std::mem::take(&mut answer.hosts)
                        .into_iter()
                        .partition(|h| self.is_host(h));
                    answer.hosts = hosts;
                    if let Some(first) = invented.first() {
                        let count = invented.len();
                        debug!(host = %from, %first, count, "it names hosts and proves none of them");
                    }
                }
                self.feed(Input::Message(from, *message));
            }
        }
    }

    /// Whether a name is that of a host, for all that this one knows.
    fn is_host(&self, host: &HostId) -> bool {
        host == self.balancer.host().id() || self.net.vouches(host)
    }

    /// A list of removed hosts is in force.
    pub(crate) fn heed_removals(&mut self) {
        let known = self.balancer.known_hosts();
        let removed: Vec<HostId> =
            known.filter(|host| self.net.has_removed(host)).cloned().collect();
        for host in removed {
            info!(%host, "the authority has removed this host from the cluster");
            self.feed(Input::Revoked(host));
        }
    }

    /// An operator says that there is no host of this name.
    pub(crate) fn forget(&mut self, host: &HostId) -> Result<(), String> {
        if host == self.balancer.host().id() {
            return Err(format!("this is host `{host}` itself"));
        }
        if self.membership.member(host).is_some() {
            return Err(format!(
                "host `{host}` is alive, and would be known again at once: stop its agent first, or \
                 remove it from the cluster with `evenkeel cluster remove {host}`"
            ));
        }
        if let Some(handoff) = self.balancer.handoffs().find(|handoff| handoff.peer == *host) {
            return Err(format!(
                "machine `{}` is on its way to or from host `{host}`, and which of the two has it is \
                 not settled: see `evenkeel status`",
                handoff.name
            ));
        }
        let known = self.addresses.contains_key(host)
            || self.balancer.known_hosts().any(|known| known == host);
        if !known {
            return Err(format!("host `{}` knows no `{host}`", self.balancer.host().id()));
        }
        self.store.forget(host).map_err(|e| e.to_string())?;
        self.net.forget(host);
        self.addresses.remove(host);
        self.unremembered.remove(host);
        self.membership(membership::Input::Forget(host.clone()));
        self.feed(Input::Forget(host.clone()));
        warn!(%host, "an operator has had this host forgotten");
        Ok(())
    }
}
