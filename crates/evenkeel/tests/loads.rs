//! Real hosts, real guests, real agents: what counts as the load of a machine.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use evenkeel_core::decision::{Decision, Judged, Role};
use evenkeel_core::load::Basis;
use evenkeel_core::model::{Epoch, Resources};
use evenkeel_core::select::Calm;
use evenkeel_lab::{Dirty, GuestSpec, HostSpec, Weights};
use support::records::{assert_agreed, assert_nearest, moves, price, prices, same};
use support::{Cluster, LIMIT, balance, cpu_hosts, idle};

const ROUND: Duration = Duration::from_millis(700);
/// So many exchanges in a row without a move are rest.
const QUIET: usize = 5;

fn judged<'d>(decision: &'d Decision, name: &str) -> &'d Judged {
    let mut candidates = decision.candidates.iter();
    candidates.find(|c| c.name == name).unwrap_or_else(|| panic!("no `{name}` in {decision:#?}"))
}

/// Asserts that both prices in a record are those that each host would compute by its own capacity
/// and weights from the factors in it.
fn assert_priced_by_each(decision: &Decision, donor: &HostSpec, receiver: &HostSpec) {
    for judged in &decision.candidates {
        let Some((at_donor, at_receiver)) = prices(judged) else { continue };
        let factors = judged.factors.expect("what is priced has factors");
        let expected = (price(donor, &factors), price(receiver, &factors));
        let agree = same(at_donor, expected.0) && same(at_receiver, expected.1);
        assert!(agree, "{judged:?} should be priced {expected:?}");
    }
}

/// Claims 7, 30: a machine counts as what is programmed for it on its host, is selected by that, and
/// takes it along, restated for the host where it arrives.
#[test]
fn a_target_load_counts_is_selected_by_and_is_restated_on_arrival() {
    // Only target loads make a difference of this size.
    let calm = Calm { dead_band: 0.2, difference_min: 0.3, gain_min: 0.05 };
    let mut hosts = cpu_hosts(2);
    hosts[1].cpu_cores *= 2.0;
    let guests = vec![idle("plan-a", "h1"), idle("plan-b", "h1"), GuestSpec::new("busy", "h1", 80)];
    let cluster = Cluster::up(hosts.clone(), guests, &balance(ROUND, &calm));
    cluster.until(LIMIT, "known loads", Cluster::loads);
    assert_eq!(moves(&cluster.decisions(), Role::Source).len(), 0);

    cluster.set_targets(&[("plan-a", 0.3), ("plan-b", 0.3)]);
    let decision = cluster.await_move("a planned machine on its way", |_| true);

    let chosen = decision.chosen().expect("a machine moved");
    assert!(chosen.name.starts_with("plan"), "{chosen:?}");
    assert_eq!(chosen.basis, Some(Basis::Target));
    let (at_donor, at_receiver) = prices(chosen).expect("both have priced it");
    assert!(same(at_donor, 0.3), "{chosen:?}");
    // A third of its load is not CPU time, of which the other host has twice as much.
    assert!(same(at_receiver, 0.2), "{chosen:?}");
    assert_eq!(judged(&decision, "busy").basis, Some(Basis::Actual));
    assert_priced_by_each(&decision, &hosts[0], &hosts[1]);
    assert_nearest(&decision, &calm);

    let (name, what) = (chosen.name.as_str(), "the target load restated");
    let arrived = cluster.until(LIMIT, what, |c| {
        c.machine_on("h2", name).filter(|m| m.basis == Some(Basis::Target))
    });
    assert!(same(arrived.target_load.expect("programmed"), at_receiver), "{arrived:?}");
    assert!(same(arrived.load.expect("known"), at_receiver), "{arrived:?}");
    assert_eq!(arrived.epoch, Epoch(1));
    let stayed = if name == "plan-a" { "plan-b" } else { "plan-a" };
    let stayed = cluster.machine_on("h1", stayed).expect("one was enough");
    assert_eq!((stayed.load, stayed.basis), (Some(0.3), Some(Basis::Target)));
    assert!(stayed.usage.is_some_and(|usage| usage.cpu_cores < 0.2), "{stayed:?}");

    // What is not programmed any more is measured again.
    cluster.set_target(name, None);
    cluster.until(LIMIT, "the actual load of what was programmed", |c| {
        let machine = c.machine_on("h2", name)?;
        let is_measured = machine.basis == Some(Basis::Actual) && machine.target_load.is_none();
        (is_measured && machine.load? < at_receiver).then_some(())
    });
    cluster.assert_unharmed(&["plan-a", "plan-b", "busy"]);
}

/// Claims 6, 10, 29: what a machine does is measured on the host that runs it. The two hosts are level by
/// programmed loads that cannot change, so that nothing but what is measured can move anything.
#[test]
fn a_machine_that_begins_to_burn_is_moved_because_of_it() {
    let calm = Calm { dead_band: 0.2, difference_min: 0.1, gain_min: 0.02 };
    let guests = vec![idle("mover", "h1"), idle("rock-1", "h1"), idle("rock-2", "h2")];
    let cluster = Cluster::up(cpu_hosts(2), guests, &balance(ROUND, &calm));
    cluster.until(LIMIT, "known loads", Cluster::loads);
    // In this order, in which neither of the two ever improves anything by moving.
    cluster.set_targets(&[("rock-2", 0.27), ("rock-1", 0.3)]);
    cluster.until(LIMIT, "rest", |c| c.is_quiet(QUIET).then_some(()));
    assert_eq!(moves(&cluster.decisions(), Role::Source).len(), 0);
    let before = cluster.machine_on("h1", "mover").expect("it has no reason to be elsewhere");
    let cores_before = before.usage.expect("measured").cpu_cores;

    cluster.set_burn("mover", 250);
    let decision = cluster.await_move("the machine that burns on its way", |_| true);

    let chosen = decision.chosen().expect("a machine moved");
    assert_eq!((chosen.name.as_str(), chosen.basis), ("mover", Some(Basis::Actual)));
    let cores = chosen.factors.expect("measured").cpu_cores;
    assert!(cores > 2.0 * cores_before, "{cores} cores, {cores_before} before");
    assert_eq!(judged(&decision, "rock-1").basis, Some(Basis::Target));
    assert_nearest(&decision, &calm);
    cluster.until(LIMIT, "its load measured where it is now", |c| {
        let there = c.machine_on("h2", "mover")?;
        (there.basis == Some(Basis::Actual) && there.load? > 0.05).then_some(())
    });
    cluster.assert_unharmed(&["mover", "rock-1", "rock-2"]);
}

/// Claims 8, 9, 12, 20, 21, 31, 32: the donor sends load factors, the receiver prices them by its own
/// capacity and weights, and both prices are in both records and decide.
#[test]
fn unlike_hosts_price_the_same_machine_differently_and_both_prices_decide() {
    let calm = Calm { dead_band: 0.1, difference_min: 0.02, gain_min: 0.02 };
    let host = |id, cores, memory_mib, cpu, memory| HostSpec {
        memory_mib,
        weights: Some(Weights { cpu, memory, io: 1.0 }),
        ..HostSpec::new(id, cores)
    };
    let hosts = vec![host("small", 0.7, 512, 4.0, 1.0), host("large", 1.4, 1024, 1.0, 3.0)];
    let guest = |name, burn, mib| GuestSpec {
        memory_mib: 96,
        dirty: Dirty { mib, mib_per_s: 6 },
        ..GuestSpec::new(name, "small", burn)
    };
    let guests = vec![
        guest("cpu", 120, 2),
        guest("memory", 20, 60),
        guest("both", 60, 30),
        guest("cpu-2", 100, 2),
    ];
    let cluster = Cluster::up(hosts.clone(), guests, &balance(ROUND, &calm));

    cluster.await_move("a machine moved", |_| true);
    cluster.until(LIMIT, "rest", |c| c.is_quiet(QUIET).then_some(()));

    let of = |id: &str| hosts.iter().find(|h| h.id == id).expect("one of the two");
    let decisions = cluster.decisions();
    let given = moves(&decisions, Role::Source);
    for decision in &given {
        let peer = decision.peer.as_ref().expect("it moved somewhere");
        let (donor, receiver) = (of(decision.host.as_str()), of(peer.as_str()));
        let theirs = assert_agreed(decision, &decisions);
        assert_priced_by_each(decision, donor, receiver);
        assert_priced_by_each(theirs, donor, receiver);
        assert_nearest(decision, &calm);
        let (at_donor, at_receiver) =
            decision.chosen().and_then(prices).expect("both have priced what was chosen");
        assert!((at_donor - at_receiver).abs() > 0.001 * at_donor, "{at_donor} and {at_receiver}");
    }
    assert_eq!(given[0].host.as_str(), "small");

    // A host's load is the sum of what its machines load it.
    for host in &hosts {
        cluster.until(
            LIMIT,
            &format!("the load of `{}` as the sum of its machines'", host.id),
            |c| {
                let status = c.status(&host.id).filter(|s| s.handoffs.is_empty())?;
                let usages: Option<Vec<_>> = status.machines.iter().map(|m| m.usage).collect();
                let sum: f64 = usages?.iter().map(|usage| price(host, usage)).sum();
                same(sum, status.load?).then_some(())
            },
        );
    }
    cluster.assert_unharmed(&["cpu", "memory", "both", "cpu-2"]);
}

/// A boot sector that reads 16 KiB from its disk at every tick of the clock, 18 times a second.
const READER: [u8; 28] = [
    0xfa, // cli
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0x8e, 0xc0, // mov es, ax
    0x8e, 0xd0, // mov ss, ax
    0xbc, 0x00, 0x7c, // mov sp, 0x7c00
    0xfb, // sti
    0xf4, // again: hlt
    0xb8, 0x20, 0x02, // mov ax, 0x0220    read 32 sectors
    0xbb, 0x00, 0x80, // mov bx, 0x8000    to here
    0xb9, 0x01, 0x00, // mov cx, 0x0001    from the first
    0xb6, 0x00, // mov dh, 0
    0xcd, 0x13, // int 0x13
    0xeb, // jmp again, whose distance follows
];

/// A disk that all hosts of a lab reach, under the id that its configuration names.
struct SharedDisk {
    dir: PathBuf,
}

impl SharedDisk {
    fn new() -> Self {
        let dir = support::fresh_dir();
        fs::create_dir(&dir).expect("nobody else has it");
        let mut image = READER.to_vec();
        let jump_from = image.len() as u8 + 1;
        image.push(13_u8.wrapping_sub(jump_from));
        image.resize(510, 0);
        image.extend([0x55, 0xaa]);
        image.resize(1 << 20, 0);
        let disk = Self { dir };
        fs::write(disk.path(), image).expect("there is room");
        for path in [&disk.dir, &disk.path()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
        disk
    }

    fn path(&self) -> PathBuf {
        self.dir.join("disk.img")
    }

    fn config(&self) -> String {
        format!("\n[storage]\n'{}' = 'shared'\n", self.dir.display())
    }

    /// The definition of a guest that boots from it, on the same hypervisor as `like`.
    fn domain(&self, name: &str, like: &str) -> String {
        let part = |from: &str, to: &str| {
            let start = like.find(from).unwrap_or_else(|| panic!("no {from} in {like}"));
            let end = like[start..].find(to).expect("it ends") + start + to.len();
            &like[start..end]
        };
        format!(
            "{kind}<name>{name}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>{cpu}\
             <devices>{emulator}<controller type='usb' model='none'/><memballoon model='none'/>\
             <disk type='file' device='disk'><driver name='qemu' type='raw'/>\
             <source file='{disk}'/><target dev='vda' bus='virtio'/><readonly/></disk>\
             </devices></domain>",
            kind = part("<domain type=", ">"),
            cpu = part("<cpu", "</cpu>"),
            emulator = part("<emulator>", "</emulator>"),
            disk = self.path().display(),
        )
    }
}

impl Drop for SharedDisk {
    fn drop(&mut self) {
        // In a directory for temporary files; whether it goes is not what is tested.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Claim 11: input and output count. Two machines do nothing but read a disk that both hosts reach,
/// and one of them is moved for that.
#[test]
fn a_machine_that_reads_its_disk_is_loaded_by_it_and_moved_for_it() {
    let calm = Calm { dead_band: 0.2, difference_min: 0.05, gain_min: 0.05 };
    let disk = SharedDisk::new();
    // Without a weight of CPU time, because booting takes much of it.
    let weights = Some(Weights { cpu: 0.0, memory: 0.1, io: 1.0 });
    let mut hosts = support::alike(2, 2.0);
    hosts.iter_mut().for_each(|host| (host.weights, host.io_mib_s) = (weights, 1.0));
    let extra = balance(ROUND, &calm) + &disk.config();
    let cluster = Cluster::up(hosts.clone(), vec![idle("pattern", "h2")], &extra);
    let like = cluster.dumpxml("h2", "pattern", true).expect("it is there");
    for name in ["reader-1", "reader-2"] {
        let file = disk.dir.join(format!("{name}.xml"));
        fs::write(&file, disk.domain(name, &like)).expect("there is room");
        cluster.virsh("h1", &["create", &file.display().to_string()]).expect("it starts");
    }

    let decision = cluster.await_move("a reader on its way", |_| true);
    let chosen = decision.chosen().expect("a machine moved");
    assert!(chosen.name.starts_with("reader"), "{chosen:?}");
    assert_eq!(chosen.basis, Some(Basis::Actual));
    let factors = chosen.factors.expect("measured");
    let reading = Resources { cpu_cores: 0.0, memory_bytes: 0.0, ..factors };
    let by_reading = price(&hosts[0], &reading) / chosen.at_donor.expect("priced");
    assert!(by_reading > 0.9, "{chosen:?} is not loaded by reading");
    assert_priced_by_each(&decision, &hosts[0], &hosts[1]);
    assert_nearest(&decision, &calm);
    let name = chosen.name.clone();
    cluster.until(LIMIT, "reading measured where it is now", |c| {
        let there = c.machine_on("h2", &name)?;
        (there.basis == Some(Basis::Actual) && there.usage?.io_bytes_per_s > 0.0).then_some(())
    });
    assert_eq!(cluster.virsh("h2", &["domstate", &name]).expect("it is there").trim(), "running");
}
