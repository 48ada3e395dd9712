//! The first steps of a lab: its directory, its ports, its supervisor.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::agents;
use crate::error::{Attempt, LabError};
use crate::lab::{Launcher, Progress, phase};
use crate::machine::{GUEST_IMAGE, Machine};
use crate::spec::LabSpec;
use crate::state::{HostState, PORTS_PER_LAB, Phase, Ports, State, host_uuid, number_of};
use crate::supervisor::Notice;
use crate::user::LabUser;
use crate::view::View;

/// Below the ports that systems give to outgoing connections.
const PORTS: std::ops::Range<u16> = 12_000..32_000;
/// Longer than the supervisor waits for any of its daemons.
const UP_LIMIT: Duration = Duration::from_secs(60);

/// Inspects the machine and lays out the lab's directory.
pub(crate) fn prepare(spec: &LabSpec, tied: bool) -> Result<State, LabError> {
    let dir = &spec.dir;
    if let Ok(there) = State::read(dir) {
        let phase = format!("{:?}", phase(&there)).to_lowercase();
        return Err(LabError::AlreadyThere { dir: dir.clone(), phase });
    }
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        let message = format!("`{}` holds files that are not a lab's", dir.display());
        return Err(LabError::Specification(message));
    }
    let user = LabUser::choose()?;
    let machine = Machine::inspect(&user)?;
    let hosts = spec.hosts.iter().enumerate().map(|(index, host)| HostState {
        id: host.id.clone(),
        uuid: host_uuid(dir, index),
        libvirtd: None,
        agent: None,
        capacity: None,
    });
    let mut state = State {
        phase: Phase::Starting,
        tied,
        spec: spec.clone(),
        machine,
        view: View::Shared,
        first_port: free_ports(spec)?,
        supervisor: None,
        hosts: hosts.collect(),
        user,
    };
    let layout = state.layout();
    state.user.make_dir(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
        .attempt(|| format!("open `{}`", dir.display()))?;
    if !state.user.reaches(dir, 7) {
        let _ = fs::remove_dir(dir);
        let message =
            format!("user {} of the lab cannot get at `{}`", state.user.uid, dir.display());
        return Err(LabError::Specification(message));
    }
    state.user.make_dir(&layout.consoles())?;
    state.user.make_dir(&layout.handoffs())?;
    for host in &state.hosts {
        state.user.make_dir(&layout.host(&host.id).dir)?;
        state.user.make_dir(&layout.host(&host.id).own_handoffs())?;
    }
    state.view = View::find(&state.user, &layout, &state.hosts[0].id);
    state.user.write(&layout.guest_image(), GUEST_IMAGE)?;
    if let Some(agents) = &mut state.spec.agents {
        agents.program = within_reach(&state.user, &agents.program, layout.program_copy())?;
    }
    agents::make_cluster(&state)?;
    state.write()?;
    Ok(state)
}

/// A program that the lab's user can execute: this one, or a copy in the lab's directory.
pub(crate) fn within_reach(
    user: &LabUser,
    program: &Path,
    copy: PathBuf,
) -> Result<PathBuf, LabError> {
    if user.reaches(program, 5) {
        return Ok(program.to_owned());
    }
    fs::copy(program, &copy).attempt(|| format!("copy `{}` into the lab", program.display()))?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))
        .attempt(|| format!("make `{}` executable", copy.display()))?;
    Ok(copy)
}

/// The first of a range of port numbers that no other lab uses, as far as can be seen.
fn free_ports(spec: &LabSpec) -> Result<u16, LabError> {
    let slots = (PORTS.end - PORTS.start) / PORTS_PER_LAB;
    // Labs that come up at the same moment start to look at different places.
    let first_slot = (number_of(&spec.dir) % u64::from(slots)) as u16;
    let is_free = |first_port: u16| {
        (0..spec.hosts.len()).all(|index| {
            let addr = ("127.0.0.1", Ports::of(first_port, index).agent);
            UdpSocket::bind(addr).is_ok() && TcpListener::bind(addr).is_ok()
        })
    };
    (0..slots)
        .map(|slot| PORTS.start + (first_slot + slot) % slots * PORTS_PER_LAB)
        .find(|first_port| is_free(*first_port))
        .ok_or_else(|| LabError::Specification(format!("no free ports within {PORTS:?}")))
}

/// Starts the supervisor and listens to it until all hosts are ready. A tied lab lasts as long as
/// what is returned stays open.
pub(crate) fn launch(
    state: &State,
    launcher: &Launcher,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<ChildStdin>, LabError> {
    let action = || format!("start the lab's supervisor `{}`", launcher.program.display());
    let log = fs::File::create(state.layout().supervisor_log()).attempt(action)?;
    let mut child = Command::new(&launcher.program)
        .args(&launcher.arguments)
        .arg(&state.spec.dir)
        .stdin(if launcher.tied { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .attempt(action)?;
    let tether = child.stdin.take();
    let notices = child.stdout.take().map(|stdout| {
        let (sender, receiver) = sync_channel(64);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let notice = serde_json::from_str::<Notice>(&line);
                if notice.is_ok_and(|notice| sender.send(notice).is_err()) {
                    return;
                }
            }
        });
        receiver
    });
    // Nobody else would reap it.
    thread::spawn(move || child.wait());
    notices.map_or(Ok(()), |notices| follow(&notices, progress)).map(|()| tether)
}

fn follow(notices: &Receiver<Notice>, progress: &mut dyn FnMut(Progress)) -> Result<(), LabError> {
    let deadline = Instant::now() + UP_LIMIT;
    loop {
        match notices.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Notice::HostReady { host, capacity }) => {
                progress(Progress::HostReady { host, capacity });
            }
            Ok(Notice::Ready) => return Ok(()),
            Ok(Notice::Failed(message)) => return Err(LabError::Supervisor(message)),
            Err(RecvTimeoutError::Timeout) => {
                return Err(LabError::timed_out("the start of the lab's hosts", UP_LIMIT));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(LabError::Supervisor(
                    "the lab's supervisor ended without a word".to_owned(),
                ));
            }
        }
    }
}
