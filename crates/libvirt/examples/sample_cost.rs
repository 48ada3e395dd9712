//! Measures what a sample costs on a host with many machines, on a lab of its own:
//!
//! ```text
//! cargo run --release -p evenkeel-libvirt --example sample_cost -- [MACHINES] [SAMPLES]
//! ```
//!
//! Prints the time that a sample takes, and the CPU time that it takes in this process and in
//! libvirt's daemon.
#![allow(clippy::print_stdout, reason = "it is a program")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use evenkeel_core::model::Time;
use evenkeel_core::port::{Event, Order};
use evenkeel_hypervisor::Hypervisor;
use evenkeel_lab::{Dirty, GuestSpec, HostSpec, Lab, LabSpec, Launcher};
use evenkeel_libvirt::{LibvirtConfig, LibvirtHypervisor};

const MACHINES: usize = 100;
const SAMPLES: usize = 50;
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Between two samples, as an agent would.
const PAUSE: Duration = Duration::from_millis(200);
/// What `/proc` counts CPU time in, on every Linux that people run.
const TICK: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default| match arguments.get(index).map(|text| text.parse()) {
        None => Some(default),
        Some(parsed) => parsed.ok(),
    };
    let done =
        match (arguments.first().map(String::as_str), number(0, MACHINES), number(1, SAMPLES)) {
            (Some("supervise"), ..) => {
                evenkeel_lab::supervise(Path::new(&arguments[1])).map_err(Into::into)
            }
            (_, Some(machines), Some(samples)) if samples > 0 => measure(machines, samples),
            _ => Err("usage: sample_cost [MACHINES] [SAMPLES]".into()),
        };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(machines: usize, samples: usize) -> Result<(), Box<dyn Error>> {
    let lab = bring_up(machines)?;
    let uri = lab.uri("h1")?;
    let (sink, events) = mpsc::channel();
    let sink = move |event| drop(sink.send(event));
    let start = Instant::now();
    let clock = move || Time::from_unix_ms(0) + start.elapsed();
    let mut hypervisor = LibvirtHypervisor::new(LibvirtConfig::new(&uri, &uri), sink, clock)?;

    let first = sample(&mut hypervisor, &events)?;
    println!("{} machines", first.1);
    println!("first sample, which reads every description: {:.1} ms", ms(first.0));
    let pid = std::fs::read_to_string(lab.dir().join("h1/run/libvirt/libvirtd.pid"))?;
    let daemon = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
    let own = PathBuf::from("/proc/self/stat");
    let (own_before, daemon_before) = (cpu_time(&own)?, cpu_time(&daemon)?);
    let mut times = Vec::new();
    for _ in 0..samples {
        std::thread::sleep(PAUSE);
        times.push(sample(&mut hypervisor, &events)?.0);
    }
    times.sort_unstable();
    let per_sample = |spent: Duration| ms(spent) / samples as f64;
    println!("{samples} more samples, each:");
    println!(
        "  time: median {:.1} ms, longest {:.1} ms",
        ms(times[samples / 2]),
        ms(times[samples - 1])
    );
    println!("  CPU of this process: {:.2} ms", per_sample(cpu_time(&own)? - own_before));
    println!("  CPU of libvirtd: {:.2} ms", per_sample(cpu_time(&daemon)? - daemon_before));
    drop(hypervisor);
    lab.down()?;
    Ok(())
}

/// A host with machines that do next to nothing.
fn bring_up(machines: usize) -> Result<Lab, Box<dyn Error>> {
    let quiet = |number: usize| GuestSpec {
        memory_mib: 8,
        dirty: Dirty { mib: 0, mib_per_s: 0 },
        report_ms: 60_000,
        ..GuestSpec::new(&format!("m{number}"), "h1", 0)
    };
    let spec = LabSpec {
        dir: PathBuf::from(format!("/tmp/ek-cost-{}", std::process::id())),
        hosts: vec![HostSpec::new("h1", 2.0)],
        guests: (0..machines).map(quiet).collect(),
        agents: None,
    };
    let program = std::env::current_exe()?;
    let launcher = Launcher { program, arguments: vec!["supervise".to_owned()], tied: true };
    Ok(Lab::up(&spec, &launcher, &mut |_| {})?)
}

/// How long a sample takes, and how many machines are in it.
fn sample(
    hypervisor: &mut LibvirtHypervisor,
    events: &Receiver<Event>,
) -> Result<(Duration, usize), Box<dyn Error>> {
    let asked = Instant::now();
    hypervisor.submit(Order::Sample);
    loop {
        if let Event::Sampled(sampled) = events.recv_timeout(ANSWER_MAX)? {
            let taken = asked.elapsed();
            let sampled = sampled.map_err(|failure| failure.detail)?;
            return Ok((taken, sampled.machines.len()));
        }
    }
}

/// The CPU time of a process so far, in user and system mode.
fn cpu_time(stat: &Path) -> Result<Duration, Box<dyn Error>> {
    let text = std::fs::read_to_string(stat)?;
    // The name, in brackets, may hold anything; the 14th and 15th fields are the 12th and 13th
    // behind it.
    let fields = text.rsplit_once(')').ok_or("no process status")?.1;
    let ticks = fields.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u32>);
    Ok(TICK * ticks.sum::<Result<u32, _>>()?)
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
