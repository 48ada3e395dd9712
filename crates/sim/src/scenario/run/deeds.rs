//! What befalls the cluster of a scenario, and how it ends.

use std::time::Duration;

use evenkeel_core::effect::Input;
use evenkeel_core::model::{Entry, HostId, HostState, MachineId, Resources, Rules};
use evenkeel_core::port::{Failure, FailureKind};
use evenkeel_hypervisor::memory::{Aftermath, Fault};
use rand::RngExt;

use super::{Item, Simulation};
use crate::network::Partition;
use crate::scenario::ScenarioError;
use crate::scenario::happening::{Deed, Kind, Wants};

/// How long a write takes to a slow store.
const SLOW_WRITE: Duration = Duration::from_secs(2);
/// By how much a clock jumps at most.
const JUMP_S: f64 = 600.0;

/// What ends something that lasts.
#[derive(Clone, Debug)]
pub(super) enum Undo {
    Start(HostId),
    PowerOn(HostId),
    Join(u64),
    StoreWorks(HostId),
    HypervisorUp(HostId),
    Calm,
    Migrates(MachineId),
    Reads(MachineId),
    State(HostId, HostState),
    Clock(HostId),
    Wants(MachineId, Resources),
    Rules(MachineId, Rules),
    Vcpus(MachineId, u32),
}

impl Undo {
    /// The host that something lasts at.
    const fn host(&self) -> Option<&HostId> {
        match self {
            Self::Start(host)
            | Self::PowerOn(host)
            | Self::StoreWorks(host)
            | Self::HypervisorUp(host) => Some(host),
            _ => None,
        }
    }
}

impl Simulation {
    /// Something goes wrong at random, where nothing else does already.
    pub(super) fn strike(&mut self, kind: Kind) -> Result<(), ScenarioError> {
        let troubled: Vec<_> = self.undos.values().filter_map(Undo::host).cloned().collect();
        let sound: Vec<HostId> =
            self.names.0.iter().filter(|host| !troubled.contains(host)).cloned().collect();
        // Half of the hosts stay sound: otherwise there is nobody to balance with.
        if sound.len() * 2 <= self.names.0.len() {
            return Ok(());
        }
        let host = sound[self.rng.random_range(0..sound.len())].clone();
        let deed = match kind {
            Kind::AgentCrash => Deed::Kill { host },
            Kind::PowerLoss => Deed::PowerOff { host, disk_lost: false },
            Kind::DiskLoss => Deed::PowerOff { host, disk_lost: true },
            Kind::Partition | Kind::OneWayPartition => {
                let share = self.rng.random_range(0.0..0.5);
                let mut hosts = self.names.0.clone();
                hosts.retain(|_| self.rng.random_bool(share));
                Deed::Partition { hosts, one_way: kind == Kind::OneWayPartition }
            }
            Kind::StoreFull => Deed::StoreFull { host },
            Kind::StoreSlow => Deed::StoreSlow { host, takes: SLOW_WRITE },
            Kind::StoreLost => Deed::StoreLost { host },
            Kind::HypervisorRestart => Deed::HypervisorDown { host },
            Kind::ClockJump => {
                Deed::Clock { host, ahead_s: self.rng.random_range(-JUMP_S..JUMP_S).round() }
            }
            Kind::MessageBurst => Deed::Messages { loss: 0.3, duplication: 0.2 },
            Kind::MigrationFailure => {
                let after = self.rng.random_range(0.0..1.0);
                Deed::FailNextMigration { host, after }
            }
        };
        let lasts = self.spread(self.scenario.faults.lasts).max(Duration::from_secs(1));
        self.befall(&deed, Some(lasts))
    }

    /// Lets something happen, and plans its end.
    pub(super) fn befall(
        &mut self,
        deed: &Deed,
        lasts: Option<Duration>,
    ) -> Result<(), ScenarioError> {
        *self.mishaps.entry(deed.name().to_owned()).or_default() += 1;
        let here = deed.machine().and_then(|m| self.cluster.cloud().locate(m));
        let here = here.map(|(host, _)| host).or_else(|| deed.hosts().into_iter().next()).cloned();
        if let Some(host) = here.or_else(|| self.names.0.first().cloned()) {
            self.cluster.note_mishap(&host, &format!("{deed:?}"));
        }
        // What somebody has changed stays as it is unless it is said to end.
        let before = lasts.and_then(|_| self.before(deed));
        if let Some(undo) = self.act(deed)?.or(before) {
            let key = self.deeds_done;
            self.undos.insert(key, undo);
            if let Some(lasts) = lasts {
                self.agenda.push(self.cluster.now() + lasts, Item::Undo(key));
            }
        }
        self.deeds_done += 1;
        Ok(())
    }

    /// How it was before something is changed that has a value.
    fn before(&self, deed: &Deed) -> Option<Undo> {
        let place = |machine| self.names.1.iter().position(|name| name == machine);
        Some(match deed {
            Deed::State { host, .. } => Undo::State(host.clone(), self.cluster.state_of(host)?),
            Deed::Clock { host, .. } => Undo::Clock(host.clone()),
            Deed::Load { machine, .. } => {
                Undo::Wants(machine.clone(), self.demand.base(place(machine)?).wants)
            }
            Deed::Rules { machine, .. } => {
                Undo::Rules(machine.clone(), self.cluster.entry_of(machine)?.rules)
            }
            Deed::Vcpus { machine, .. } => {
                Undo::Vcpus(machine.clone(), self.cluster.vcpus_of(machine)?)
            }
            _ => return None,
        })
    }

    fn act(&mut self, deed: &Deed) -> Result<Option<Undo>, ScenarioError> {
        let gone = deed.machine().is_some_and(|m| self.cluster.cloud().locate(m).is_none());
        if gone {
            return Ok(None);
        }
        let cluster = &mut self.cluster;
        Ok(match deed {
            Deed::Kill { host } => {
                cluster.kill(host);
                Some(Undo::Start(host.clone()))
            }
            Deed::PowerOff { host, disk_lost } => {
                cluster.power_off(host)?;
                if *disk_lost {
                    cluster.lose_disk(host)?;
                }
                Some(Undo::PowerOn(host.clone()))
            }
            Deed::Partition { hosts, one_way } => {
                let inside = hosts.iter().cloned().collect();
                let partition = Partition { inside, heard_outside: *one_way };
                cluster.network.partitions.insert(self.deeds_done, partition);
                Some(Undo::Join(self.deeds_done))
            }
            Deed::StoreFull { host } => {
                cluster.set_store_fails(host, true);
                Some(Undo::StoreWorks(host.clone()))
            }
            Deed::StoreSlow { host, takes } => {
                cluster.set_store_takes(host, *takes);
                Some(Undo::StoreWorks(host.clone()))
            }
            Deed::StoreLost { host } => {
                cluster.kill(host);
                cluster.lose_store(host);
                Some(Undo::Start(host.clone()))
            }
            Deed::HypervisorDown { host } => {
                cluster.cloud_mut().disconnect(host)?;
                Some(Undo::HypervisorUp(host.clone()))
            }
            Deed::Clock { host, ahead_s } => {
                cluster.kill(host);
                cluster.set_wall_clock(host, (ahead_s * 1e3) as i64);
                self.undo(Undo::Start(host.clone()))?;
                None
            }
            Deed::Messages { loss, duplication } => {
                cluster.network.loss = loss.clamp(0.0, 1.0);
                cluster.network.duplication = duplication.clamp(0.0, 1.0);
                Some(Undo::Calm)
            }
            Deed::FailNextMigration { host, after } => {
                cluster.cloud_mut().fail_next_migration(host, fault(*after))?;
                None
            }
            Deed::State { host, state } => {
                cluster.input(host, Input::SetState(*state));
                None
            }
            _ => return self.act_on_machine(deed),
        })
    }

    fn act_on_machine(&mut self, deed: &Deed) -> Result<Option<Undo>, ScenarioError> {
        let index = |machine| self.names.1.iter().position(|name| name == machine);
        let cluster = &mut self.cluster;
        match deed {
            Deed::Load { machine, wants } => {
                let Some(index) = index(machine) else { return Ok(None) };
                let wants = wants.or(self.demand.base(index).wants);
                self.demand.set(index, wants);
                cluster.cloud_mut().set_workload(machine, self.demand.base(index))?;
            }
            Deed::Rules { machine, rules } => {
                let entry = cluster.entry_of(machine).unwrap_or_default();
                let entry = Entry { rules: rules.clone().into(), ..entry };
                cluster.cloud_mut().edit_entry(machine, Ok(entry))?;
            }
            Deed::Stop { machine } => cluster.stop(machine)?,
            Deed::FailMigrations { machine, after } => {
                cluster.cloud_mut().fail_migrations_of(machine, Some(fault(*after)))?;
                return Ok(Some(Undo::Migrates(machine.clone())));
            }
            Deed::Misread { machine, factors } => {
                cluster.cloud_mut().misread(machine, Some((*factors).into()))?;
                return Ok(Some(Undo::Reads(machine.clone())));
            }
            Deed::Vcpus { machine, vcpus } => {
                cluster.cloud_mut().edit_facts(machine, |facts| facts.vcpus = *vcpus)?;
            }
            Deed::Move { machine, to } if cluster.has_room(to, machine) => {
                let there = cluster.cloud().locate(machine).is_some_and(|(host, _)| host == to);
                cluster.cloud_mut().relocate(machine, to)?;
                self.outside_moves += u64::from(!there);
            }
            _ => {}
        }
        Ok(None)
    }

    pub(super) fn undo(&mut self, undo: Undo) -> Result<(), ScenarioError> {
        let cluster = &mut self.cluster;
        if let Some(host) = undo.host() {
            cluster.note_mishap(host, &format!("{undo:?}"));
        }
        match undo {
            Undo::Start(host) => {
                if cluster.cloud().has_power(&host) {
                    cluster.restart(&host);
                }
            }
            Undo::PowerOn(host) => cluster.power_on(&host)?,
            Undo::Join(key) => {
                cluster.network.partitions.remove(&key);
            }
            Undo::StoreWorks(host) => {
                cluster.set_store_fails(&host, false);
                cluster.set_store_takes(&host, Duration::ZERO);
            }
            Undo::HypervisorUp(host) => {
                if cluster.cloud().has_power(&host) {
                    cluster.cloud_mut().reconnect(&host)?;
                }
            }
            Undo::Calm => {
                cluster.network.loss = self.scenario.network.loss;
                cluster.network.duplication = self.scenario.network.duplication;
            }
            Undo::Migrates(machine) => {
                if cluster.cloud().locate(&machine).is_some() {
                    cluster.cloud_mut().fail_migrations_of(&machine, None)?;
                }
            }
            Undo::Reads(machine) => {
                if cluster.cloud().locate(&machine).is_some() {
                    cluster.cloud_mut().misread(&machine, None)?;
                }
            }
            Undo::State(host, state) => cluster.input(&host, Input::SetState(state)),
            Undo::Clock(host) => {
                cluster.kill(&host);
                cluster.set_wall_clock(&host, 0);
                self.undo(Undo::Start(host))?;
            }
            Undo::Wants(machine, wants) => {
                let amounts = Wants {
                    cpu_cores: Some(wants.cpu_cores),
                    memory_bytes: Some(wants.memory_bytes),
                    io_bytes_per_s: Some(wants.io_bytes_per_s),
                };
                self.act(&Deed::Load { machine, wants: amounts })?;
            }
            Undo::Rules(machine, rules) => {
                if let Some(entry) = cluster.entry_of(&machine) {
                    cluster.cloud_mut().edit_entry(&machine, Ok(Entry { rules, ..entry }))?;
                }
            }
            Undo::Vcpus(machine, vcpus) => _ = self.act(&Deed::Vcpus { machine, vcpus })?,
        }
        Ok(())
    }
}

fn fault(after: f64) -> Fault {
    let failure = Failure::new(FailureKind::Other, "the migration was made to fail");
    Fault { failure, after: after.clamp(0.0, 1.0), leaves: Aftermath::Here }
}
