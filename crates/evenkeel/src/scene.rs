//! The scene that a lab, or a simulation in its place, sets: so many hosts, so many guests of unlike
//! load, all on the first host.

use std::path::PathBuf;

use clap::Args;

/// Share of a CPU that guests burn, in permille: unlike on purpose. With more guests they repeat.
const BURNS: [u32; 9] = [200, 150, 120, 90, 70, 50, 40, 30, 20];

#[derive(Debug, Args)]
pub(crate) struct Scene {
    #[command(flatten)]
    pub(crate) place: Place,
    /// How many hosts, 1 to 16
    #[arg(long, default_value_t = 3)]
    pub(crate) hosts: usize,
    /// How many guests, up to 200; they all start on the first host
    #[arg(long, default_value_t = 9)]
    pub(crate) vms: usize,
    /// CPU capacity of each host, in cores
    #[arg(long, default_value_t = 0.9)]
    pub(crate) cores: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The lab's directory: a short path, because socket paths are
    #[arg(long, value_name = "DIR", default_value = "/tmp/evenkeel-lab")]
    pub(crate) dir: PathBuf,
}

impl Scene {
    /// The name of each host; the guests start on the first.
    pub(crate) fn host_names(&self) -> Vec<String> {
        (1..=self.hosts).map(|index| format!("h{index}")).collect()
    }

    /// The name of each guest and the share of a CPU that it burns, in permille.
    pub(crate) fn guests(&self) -> Vec<(String, u32)> {
        let guest = |index: usize| (format!("vm{}", index + 1), BURNS[index % BURNS.len()]);
        (0..self.vms).map(guest).collect()
    }
}
