//! Bringing a lab up, looking at it, changing it, taking it down.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::capacity::Capacity;
use crate::console::{Console, Report};
use crate::domain;
use crate::error::{Attempt, LabError};
use crate::layout::Layout;
use crate::machine::Acceleration;
use crate::spec::{Dirty, GuestSpec, LabSpec};
use crate::state::{Phase, State};
use crate::supervisor::{clean_up, control};
use crate::terminal;
use crate::up::{launch, prepare, within_reach};
use crate::view::View;

/// Longer than all that the supervisor does to end a lab.
const DOWN_LIMIT: Duration = Duration::from_secs(60);
const GUEST_ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The program that is to be a lab's supervisor: it calls [`crate::supervise`] with the directory
/// that is its last argument.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// Its arguments before the directory.
    pub arguments: Vec<String>,
    /// Whether the lab is to end with the [`Lab`] that brought it up, as tests want it, or to go on
    /// until it is taken down.
    pub tied: bool,
}

/// What happens while a lab comes up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// How guests will run here.
    Machine(Acceleration),
    /// This host's libvirt is ready.
    HostReady {
        /// Its name.
        host: String,
        /// Whether its capacity is enforced.
        capacity: Capacity,
    },
    /// This guest is running.
    GuestStarted {
        /// Its name.
        guest: String,
        /// Where it runs.
        host: String,
    },
    /// The agents are ready.
    AgentsReady,
}

/// A lab as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// What it is doing.
    pub phase: Phase,
    /// How its guests run.
    pub acceleration: Acceleration,
    /// Its hosts, in the order of the specification.
    pub hosts: Vec<HostStatus>,
}

/// A host as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct HostStatus {
    /// Its name.
    pub id: String,
    /// Whether its libvirt runs.
    pub alive: bool,
    /// Whether its agent runs.
    pub agent_alive: bool,
    /// Declared CPU capacity in cores.
    pub cpu_cores: f64,
    /// Whether that is enforced; none before the host came up.
    pub capacity: Option<Capacity>,
    /// The guests that run on it.
    pub guests: Vec<String>,
}

/// A lab: several libvirt hosts on this machine.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    /// Its closing tells the supervisor of a tied lab to take everything down.
    tether: Option<ChildStdin>,
}

impl Lab {
    /// Brings up a lab: hosts, then guests, then agents. If that fails, nothing of it is left.
    ///
    /// # Errors
    /// [`LabError::NoHypervisor`] if this machine cannot run guests, [`LabError::Specification`],
    /// [`LabError::AlreadyThere`], or what went wrong on the way.
    pub fn up(
        spec: &LabSpec,
        launcher: &Launcher,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, LabError> {
        spec.check()?;
        let state = prepare(spec, launcher.tied)?;
        progress(Progress::Machine(state.machine.acceleration));
        let lab = match launch(&state, launcher, progress) {
            Ok(tether) => Self { dir: spec.dir.clone(), tether },
            Err(error) => {
                // Nothing, if the supervisor has done it already.
                let _ = fs::remove_dir_all(&spec.dir);
                return Err(error);
            }
        };
        match lab.populate(spec, progress) {
            Ok(()) => Ok(lab),
            Err(error) => {
                lab.down()?;
                Err(error)
            }
        }
    }

    fn populate(&self, spec: &LabSpec, progress: &mut dyn FnMut(Progress)) -> Result<(), LabError> {
        /// A few at a time, so that one waits for its QEMU while another one's is set up.
        const GUESTS_AT_A_TIME: usize = 4;
        let state = self.live_state()?;
        all_at_once(&state.hosts, |host| state.virsh(&host.id).warm_up())?;
        for guests in spec.guests.chunks(GUESTS_AT_A_TIME) {
            all_at_once(guests, |guest| self.add_guest(guest))?;
            for guest in guests {
                let (guest, host) = (guest.name.clone(), guest.host.clone());
                progress(Progress::GuestStarted { guest, host });
            }
        }
        if spec.agents.is_some() {
            self.start_agents()?;
            progress(Progress::AgentsReady);
        }
        Ok(())
    }

    /// The lab in this directory, whether or not its supervisor still runs.
    ///
    /// # Errors
    /// [`LabError::NotThere`], or [`LabError::System`] if its state cannot be read.
    pub fn open(dir: &Path) -> Result<Self, LabError> {
        State::read(dir)?;
        Ok(Self { dir: dir.to_owned(), tether: None })
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn state(&self) -> Result<State, LabError> {
        State::read(&self.dir)
    }

    /// The state of a lab that has a supervisor to look after it.
    fn live_state(&self) -> Result<State, LabError> {
        let state = self.state()?;
        if phase(&state) == Phase::Stale {
            Err(LabError::Stale(self.dir.clone()))
        } else {
            Ok(state)
        }
    }

    /// What runs where.
    ///
    /// # Errors
    /// [`LabError::System`] if its state cannot be read, [`LabError::Command`] if a host that is
    /// alive does not answer.
    pub fn status(&self) -> Result<Status, LabError> {
        let state = self.state()?;
        let hosts = state
            .hosts_with_specs()
            .map(|(spec, host)| {
                let guests =
                    if host.is_alive() { state.virsh(&host.id).running()? } else { Vec::new() };
                Ok(HostStatus {
                    id: host.id.clone(),
                    alive: host.is_alive(),
                    agent_alive: host.agent_is_alive(),
                    cpu_cores: spec.cpu_cores,
                    capacity: host.capacity.clone(),
                    guests,
                })
            })
            .collect::<Result<_, LabError>>()?;
        Ok(Status { phase: phase(&state), acceleration: state.machine.acceleration, hosts })
    }

    /// Ends everything of the lab and removes its directory. Cleans up after a lab whose supervisor
    /// is gone as well.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] with what still runs; the directory then stays, so that this can be
    /// tried again.
    pub fn down(self) -> Result<(), LabError> {
        let state = self.state()?;
        let Some(supervisor) = state.supervisor.filter(|supervisor| supervisor.is_alive()) else {
            return clean_up(&state);
        };
        supervisor.signal(Signal::TERM);
        if !supervisor.wait_gone(DOWN_LIMIT) {
            return Err(LabError::timed_out("the end of the lab's supervisor", DOWN_LIMIT));
        }
        match State::read(&self.dir) {
            Err(LabError::NotThere(_)) => Ok(()),
            // It went before it was done.
            Ok(left) => clean_up(&left),
            Err(error) => Err(error),
        }
    }

    /// The connection URI of a host's libvirt.
    ///
    /// # Errors
    /// [`LabError::UnknownHost`].
    pub fn uri(&self, host: &str) -> Result<String, LabError> {
        let state = self.state()?;
        state.host_index(host)?;
        Ok(state.layout().host(host).uri())
    }

    /// Where every host sees the sockets of its own migrations; nothing if this system gives hosts no
    /// view of their own, so that agents cannot carry machines between them.
    ///
    /// # Errors
    /// [`LabError::System`] if its state cannot be read.
    pub fn handoffs(&self) -> Result<Option<PathBuf>, LabError> {
        let state = self.state()?;
        Ok((state.view != View::Shared).then(|| state.layout().handoffs()))
    }

    /// A command that runs as an agent of this host would: as the lab's user, with the host's
    /// directories, and with what the host sees.
    ///
    /// # Errors
    /// [`LabError::UnknownHost`]; [`LabError::System`] if its state cannot be read.
    pub fn command_on(&self, host: &str, program: &Path) -> Result<Command, LabError> {
        let state = self.state()?;
        state.host_index(host)?;
        let mut command = state.command_on(host, program);
        command.envs(state.layout().host(host).environment());
        Ok(command)
    }

    /// A program that the lab's user can execute: this one, or a copy in the lab's directory.
    ///
    /// # Errors
    /// [`LabError::System`] if it cannot be copied.
    pub fn within_reach(&self, program: &Path) -> Result<PathBuf, LabError> {
        let state = self.state()?;
        within_reach(&state.user, program, state.layout().program_copy())
    }

    /// The socket of the local API of a host's agent.
    #[must_use]
    pub fn agent_socket(&self, host: &str) -> PathBuf {
        Layout::new(&self.dir).host(host).agent_socket()
    }

    /// The path of the log of a host's agent.
    #[must_use]
    pub fn agent_log(&self, host: &str) -> PathBuf {
        Layout::new(&self.dir).host(host).agent_log()
    }

    /// The path of the configuration of a host's agent.
    #[must_use]
    pub fn agent_config(&self, host: &str) -> PathBuf {
        Layout::new(&self.dir).host(host).agent_config()
    }

    /// Kills everything of a host at once: agent, libvirt, guests.
    ///
    /// # Errors
    /// [`LabError::UnknownHost`], [`LabError::Stale`], [`LabError::Supervisor`].
    pub fn kill_host(&self, host: &str) -> Result<(), LabError> {
        self.ask_about(host, control::Request::KillHost)
    }

    /// Starts the libvirt of a host that was killed. Its agent is started by
    /// [`start_agent`](Self::start_agent).
    ///
    /// # Errors
    /// As [`kill_host`](Self::kill_host).
    pub fn start_host(&self, host: &str) -> Result<(), LabError> {
        self.ask_about(host, control::Request::StartHost)
    }

    /// Starts the agents of all hosts that are alive and have none.
    ///
    /// # Errors
    /// As [`kill_host`](Self::kill_host).
    pub fn start_agents(&self) -> Result<(), LabError> {
        self.ask(&control::Request::StartAgents)
    }

    /// Starts the agent of a host.
    ///
    /// # Errors
    /// As [`kill_host`](Self::kill_host).
    pub fn start_agent(&self, host: &str) -> Result<(), LabError> {
        self.ask_about(host, control::Request::StartAgent)
    }

    /// Asks the agent of a host to stop, and waits until it has.
    ///
    /// # Errors
    /// As [`kill_host`](Self::kill_host).
    pub fn stop_agent(&self, host: &str) -> Result<(), LabError> {
        self.ask_about(host, control::Request::StopAgent)
    }

    /// Kills the agent of a host.
    ///
    /// # Errors
    /// As [`kill_host`](Self::kill_host).
    pub fn kill_agent(&self, host: &str) -> Result<(), LabError> {
        self.ask_about(host, control::Request::KillAgent)
    }

    fn ask_about(
        &self,
        host: &str,
        request: fn(String) -> control::Request,
    ) -> Result<(), LabError> {
        self.state()?.host_index(host)?;
        self.ask(&request(host.to_owned()))
    }

    fn ask(&self, request: &control::Request) -> Result<(), LabError> {
        self.live_state()?;
        control::ask(&Layout::new(&self.dir).control_socket(), request)
    }

    /// Defines a guest, if it is to be persistent, and starts it.
    ///
    /// # Errors
    /// [`LabError::Specification`], [`LabError::UnknownHost`], or [`LabError::Command`], which may
    /// leave it defined but not running.
    pub fn add_guest(&self, guest: &GuestSpec) -> Result<(), LabError> {
        guest.check()?;
        let state = self.live_state()?;
        state.host_index(&guest.host)?;
        let layout = state.layout();
        let definition = layout.host(&guest.host).dir.join(format!("{}.xml", guest.name));
        state.user.write(&definition, domain::xml(guest, &state.machine, &layout))?;
        let virsh = state.virsh(&guest.host);
        if !guest.persistent {
            return virsh.create(&definition);
        }
        virsh.define(&definition)?;
        virsh.start(&guest.name)
    }

    /// Ends a guest and forgets its definition.
    ///
    /// # Errors
    /// [`LabError::UnknownGuest`], [`LabError::Command`].
    pub fn remove_guest(&self, guest: &str) -> Result<(), LabError> {
        let state = self.state()?;
        let host = locate(&state, guest)?;
        let virsh = state.virsh(&host);
        let persistent = virsh.is_persistent(guest)?;
        if virsh.running()?.iter().any(|name| name == guest) {
            virsh.destroy(guest)?;
        }
        if persistent { virsh.undefine(guest) } else { Ok(()) }
    }

    /// The host that has the guest, running or not.
    ///
    /// # Errors
    /// [`LabError::UnknownGuest`], [`LabError::Command`].
    pub fn host_of(&self, guest: &str) -> Result<String, LabError> {
        locate(&self.state()?, guest)
    }

    /// Migrates a guest live, as an operator would by hand, its definition included.
    ///
    /// # Errors
    /// [`LabError::UnknownGuest`], [`LabError::UnknownHost`]; [`LabError::Command`], after which
    /// the guest runs where it was.
    pub fn migrate(&self, guest: &str, to: &str) -> Result<(), LabError> {
        let state = self.state()?;
        state.host_index(to)?;
        let from = locate(&state, guest)?;
        state.virsh(&from).migrate(guest, &state.layout().host(to).uri())
    }

    /// Has a guest burn this share of a CPU from now on, in permille.
    ///
    /// # Errors
    /// [`LabError::UnknownGuest`]; [`LabError::System`] or [`LabError::TimedOut`] if it did not
    /// answer, for instance because it was migrating; it may still obey.
    pub fn set_burn(&self, guest: &str, permille: u32) -> Result<Report, LabError> {
        let command = domain::burn_command(permille);
        self.command(guest, &command, |report| report.burn_permille == permille)
    }

    /// Has a guest dirty memory in this way from now on.
    ///
    /// # Errors
    /// As [`set_burn`](Self::set_burn); also if it has not so much memory.
    pub fn set_dirty(&self, guest: &str, dirty: Dirty) -> Result<Report, LabError> {
        let command = domain::dirty_command(dirty);
        self.command(guest, &command, |report| report.dirty == dirty)
    }

    fn command(
        &self,
        guest: &str,
        command: &str,
        is_obeyed: impl Fn(&Report) -> bool,
    ) -> Result<Report, LabError> {
        let state = self.state()?;
        let host = locate(&state, guest)?;
        let terminal = state.virsh(&host).terminal(guest)?;
        terminal::command(&terminal, command, GUEST_ANSWER_LIMIT, is_obeyed)
    }

    /// All that a guest has said, wherever it ran.
    ///
    /// # Errors
    /// [`LabError::System`] if it has no console.
    pub fn console(&self, guest: &str) -> Result<Console, LabError> {
        let path = Layout::new(&self.dir).console(guest);
        let stream =
            fs::read(&path).attempt(|| format!("read the console `{}`", path.display()))?;
        Ok(Console::parse(&stream))
    }

    /// Waits until a guest has written another report than those that are there now, and returns
    /// the console then.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] if it stayed silent; [`LabError::System`] if it has no console.
    pub fn await_report(&self, guest: &str, limit: Duration) -> Result<Console, LabError> {
        /// Files give no notice that works on every file system.
        const LOOK_AGAIN: Duration = Duration::from_millis(20);
        let before = self.console(guest)?.reports.len();
        let deadline = Instant::now() + limit;
        loop {
            let console = self.console(guest)?;
            if console.reports.len() > before {
                return Ok(console);
            }
            if Instant::now() >= deadline {
                return Err(LabError::timed_out(
                    format!("another report of guest `{guest}`"),
                    limit,
                ));
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Spelled out, because it is what ends a tied lab.
        drop(self.tether.take());
    }
}

/// Does something for each of a few items, side by side. Returns the first failure.
fn all_at_once<T: Sync>(
    items: &[T],
    action: impl Fn(&T) -> Result<(), LabError> + Sync,
) -> Result<(), LabError> {
    thread::scope(|scope| {
        let action = &action;
        let running: Vec<_> = items.iter().map(|item| scope.spawn(move || action(item))).collect();
        let joined = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.collect::<Vec<_>>().into_iter().collect()
    })
}

pub(crate) fn phase(state: &State) -> Phase {
    match state.supervisor {
        Some(supervisor) if supervisor.is_alive() => state.phase,
        _ => Phase::Stale,
    }
}

fn locate(state: &State, guest: &str) -> Result<String, LabError> {
    let mut defined_only = None;
    for host in state.hosts.iter().filter(|host| host.is_alive()) {
        let virsh = state.virsh(&host.id);
        if virsh.running()?.iter().any(|name| name == guest) {
            return Ok(host.id.clone());
        }
        if virsh.all()?.iter().any(|name| name == guest) {
            defined_only = Some(host.id.clone());
        }
    }
    defined_only.ok_or_else(|| LabError::UnknownGuest(guest.to_owned()))
}
