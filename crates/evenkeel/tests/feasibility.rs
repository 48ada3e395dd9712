//! What keeps a machine from moving is named before a byte moves, on real hosts; and a disk that is
//! on one host alone arrives intact where the operator lets it be copied.
//!
//! An unprivileged libvirt has no huge pages, no devices of its host to pass through and no virtual
//! network that a machine could be connected to. Those needs are read from libvirt's own XML
//! (`crates/libvirt/src/xml/needs.rs`) and examined on a real daemon
//! (`crates/libvirt/tests/examining.rs`).

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_core::decision::{Decision, Judged, Reason, Role};
use evenkeel_core::select::Calm;
use evenkeel_lab::{Dirty, GuestSpec};
use support::{Cluster, LIMIT, alike, balance};

const CALM: Calm = Calm { dead_band: 0.1, difference_min: 0.05, gain_min: 0.05 };
const NAMESPACE: &str = "https://evenkeel.dev/schedule/1";
const MIB: usize = 1 << 20;
const DISK_MIB: usize = 24;
/// Where QEMU writes to the disk, in bytes.
const WRITTEN_AT: usize = 8192;

fn up() -> Cluster {
    let guest = |name| {
        let dirty = Dirty { mib: 2, mib_per_s: 2 };
        GuestSpec { dirty, ..GuestSpec::new(name, "h1", 50) }
    };
    // Nothing moves before entries and disks are as a test wants them: machines are known late.
    let extra =
        balance(Duration::from_millis(500), &CALM).replace("warm_up = 1\n", "warm_up = 20\n");
    Cluster::up(alike(2, 2.0), vec![guest("passing"), guest("local")], &extra)
}

/// The newest judgement of a machine at the donor that has this reason.
fn judged(cluster: &Cluster, guest: &str, reason: Reason) -> Judged {
    cluster.until(LIMIT, &format!("`{guest}` judged {reason}"), |cluster| {
        let all = cluster.decisions_of("h1").into_iter().rev();
        let of_it = all.filter(|d| d.role == Some(Role::Source)).flat_map(|d| d.candidates);
        of_it.into_iter().find(|judged| judged.name == guest && judged.verdict == reason)
    })
}

/// A directory that is a storage pool called `disks` on a host.
fn pool(cluster: &Cluster, host: &str) -> PathBuf {
    let place = cluster.lab().dir().join(format!("disks-{host}"));
    fs::create_dir(&place).expect("a directory");
    fs::set_permissions(&place, PermissionsExt::from_mode(0o777)).expect("changed");
    let target = place.to_str().expect("text");
    cluster.virsh(host, &["pool-create-as", "disks", "dir", "--target", target]).expect("a pool");
    place
}

/// What the disk holds: every page says which one it is.
fn content() -> Vec<u8> {
    (0..DISK_MIB * MIB).map(|at| (at / 4096 * 31 + at % 251) as u8).collect()
}

/// Plugs a disk into a running guest, and has QEMU write to it.
fn plug_in(cluster: &Cluster, guest: &str, file: &Path) -> Vec<u8> {
    let mut held = content();
    fs::write(file, &held).expect("written");
    fs::set_permissions(file, PermissionsExt::from_mode(0o666)).expect("changed");
    let path = file.to_str().expect("text");
    let attach = ["attach-disk", guest, path, "vda", "--targetbus", "virtio", "--live", "--config"];
    let raw = ["--driver", "qemu", "--subdriver", "raw"];
    cluster.virsh("h1", &[&attach[..], &raw].concat()).expect("plugged in");
    let written = 0xab;
    write_to_disk(cluster, "h1", guest, written);
    held[WRITTEN_AT..WRITTEN_AT + 4096].fill(written);
    held
}

/// Has a guest's QEMU write a page of its disk, as the guest would.
fn write_to_disk(cluster: &Cluster, host: &str, guest: &str, byte: u8) {
    let disk = "/machine/peripheral/virtio-disk0/virtio-backend";
    let order = format!("qemu-io -d {disk} \"write -P {byte} {WRITTEN_AT} 4k\"");
    let said = cluster.virsh(host, &["qemu-monitor-command", guest, "--hmp", &order]);
    let said = said.expect("QEMU answers");
    assert!(!said.contains("rror"), "{said}");
}

/// Gives a guest a directory of its host, as only its definition can.
fn pass_a_directory_through(cluster: &Cluster, guest: &str) {
    cluster.virsh("h1", &["destroy", guest]).expect("ended");
    let xml = cluster.dumpxml("h1", guest, true).expect("it is defined");
    let shared = "<filesystem type='mount' accessmode='mapped'><source dir='/usr/share'/>\
                  <target dir='share'/></filesystem></devices>";
    let file = cluster.lab().dir().join("passing.xml");
    fs::write(&file, xml.replace("</devices>", shared)).expect("written");
    let file = file.to_str().expect("text");
    cluster.virsh("h1", &["define", file]).expect("defined");
    cluster.virsh("h1", &["start", guest]).expect("started");
}

#[test]
fn a_device_of_its_host_and_a_local_disk_without_a_yes_keep_a_machine_and_are_named() {
    let cluster = up();
    let here = pool(&cluster, "h1");
    pool(&cluster, "h2");
    plug_in(&cluster, "local", &here.join("local.raw"));
    pass_a_directory_through(&cluster, "passing");
    cluster.set_targets(&[("passing", 0.2), ("local", 0.2)]);
    let disk = judged(&cluster, "local", Reason::LocalDisk);
    assert!(disk.detail.contains("`vda`") && disk.detail.contains("local.raw"), "{disk:?}");
    let directory = judged(&cluster, "passing", Reason::Passthrough);
    assert!(directory.detail.contains("`/usr/share`"), "{directory:?}");
}

/// Restarts an agent: pools are looked for once a minute, and what was refused by name is not asked
/// again for some minutes. A new agent knows nothing of either.
fn begin_anew(cluster: &Cluster, host: &str) {
    cluster.lab().stop_agent(host).expect("stopped");
    cluster.lab().start_agent(host).expect("started");
}

#[test]
fn a_local_disk_that_may_be_copied_finds_room_first_and_arrives_intact() {
    let cluster = up();
    let file = pool(&cluster, "h1").join("local.raw");
    let held = plug_in(&cluster, "local", &file);
    for (guest, entry) in [
        ("local", "<entry copy-storage='yes' target-load='0.2'/>"),
        ("passing", "<entry ignore='yes' target-load='0.2'/>"),
    ] {
        let edit = ["metadata", guest, NAMESPACE, "--key", "evenkeel", "--live", "--config"];
        cluster.virsh("h1", &[&edit[..], &["--set", entry]].concat()).expect("written");
    }

    // There is no place for it.
    let homeless = judged(&cluster, "local", Reason::NoDiskRoom);
    assert!(homeless.detail.contains("storage pool `disks`"), "{homeless:?}");
    assert_eq!(cluster.scheduled_on("local").as_deref(), Some("h1"));

    // There is, and something is in the way: told by the other host's libvirt before a byte moves.
    let there = pool(&cluster, "h2");
    fs::write(there.join("local.raw"), "somebody's").expect("written");
    begin_anew(&cluster, "h2");
    let refused = cluster.until(LIMIT, "the copy refused by name", |cluster| {
        let refused = |d: &Decision| d.ending == Reason::NoDiskRoom && d.handoff.is_some();
        cluster.decisions_of("h1").into_iter().find(refused)
    });
    assert!(refused.detail.contains("local.raw` exists"), "{refused:?}");
    assert_eq!(fs::read(there.join("local.raw")).expect("still there"), b"somebody's");
    fs::remove_file(there.join("local.raw")).expect("removed");
    begin_anew(&cluster, "h2");

    let moved = cluster.await_move("`local` moved with its disk", |d| {
        d.chosen().is_some_and(|chosen| chosen.name == "local")
    });
    let bytes = (DISK_MIB * MIB) as f64;
    assert!(moved.predicted.expect("predicted").bytes >= bytes, "the disk is counted: {moved:?}");
    assert!(moved.stats.expect("measured").bytes as f64 >= bytes, "the disk was sent: {moved:?}");
    let copy = there.join("local.raw");
    for of_definition in [false, true] {
        let xml = cluster.dumpxml("h2", "local", of_definition).expect("it is there");
        assert!(xml.contains(copy.to_str().expect("text")), "{xml}");
    }
    assert!(fs::read(&copy).expect("it arrived") == held, "the disk is not what it was");
    // It is this file that it writes to now, and no longer the other one.
    write_to_disk(&cluster, "h2", "local", 0xcd);
    let page = |file: &Path| fs::read(file).expect("readable")[WRITTEN_AT];
    cluster.until(LIMIT, "a write on the other host", |_| (page(&copy) == 0xcd).then_some(()));
    assert_eq!(page(&file), 0xab);
    cluster.assert_unharmed(&["local"]);
}
