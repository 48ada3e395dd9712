use super::*;
use crate::decision::Decision;
use crate::load::{Basis, Metering};
use crate::message::{Candidate, Message};
use crate::model::{Entry, Epoch, HostProfile, Requirements, Resources, Time};
use crate::port::{FailureKind, Presence, Stamp};
use crate::select::Calm;

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
    now: Time,
}

impl Side {
    fn new(name: &str) -> Self {
        let capacity = Resources { cpu_cores: 1.0, memory_bytes: 1e9, io_bytes_per_s: 1e8 };
        let profile = HostProfile::new(host_id(name), capacity);
        let host = Host::new(profile, Metering::default(), Calm::default(), Duration::ZERO);
        let mut handoffs = Handoffs::new(Limits::default());
        handoffs.ticket.life = LIFE;
        Self { host, handoffs, now: Time::from_unix_ms(1_000_000) }
    }

    fn act(&mut self, action: impl FnOnce(&mut Handoffs, &mut Turn<'_>)) -> Vec<Effect> {
        let mut out = Vec::new();
        let mut turn = Turn::new(&mut self.host, self.now, &mut out);
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
        self.saw(Sight { presence, stamp })
    }

    fn saw(&mut self, sight: Sight) -> Vec<Effect> {
        self.act(|handoffs, turn| handoffs.looked(&machine(), handoffs.looks, Ok(sight), turn))
    }

    fn done(&mut self, done: Done, result: Result<(), Failure>) -> Vec<Effect> {
        self.act(|handoffs, turn| done(handoffs, &machine(), &result, turn))
    }

    fn autostart(&mut self, wanted: bool, result: Result<(), Failure>) -> Vec<Effect> {
        self.act(|handoffs, turn| handoffs.autostart_set(&machine(), wanted, &result, turn))
    }

    fn handoff(&self) -> &Handoff {
        self.handoffs.iter().next().unwrap()
    }

    /// The same host after its agent was killed: only what was durable is left.
    fn restarted(&self, durable: &Recovered) -> (Self, Vec<Effect>) {
        let name = self.host.id().to_string();
        let mut side = Self { now: self.now, ..Self::new(&name) };
        let mut durable = durable.clone();
        durable.reopen(LIFE + 1);
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
            machine: machine(),
            name: "web".to_owned(),
            basis: Basis::Actual,
            factors: Resources { cpu_cores: 0.2, memory_bytes: 1e8, io_bytes_per_s: 0.0 },
            at_donor: 0.1,
            memory_bytes: 1e8,
            needs: Requirements::default(),
            anti_affinity: Vec::new(),
        },
        at_receiver: 0.1,
        entry: Entry { epoch: there().epoch, ..Entry::default() },
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
            commit: None,
        },
        in_return: None,
    }
}

fn terms(commit: Commit, autostart: bool) -> Terms {
    Terms { choice: Choice { commit, because: "a test".to_owned() }, from: here(), autostart }
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
    let offer = Offer { agreement, commit, autostart, ticket };
    side.act(|handoffs, turn| handoffs.take(ID, offer, "qemu:///target".to_owned(), turn));
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
    Pass::Released { machine: machine(), stats: MigrationStats::default(), autostart: Some(false) }
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
    let order = |effect| match effect {
        &Effect::Order(ref order) if *order != Order::Sample => Some(order),
        _ => None,
    };
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
    let armed = source.autostart(false, Ok(()));
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
    let out = holding().hear(cancelled());
    assert_durable_first(&out, Phase::Discarding);
    assert_eq!(orders(&out), [&Order::Discard(machine(), there())]);
}

#[test]
fn starting_at_boot_moves_along() {
    let mut source = offered(Commit::Strict, true);
    let out = source.hear(reserved_by_peer());
    assert_eq!(orders(&out), [&Order::SetAutostart(machine(), false)]);
    let mut target = reserved(Commit::Strict, true);
    target.hear(released());
    target.looked(Presence::Held);
    let runs = target.done(Handoffs::resumed, Ok(()));
    assert_eq!(said(&runs), [&Pass::Claimed]);
    assert_eq!(orders(&runs), [&Order::SetAutostart(machine(), true)]);
    assert_eq!(ending(&target.autostart(true, Ok(()))), Some(Reason::Moved));
}

#[test]
fn starting_at_boot_is_restored_where_the_machine_stays() {
    let mut source = offered(Commit::Strict, true);
    let armed = stored(&source.hear(reserved_by_peer()));
    let on = Order::SetAutostart(machine(), true);
    // Killed before the hypervisor answered.
    let (mut again, out) = source.restarted(&armed);
    assert!(orders(&out).contains(&&on), "{out:?}");
    assert_eq!(again.phase(), Some(Phase::Cancelling));
    again.hear(Pass::Discarded);
    assert_eq!(ending(&again.autostart(true, Ok(()))), Some(Reason::Stopping));
    // The migration failed, and the hypervisor is slow to take the order.
    source.autostart(false, Ok(()));
    let failure = || Failure::new(FailureKind::Unreachable, "gone");
    source.act(|h, turn| h.migrated(ID, Err(failure()), turn));
    assert!(orders(&source.looked(Presence::Running)).contains(&&on));
    source.hear(Pass::Discarded);
    assert_eq!(ending(&source.autostart(true, Err(failure()))), None);
    assert!(orders(&source.timer()).contains(&&on), "tried again");
    assert_eq!(ending(&source.autostart(true, Ok(()))), Some(Reason::MigrationFailed));
}

#[test]
fn a_source_in_doubt_goes_by_what_is_here_and_what_is_there() {
    use Presence::{Absent, Defined, Paused, Running, Stranded};
    let hold = || Pass::Holding { machine: machine(), ticket: None };
    // Here, there (where that is asked), and the phase that follows.
    let table = [
        (Running, None, Phase::Cancelling),
        (Paused, None, Phase::Cancelling),
        (Absent, Some(hold()), Phase::Released),
        (Absent, Some(Pass::Claimed), Phase::Released),
        (Absent, Some(Pass::Missing), Phase::Cancelling),
        (Absent, Some(Pass::Arriving), Phase::Doubt),
        (Defined, Some(hold()), Phase::Released),
        (Defined, Some(Pass::Missing), Phase::Cancelling),
        (Stranded, Some(hold()), Phase::Released),
        (Stranded, Some(Pass::Claimed), Phase::Released),
        (Stranded, Some(Pass::Missing), Phase::Cancelling),
    ];
    for commit in [Commit::Fast, Commit::Strict] {
        for (here, there, phase) in &table {
            let mut side = in_doubt(commit);
            let looked = side.looked(*here);
            let asked = said(&looked).contains(&&Pass::Where { machine: machine() });
            assert_eq!(asked, there.is_some(), "{here:?}");
            if let Some(answer) = there {
                side.hear(answer.clone());
            }
            assert_eq!(side.phase(), Some(*phase), "{here:?} here, {there:?} there");
        }
    }
}

#[test]
fn an_answer_decides_nothing_while_a_migration_is_under_way() {
    let mut side = in_doubt(Commit::Strict);
    side.looked(Presence::Leaving);
    assert!(looks(&side.hear(Pass::Missing)));
    assert_eq!(side.phase(), Some(Phase::Doubt));
}

#[test]
fn what_is_left_here_is_destroyed_before_the_target_is_told() {
    let mut side = in_doubt(Commit::Strict);
    side.looked(Presence::Stranded);
    let out = side.hear(Pass::Holding { machine: machine(), ticket: None });
    assert_durable_first(&out, Phase::Released);
    assert_eq!((said(&out), orders(&out)), (vec![], vec![&Order::Discard(machine(), here())]));
    // Also after a restart.
    let (mut side, _) = side.restarted(&stored(&out));
    let out = side.timer();
    assert_eq!((said(&out), orders(&out)), (vec![], vec![&Order::Discard(machine(), here())]));
    let gone = side.done(Handoffs::discarded, Ok(()));
    assert!(matches!(said(&gone)[..], [Pass::Released { .. }]));
    assert_eq!(ending(&side.hear(Pass::Claimed)), Some(Reason::Moved));
}

#[test]
fn a_leftover_that_runs_keeps_the_target_from_being_told_and_is_not_killed() {
    let mut side = in_doubt(Commit::Strict);
    side.looked(Presence::Stranded);
    side.hear(Pass::Holding { machine: machine(), ticket: None });
    let refused = Failure::new(FailureKind::Refused, "it runs");
    assert!(looks(&side.done(Handoffs::discarded, Err(refused))));
    assert_eq!(said(&side.looked(Presence::Running)), Vec::<&Pass>::new());
    assert!(side.handoff().is_alarming(side.now), "somebody let it run");
    // Another copy, under another stamp, is not the one that was released.
    let other = Sight { presence: Presence::Running, stamp: Stamp { epoch: Epoch(9), ..here() } };
    assert!(matches!(said(&side.saw(other))[..], [Pass::Released { .. }]));
}

#[test]
fn a_machine_left_paused_is_let_run_only_after_its_cancellation_is_durable() {
    let mut side = in_doubt(Commit::Strict);
    side.looked(Presence::Stranded);
    let out = side.hear(Pass::Missing);
    assert_durable_first(&out, Phase::Cancelling);
    assert!(orders(&out).contains(&&Order::Resume(machine(), here())));
    let (mut side, _) = side.restarted(&stored(&out));
    assert!(looks(&side.timer()));
    let again = side.looked(Presence::Stranded);
    assert_eq!(orders(&again), [&Order::Resume(machine(), here())]);
    side.done(Handoffs::resumed, Ok(()));
    assert_eq!(ending(&side.hear(Pass::Discarded)), Some(Reason::MigrationFailed));
}

#[test]
fn silence_lets_a_machine_run_here_only_where_the_target_waits_to_be_told() {
    for (commit, phase) in [(Commit::Strict, Phase::Cancelling), (Commit::Fast, Phase::Doubt)] {
        let mut side = in_doubt(commit);
        side.looked(Presence::Stranded);
        side.now = side.now + Limits::default().doubt_time_max;
        side.looked(Presence::Stranded);
        assert_eq!(side.phase(), Some(phase), "{commit:?}");
    }
    for presence in [Presence::Absent, Presence::Defined] {
        let mut side = in_doubt(Commit::Strict);
        side.now = side.now + Duration::from_secs(1_000_000);
        side.looked(presence);
        assert_eq!(side.phase(), Some(Phase::Doubt), "{presence:?}");
        assert!(side.handoff().is_alarming(side.now));
    }
}

#[test]
fn a_machine_that_is_held_waits_for_its_source_for_ever() {
    let mut side = holding();
    for hours in 0..1000 {
        side.now = side.now + Duration::from_secs(3600);
        assert!(looks(&side.timer()));
        let out = side.looked(Presence::Held);
        assert!(matches!(said(&out)[..], [Pass::Holding { .. }]), "after {hours} h");
        assert_eq!(orders(&out), Vec::<&Order>::new());
    }
    let handoff = side.handoff();
    assert!(handoff.is_alarming(side.now) && handoff.waits_for().contains("evenkeel claim web"));
    assert_eq!(side.handoffs.engaged(), 0, "it holds nothing else up");
}

#[test]
fn an_operator_who_has_fenced_the_source_lets_a_held_machine_run() {
    let (source, stranger) = (host_id("source"), host_id("stranger"));
    let mut side = holding();
    assert!(side.handoffs.can_claim(&machine(), &stranger).unwrap_err().contains("`source`"));
    assert_eq!(side.act(|h, turn| h.claim(&machine(), &stranger, turn)), []);
    assert_eq!(side.handoffs.can_claim(&machine(), &source), Ok(()));
    let out = side.act(|h, turn| h.claim(&machine(), &source, turn));
    assert_durable_first(&out, Phase::Claimed);
    assert_eq!(orders(&out), [&Order::Resume(machine(), there())]);
    assert!(reserved(Commit::Strict, false).handoffs.can_claim(&machine(), &source).is_err());
}

#[test]
fn an_operator_who_has_fenced_the_target_keeps_what_is_left_here() {
    let mut side = in_doubt(Commit::Fast);
    let target = host_id("target");
    assert!(side.handoffs.can_claim(&machine(), &target).is_err(), "not looked yet");
    side.looked(Presence::Stranded);
    let out = side.act(|h, turn| h.claim(&machine(), &target, turn));
    assert_durable_first(&out, Phase::Cancelling);
    assert!(orders(&out).contains(&&Order::Resume(machine(), here())));
    let mut side = in_doubt(Commit::Fast);
    side.looked(Presence::Absent);
    assert!(side.handoffs.can_claim(&machine(), &target).is_err(), "nothing is here");
}

#[test]
fn a_target_that_is_told_to_discard_does_it_until_nothing_is_left() {
    let mut side = holding();
    side.hear(cancelled());
    let failure = Failure::new(FailureKind::Unreachable, "gone");
    assert!(looks(&side.done(Handoffs::discarded, Err(failure))));
    assert_eq!(orders(&side.looked(Presence::Held)), [&Order::Discard(machine(), there())]);
    let out = side.done(Handoffs::discarded, Ok(()));
    assert_eq!(said(&out), [&Pass::Discarded]);
    assert_eq!(ending(&out), Some(Reason::MigrationFailed));
    // Asked again, it says so again.
    assert!(looks(&side.hear(cancelled())));
    assert_eq!(said(&side.looked(Presence::Absent)), [&Pass::Discarded]);
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
fn a_source_answers_a_target_that_holds_a_machine_by_its_records() {
    let hold = |number, life| {
        let ticket = Some(Ticket { life, number });
        Pass::Holding { machine: machine(), ticket }
    };
    // It has released it, and forgotten all but that.
    let mut source = released_source();
    source.hear(Pass::Missing);
    assert!(matches!(said(&source.hear(hold(1, LIFE)))[..], [Pass::Released { .. }]));
    // Nothing of that life is lost, so it was never released.
    let mut source = offered(Commit::Strict, false);
    source.timer();
    assert_eq!(said(&source.hear(hold(1, LIFE))), [&cancelled()]);
    let mut later = Side::new("source");
    later.handoffs.lives.insert(LIFE - 1, 8);
    assert_eq!(said(&later.hear(hold(8, LIFE - 1))), [&cancelled()]);
    // A store that was lost, or restored from a backup, does not know: look.
    for unknown in [hold(9, LIFE - 1), hold(1, LIFE - 2)] {
        let out = later.hear(unknown.clone());
        assert!(said(&out).is_empty() && looks(&out));
        assert_eq!(later.looked(Presence::Absent), [], "the machine may be the other's");
        later.hear(unknown);
        assert_eq!(said(&later.looked(Presence::Running)), [&cancelled()]);
    }
}

#[test]
fn a_target_without_a_record_takes_what_its_source_has_released() {
    let mut side = Side::new("target");
    assert!(looks(&side.hear(released())));
    let out = side.looked(Presence::Held);
    assert_durable_first(&out, Phase::Claimed);
    assert_eq!(orders(&out), [&Order::Resume(machine(), there())]);
    let out = side.done(Handoffs::resumed, Ok(()));
    assert_eq!((said(&out), ending(&out)), (vec![&Pass::Claimed], Some(Reason::Moved)));
}

#[test]
fn a_target_that_has_forgotten_looks_before_it_answers() {
    use Presence::{Absent, Held, Incoming, Paused, Running};
    let hold = || Pass::Holding { machine: machine(), ticket: None };
    let find = || Pass::Where { machine: machine() };
    for (question, presence, answer) in [
        (released(), Running, Some(Pass::Claimed)),
        (released(), Absent, Some(Pass::Missing)),
        (released(), Incoming, None),
        (find(), Running, Some(Pass::Claimed)),
        (find(), Held, Some(hold())),
        (find(), Paused, Some(hold())),
        (find(), Incoming, Some(Pass::Arriving)),
        (find(), Absent, Some(Pass::Missing)),
        (cancelled(), Absent, Some(Pass::Discarded)),
        (cancelled(), Running, Some(Pass::Claimed)),
    ] {
        let mut side = Side::new("target");
        let heard = side.hear(question.clone());
        assert!(looks(&heard) && said(&heard).is_empty(), "{heard:?}");
        let said_then = side.looked(presence);
        assert_eq!(
            said(&said_then),
            answer.iter().collect::<Vec<_>>(),
            "{question:?}, {presence:?}"
        );
        assert!(said(&side.looked(presence)).is_empty(), "asked once, answered once");
    }
    // A hypervisor that does not answer decides nothing.
    let mut side = Side::new("target");
    side.hear(released());
    let silent = Failure::new(FailureKind::Unreachable, "gone");
    let out =
        side.act(|handoffs, turn| handoffs.looked(&machine(), handoffs.looks, Err(silent), turn));
    assert!(said(&out).is_empty());
    assert!(looks(&side.hear(released())), "the next question is looked after again");
}

#[test]
fn what_was_claimed_is_never_discarded_whatever_is_said_later() {
    let mut side = holding();
    side.hear(released());
    side.looked(Presence::Held);
    assert_eq!(side.hear(cancelled()), [], "claimed, and not run yet");
    side.done(Handoffs::resumed, Ok(()));
    for presence in [Presence::Paused, Presence::Running, Presence::Absent] {
        side.hear(cancelled());
        let out = side.looked(presence);
        assert_eq!((said(&out), orders(&out)), (vec![&Pass::Claimed], vec![]), "{presence:?}");
    }
}

#[test]
fn questions_about_unknown_handoffs_are_bounded() {
    let mut side = Side::new("target");
    let from = host_id("source");
    let mut ordered = 0;
    for id in 0..10_000 {
        let out = side.act(|handoffs, turn| handoffs.hear(HandoffId(id), &from, released(), turn));
        ordered += out.len();
    }
    assert_eq!(ordered, 64);
}

#[test]
fn room_kept_for_a_source_that_has_given_up_is_freed_at_once() {
    // A source that has lost its records does not know whether it has.
    assert_eq!(Side::new("source").hear(reserved_by_peer()), []);
    let mut source = offered(Commit::Strict, false);
    source.timer();
    let late = source.hear(reserved_by_peer());
    let [cancel] = said(&late)[..] else { panic!("{late:?}") };
    let mut target = reserved(Commit::Strict, false);
    target.hear(cancel.clone());
    let out = target.done(Handoffs::discarded, Ok(()));
    assert_eq!(ending(&out), Some(Reason::TimedOut));
    assert!(target.host.holds.incoming.is_empty());
}

#[test]
fn a_reservation_that_expires_frees_the_memory() {
    let mut target = reserved(Commit::Strict, false);
    target.timer();
    assert_eq!(ending(&target.looked(Presence::Absent)), None, "it may still come");
    target.now = target.now + Limits::default().reservation_time;
    assert_eq!(ending(&target.looked(Presence::Incoming)), None, "it is arriving");
    assert_eq!(ending(&target.looked(Presence::Absent)), Some(Reason::ReservationExpired));
    assert!(target.host.holds.incoming.is_empty());
}

#[test]
fn a_target_that_cannot_hold_a_machine_back_is_given_none_that_needs_it() {
    let old = || Pass::Reserved { uri: "qemu:///target".to_owned(), protocol: None, ticket: None };
    let out = offered(Commit::Strict, false).hear(old());
    assert_eq!(ending(&out), Some(Reason::Version));
    assert!(orders(&out).is_empty());
    let mut side = offered(Commit::Fast, false);
    assert!(matches!(orders(&side.hear(old()))[..], [Order::Migrate(_)]));
    // It cannot be asked either, and answers a release.
    let failure = Failure::new(FailureKind::Other, "broke off");
    side.act(|handoffs, turn| handoffs.migrated(ID, Err(failure), turn));
    assert!(matches!(said(&side.looked(Presence::Absent))[..], [Pass::Released { .. }]));
}

#[test]
fn a_machine_paused_where_it_arrived_fast_is_claimed_and_left_paused() {
    let mut side = reserved(Commit::Fast, false);
    assert_eq!(said(&side.looked(Presence::Paused)), Vec::<&Pass>::new(), "still arriving");
    side.hear(released());
    let settled = side.looked(Presence::Paused);
    assert_eq!((said(&settled), ending(&settled)), (vec![&Pass::Claimed], Some(Reason::Moved)));
    assert!(orders(&settled).is_empty());
}

#[test]
fn an_abort_by_somebody_else_is_a_failed_migration_and_no_stop_of_an_agent() {
    let mut side = transferring(Commit::Strict);
    let aborted = Failure::new(FailureKind::Aborted, "operation aborted by client");
    side.act(|handoffs, turn| handoffs.migrated(ID, Err(aborted), turn));
    side.looked(Presence::Running);
    assert_eq!(ending(&side.hear(Pass::Discarded)), Some(Reason::MigrationFailed));
}

#[test]
fn a_migration_that_goes_on_after_a_restart_is_waited_for_until_it_lasts_too_long() {
    let mut before = offered(Commit::Strict, false);
    let durable = stored(&before.hear(reserved_by_peer()));
    let (mut side, out) = before.restarted(&durable);
    assert!(looks(&out));
    assert!(!aborts(&side.looked(Presence::Leaving)));
    side.now = side.now + Limits::default().migration_time_max;
    assert!(aborts(&side.looked(Presence::Leaving)));
    side.looked(Presence::Running);
    let out = side.hear(Pass::Discarded);
    assert_eq!(ending(&out), Some(Reason::MigrationTooLong));
    let detail = out.iter().find_map(|effect| match effect {
        Effect::Record(decision) => Some(decision.detail.clone()),
        _ => None,
    });
    assert!(detail.unwrap().contains("started again"));
}

#[test]
fn a_target_that_does_not_answer_a_cancellation_holds_nothing_up_and_is_answered_when_it_asks() {
    let mut side = in_doubt(Commit::Strict);
    side.looked(Presence::Running);
    assert_eq!(side.handoffs.engaged(), 0);
    let last = (0..100).map(|_| side.timer()).find_map(|out| ending(&out));
    assert_eq!(last, Some(Reason::MigrationFailed));
    let ticket = Some(Ticket { life: LIFE, number: 1 });
    assert_eq!(said(&side.hear(Pass::Holding { machine: machine(), ticket })), [&cancelled()]);
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
    assert_eq!(said(&target.done(Handoffs::resumed, Ok(()))), [&Pass::Claimed]);
    assert_eq!(target.done(Handoffs::resumed, Ok(())), []);
}

#[test]
fn a_target_that_must_stop_now_leaves_its_reservation_on_record_and_waits_for_nobody() {
    let mut target = reserved(Commit::Strict, false);
    assert!(target.handoffs.hold_up_stop(), "at first it waits for what is under way");
    target.act(Handoffs::abort_all);
    assert!(!target.handoffs.hold_up_stop());
    assert_eq!(target.phase(), Some(Phase::Reserved));

    let mut source = transferring(Commit::Strict);
    assert!(aborts(&source.act(Handoffs::abort_all)));
    assert!(source.handoffs.hold_up_stop(), "its machine must be found first");
    let aborted = Failure::new(FailureKind::Aborted, "aborted");
    source.act(|handoffs, turn| handoffs.migrated(ID, Err(aborted), turn));
    source.looked(Presence::Running);
    assert!(!source.handoffs.hold_up_stop());
    assert_eq!(ending(&source.hear(Pass::Discarded)), Some(Reason::Stopping));
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
        side.act(|handoffs, turn| handoffs.store_failed(ID, why, turn))
    };
    // Nothing had begun.
    for (mut side, tell) in [
        (
            transferring(Commit::Strict),
            Pass::Cancel { reason: Reason::StoreFailed, machine: Some(machine()) },
        ),
        (reserved(Commit::Strict, false), Pass::Refused { reason: Reason::StoreFailed }),
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

#[test]
fn what_was_seen_before_a_question_is_no_answer_to_it() {
    // A look is under way when the source asks, or says that the machine is released.
    for question in [Pass::Where { machine: machine() }, released()] {
        let mut side = reserved(Commit::Strict, false);
        side.timer();
        let before = side.handoffs.looks;
        side.hear(question.clone());
        let nothing = Ok(Sight::default());
        let out = side.act(|h, turn| h.looked(&machine(), before, nothing.clone(), turn));
        assert!(said(&out).is_empty(), "{question:?}: {out:?}");
        assert!(!said(&side.looked(Presence::Absent)).is_empty(), "{question:?}");
    }
}
