use super::*;
use crate::load::{Basis, Metering};
use crate::message::Candidate;
use crate::model::{ExchangeId, HostProfile, Requirements};
use crate::port::FailureKind;

const ID: HandoffId = HandoffId(7);

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
    now: Time,
}

impl Side {
    fn new(name: &str) -> Self {
        let capacity = Resources { cpu_cores: 1.0, memory_bytes: 1e9, io_bytes_per_s: 1e8 };
        let profile = HostProfile::new(host_id(name), capacity);
        let host = Host::new(profile, Metering::default());
        let handoffs = Handoffs::new(Limits::default());
        Self { host, handoffs, now: Time::from_unix_ms(1_000_000) }
    }

    fn act(&mut self, action: impl FnOnce(&mut Handoffs, &mut Turn<'_>)) -> Vec<Effect> {
        let mut out = Vec::new();
        let mut turn = Turn { host: &mut self.host, now: self.now, out: &mut out };
        action(&mut self.handoffs, &mut turn);
        out
    }

    fn hear(&mut self, pass: Pass) -> Vec<Effect> {
        let peer = peer_of(&self.host);
        self.act(|handoffs, turn| handoffs.hear(ID, &peer, pass, turn))
    }

    fn looked(&mut self, presence: Presence) -> Vec<Effect> {
        self.act(|handoffs, turn| handoffs.looked(&machine(), Ok(presence), turn))
    }

    fn timer(&mut self) -> Vec<Effect> {
        self.act(|handoffs, turn| handoffs.timer(ID, turn))
    }

    fn phase(&self) -> Option<Phase> {
        self.handoffs.iter().next().map(|h| h.phase)
    }
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
            machine: machine(),
            name: "web".to_owned(),
            basis: Basis::Actual,
            factors: Resources { cpu_cores: 0.2, memory_bytes: 1e8, io_bytes_per_s: 0.0 },
            at_donor: 0.1,
            memory_bytes: 1e8,
            needs: Requirements::default(),
            anti_affinity: Vec::new(),
            margin: None,
            cost: None,
        },
        at_receiver: 0.1,
        entry: Entry::default(),
        verdicts: vec![Reason::Chosen],
        decision: Decision {
            exchange: ExchangeId(1),
            host: host.id().clone(),
            initiator: host.id().clone(),
            peer: Some(peer),
            role: None,
            began: Time::from_unix_ms(0),
            ended: Time::from_unix_ms(0),
            pair: None,
            candidates: Vec::new(),
            handoff: None,
            ending: Reason::Moved,
            detail: String::new(),
            stats: None,
            predicted: None,
            measure: None,
        },
        in_return: None,
    }
}

/// A source whose hypervisor migrates.
fn transferring() -> Side {
    let mut side = Side::new("source");
    let agreed = agreement(&side.host);
    side.act(|handoffs, turn| handoffs.give(ID, agreed, turn));
    side.hear(Pass::Reserved { uri: "qemu:///target".to_owned() });
    assert_eq!(side.phase(), Some(Phase::Transferring));
    side
}

/// A source that does not know what became of its migration.
fn in_doubt() -> Side {
    let mut side = transferring();
    let failure = Failure::new(FailureKind::Other, "broke off");
    side.act(|handoffs, turn| handoffs.migrated(ID, Err(failure), turn));
    assert_eq!(side.phase(), Some(Phase::Doubt));
    side
}

/// A target that keeps room.
fn reserved() -> Side {
    let mut side = Side::new("target");
    let agreed = agreement(&side.host);
    side.act(|handoffs, turn| handoffs.take(ID, agreed, "qemu:///target".to_owned(), turn));
    assert_eq!(side.phase(), Some(Phase::Reserved));
    side
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

fn looks(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Order(Order::Look(_))))
}

fn aborts(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Order(Order::Abort(_))))
}

#[test]
fn a_migration_that_goes_on_after_a_restart_is_aborted_until_it_ends() {
    let before = transferring();
    let record = before.handoffs.iter().next().unwrap().clone();
    let mut side = Side::new("source");
    assert!(aborts(&side.act(|handoffs, turn| handoffs.recover(vec![record], turn))));
    assert!(looks(&side.timer()));
    // The order came before libvirt answered, or before the job was there: say so again.
    assert!(aborts(&side.looked(Presence::Leaving)));
    assert!(looks(&side.timer()));
    let settled = side.looked(Presence::Running);
    assert_eq!(said(&settled), [&Pass::Cancel { reason: Reason::MigrationFailed }]);
    let Some(Effect::Record(decision)) = settled.iter().find(|e| matches!(e, Effect::Record(_)))
    else {
        panic!("no record")
    };
    assert!(decision.detail.contains("started again"), "{}", decision.detail);
    assert_eq!(side.phase(), None);
}

#[test]
fn a_definition_that_is_left_for_a_moment_is_not_taken_for_a_machine_that_stays() {
    let mut side = in_doubt();
    assert_eq!(ending(&side.looked(Presence::Defined)), None);
    side.timer();
    assert!(matches!(said(&side.looked(Presence::Absent))[..], [Pass::Released { .. }]));
    assert_eq!(side.phase(), Some(Phase::Released));
}

#[test]
fn a_machine_that_was_shut_down_or_paused_meanwhile_stays_once_it_is_seen_so_again() {
    for presence in [Presence::Defined, Presence::Paused] {
        let mut side = in_doubt();
        while side.handoffs.iter().next().is_some_and(|h| h.attempts < LOOKS_NOT_RUNNING) {
            assert_eq!(ending(&side.looked(presence)), None);
            side.timer();
        }
        assert_eq!(ending(&side.looked(presence)), Some(Reason::MigrationFailed), "{presence:?}");
        assert_eq!(side.handoffs.engaged(), 0);
    }
}

#[test]
fn an_abort_by_somebody_else_is_a_failed_migration_and_no_stop_of_an_agent() {
    let mut side = transferring();
    let aborted = Failure::new(FailureKind::Aborted, "operation aborted by client");
    side.act(|handoffs, turn| handoffs.migrated(ID, Err(aborted), turn));
    assert_eq!(ending(&side.looked(Presence::Running)), Some(Reason::MigrationFailed));
}

#[test]
fn a_machine_that_is_paused_where_it_arrived_is_claimed() {
    let mut side = reserved();
    // Still arriving: its source has not said that it has left.
    assert_eq!(said(&side.looked(Presence::Paused)), Vec::<&Pass>::new());
    let machine = machine();
    side.hear(Pass::Released { machine, stats: MigrationStats::default() });
    let settled = side.looked(Presence::Paused);
    assert_eq!((said(&settled), ending(&settled)), (vec![&Pass::Claimed], Some(Reason::Moved)));
}

#[test]
fn a_target_that_has_forgotten_looks_before_it_answers() {
    let released = || Pass::Released { machine: machine(), stats: MigrationStats::default() };
    for (presence, answer) in [
        (Presence::Running, Some(Pass::Claimed)),
        (Presence::Paused, Some(Pass::Claimed)),
        (Presence::Absent, Some(Pass::Missing)),
    ] {
        let mut side = Side::new("target");
        let heard = side.hear(released());
        assert!(looks(&heard) && said(&heard).is_empty(), "{heard:?}");
        // Asked twice, answered once for each.
        side.hear(released());
        assert_eq!(said(&side.looked(presence)), answer.iter().collect::<Vec<_>>());
        assert!(said(&side.looked(presence)).is_empty());
    }
    // A hypervisor that does not answer decides nothing.
    let mut side = Side::new("target");
    side.hear(released());
    let silent = Failure::new(FailureKind::Unreachable, "gone");
    let out = side.act(|handoffs, turn| handoffs.looked(&machine(), Err(silent), turn));
    assert!(said(&out).is_empty());
    assert!(looks(&side.hear(released())), "the next question is looked after again");
}

#[test]
fn questions_about_unknown_handoffs_are_bounded() {
    let mut side = Side::new("target");
    let from = host_id("source");
    let mut ordered = 0;
    for id in 0..10_000 {
        let pass = Pass::Released { machine: machine(), stats: MigrationStats::default() };
        let out = side.act(|handoffs, turn| handoffs.hear(HandoffId(id), &from, pass, turn));
        ordered += out.len();
    }
    assert_eq!(ordered, ASKED_MAX);
}

#[test]
fn room_kept_for_a_source_that_has_given_up_is_freed_at_once() {
    let mut source = Side::new("source");
    let late = source.hear(Pass::Reserved { uri: "qemu:///target".to_owned() });
    let [cancel] = said(&late)[..] else { panic!("{late:?}") };
    let mut target = reserved();
    assert_eq!(ending(&target.hear(cancel.clone())), Some(Reason::TimedOut));
    assert!(target.host.holds.incoming.is_empty());
}

#[test]
fn a_message_that_comes_twice_changes_nothing() {
    let mut source = transferring();
    let again = source.hear(Pass::Reserved { uri: "qemu:///target".to_owned() });
    assert_eq!(again, []);
    source.act(|h, turn| h.migrated(ID, Ok(MigrationStats::default()), turn));
    assert_eq!(ending(&source.hear(Pass::Claimed)), Some(Reason::Moved));
    assert_eq!(source.hear(Pass::Claimed), []);
    assert_eq!(source.hear(Pass::Missing), []);

    let mut target = reserved();
    let released = || Pass::Released { machine: machine(), stats: MigrationStats::default() };
    target.hear(released());
    target.hear(released());
    assert_eq!(said(&target.looked(Presence::Running)), [&Pass::Claimed]);
    assert_eq!(target.looked(Presence::Running), [], "the second look is answered too");
    assert_eq!(target.hear(Pass::Cancel { reason: Reason::Stopping }), []);
}

#[test]
fn a_target_that_must_stop_now_leaves_its_reservation_on_record_and_waits_for_nobody() {
    let mut target = reserved();
    assert!(target.handoffs.hold_up_stop(), "at first it waits for what is under way");
    target.act(Handoffs::abort_all);
    assert!(!target.handoffs.hold_up_stop());
    assert_eq!(target.phase(), Some(Phase::Reserved));

    let mut source = transferring();
    assert!(aborts(&source.act(Handoffs::abort_all)));
    assert!(source.handoffs.hold_up_stop(), "its machine must be found first");
    let aborted = Failure::new(FailureKind::Aborted, "aborted");
    source.act(|handoffs, turn| handoffs.migrated(ID, Err(aborted), turn));
    assert_eq!(ending(&source.looked(Presence::Running)), Some(Reason::Stopping));
    assert!(!source.handoffs.hold_up_stop());
}

#[test]
fn a_hypervisor_that_is_back_is_asked_at_once_where_machines_are() {
    let mut side = in_doubt();
    assert!(looks(&side.act(Handoffs::look_again)));
    assert!(!looks(&transferring().act(Handoffs::look_again)));
}

#[test]
fn without_a_durable_record_nothing_begins_and_nothing_is_kept() {
    for (mut side, tell) in [
        (transferring(), Pass::Cancel { reason: Reason::StoreFailed }),
        (reserved(), Pass::Refused { reason: Reason::StoreFailed }),
    ] {
        let why = "disk full".to_owned();
        let out = side.act(|handoffs, turn| handoffs.store_failed(ID, why, turn));
        assert_eq!((said(&out), ending(&out)), (vec![&tell], Some(Reason::StoreFailed)));
        assert_eq!(side.handoffs.engaged(), 0);
        assert!(side.host.holds.incoming.is_empty() && side.host.holds.outgoing.is_empty());
    }
}
