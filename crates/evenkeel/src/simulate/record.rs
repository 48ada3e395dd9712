//! What hosts look like over time, for people to look at later.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::time::Duration;

use evenkeel_core::decision::Decision;
use evenkeel_core::model::HostId;
use evenkeel_desk::Brief;
use evenkeel_desk::brief::Grants;
use evenkeel_desk::recording::{Line, Recorder};
use evenkeel_sim::Cluster;

use crate::output::Failure;

/// In larger clusters only decisions about a machine are recorded, and no explanations.
const HOSTS_EXPLAINED_MAX: usize = 24;

pub(super) fn span(text: &str) -> Result<Duration, String> {
    let span: Option<jiff::SignedDuration> = text.parse().ok();
    span.and_then(|span| Duration::try_from(span).ok())
        .filter(|span| (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(span))
        .ok_or_else(|| "write `10s`, from `1s` to `1h`".to_owned())
}

/// A recording that is being made.
pub(super) struct Filming {
    recorder: Recorder<BufWriter<File>>,
    name: String,
    every: Duration,
    /// Explanations of the last moment, which end the recording.
    last: Vec<Line>,
    /// The first failure; nothing is written after it.
    failed: Option<io::Error>,
}

impl Filming {
    /// Begins a recording.
    pub(super) fn begin(file: &Path, about: &str, every: Duration) -> Result<Self, Failure> {
        let name = file.display().to_string();
        let failed = |e: io::Error| format!("cannot write the recording `{name}`: {e}");
        let created = File::create(file).map_err(failed)?;
        let recorder = Recorder::begin(BufWriter::new(created), about).map_err(failed)?;
        Ok(Self { recorder, name, every, last: Vec::new(), failed: None })
    }

    pub(super) const fn every(&self) -> Duration {
        self.every
    }

    pub(super) fn look(&mut self, cluster: &Cluster, decided: &[Decision]) {
        if self.failed.is_none() {
            self.failed = self.write(cluster, decided).err();
        }
    }

    fn write(&mut self, cluster: &Cluster, decided: &[Decision]) -> io::Result<()> {
        let hosts: Vec<HostId> = cluster.hosts().cloned().collect();
        let is_small = hosts.len() <= HOSTS_EXPLAINED_MAX;
        for decision in decided.iter().filter(|d| is_small || d.chosen().is_some()) {
            self.recorder.write(&Line::Decision(Box::new(decision.clone())))?;
        }
        let (mut up, mut down) = (Vec::new(), Vec::new());
        let (now, progress) = (cluster.now(), BTreeMap::new());
        self.last.clear();
        for host in hosts {
            let Some(balancer) = cluster.balancer(&host) else {
                down.push(host);
                continue;
            };
            let version = env!("CARGO_PKG_VERSION");
            up.push(Brief::of(balancer, &progress, Grants::Operate, version, now));
            if is_small {
                let machines = balancer.host().view.machines().keys();
                let machines = machines.filter_map(|id| balancer.explain(id, now));
                self.last.push(Line::Host(Box::new(balancer.explain_host(now))));
                self.last.extend(machines.map(|machine| Line::Machine(Box::new(machine))));
            }
        }
        self.recorder.moment(now, up, down)
    }

    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let last = std::mem::take(&mut self.last);
        let ended = match self.failed {
            Some(error) => Err(error),
            None => last
                .iter()
                .try_for_each(|line| self.recorder.write(line))
                .and_then(|()| self.recorder.finish()),
        };
        ended.map_err(|e| format!("cannot write the recording `{}`: {e}", self.name).into())
    }
}
