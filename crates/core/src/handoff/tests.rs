mod examined;
mod source;
mod stale;
mod starting;
mod strangers;
mod target;

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;
use crate::agreement::Agreement;
use crate::decision::{Choice, Decision};
use crate::host::{Host, Settings};
use crate::message::{Candidate, Message, PROTOCOL};
use crate::model::{Entry, Epoch, ExchangeId, HostProfile, Requirements, Resources, Time};
use crate::port::{Commit, FailureKind, Presence, Stamp};

const ID: HandoffId = HandoffId(7);
const LIFE: u64 = 5;
const TICKET: Ticket = Ticket { life: LIFE, number: 1 };

fn machine() -> MachineId {
    MachineId::new("m").unwrap()
}

fn host_id(name: &str) -> HostId {
    HostId::new(name).unwrap()
}

/// One host's handoffs, and what they wanted last.
struct Side {
    host: Host,
    handoffs: Handoffs,
    looks: LookId,
    now: Time,
}

impl Side {
    fn new(name: &str) -> Self {
        let capacity = Resources { cpu_cores: 1.0, memory_bytes: 1e9, io_bytes_per_s: 1e8 };
        let profile = HostProfile::new(host_id(name), capacity);
        let host = Host::new(profile, Settings::default());
        let mut handoffs = Handoffs::new(Limits::default());
        handoffs.ticket.life = LIFE;
        "boot 1".clone_into(&mut handoffs.boot);
        Self { host, handoffs, looks: LookId(0), now: Time::from_unix_ms(1_000_000) }
    }

    fn act(&mut self, action: impl FnOnce(&mut Handoffs, &mut Turn<'_>)) -> Vec<Effect> {
        let mut out = Vec::new();
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let (host, looks) = (&mut self.host, &mut self.looks);
        let mut turn = Turn::new(host, looks, self.now, &mut rng, &mut out);
        action(&mut self.handoffs, &mut turn);
        out
    }

    fn hear(&mut self, pass: Pass) -> Vec<Effect> {
        let peer = peer_of(&self.host);
        self.act(|handoffs, turn| handoffs.hear(ID, &peer, pass, turn))
    }

    /// A look that sees the copy which belongs to this side.
    fn looked(&mut self, presence: Presence) -> Vec<Effect> {
        let target = self.host.id().as_str() == "target";
        let stamp = if target { there() } else { here() };
        let from = target.then(|| peer_of(&self.host));
        self.saw(Sight { from, ..Sight::new(presence, stamp) })
    }

    fn saw(&mut self, sight: Sight) -> Vec<Effect> {
        self.act(|handoffs, turn| handoffs.looked(&machine(), *turn.looks, &Ok(sight), turn))
    }

    fn done(&mut self, done: Done, result: &Result<(), Failure>) -> Vec<Effect> {
        self.act(|handoffs, turn| done(handoffs, &machine(), result, turn))
    }

    fn autostart(&mut self, wanted: bool, result: &Result<(), Failure>) -> Vec<Effect> {
        self.act(|handoffs, turn| handoffs.autostart_set(&machine(), wanted, result, turn))
    }

    fn handoff(&self) -> &Handoff {
        self.handoffs.iter().next().unwrap()
    }

    /// The same host after its agent was killed: only what was durable is left.
    fn restarted(&self, durable: &Recovered) -> (Self, Vec<Effect>) {
        self.restarted_in(durable, &self.handoffs.boot)
    }

    /// The same in this boot of the host.
    fn restarted_in(&self, durable: &Recovered, boot: &str) -> (Self, Vec<Effect>) {
        let name = self.host.id().to_string();
        let mut side = Self { now: self.now, ..Self::new(&name) };
        let mut durable = durable.clone();
        durable.reopen(LIFE + 1);
        durable.boot = boot.to_owned();
        let out = side.act(|handoffs, turn| handoffs.recover(durable, turn));
        (side, out)
    }

    fn timer(&mut self) -> Vec<Effect> {
        self.act(|handoffs, turn| handoffs.timer(ID, turn))
    }

    fn phase(&self) -> Option<Phase> {
        self.handoffs.iter().next().map(|h| h.phase)
    }
}

type Done = fn(&mut Handoffs, &MachineId, &Result<(), Failure>, &mut Turn<'_>);

/// The copy at the source, and the one at the target.
fn here() -> Stamp {
    Stamp { epoch: Epoch(3), handoff: Some(HandoffId(1)) }
}

fn there() -> Stamp {
    Stamp { epoch: Epoch(4), handoff: Some(ID) }
}

fn peer_of(host: &Host) -> HostId {
    host_id(if host.id().as_str() == "source" { "target" } else { "source" })
}

fn agreement(host: &Host) -> Agreement {
    let peer = peer_of(host);
    Agreement {
        exchange: ExchangeId(1),
        peer: peer.clone(),
        candidate: Candidate {
            factors: Resources { cpu_cores: 0.2, memory_bytes: 1e8, io_bytes_per_s: 0.0 },
            at_donor: 0.1,
            memory_bytes: 1e8,
            ..Candidate::new(machine(), "web")
        },
        at_receiver: 0.1,
        entry: Entry { epoch: there().epoch, ..Entry::default() },
        verdicts: vec![Reason::Chosen],
        decision: Decision {
            peer: Some(peer),
            ..Decision::new(ExchangeId(1), host.id().clone(), Reason::Moved, Time::from_unix_ms(0))
        },
        in_return: None,
    }
}

fn terms(commit: Commit, autostart: bool) -> Terms {
    let choice = Choice { commit, because: "a test".to_owned() };
    Terms { choice, from: here(), autostart, persistent: true }
}

fn offered(commit: Commit, autostart: bool) -> Side {
    let mut side = Side::new("source");
    let agreed = agreement(&side.host);
    side.act(|handoffs, turn| handoffs.give(ID, agreed, terms(commit, autostart), turn));
    side
}

fn reserved_by_peer() -> Pass {
    Pass::Reserved {
        uri: "qemu:///target".to_owned(),
        protocol: Some(PROTOCOL),
        ticket: Some(TICKET),
        machine: Some(machine()),
        disks: None,
    }
}

/// A source whose hypervisor migrates.
fn transferring(commit: Commit) -> Side {
    let mut side = offered(commit, false);
    side.hear(reserved_by_peer());
    assert_eq!(side.phase(), Some(Phase::Transferring));
    side
}

/// A source that does not know what became of its migration.
fn in_doubt(commit: Commit) -> Side {
    let mut side = transferring(commit);
    let failure = Failure::new(FailureKind::Other, "broke off");
    side.act(|handoffs, turn| handoffs.migrated(ID, Err(failure), turn));
    assert_eq!(side.phase(), Some(Phase::Doubt));
    side
}

fn released_source() -> Side {
    let mut side = transferring(Commit::Strict);
    side.act(|handoffs, turn| handoffs.migrated(ID, Ok(MigrationStats::default()), turn));
    assert_eq!(side.phase(), Some(Phase::Released));
    side
}

/// A target that keeps room.
fn reserved(commit: Commit, autostart: bool) -> Side {
    let mut side = Side::new("target");
    let agreement = agreement(&side.host);
    let ticket = Some(Ticket { life: LIFE, number: 1 });
    let offer = Offer { agreement, commit, autostart, ticket, past: None };
    side.act(|handoffs, turn| handoffs.take(ID, offer, "qemu:///target".to_owned(), turn));
    assert_eq!(said(&side.saw(Sight::default())), [&reserved_by_peer()]);
    assert_eq!(side.phase(), Some(Phase::Reserved));
    side
}

/// A target that holds the machine back.
fn holding() -> Side {
    let mut side = reserved(Commit::Strict, false);
    side.looked(Presence::Held);
    assert_eq!(side.phase(), Some(Phase::Holding));
    side
}

fn released() -> Pass {
    let stats = MigrationStats::default();
    Pass::Released { machine: machine(), stats, autostart: Some(false), unanswered: None }
}

fn cancelled() -> Pass {
    Pass::Cancel { reason: Reason::MigrationFailed, machine: Some(machine()) }
}

fn said(effects: &[Effect]) -> Vec<&Pass> {
    let pass = |effect| match effect {
        &Effect::Send(_, Message::Handoff(ID, ref pass)) => Some(pass),
        _ => None,
    };
    effects.iter().filter_map(pass).collect()
}

fn ending(effects: &[Effect]) -> Option<Reason> {
    effects.iter().find_map(|effect| match effect {
        Effect::Record(decision) => Some(decision.ending),
        _ => None,
    })
}

fn orders(effects: &[Effect]) -> Vec<&Order> {
    fn order(effect: &Effect) -> Option<&Order> {
        match effect {
            Effect::Order(order) if *order != Order::Sample => Some(order),
            _ => None,
        }
    }
    effects.iter().filter_map(order).collect()
}

fn looks(effects: &[Effect]) -> bool {
    orders(effects).iter().any(|order| matches!(order, Order::Look(..)))
}

fn aborts(effects: &[Effect]) -> bool {
    orders(effects).contains(&&Order::Abort(machine()))
}

/// What the store holds after these effects.
fn stored(effects: &[Effect]) -> Recovered {
    let mut store = Recovered::default();
    for effect in effects {
        if let Effect::Persist(handoff) = effect {
            store.keep(handoff.clone());
        }
    }
    store
}

/// Asserts that the record of `phase` comes before everything that depends on it.
fn assert_durable_first(effects: &[Effect], phase: Phase) {
    let at = effects.iter().position(|e| matches!(e, Effect::Persist(h) if h.phase == phase));
    let at = at.unwrap_or_else(|| panic!("{phase:?} is not durable: {effects:?}"));
    let early = effects[..at].iter().find(|e| !matches!(e, Effect::SetTimer(..)));
    assert_eq!(early, None, "before {phase:?} was durable");
}

#[test]
fn what_depends_on_a_record_comes_after_it() {
    let mut source = offered(Commit::Strict, true);
    assert_durable_first(&source.hear(reserved_by_peer()), Phase::Armed);
    let armed = source.autostart(false, &Ok(()));
    assert_durable_first(&armed, Phase::Transferring);
    assert!(matches!(orders(&armed)[..], [Order::Migrate(_)]));
    let out = source.act(|h, turn| h.migrated(ID, Ok(MigrationStats::default()), turn));
    assert_durable_first(&out, Phase::Released);
    assert!(matches!(said(&out)[..], [Pass::Released { .. }]));

    let mut target = holding();
    assert!(looks(&target.hear(released())));
    let out = target.looked(Presence::Held);
    assert_durable_first(&out, Phase::Claimed);
    assert_eq!(orders(&out), [&Order::Resume(machine(), there())]);
    let mut target = holding();
    let out = target.hear(cancelled());
    assert_durable_first(&out, Phase::Discarding);
    assert!(looks(&out), "it may not be what this handoff brought");
    assert_eq!(orders(&target.looked(Presence::Held)), [&Order::Discard(machine(), there())]);
}

#[test]
fn starting_at_boot_moves_along() {
    let mut source = offered(Commit::Strict, true);
    let out = source.hear(reserved_by_peer());
    assert_eq!(orders(&out), [&Order::SetAutostart(machine(), false)]);
    let mut target = reserved(Commit::Strict, true);
    target.hear(released());
    target.looked(Presence::Held);
    let runs = target.done(Handoffs::resumed, &Ok(()));
    assert_eq!(said(&runs), [&Pass::Claimed]);
    assert_eq!(orders(&runs), [&Order::SetAutostart(machine(), true)]);
    assert_eq!(ending(&target.autostart(true, &Ok(()))), Some(Reason::Moved));
}

#[test]
fn a_machine_that_runs_on_both_hosts_is_an_alarm_on_both_and_killed_on_neither() {
    let mut target = reserved(Commit::Fast, false);
    target.hear(cancelled());
    let out = target.looked(Presence::Running);
    assert_eq!((said(&out), orders(&out)), (vec![&Pass::Claimed], vec![]));
    assert!(target.handoff().is_alarming(target.now) && target.handoffs.moves(&machine()));

    let mut source = in_doubt(Commit::Fast);
    source.looked(Presence::Running);
    assert!(looks(&source.hear(Pass::Claimed)));
    assert_eq!(source.looked(Presence::Running), []);
    assert!(source.handoff().is_alarming(source.now) && source.handoffs.moves(&machine()));
    // An operator stops the copy here: what is left is the target's.
    let out = source.looked(Presence::Absent);
    assert_durable_first(&out, Phase::Released);
    target.hear(released());
    assert_eq!(ending(&target.looked(Presence::Running)), Some(Reason::Moved));
    // Or the one there.
    let mut source = in_doubt(Commit::Fast);
    source.looked(Presence::Running);
    source.hear(Pass::Claimed);
    source.looked(Presence::Running);
    assert_eq!(ending(&source.hear(Pass::Discarded)), Some(Reason::MigrationFailed));
}

#[test]
fn a_message_that_comes_twice_changes_nothing() {
    let mut source = transferring(Commit::Strict);
    assert_eq!(source.hear(reserved_by_peer()), []);
    source.act(|h, turn| h.migrated(ID, Ok(MigrationStats::default()), turn));
    assert_eq!(ending(&source.hear(Pass::Claimed)), Some(Reason::Moved));
    assert_eq!(source.hear(Pass::Claimed), []);
    assert_eq!(source.hear(Pass::Missing), []);

    let mut target = reserved(Commit::Strict, false);
    target.hear(released());
    target.hear(released());
    assert_eq!(orders(&target.looked(Presence::Held)).len(), 1);
    target.hear(released());
    assert_eq!(said(&target.done(Handoffs::resumed, &Ok(()))), [&Pass::Claimed]);
    assert_eq!(target.done(Handoffs::resumed, &Ok(())), []);
}

#[test]
fn a_hypervisor_that_is_back_is_asked_at_once_where_machines_are() {
    for mut side in [in_doubt(Commit::Strict), holding(), released_source()] {
        assert!(looks(&side.act(Handoffs::look_again)));
    }
    assert!(!looks(&transferring(Commit::Strict).act(Handoffs::look_again)));
}

#[test]
fn without_a_durable_record_there_is_no_transition() {
    let fail = |side: &mut Side| {
        let why = "disk full".to_owned();
        let key = side.handoff().key();
        side.act(|handoffs, turn| handoffs.store_failed(&key, why, turn))
    };
    // Nothing had begun.
    for (mut side, tell) in [
        (
            transferring(Commit::Strict),
            Pass::Cancel { reason: Reason::StoreFailed, machine: Some(machine()) },
        ),
        (
            reserved(Commit::Strict, false),
            Pass::Refused { reason: Reason::StoreFailed, detail: None },
        ),
    ] {
        let out = fail(&mut side);
        assert_eq!((said(&out), ending(&out)), (vec![&tell], Some(Reason::StoreFailed)));
        assert!(side.host.holds.incoming.is_empty() && side.host.holds.outgoing.is_empty());
    }
    // The machine has left: found out anew, until it can be written.
    let mut side = released_source();
    assert!(said(&fail(&mut side)).is_empty());
    assert_eq!(side.phase(), Some(Phase::Doubt));
    side.looked(Presence::Absent);
    let again = side.hear(Pass::Holding { machine: machine(), ticket: None });
    assert_durable_first(&again, Phase::Released);
    // It is not this host's yet.
    let mut side = holding();
    side.hear(released());
    side.looked(Presence::Held);
    assert!(said(&fail(&mut side)).is_empty());
    assert_eq!(side.phase(), Some(Phase::Holding));
    assert!(looks(&side.timer()));
    // Nothing has arrived that could be destroyed.
    let mut side = holding();
    side.hear(cancelled());
    fail(&mut side);
    assert_eq!(side.phase(), Some(Phase::Holding));
}

#[test]
fn the_commit_point_follows_from_the_locks_of_a_machines_storage() {
    use crate::model::Locks;
    let none = Locks::None("`vda` is on a raw device".to_owned());
    for (mode, locks, commit) in [
        (Mode::Auto, &Locks::NoWritableDisk, Some(Commit::Fast)),
        (Mode::Auto, &Locks::Shared, Some(Commit::Fast)),
        (Mode::Auto, &Locks::Manager, Some(Commit::Fast)),
        (Mode::Auto, &none, Some(Commit::Strict)),
        (Mode::Strict, &Locks::Manager, Some(Commit::Strict)),
        (Mode::Fast, &Locks::Shared, Some(Commit::Fast)),
        (Mode::Fast, &none, None),
    ] {
        let choice = mode.choose(locks);
        assert_eq!(choice.as_ref().map(|c| c.commit), commit, "{mode:?}, {locks:?}");
        assert!(choice.is_none_or(|c| !c.because.is_empty()));
    }
}
