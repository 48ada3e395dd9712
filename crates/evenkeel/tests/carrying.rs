//! What agents carry besides a machine's memory.

mod daemon;
mod pair;
mod skips;
mod support;

use std::path::PathBuf;
use std::process::Command;

use pair::Pair;
use support::LIMIT;

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

/// Most of what machines have that this system can give one, in the place of a balloon that is none.
fn equipment(pool: &str, shared: &str) -> String {
    format!(
        "<controller type='scsi' index='0' model='virtio-scsi'/>\
         <controller type='virtio-serial' index='0'/>\
         <disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>\
         <source file='{pool}/a.raw'/><target dev='vda' bus='virtio'/><serial>a-1</serial></disk>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>\
         <source file='{pool}/b.qcow2'/><target dev='sda' bus='scsi'/></disk>\
         <disk type='file' device='cdrom'><driver name='qemu' type='raw'/>\
         <source file='{shared}/cd.iso'/><target dev='sdb' bus='scsi'/><readonly/></disk>\
         <disk type='file' device='cdrom'><target dev='sdc' bus='scsi'/><readonly/></disk>\
         <interface type='user'><mac address='52:54:00:11:22:33'/><model type='virtio'/></interface>\
         <console type='pty'><target type='virtio' port='1'/></console>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <input type='tablet' bus='usb'/>\
         <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/>\
         <video><model type='vga' vram='16384' heads='1'/></video>\
         <watchdog model='i6300esb' action='reset'/>\
         <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>\
         <panic model='isa'/><memballoon model='virtio'><stats period='10'/></memballoon>"
    )
}

#[test]
fn a_machine_with_most_of_what_machines_have_goes_through_the_agents() {
    let mut pair = Pair::up(COPYING);
    if pair.h1.lab.is_none() {
        skips::skip("agents do not carry machines here");
        return;
    }
    let [pool, _] = pools(&pair);
    let shared = pair.cluster.lab().dir().join("shared");
    std::fs::create_dir(&shared).expect("a directory");
    std::fs::write(shared.join("cd.iso"), vec![1; 4096]).expect("written");
    std::fs::write(pool.join("a.raw"), vec![2; 1 << 20]).expect("written");
    let image = pool.join("b.qcow2");
    let mut make = Command::new("qemu-img");
    make.args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("4M");
    assert!(make.status().expect("qemu-img starts").success());
    for path in [&shared, &shared.join("cd.iso"), &pool.join("a.raw"), &image] {
        give(&pair, path);
    }
    for place in [&mut pair.h1, &mut pair.h2] {
        place.tables += &format!("[storage]\n'{}' = 'shared'\n", shared.display());
    }
    let virsh = |arguments: &[&str]| {
        let ran = pair.cluster.virsh("h1", arguments);
        ran.unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    };
    virsh(&["pool-refresh", "disks"]);
    let plain = virsh(&["dumpxml", "mover", "--inactive"]);
    let balloon = "<memballoon model='none'/>";
    assert!(plain.contains(balloon), "{plain}");
    let text = |path: &PathBuf| path.to_str().expect("text").to_owned();
    let equipped = plain.replace(balloon, &equipment(&text(&pool), &text(&shared)));
    let equipped =
        equipped.replace("type='usb' index='0' model='none'", "type='usb' model='qemu-xhci'");
    let file = pool.join("mover.xml");
    std::fs::write(&file, equipped).expect("written");
    virsh(&["destroy", "mover"]);
    virsh(&["define", &text(&file)]);
    virsh(&["start", "mover"]);
    let (_source, target) = (pair.start(&pair.h1), pair.start(&pair.h2));
    pair.settle_memory(1);
    pair.tip();
    // Not `rests_on`: this test has restarted it.
    pair.cluster.until(LIMIT, "the machine at rest on h2", |cluster| {
        let idle = cluster.statuses().iter().all(|status| status.handoffs.is_empty());
        (idle && cluster.scheduled_on("mover").as_deref() == Some("h2")).then_some(())
    });
    assert!(!pair.cluster.domains("h1").contains(&"mover".to_owned()));
    let state = pair.cluster.virsh("h2", &["domstate", "mover"]).expect("it is there");
    assert_eq!(state.trim(), "running");
    target.await_log(&["carried here", "Control"]);
    let arrived = pair.cluster.virsh("h2", &["dumpxml", "mover"]).expect("it is there");
    for kept in ["cd.iso", "b.qcow2", "i6300esb", "org.qemu.guest_agent.0", "a-1", "qemu-xhci"] {
        assert!(arrived.contains(kept), "{kept}: {arrived}");
    }
    for host in ["h1", "h2"] {
        let accused = pair.cluster.status(host).expect("it answers").accused;
        assert_eq!(accused, [], "{host}");
    }
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
