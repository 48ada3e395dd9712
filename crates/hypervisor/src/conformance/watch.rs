//! Waiting for events without losing the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_core::control::Autonomy;
use evenkeel_core::model::{Entry, Epoch, HostId, LastMove, MachineId, Requirements, Rules, Time};
use evenkeel_core::port::{
    Commit, Counters, Event, Failure, HandoffId, HostSample, LookId, MachineSample, Migration,
    MigrationStats, Order, Presence, Rewrite, Sight, Stamp,
};

use super::{ANSWER_MAX, Rig};

/// A rig whose every event is kept, so that a claim can wait for one and still count the others.
pub(super) struct Watch<'a> {
    pub(super) rig: &'a mut dyn Rig,
    pub(super) a: HostId,
    pub(super) b: HostId,
    heard: BTreeMap<HostId, Vec<Event>>,
    looks: u64,
}

impl<'a> Watch<'a> {
    pub(super) fn new(rig: &'a mut dyn Rig) -> Self {
        let hosts = rig.hosts();
        assert!(hosts.len() >= 2, "a rig has at least two hosts, this one has {hosts:?}");
        let (a, b) = (hosts[0].clone(), hosts[1].clone());
        Self { rig, a, b, heard: BTreeMap::new(), looks: 0 }
    }

    /// Gives an order to the first host.
    pub(super) fn order(&mut self, order: Order) {
        let a = self.a.clone();
        self.rig.submit(&a, order);
    }

    /// Waits for an event for which `wanted` returns something. Events heard while something else
    /// was waited for count too; the one returned is used up.
    pub(super) fn until<T>(
        &mut self,
        host: &HostId,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Event) -> Option<T>,
    ) -> T {
        let heard = self.heard.entry(host.clone()).or_default();
        if let Some(index) = heard.iter().position(|event| wanted(event).is_some())
            && let Some(found) = wanted(&heard.remove(index))
        {
            return found;
        }
        // The clock guards against a rig on which other events keep coming; in virtual time the
        // limit is the rig's.
        let end = Instant::now() + limit;
        while let Some(event) = self.rig.next_event(host, limit) {
            if let Some(found) = wanted(&event) {
                return found;
            }
            heard.push(event);
            if Instant::now() > end {
                break;
            }
        }
        panic!("host `{host}` did not tell {what} within {limit:?}; it told {heard:?}")
    }

    /// Forgets what a host has told so far and nobody waited for.
    pub(super) fn forget(&mut self, host: &HostId) {
        self.heard.remove(host);
    }

    /// Everything that a host has told and tells until it is quiet for `span`, less what was
    /// waited for.
    pub(super) fn rest(&mut self, host: &HostId, span: Duration) -> Vec<Event> {
        let mut all = self.heard.remove(host).unwrap_or_default();
        while let Some(event) = self.rig.next_event(host, span) {
            all.push(event);
        }
        all
    }

    pub(super) fn sample(&mut self, host: &HostId) -> HostSample {
        self.rig.submit(host, Order::Sample);
        let answer = self.until(host, "a sample", ANSWER_MAX, |event| match event {
            Event::Sampled(answer) => Some(answer.clone()),
            _ => None,
        });
        answer.unwrap_or_else(|failure| panic!("host `{host}` was not measured: {failure:?}"))
    }

    /// The machine in a new sample of a host, if it is there.
    pub(super) fn measured(&mut self, host: &HostId, id: &MachineId) -> Option<MachineSample> {
        self.sample(host).machines.into_iter().find(|machine| machine.facts.id == *id)
    }

    pub(super) fn counters(&mut self, host: &HostId, id: &MachineId) -> Counters {
        let machine = self.measured(host, id);
        let counters = machine.and_then(|machine| machine.counters);
        counters.unwrap_or_else(|| panic!("host `{host}` has no counters of `{id}`"))
    }

    pub(super) fn entry(&mut self, host: &HostId, id: &MachineId) -> Result<Entry, String> {
        let machine = self.measured(host, id);
        let machine = machine.unwrap_or_else(|| panic!("host `{host}` has no machine `{id}`"));
        Arc::unwrap_or_clone(machine.facts).entry
    }

    pub(super) fn write_entry(&mut self, id: &MachineId, entry: &Entry) -> Result<(), Failure> {
        self.rewrite(id, entry.clone().into())
    }

    /// Rewrites an entry, and has it read back as it was written.
    pub(super) fn rewrite(&mut self, id: &MachineId, rewrite: Rewrite) -> Result<(), Failure> {
        let wanted = rewrite.entry.clone();
        self.order(Order::WriteEntry(id.clone(), rewrite));
        let a = self.a.clone();
        self.until(&a, "that the entry is written", ANSWER_MAX, |event| match event {
            Event::EntryWritten(machine, answer) if machine == id => Some(answer.clone()),
            _ => None,
        })
        .map(|read| assert_eq!(read, wanted, "it was read back otherwise"))
    }

    pub(super) fn look(&mut self, host: &HostId, id: &MachineId) -> Result<Presence, Failure> {
        self.sight(host, id).map(|sight| sight.presence)
    }

    /// Whether a machine is there, and which copy.
    pub(super) fn copy(
        &mut self,
        host: &HostId,
        id: &MachineId,
    ) -> Result<(Presence, Stamp), Failure> {
        self.sight(host, id).map(|sight| (sight.presence, sight.stamp))
    }

    pub(super) fn sight(&mut self, host: &HostId, id: &MachineId) -> Result<Sight, Failure> {
        self.looks += 1;
        let number = LookId(self.looks);
        self.rig.submit(host, Order::Look(id.clone(), number));
        self.until(host, "what a look saw", ANSWER_MAX, |event| match event {
            Event::Looked(machine, look, answer) if machine == id && *look == number => {
                Some(answer.clone())
            }
            _ => None,
        })
    }

    /// Looks until a machine is as it should be.
    pub(super) fn settles(&mut self, host: &HostId, id: &MachineId, wanted: Presence) {
        let mut left = ANSWER_MAX;
        while self.look(host, id) != Ok(wanted) {
            assert!(left > Duration::ZERO, "`{id}` is not {wanted:?} on host `{host}`");
            self.rig.pass(LOOK_AGAIN);
            left = left.saturating_sub(LOOK_AGAIN);
        }
    }

    /// Asserts that a machine is on one host and not even defined on the other.
    pub(super) fn assert_runs_only_on(&mut self, here: &HostId, there: &HostId, id: &MachineId) {
        assert_eq!(self.look(here, id), Ok(Presence::Running), "`{id}` on host `{here}`");
        assert_eq!(self.look(there, id), Ok(Presence::Absent), "`{id}` on host `{there}`");
    }

    /// The order to migrate a machine from the first host to the second.
    pub(super) fn migration(&mut self, handoff: u64, id: &MachineId, entry: &Entry) -> Migration {
        let b = self.b.clone();
        Migration {
            handoff: HandoffId(handoff),
            machine: id.clone(),
            uri: self.sample(&b).facts.migration_uri.clone(),
            to: b,
            entry: entry.clone(),
            commit: Commit::Fast,
            bandwidth_bytes_per_s: None,
            needs: Requirements::default(),
            disks: Vec::new(),
        }
    }

    /// Waits for the answer to a migration ordered at `host`.
    pub(super) fn ended(
        &mut self,
        host: &HostId,
        handoff: u64,
        limit: Duration,
    ) -> Result<MigrationStats, Failure> {
        self.until(host, "the end of the migration", limit, |event| match event {
            Event::MigrationEnded(id, outcome) if id.0 == handoff => Some(outcome.clone()),
            _ => None,
        })
    }

    pub(super) fn schedule_changed(&mut self, host: &HostId, id: &MachineId) {
        let what = format!("that its schedule changed at `{id}`");
        self.until(host, &what, ANSWER_MAX, |event| {
            matches!(event, Event::ScheduleChanged(machine) if machine == id).then_some(())
        });
    }

    /// Forgets what was heard of a machine's schedule so far.
    pub(super) fn forget_schedule_changes(&mut self, host: &HostId) {
        let rest = self.rest(host, QUIET);
        let kept = rest.into_iter().filter(|e| !matches!(e, Event::ScheduleChanged(_)));
        self.heard.entry(host.clone()).or_default().extend(kept);
    }
}

/// How long it takes to look again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long a host says nothing when it has said everything.
pub(super) const QUIET: Duration = Duration::from_millis(700);

/// An entry in which nothing has its default.
pub(super) fn full_entry(epoch: u64) -> Entry {
    let host = |name| HostId::new(name).unwrap_or_else(|error| panic!("{error}"));
    let places = ["h1", "!h2.example.com", "rack=r \"7\"?"];
    let place = |text: &str| text.parse().unwrap_or_else(|error| panic!("{error}"));
    let group = |text: &str| text.parse().unwrap_or_else(|error| panic!("{error}"));
    Entry {
        epoch: Epoch(epoch),
        target_load: Some(0.25),
        rules: Rules {
            pinned_to: places.map(place).to_vec(),
            affinity: vec![group("web & <db>")],
            anti_affinity: ["\"quorum\" 'a'@rack", "ünïcode?"].map(group).to_vec(),
            ignore: true,
            never_live: true,
            mode: Some(Autonomy::Approve),
            copy_storage: true,
            priority: -3,
            max_share: Some(0.5),
        },
        last_move: Some(LastMove {
            at: Time::from_unix_ms(1_700_000_000_123),
            from: host("h3"),
            moves: Some(3),
            cost_percent: Some(125),
            others: Some(true),
        }),
        handoff: Some(HandoffId(epoch.rotate_left(60))),
    }
}
