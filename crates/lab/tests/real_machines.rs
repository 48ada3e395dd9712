//! A lab of real libvirt hosts and real guests. Runs as root, who drops to `nobody`, or as anybody.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use evenkeel_lab::{
    Capacity, Dirty, GuestSpec, HostSpec, Lab, LabError, LabSpec, Launcher, Phase, Progress,
};
use rustix::process::{Pid, Signal, kill_process};

const SOON: Duration = Duration::from_secs(10);

fn spec(name: &str, guests: Vec<GuestSpec>) -> LabSpec {
    LabSpec {
        dir: PathBuf::from(format!("/tmp/ek-{name}-{}", std::process::id())),
        hosts: vec![HostSpec::new("h1", 0.8), HostSpec::new("h2", 0.8)],
        guests,
        agents: None,
    }
}

fn launcher(tied: bool) -> Launcher {
    Launcher {
        program: env!("CARGO_BIN_EXE_evenkeel-lab").into(),
        arguments: vec!["supervise".to_owned()],
        tied,
    }
}

fn up(spec: &LabSpec, tied: bool) -> Lab {
    let started = Instant::now();
    let mut show =
        |progress: Progress| eprintln!("{:5} ms {progress:?}", started.elapsed().as_millis());
    match Lab::up(spec, &launcher(tied), &mut show) {
        Ok(lab) => lab,
        Err(error) => panic!("{error}"),
    }
}

/// The control groups of the lab's hosts, if it could make some.
fn groups_of(lab: &Lab) -> Result<Vec<PathBuf>, LabError> {
    let capacities = lab.status()?.hosts.into_iter().filter_map(|host| host.capacity);
    Ok(capacities
        .flat_map(|capacity| match capacity {
            Capacity::Enforced { daemon, guests, .. } => [vec![daemon], guests].concat(),
            Capacity::Declared { .. } => Vec::new(),
        })
        .collect())
}

/// The processes whose command line names the lab's directory.
fn processes_of(dir: &Path) -> Vec<String> {
    let needle = format!("{}/", dir.display());
    std::fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .filter(|command_line| command_line.contains(&needle))
        .collect()
}

fn assert_nothing_left(dir: &Path, groups: &[PathBuf]) {
    assert_eq!(processes_of(dir), Vec::<String>::new(), "processes of the lab are left");
    assert!(!dir.exists(), "the lab's directory is left");
    assert!(!groups.iter().any(|group| group.exists()), "control groups are left: {groups:?}");
}

#[test]
fn a_guest_survives_its_migration_and_the_death_of_the_host_it_left() -> Result<(), LabError> {
    let transient = GuestSpec { persistent: false, ..GuestSpec::new("transient", "h1", 100) };
    let guests =
        vec![GuestSpec::new("mover", "h1", 200), transient, GuestSpec::new("stayer", "h2", 50)];
    let spec = spec("move", guests);
    let lab = up(&spec, true);

    lab.await_report("mover", SOON)?;
    let report = lab.set_burn("mover", 300)?;
    assert_eq!(report.burn_permille, 300);
    let busy = Dirty { mib: 8, mib_per_s: 40 };
    assert_eq!(lab.set_dirty("mover", busy)?.dirty, busy);

    lab.migrate("mover", "h2")?;
    lab.migrate("transient", "h2")?;
    let status = lab.status()?;
    assert_eq!(status.phase, Phase::Up);
    assert_eq!(status.hosts[0].guests, Vec::<String>::new());
    let mut there = status.hosts[1].guests.clone();
    there.sort();
    assert_eq!(there, ["mover", "stayer", "transient"]);

    lab.kill_host("h1")?;
    assert!(!lab.status()?.hosts[0].alive);
    assert_eq!(lab.host_of("mover")?, "h2");
    for guest in ["mover", "transient", "stayer"] {
        let verdict = lab.await_report(guest, SOON)?.verify();
        assert!(verdict.is_unharmed(), "{guest}: {verdict}");
        assert!(verdict.pages_checked > 0, "{guest}: {verdict}");
    }
    // Its terminal is another one now.
    assert_eq!(lab.set_burn("mover", 100)?.burn_permille, 100);

    // A host that comes back can take it again.
    lab.start_host("h1")?;
    lab.migrate("mover", "h1")?;
    let verdict = lab.await_report("mover", SOON)?.verify();
    assert!(verdict.is_unharmed(), "{verdict}");

    let groups = groups_of(&lab)?;
    lab.down()?;
    assert_nothing_left(&spec.dir, &groups);
    Ok(())
}

#[test]
fn a_lab_whose_supervisor_was_killed_is_cleaned_up_and_strangers_are_spared() -> Result<(), LabError>
{
    let spec = spec("stale", vec![GuestSpec::new("orphan", "h1", 0)]);
    let lab = up(&spec, false);
    lab.await_report("orphan", SOON)?;
    let mut stranger = Stranger::start(&spec.dir.join("consoles/orphan.log"));

    kill_supervisor(&spec.dir);
    assert_eq!(lab.status()?.phase, Phase::Stale);
    assert!(matches!(lab.kill_host("h1"), Err(LabError::Stale(_))));
    let again = Lab::up(&spec, &launcher(true), &mut |_| {});
    assert!(matches!(again, Err(LabError::AlreadyThere { .. })), "{again:?}");

    let groups = groups_of(&lab)?;
    Lab::open(&spec.dir)?.down()?;
    assert!(stranger.is_running(), "a stranger was ended");
    drop(stranger);
    assert_nothing_left(&spec.dir, &groups);
    assert!(matches!(Lab::open(&spec.dir), Err(LabError::NotThere(_))));
    Ok(())
}

/// A program that has to do with a file of the lab, but is not of the lab.
struct Stranger(Child);

impl Stranger {
    fn start(file: &Path) -> Self {
        let mut tail = Command::new("tail");
        Self(tail.arg("-f").arg(file).stdout(Stdio::null()).spawn().expect("tail is there"))
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_none())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // Fails only for one that was ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kill_supervisor(dir: &Path) {
    let state = std::fs::read(dir.join("lab.json")).expect("the lab has a state file");
    let state: serde_json::Value = serde_json::from_slice(&state).expect("it is JSON");
    let pid = state["supervisor"]["pid"].as_i64().and_then(|pid| Pid::from_raw(pid as i32));
    let pid = pid.expect("it names the supervisor");
    kill_process(pid, Signal::KILL).expect("it is there, and ours");
    let deadline = Instant::now() + SOON;
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    // Until whoever is its parent has reaped it.
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "the supervisor does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// CPU time that the guests of a host have used so far, in milliseconds.
fn guest_cpu_ms(dir: &Path, host: &str) -> u64 {
    const TICK_MS: u64 = 10;
    let needle = format!("{}/{host}/", dir.display());
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let Ok(command_line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let command_line = String::from_utf8_lossy(&command_line);
        if !command_line.contains("qemu-system-") || !command_line.contains(&needle) {
            continue;
        }
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
        ticks += fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    }
    ticks * TICK_MS
}

#[test]
fn the_guests_of_a_host_get_no_more_cpu_than_its_capacity() -> Result<(), LabError> {
    const WHILE: Duration = Duration::from_secs(2);
    let guests = vec![GuestSpec::new("greedy", "h1", 1000), GuestSpec::new("modest", "h2", 200)];
    let mut spec = spec("quota", guests);
    spec.hosts[0].cpu_cores = 0.3;
    let lab = up(&spec, true);
    let enforced = matches!(lab.status()?.hosts[0].capacity, Some(Capacity::Enforced { .. }));
    // By its fifth report a guest has been running for long enough to be under the quota.
    for guest in ["greedy", "modest"] {
        while lab.await_report(guest, SOON)?.reports.len() < 5 {}
    }
    let used = |host| guest_cpu_ms(&spec.dir, host);
    let (before, started) = ((used("h1"), used("h2")), Instant::now());
    std::thread::sleep(WHILE);
    let took = started.elapsed().as_millis() as u64;
    let (greedy, modest) = (used("h1") - before.0, used("h2") - before.1);
    eprintln!("enforced: {enforced}; of {took} ms, greedy used {greedy}, modest {modest}");
    if enforced {
        assert!((1..=40).contains(&(greedy * 100 / took)), "greedy used {greedy} of {took} ms");
    }
    // Less than its share if the machine is busy with other things, but not more.
    assert!((1..=30).contains(&(modest * 100 / took)), "modest used {modest} of {took} ms");
    let groups = groups_of(&lab)?;
    lab.down()?;
    assert_nothing_left(&spec.dir, &groups);
    Ok(())
}

#[test]
fn a_tied_lab_ends_with_its_owner() -> Result<(), LabError> {
    let spec = spec("tied", vec![GuestSpec::new("guest", "h1", 0)]);
    let lab = up(&spec, true);
    let groups = groups_of(&lab)?;
    drop(lab);
    let deadline = Instant::now() + SOON;
    while spec.dir.exists() {
        assert!(Instant::now() < deadline, "the lab is still there: {:?}", processes_of(&spec.dir));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_nothing_left(&spec.dir, &groups);
    Ok(())
}

#[test]
fn a_lab_that_cannot_be_built_is_refused_before_anything_is_started() {
    let fits = spec("refused", vec![GuestSpec::new("guest", "h1", 0)]);
    let changed = |change: fn(&mut LabSpec)| {
        let mut spec = fits.clone();
        change(&mut spec);
        spec
    };
    for (spec, complaint) in [
        (changed(|spec| spec.hosts.clear()), "0 hosts"),
        (changed(|spec| spec.hosts[1].id = "h1".to_owned()), "two hosts"),
        (changed(|spec| spec.hosts[0].cpu_cores = 0.0), "more than nothing"),
        (changed(|spec| spec.guests[0].host = "h9".to_owned()), "unknown host `h9`"),
        (changed(|spec| spec.guests[0].name = "a/b".to_owned()), "no guest name"),
        (changed(|spec| spec.guests[0].dirty.mib = 31), "cannot dirty"),
        (changed(|spec| spec.dir = PathBuf::from(format!("/tmp/{}", "x".repeat(60)))), "too long"),
        (changed(|spec| spec.dir = PathBuf::from("lab")), "absolute"),
    ] {
        let refused = Lab::up(&spec, &launcher(true), &mut |_| {}).map(|_| ());
        let error = refused.expect_err(complaint).to_string();
        assert!(error.contains(complaint), "{error}");
        assert!(!spec.dir.exists());
    }
}
