//! The process that owns a lab: starts its daemons, reaps what they leave, takes everything down.
//!
//! One thread owns the state and does all the work; the others only wait for something, and turn
//! it into an [`Event`]:
//!
//! ```text
//!   reaper ─ a process ended ──┐
//!   ready ─ a daemon is up ────┤
//!   control ─ a request ───────┼──▶ Supervisor::run ──▶ lab.json
//!   signals ─ SIGTERM, SIGINT ─┤
//!   tether ─ owner has gone ───┘
//! ```

mod children;
pub(crate) mod control;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use self::children::Children;
use self::control::{Reply, Request};
use crate::capacity::Capacity;
use crate::error::{Attempt, LabError};
use crate::layout::HostLayout;
use crate::process::{ProcessRef, end_all, qemus_within};
use crate::state::{Phase, State, number_of};
use crate::{agents, libvirtd};

/// A daemon that is not ready by then never will be.
const READY_LIMIT: Duration = Duration::from_secs(40);
/// Time for an agent to finish or hand back what it is doing.
pub(crate) const AGENT_STOP_LIMIT: Duration = Duration::from_secs(15);
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(5);
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How often to look whether a control group has become empty.
const REAP_INTERVAL: Duration = Duration::from_millis(20);
/// How long a new guest may go without a quota.
const CONTAIN_INTERVAL: Duration = Duration::from_millis(100);
/// More than the threads that send; they wait for the work to catch up.
const EVENTS_MAX: usize = 256;

enum Event {
    /// A child, or an orphan that became one, has ended.
    Ended(i32),
    /// A daemon says that it is ready.
    Ready(Daemon),
    /// Somebody wants something.
    Asked(Request, SyncSender<Reply>),
    /// It is time to go.
    Terminate,
}

/// A daemon of a host, by the host's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Daemon {
    Libvirt(usize),
    Agent(usize),
}

impl Daemon {
    fn host_index(self) -> usize {
        let (Self::Libvirt(index) | Self::Agent(index)) = self;
        index
    }

    fn name(self) -> &'static str {
        match self {
            Self::Libvirt(_) => "libvirtd",
            Self::Agent(_) => "agent",
        }
    }

    fn log(self, layout: &HostLayout) -> std::path::PathBuf {
        match self {
            Self::Libvirt(_) => layout.libvirtd_log(),
            Self::Agent(_) => layout.agent_log(),
        }
    }
}

/// What the supervisor tells the process that started it, a line of JSON each, on its output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Notice {
    /// This host's libvirt is ready.
    HostReady {
        /// Its name.
        host: String,
        /// Whether its capacity is enforced, and if not why.
        capacity: Capacity,
    },
    /// All hosts are ready.
    Ready,
    /// The lab could not be brought up; what had started has ended.
    Failed(String),
}

/// Runs the lab in this directory, which [`crate::Lab::up`] has prepared, until it is told to end.
/// Takes the whole process for itself: call it first thing in a program of its own.
///
/// # Errors
/// [`LabError`] if the lab could not be brought up; then nothing of it is left.
pub fn supervise(dir: &Path) -> Result<(), LabError> {
    // Out of the terminal's reach: an interrupt there is for whoever shows the lab. Fails only for
    // a process that leads a group already.
    let _ = rustix::process::setsid();
    let (events, inbox) = sync_channel(EVENTS_MAX);
    let mut state = State::read(dir)?;
    state.supervisor = ProcessRef::of(std::process::id().cast_signed());
    state.write()?;
    let on_exit = events.clone();
    let children = Children::adopt(move |pid| drop(on_exit.send(Event::Ended(pid))))
        .attempt(|| "become the subreaper of the lab".to_owned())?;
    listen_for_signals(events.clone()).attempt(|| "listen for signals".to_owned())?;
    if state.tied {
        watch_tether(events.clone()).attempt(|| "watch the lab's owner".to_owned())?;
    }
    control::listen(&state.layout().control_socket(), events.clone())
        .attempt(|| "open the lab's control socket".to_owned())?;
    let mut supervisor = Supervisor { state, children, events, inbox, ready: BTreeSet::new() };
    match supervisor.start() {
        Ok(()) => {
            tell(&Notice::Ready);
            supervisor.run();
            supervisor.take_down()
        }
        Err(error) => {
            // What the daemons said is lost with the directory, so the error carries it.
            let taken_down = supervisor.take_down();
            tell(&Notice::Failed(error.to_string()));
            taken_down.and(Err(error))
        }
    }
}

/// Whoever brought the lab up may be gone by now, and it comes up all the same.
fn tell(notice: &Notice) {
    if let Ok(mut line) = serde_json::to_vec(notice) {
        line.push(b'\n');
        let mut out = io::stdout().lock();
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}

fn listen_for_signals(events: SyncSender<Event>) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        let _ = events.send(Event::Terminate);
    })?;
    Ok(())
}

/// The owner holds the other end of our input, and the system closes it however the owner ends.
fn watch_tether(events: SyncSender<Event>) -> io::Result<()> {
    thread::Builder::new().name("tether".to_owned()).spawn(move || {
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        let _ = events.send(Event::Terminate);
    })?;
    Ok(())
}

struct Supervisor {
    state: State,
    children: Children,
    events: SyncSender<Event>,
    inbox: Receiver<Event>,
    /// Daemons that have said so since they were started last.
    ready: BTreeSet<Daemon>,
}

impl Supervisor {
    fn start(&mut self) -> Result<(), LabError> {
        let hosts = 0..self.state.hosts.len();
        for index in hosts.clone() {
            self.start_libvirtd(index)?;
        }
        for index in hosts {
            self.await_ready(Daemon::Libvirt(index))?;
            let host = &self.state.hosts[index];
            if let Some(capacity) = host.capacity.clone() {
                tell(&Notice::HostReady { host: host.id.clone(), capacity });
            }
        }
        self.state.phase = Phase::Up;
        self.state.write()
    }

    fn run(&mut self) {
        while let Some(event) = self.next_event() {
            match event {
                Event::Asked(request, answer) => {
                    let reply = self.serve(&request).map_err(|error| error.to_string());
                    let _ = answer.send(reply);
                }
                Event::Ended(pid) => self.note_end(pid),
                Event::Ready(daemon) => drop(self.ready.insert(daemon)),
                Event::Terminate => return,
            }
        }
    }

    /// Looks after new guests meanwhile: nothing tells of a process that joins a control group.
    fn next_event(&self) -> Option<Event> {
        loop {
            match self.inbox.recv_timeout(CONTAIN_INTERVAL) {
                Ok(event) => return Some(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            for capacity in self.state.hosts.iter().filter_map(|host| host.capacity.as_ref()) {
                capacity.contain_guests();
            }
        }
    }

    fn serve(&mut self, request: &Request) -> Result<(), LabError> {
        match request {
            Request::KillHost(id) => self.kill_host(self.state.host_index(id)?),
            Request::StartHost(id) => {
                let index = self.state.host_index(id)?;
                if self.state.hosts[index].is_alive() {
                    return Ok(());
                }
                self.start_libvirtd(index)?;
                self.await_ready(Daemon::Libvirt(index))
            }
            Request::StartAgents => {
                let idle: Vec<usize> = (0..self.state.hosts.len())
                    .filter(|index| {
                        let host = &self.state.hosts[*index];
                        host.is_alive() && !host.agent_is_alive()
                    })
                    .collect();
                idle.iter().try_for_each(|index| self.start_agent(*index))?;
                idle.iter().try_for_each(|index| self.await_ready(Daemon::Agent(*index)))
            }
            Request::StartAgent(id) => {
                let index = self.state.host_index(id)?;
                self.start_agent(index)?;
                self.await_ready(Daemon::Agent(index))
            }
            Request::StopAgent(id) => {
                let agent = self.state.hosts[self.state.host_index(id)?].agent;
                self.require_gone(&end_all(agent.as_slice(), AGENT_STOP_LIMIT))
            }
            Request::KillAgent(id) => {
                let agent = self.state.hosts[self.state.host_index(id)?].agent;
                self.kill(agent.as_slice())
            }
        }
    }

    fn start_libvirtd(&mut self, index: usize) -> Result<(), LabError> {
        libvirtd::configure(&self.state, index)?;
        let command = libvirtd::command(&self.state, index);
        let process = self.start_daemon(Daemon::Libvirt(index), command)?;
        self.state.hosts[index].libvirtd = Some(process);
        let lab = format!("{:016x}", number_of(&self.state.spec.dir));
        let spec = &self.state.spec.hosts[index];
        let mut capacity = Capacity::establish(&lab, &spec.id, spec.cpu_cores);
        if let Err(error) = capacity.admit(process.pid) {
            capacity.release();
            capacity =
                Capacity::Declared { reason: format!("cannot use the control group: {error}") };
        }
        self.state.hosts[index].capacity = Some(capacity);
        self.state.write()
    }

    fn start_agent(&mut self, index: usize) -> Result<(), LabError> {
        let Some(spec) = self.state.spec.agents.clone() else {
            return Err(LabError::Specification(
                "the lab was brought up without agents".to_owned(),
            ));
        };
        let layout = self.host_layout(index);
        let config = agents::config(&self.state, &spec, index);
        self.state.user.write(&layout.agent_config(), config)?;
        let mut command = self.state.command_on(&self.state.hosts[index].id, &spec.program);
        command.args(agents::arguments(&self.state, index));
        let process = self.start_daemon(Daemon::Agent(index), command)?;
        self.state.hosts[index].agent = Some(process);
        self.state.write()
    }

    /// Starts a daemon that will say when it is ready, as services of systemd do.
    fn start_daemon(
        &mut self,
        daemon: Daemon,
        mut command: Command,
    ) -> Result<ProcessRef, LabError> {
        let layout = self.host_layout(daemon.host_index());
        let action = || format!("start `{}` in `{}`", daemon.name(), layout.dir.display());
        let socket_path = layout.notify_socket(daemon.name());
        // There is one if the daemon was started before.
        let _ = fs::remove_file(&socket_path);
        let socket = UnixDatagram::bind(&socket_path).attempt(action)?;
        socket.set_read_timeout(Some(READY_LIMIT)).attempt(action)?;
        self.state.user.own(&socket_path)?;
        self.ready.remove(&daemon);
        let log = daemon.log(&layout);
        let out = fs::OpenOptions::new().create(true).append(true).open(&log).attempt(action)?;
        self.state.user.own(&log)?;
        command
            .env_clear()
            .envs(layout.environment())
            .env("NOTIFY_SOCKET", &socket_path)
            .current_dir(&layout.dir)
            .stdin(Stdio::null())
            .stdout(out.try_clone().attempt(action)?)
            .stderr(out);
        let process = self.children.start(&mut command).attempt(action)?;
        let events = self.events.clone();
        thread::spawn(move || forward_readiness(&socket, daemon, &events));
        Ok(process)
    }

    /// Waits until a daemon is ready. Requests that come in meanwhile are refused.
    fn await_ready(&mut self, daemon: Daemon) -> Result<(), LabError> {
        let deadline = Instant::now() + READY_LIMIT;
        while !self.ready.contains(&daemon) {
            let host = &self.state.hosts[daemon.host_index()];
            let process = match daemon {
                Daemon::Libvirt(_) => host.libvirtd,
                Daemon::Agent(_) => host.agent,
            };
            if !process.is_some_and(ProcessRef::is_alive) {
                return Err(self.failure(daemon, "ended at once"));
            }
            match self.inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Ready(other)) => drop(self.ready.insert(other)),
                Ok(Event::Ended(pid)) => self.note_end(pid),
                Ok(Event::Asked(_, answer)) => {
                    let _ = answer.send(Err("the lab is busy starting a host".to_owned()));
                }
                Ok(Event::Terminate) | Err(RecvTimeoutError::Disconnected) => {
                    // Taken note of again once this has unwound.
                    let _ = self.events.try_send(Event::Terminate);
                    return Err(self.failure(daemon, "was given up, because the lab is to end"));
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.failure(daemon, "was not ready in time"));
                }
            }
        }
        Ok(())
    }

    fn failure(&self, daemon: Daemon, what: &str) -> LabError {
        const TAIL_CHARS: usize = 600;
        let index = daemon.host_index();
        let log = fs::read(daemon.log(&self.host_layout(index))).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let skip = log.chars().count().saturating_sub(TAIL_CHARS);
        let tail: String = log.chars().skip(skip).collect();
        LabError::Supervisor(format!(
            "`{}` of host `{}` {what}; its log ends: {}",
            daemon.name(),
            self.state.hosts[index].id,
            tail.trim()
        ))
    }

    fn note_end(&mut self, pid: i32) {
        let ended =
            |process: &Option<ProcessRef>| process.is_some_and(|process| process.pid == pid);
        let mut changed = false;
        for host in &mut self.state.hosts {
            for process in [&mut host.libvirtd, &mut host.agent] {
                if ended(process) {
                    *process = None;
                    changed = true;
                }
            }
        }
        if changed && let Err(error) = self.state.write() {
            // The next change writes everything again.
            eprintln!("{error}");
        }
    }

    /// As if the host had lost its power: nothing of it gets to say goodbye.
    fn kill_host(&mut self, index: usize) -> Result<(), LabError> {
        let host = &self.state.hosts[index];
        let daemons: Vec<ProcessRef> = host.agent.into_iter().chain(host.libvirtd).collect();
        // First those that could start more.
        self.kill(&daemons)?;
        self.kill(&qemus_within(&self.host_layout(index).dir))
    }

    fn kill(&self, processes: &[ProcessRef]) -> Result<(), LabError> {
        for process in processes {
            process.signal(Signal::KILL);
        }
        let left: Vec<ProcessRef> =
            processes.iter().copied().filter(|process| !process.wait_gone(KILL_LIMIT)).collect();
        self.require_gone(&left)
    }

    fn require_gone(&self, left: &[ProcessRef]) -> Result<(), LabError> {
        if left.is_empty() {
            return Ok(());
        }
        let what = format!(
            "the end of process {:?}",
            left.iter().map(|process| process.pid).collect::<Vec<_>>()
        );
        Err(LabError::timed_out(what, KILL_LIMIT))
    }

    fn take_down(&mut self) -> Result<(), LabError> {
        self.state.phase = Phase::Stopping;
        self.state.write()?;
        clean_up(&self.state)
    }

    fn host_layout(&self, index: usize) -> HostLayout {
        self.state.layout().host(&self.state.hosts[index].id)
    }
}

fn forward_readiness(socket: &UnixDatagram, daemon: Daemon, events: &SyncSender<Event>) {
    let mut message = [0; 1024];
    while let Ok(length) = socket.recv(&mut message) {
        if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            let _ = events.send(Event::Ready(daemon));
            return;
        }
    }
}

/// Ends every process of a lab, agents first and guests before their libvirt, and removes its
/// control groups and its directory. Also cleans up after a supervisor that was killed.
pub(crate) fn clean_up(state: &State) -> Result<(), LabError> {
    let agents: Vec<_> = state.hosts.iter().filter_map(|host| host.agent).collect();
    let daemons: Vec<_> = state.hosts.iter().filter_map(|host| host.libvirtd).collect();
    let mut left = end_all(&agents, AGENT_STOP_LIMIT);
    left.extend(end_all(&qemus_within(&state.spec.dir), STOP_LIMIT));
    left.extend(end_all(&daemons, STOP_LIMIT));
    // What a daemon started in its last moment.
    left.extend(end_all(&qemus_within(&state.spec.dir), STOP_LIMIT));
    let capacities: Vec<_> = state.hosts.iter().filter_map(|host| host.capacity.as_ref()).collect();
    let deadline = Instant::now() + STOP_LIMIT;
    // A process counts until its parent has reaped it, who may be the first one of the machine.
    while !capacities.iter().all(|capacity| capacity.release()) && Instant::now() < deadline {
        thread::sleep(REAP_INTERVAL);
    }
    if !left.is_empty() {
        let pids: Vec<_> = left.iter().map(|process| process.pid).collect();
        return Err(LabError::timed_out(
            format!("the end of processes {pids:?} of the lab"),
            STOP_LIMIT,
        ));
    }
    fs::remove_dir_all(&state.spec.dir).attempt(|| format!("remove `{}`", state.spec.dir.display()))
}
