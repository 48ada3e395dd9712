//! What agents carry besides a machine's memory.

mod daemon;
mod pair;
mod skips;
mod support;

use std::path::PathBuf;
use std::process::Command;

use pair::Pair;

const DISK_BYTES: u32 = 4 << 20;
const COPYING: &str = "[handoff]\nmode = 'strict'\ncopy_storage = true\n";

/// A pool of the same name on either host, in a directory of its own. Returns the first host's.
fn pools(pair: &Pair) -> [PathBuf; 2] {
    ["h1", "h2"].map(|host| {
        let dir = pair.cluster.lab().dir().join(host).join("disks");
        std::fs::create_dir(&dir).expect("a directory");
        give(pair, &dir);
        let target = dir.to_str().expect("text");
        let define = ["pool-create-as", "disks", "dir", "--target", target];
        pair.cluster.virsh(host, &define).unwrap_or_else(|error| panic!("{host}: {error}"));
        dir
    })
}

/// Gives a path to the lab's user.
fn give(pair: &Pair, path: &PathBuf) {
    let reference = format!("--reference={}", pair.cluster.lab().dir().display());
    let given = Command::new("chown").arg(reference).arg(path).status().expect("chown starts");
    assert!(given.success());
}

#[test]
fn a_machine_goes_with_its_local_disk_through_the_agents_alone() {
    let pair = Pair::up(COPYING);
    if pair.h1.lab.is_none() {
        skips::skip("agents do not carry machines here");
        return;
    }
    let [here, there] = pools(&pair).map(|pool| pool.join("mover.raw"));
    let content: Vec<u8> = (0..DISK_BYTES).map(|n| (n % 251) as u8).collect();
    std::fs::write(&here, &content).expect("written");
    give(&pair, &here);
    pair.cluster.virsh("h1", &["pool-refresh", "disks"]).expect("a pool");
    let path = here.to_str().expect("text");
    let attach =
        ["attach-disk", "mover", path, "vda", "--targetbus", "virtio", "--subdriver", "raw"];
    let both = ["--live", "--config"];
    pair.cluster.virsh("h1", &[&attach[..], &both].concat()).unwrap_or_else(|e| panic!("{e}"));
    let (_source, target) = (pair.start(&pair.h1), pair.start(&pair.h2));
    pair.settle_memory(1);
    pair.tip();
    pair.rests_on("h2");
    for channel in ["Control", "Memory", "Disks"] {
        target.await_log(&["carried here", channel]);
    }
    assert!(std::fs::read(there).expect("it was copied") == content, "another disk arrived");
}
