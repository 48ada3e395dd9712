//! One host, judged by itself.

use crate::{Check, Facts, Finding, LibvirtFacts, Sharing, StorageFacts, Version};

/// The oldest libvirt that Evenkeel is tried with: `vcpu.delay` and `VIR_MIGRATE_PARAM_*` as used.
const LIBVIRT_MIN: Version = Version(7_000_000);
/// The oldest QEMU whose software emulation (TCG) migrates a machine's memory intact.
const QEMU_FOR_EMULATED_MIN: u64 = 9;
/// The first libvirt that can be told which file systems are shared.
const SHARED_FILESYSTEMS_MIN: Version = Version(10_008_000);
/// A certificate that expires sooner is an error: its renewal has failed for long.
const EXPIRY_ERROR_MS: u64 = 3 * DAY_MS;
const DAY_MS: u64 = 86_400_000;
/// Room that the store should have, in bytes.
const STORE_ROOM: u64 = 64 << 20;
/// File systems that are elsewhere, or gone with the power.
const REMOTE: [&str; 8] =
    ["nfs", "nfs4", "cifs", "smb3", "ceph", "fuse.glusterfs", "9p", "fuse.sshfs"];
const VOLATILE: [&str; 2] = ["tmpfs", "ramfs"];

/// What is found about a host.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![agent(facts)];
    findings.extend(machines(facts));
    findings.extend(silent(facts));
    match &facts.libvirt {
        Err(why) => findings.push(Finding::error(
            Check::Libvirt,
            &facts.host,
            format!("libvirt does not answer: {why}"),
            "see that its daemon runs and that this user may connect to it; `uri` under \
             `[libvirt]` says where it is looked for",
        )),
        Ok(libvirt) => {
            findings.extend([version(facts, libvirt), qemu(facts, libvirt)]);
            findings.extend(lock_manager(facts, libvirt));
        }
    }
    findings.extend([migration_uri(facts), migration_ports(facts)]);
    findings.extend(identity(facts));
    findings.extend(storage(facts));
    findings.extend([memory(facts), store(facts), pressure(facts)]);
    findings
}

fn agent(facts: &Facts) -> Finding {
    let host = &facts.host;
    match &facts.agent {
        None => Finding::warning(
            Check::Agent,
            host,
            "no agent answers; looked at by its configuration alone",
            "start it: `systemctl start evenkeel`",
        ),
        Some(agent) => match &agent.unknown {
            Some(why) => Finding::error(
                Check::Agent,
                host,
                format!("the agent does not know the load of its host: {why}"),
                "nothing is balanced until it does; a host just started is known after two samples",
            ),
            None if agent.members.is_empty() && !agent.knows_others => Finding::warning(
                Check::Agent,
                host,
                "it runs, and knows no other host",
                "join a cluster (`evenkeel agent --join TOKEN`), let hosts join this one \
                 (`evenkeel cluster join-token`), or name other agents in `seeds`",
            ),
            None if agent.members.is_empty() => Finding::error(
                Check::Agent,
                host,
                "it runs, and no other member of its cluster is alive for it",
                "see that their agents run, and that UDP and TCP port 7946 are open both ways",
            ),
            None => Finding::ok(
                Check::Agent,
                host,
                format!("it runs, has measured, and knows {} other members", agent.members.len()),
            ),
        },
    }
}

/// What somebody has to look at, and what stays.
fn machines(facts: &Facts) -> Vec<Finding> {
    let Some(agent) = &facts.agent else { return Vec::new() };
    let (host, check) = (&facts.host, Check::Machines);
    let alarms = agent.alarms.iter();
    let mut findings: Vec<Finding> =
        alarms.map(|(what, remedy)| Finding::error(check, host, what, remedy)).collect();
    if findings.is_empty() {
        let kept = agent.kept.iter().map(|(name, why)| format!("`{name}` stays: {why}"));
        let kept: Vec<String> = kept.collect();
        let what = if kept.is_empty() { "none is in trouble".to_owned() } else { kept.join("; ") };
        findings.push(Finding::ok(check, host, what));
    }
    findings
}

/// A member is one until it leaves or is removed.
fn silent(facts: &Facts) -> Vec<Finding> {
    let silent = facts.agent.iter().flat_map(|agent| &agent.silent);
    let finding = |(host, since): (&String, &u64)| {
        let minutes = facts.at_ms.saturating_sub(*since) / 60_000;
        let what = format!("host `{host}` has not answered for {minutes} min");
        let remedy = format!(
            "start its agent, or mend the network to it; if it is gone for good: `evenkeel cluster \
             remove {host}` on the host that made the cluster"
        );
        Finding::error(Check::Agent, &facts.host, what, remedy)
    };
    silent.map(finding).collect()
}

fn version(facts: &Facts, libvirt: &LibvirtFacts) -> Finding {
    let what = format!("libvirt {} answers at `{}`", libvirt.version, libvirt.uri);
    if libvirt.version < LIBVIRT_MIN {
        let remedy = format!("install libvirt {LIBVIRT_MIN} or later");
        return Finding::warning(Check::Libvirt, &facts.host, what, remedy);
    }
    Finding::ok(Check::Libvirt, &facts.host, what)
}

fn qemu(facts: &Facts, libvirt: &LibvirtFacts) -> Finding {
    let LibvirtFacts { qemu, hardware, emulated_machines, .. } = libvirt;
    let (host, check) = (&facts.host, Check::Qemu);
    if qemu.major() >= QEMU_FOR_EMULATED_MIN {
        let how = if *hardware { "with KVM" } else { "without KVM" };
        return Finding::ok(check, host, format!("QEMU {qemu}, {how}"));
    }
    let corrupts = format!(
        "QEMU {qemu} corrupts the memory of machines that it emulates in software when they are \
         migrated live"
    );
    let remedy = format!(
        "install QEMU {QEMU_FOR_EMULATED_MIN} or later (on Debian 12 from bookworm-backports)"
    );
    if !hardware {
        let what = format!("there is no usable KVM, and {corrupts}: nothing is migrated from here");
        return Finding::error(check, host, what, remedy);
    }
    if *emulated_machines > 0 {
        let what = format!("{emulated_machines} machines here are of type `qemu`, and {corrupts}");
        let remedy = format!("{remedy}, or define them with type `kvm`; they stay where they are");
        return Finding::warning(check, host, what, remedy);
    }
    Finding::ok(check, host, format!("QEMU {qemu}, with KVM"))
}

fn lock_manager(facts: &Facts, libvirt: &LibvirtFacts) -> Option<Finding> {
    let (declared, used) = (facts.lock_manager.as_deref(), libvirt.lock_manager.as_deref());
    let (host, check) = (&facts.host, Check::LockManager);
    Some(match (declared, used) {
        (None, None) => Finding::ok(
            check,
            host,
            "none: machines whose storage has no locks of its own are handed over strictly",
        ),
        (Some(declared), Some(used)) if declared == used => {
            Finding::ok(check, host, format!("libvirt leases disks from `{used}`"))
        }
        (None, Some(used)) => Finding::warning(
            check,
            host,
            format!("libvirt leases disks from `{used}`, which Evenkeel was not told"),
            format!("set `lock_manager = \"{used}\"` under `[handoff]` if it does so on all hosts"),
        ),
        (Some(declared), used) => Finding::error(
            check,
            host,
            format!(
                "`{declared}` is declared, and libvirt's configuration names {}",
                used.map_or_else(|| "none that can be read".to_owned(), |used| format!("`{used}`"))
            ),
            "machines may be handed over fast because of it: take `lock_manager` out, or set it in \
             /etc/libvirt/qemu.conf and restart libvirt",
        ),
    })
}

fn migration_uri(facts: &Facts) -> Finding {
    let (uri, host) = (&facts.migration.uri, &facts.host);
    match &facts.migration.unreached {
        None if facts.migration.carried => {
            let what = "agents carry machines to libvirt, which takes them";
            Finding::ok(Check::MigrationUri, host, what)
        }
        Some(why) if facts.migration.carried => Finding::error(
            Check::MigrationUri,
            host,
            format!("libvirt does not take what agents carry to it: {why}"),
            "set `libvirt_socket` under `[migration]` to where libvirt listens on this host, and \
             see that the agent may open it",
        ),
        None => Finding::ok(Check::MigrationUri, host, format!("libvirt is reached at `{uri}`")),
        Some(why) => Finding::error(
            Check::MigrationUri,
            host,
            format!("libvirt is not reached at `{uri}`, where other hosts look for it: {why}"),
            "set `migration_uri` under `[libvirt]`, and see that libvirt listens there \
             (for `qemu+tls`: its certificates, and `virtproxyd-tls.socket` or `--listen`)",
        ),
    }
}

fn migration_ports(facts: &Facts) -> Finding {
    let ((first, last), (free, tried)) = (facts.migration.ports, facts.migration.free);
    let (host, check) = (&facts.host, Check::MigrationPorts);
    if facts.migration.carried {
        return Finding::ok(
            check,
            host,
            "none are needed: agents carry machines by their own link",
        );
    }
    match free {
        0 => Finding::error(
            check,
            host,
            format!("none of the first {tried} ports from {first} to {last} is free"),
            "end what listens there, or set `migration_port_min` and `migration_port_max` in \
             qemu.conf",
        ),
        _ => Finding::ok(
            check,
            host,
            format!(
                "QEMU takes machines at {first} to {last}; let the other hosts through to them"
            ),
        ),
    }
}

fn identity(facts: &Facts) -> Vec<Finding> {
    let host = &facts.host;
    let identity = match &facts.identity {
        Ok(identity) => identity,
        Err(why) => {
            let remedy = "the words say which file, and what to do with it";
            return vec![Finding::error(Check::Identity, host, why, remedy)];
        }
    };
    let what = format!("host `{}` of cluster {}", identity.host, identity.cluster);
    let fits = Finding::ok(Check::Identity, host, what);
    let left = identity.expires_ms.saturating_sub(facts.at_ms);
    let what = match left / DAY_MS {
        0 => format!("the certificate expires in {} h", left / 3_600_000),
        days => format!("the certificate expires in {days} d"),
    };
    let remedy = "the agent renews it by itself while it reaches the host with the authority's key; \
                  its log says why not, and `evenkeel cluster renew` tries at once";
    let overdue = facts.at_ms > identity.renewal_due_ms;
    let lasts = match () {
        () if overdue && left < EXPIRY_ERROR_MS => {
            Finding::error(Check::Expiry, host, what, remedy)
        }
        () if overdue => {
            let what = format!("{what} and should have been renewed by now");
            Finding::warning(Check::Expiry, host, what, remedy)
        }
        () => Finding::ok(Check::Expiry, host, what),
    };
    vec![fits, lasts]
}

fn storage(facts: &Facts) -> Vec<Finding> {
    let host = &facts.host;
    if facts.storage.is_empty() {
        let what = "none is declared: machines with disks move only within shared pools of libvirt";
        return vec![Finding::ok(Check::Storage, host, what)];
    }
    let each = facts.storage.iter().map(|(id, storage)| {
        if let Some(finding) = of_no_use(facts, id, storage) {
            return finding;
        }
        if storage.found {
            let what = format!("`{id}` is at `{}` ({})", storage.path, storage.file_system);
            return Finding::ok(Check::Storage, host, what);
        }
        let what = format!("`{id}` is not there: `{}` does not exist", storage.path);
        let remedy = "mount it, or take it out of `[storage]`: machines on it are moved here \
                      otherwise and fail";
        Finding::error(Check::Storage, host, what, remedy)
    });
    each.collect()
}

/// Storage that is declared and that machines cannot move by.
fn of_no_use(facts: &Facts, id: &str, storage: &StorageFacts) -> Option<Finding> {
    let (host, check) = (&facts.host, Check::Storage);
    let StorageFacts { path, file_system: kind, .. } = storage;
    match storage.sharing {
        Sharing::Silent => Some(Finding::error(
            check,
            host,
            format!("`{id}` at `{path}` ({kind}) does not answer: is its server gone?"),
            "machines on it are moved to this host no more until it answers; see its server, and the \
             network to it",
        )),
        Sharing::Nothing if storage.found => Some(Finding::error(
            check,
            host,
            format!("`{id}` is not mounted: `{path}` is an empty directory ({kind})"),
            "mount it: until something is there no machine on it is moved to this host",
        )),
        Sharing::Local => {
            let version = facts.libvirt.as_ref().map_or(Version(0), |libvirt| libvirt.version);
            let what = format!(
                "`{id}` at `{path}` is on `{kind}`, which libvirt takes for storage of this host alone"
            );
            if version < SHARED_FILESYSTEMS_MIN {
                let remedy = "it refuses to migrate machines with disks there (`UNSAFE_STORAGE`): mount \
                              it by a network file system on every host, its server's own included; from \
                              libvirt 11 on, `shared_filesystems` in qemu.conf says so";
                return Some(Finding::error(check, host, what, remedy));
            }
            let remedy = format!(
                "it refuses to migrate machines with disks there unless qemu.conf has \
                 `shared_filesystems = [ \"{path}\" ]`"
            );
            Some(Finding::warning(check, host, what, remedy))
        }
        Sharing::Shared | Sharing::Unknown | Sharing::Nothing => None,
    }
}

fn memory(facts: &Facts) -> Finding {
    let (capacity, host, check) = (&facts.capacity, &facts.host, Check::Memory);
    let total = capacity.declared.unwrap_or(capacity.memory);
    let mib = |bytes: u64| bytes >> 20;
    if capacity.reserved >= total {
        let what = format!(
            "{} MiB are reserved, and there are {} MiB: nothing is left for machines",
            mib(capacity.reserved),
            mib(total)
        );
        return Finding::error(check, host, what, "lower `reserved_memory` under `[capacity]`");
    }
    if capacity.memory > 0 && total > capacity.memory {
        let what = format!(
            "{} MiB are declared, and the host has {} MiB",
            mib(total),
            mib(capacity.memory)
        );
        let remedy = "machines are taken for which there is no memory: lower `memory` under \
                      `[capacity]`, or take it out";
        return Finding::error(check, host, what, remedy);
    }
    let kept = capacity.reserved.max(capacity.memory.saturating_sub(total));
    if kept == 0 {
        let what = "nothing is kept for the host itself: machines may take all of its memory";
        let remedy = "set `reserved_memory` under `[capacity]`, such as \"2GiB\"";
        return Finding::warning(check, host, what, remedy);
    }
    let what =
        format!("{} MiB, of which {} MiB are not for machines", mib(capacity.memory), mib(kept));
    Finding::ok(check, host, what)
}

fn store(facts: &Facts) -> Finding {
    let (store, host, check) = (&facts.store, &facts.host, Check::Store);
    let at = format!("`{}` ({})", store.path, store.file_system);
    if let Some(why) = &store.fault {
        let remedy = "while it cannot be written this host neither gives nor takes a machine: mend \
                      the file system, or its owner";
        return Finding::error(check, host, format!("{at} cannot be written: {why}"), remedy);
    }
    let kind = store.file_system.as_str();
    if VOLATILE.contains(&kind) {
        let what = format!("{at} is gone when the host is without power");
        let remedy = "records of handoffs must outlive that: put `state_dir` on a disk";
        return Finding::warning(check, host, what, remedy);
    }
    if REMOTE.contains(&kind) {
        let what = format!("{at} is not on this host");
        let remedy = "a host without its network could not write its records: put `state_dir` on a \
                      disk of its own";
        return Finding::warning(check, host, what, remedy);
    }
    let what = format!("{at}, {} MiB free", store.free >> 20);
    if store.free < STORE_ROOM {
        return Finding::warning(check, host, what, "make room there");
    }
    Finding::ok(check, host, what)
}

fn pressure(facts: &Facts) -> Finding {
    if facts.pressure {
        return Finding::ok(Check::Pressure, &facts.host, "the kernel tells it");
    }
    Finding::warning(
        Check::Pressure,
        &facts.host,
        "the kernel does not tell pressure stall information",
        "boot with `psi=1`: without it a lack of memory or I/O shows only in loads",
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        AgentFacts, CapacityFacts, IdentityFacts, Level, MigrationFacts, StorageFacts, StoreFacts,
        worst,
    };

    const GIB: u64 = 1 << 30;

    /// A host that is as it should be.
    pub(crate) fn sound(host: &str) -> Facts {
        Facts {
            host: host.to_owned(),
            at_ms: 1_000 * DAY_MS,
            evenkeel: "0.1.0".to_owned(),
            agent: Some(AgentFacts { members: vec!["other".to_owned()], ..AgentFacts::default() }),
            libvirt: Ok(LibvirtFacts {
                uri: "qemu:///system".to_owned(),
                version: Version(9_000_000),
                qemu: Version(10_000_002),
                hardware: true,
                virt_type: "kvm".to_owned(),
                host_uuid: format!("uuid of {host}"),
                ..LibvirtFacts::default()
            }),
            migration: MigrationFacts {
                uri: format!("qemu+tls://{host}/system"),
                ports: (49152, 49215),
                free: (8, 8),
                ..MigrationFacts::default()
            },
            identity: Ok(IdentityFacts {
                host: host.to_owned(),
                cluster: "c".to_owned(),
                expires_ms: 1_030 * DAY_MS,
                renewal_due_ms: 1_010 * DAY_MS,
            }),
            capacity: CapacityFacts { memory: 64 * GIB, declared: None, reserved: 2 * GIB },
            store: StoreFacts {
                path: "/var/lib/evenkeel".to_owned(),
                file_system: "ext4".to_owned(),
                free: GIB,
                ..StoreFacts::default()
            },
            storage: [(
                "nfs".to_owned(),
                StorageFacts {
                    path: "/srv/vm".to_owned(),
                    found: true,
                    source: "nas:/vm".to_owned(),
                    file_system: "nfs4".to_owned(),
                    sharing: Sharing::Shared,
                },
            )]
            .into(),
            lock_manager: None,
            pressure: true,
        }
    }

    #[test]
    fn a_sound_host_is_found_to_be_so_in_every_check() {
        let findings = examine(&sound("h1"));
        assert_eq!(worst(&findings), Level::Ok, "{findings:#?}");
        assert!(findings.iter().all(|f| f.remedy.is_none() && f.host.as_deref() == Some("h1")));
    }

    type Spoil = fn(&mut Facts);

    #[test]
    fn every_ill_is_found_by_its_own_check_and_has_a_remedy() {
        let cases: [(Spoil, Check, Level, &str); 28] = [
            (
                |f| {
                    let since = f.at_ms - 300_000;
                    f.agent.as_mut().unwrap().silent = [("h3".to_owned(), since)].into();
                },
                Check::Agent,
                Level::Error,
                "`h3` has not answered for 5 min",
            ),
            (
                |f| {
                    let alarm =
                        ("machine `m` runs on host `h1` and on host `h2`", "virsh destroy m");
                    let agent = f.agent.as_mut().unwrap();
                    agent.alarms = vec![(alarm.0.to_owned(), alarm.1.to_owned())];
                },
                Check::Machines,
                Level::Error,
                "runs on host `h1` and on host `h2`",
            ),
            (
                |f| f.agent.as_mut().unwrap().members.clear(),
                Check::Agent,
                Level::Warning,
                "knows no other host",
            ),
            (
                |f| {
                    let nfs = f.storage.get_mut("nfs").unwrap();
                    (nfs.sharing, nfs.file_system) = (Sharing::Local, "overlay".into());
                },
                Check::Storage,
                Level::Error,
                "libvirt takes for storage of this host alone",
            ),
            (
                |f| f.storage.get_mut("nfs").unwrap().sharing = Sharing::Nothing,
                Check::Storage,
                Level::Error,
                "is not mounted",
            ),
            (
                |f| f.storage.get_mut("nfs").unwrap().sharing = Sharing::Silent,
                Check::Storage,
                Level::Error,
                "does not answer",
            ),
            (|f| f.agent = None, Check::Agent, Level::Warning, "no agent"),
            (
                |f| f.agent.as_mut().unwrap().unknown = Some("stale".into()),
                Check::Agent,
                Level::Error,
                "stale",
            ),
            (|f| f.libvirt = Err("refused".into()), Check::Libvirt, Level::Error, "refused"),
            (
                |f| f.libvirt.as_mut().unwrap().version = Version(6_010_000),
                Check::Libvirt,
                Level::Warning,
                "6.10.0",
            ),
            (
                |f| {
                    let libvirt = f.libvirt.as_mut().unwrap();
                    (libvirt.hardware, libvirt.qemu) = (false, Version(7_002_000));
                },
                Check::Qemu,
                Level::Error,
                "QEMU 7.2.0 corrupts",
            ),
            (
                |f| {
                    let libvirt = f.libvirt.as_mut().unwrap();
                    (libvirt.emulated_machines, libvirt.qemu) = (3, Version(8_000_000));
                },
                Check::Qemu,
                Level::Warning,
                "3 machines",
            ),
            (
                |f| f.migration.unreached = Some("no route".into()),
                Check::MigrationUri,
                Level::Error,
                "no route",
            ),
            (
                |f| {
                    f.migration.carried = true;
                    f.migration.unreached = Some("no such file".into());
                    f.migration.free.0 = 0;
                },
                Check::MigrationUri,
                Level::Error,
                "does not take what agents carry",
            ),
            (|f| f.migration.free.0 = 0, Check::MigrationPorts, Level::Error, "49152 to 49215"),
            (
                |f| f.identity = Err("host.key can be read by others (mode 0640)".into()),
                Check::Identity,
                Level::Error,
                "0640",
            ),
            (|f| f.at_ms = 1_011 * DAY_MS, Check::Expiry, Level::Warning, "expires in 19 d"),
            (
                |f| f.at_ms = 1_030 * DAY_MS - 7_200_000,
                Check::Expiry,
                Level::Error,
                "expires in 2 h",
            ),
            (
                |f| f.storage.get_mut("nfs").unwrap().found = false,
                Check::Storage,
                Level::Error,
                "`/srv/vm`",
            ),
            (
                |f| f.lock_manager = Some("sanlock".into()),
                Check::LockManager,
                Level::Error,
                "`sanlock` is declared",
            ),
            (
                |f| f.libvirt.as_mut().unwrap().lock_manager = Some("lockd".into()),
                Check::LockManager,
                Level::Warning,
                "`lockd`",
            ),
            (|f| f.capacity.reserved = 64 * GIB, Check::Memory, Level::Error, "nothing is left"),
            (
                |f| f.capacity.declared = Some(65 * GIB),
                Check::Memory,
                Level::Error,
                "the host has 65536 MiB",
            ),
            (|f| f.capacity.reserved = 0, Check::Memory, Level::Warning, "nothing is kept"),
            (|f| f.store.fault = Some("read-only".into()), Check::Store, Level::Error, "read-only"),
            (|f| f.store.file_system = "tmpfs".into(), Check::Store, Level::Warning, "power"),
            (|f| f.store.file_system = "nfs4".into(), Check::Store, Level::Warning, "not on this"),
            (|f| f.store.free = 1 << 20, Check::Store, Level::Warning, "1 MiB free"),
        ];
        for (spoil, check, level, words) in cases {
            let mut facts = sound("h1");
            spoil(&mut facts);
            let findings = examine(&facts);
            let bad: Vec<_> = findings.iter().filter(|f| f.level != Level::Ok).collect();
            let [found] = bad[..] else { panic!("{words}: {bad:#?}") };
            assert_eq!((found.check, found.level), (check, level), "{found:?}");
            assert!(found.what.contains(words), "{found:?}");
            assert!(found.remedy.as_ref().is_some_and(|r| r.len() > 10), "{found:?}");
        }
    }

    #[test]
    fn what_is_declared_less_than_there_is_is_kept_for_the_host() {
        let mut facts = sound("h1");
        facts.capacity = CapacityFacts { memory: 64 * GIB, declared: Some(60 * GIB), reserved: 0 };
        facts.pressure = false;
        let findings = examine(&facts);
        let bad: Vec<_> = findings.iter().filter(|f| f.level != Level::Ok).collect();
        assert_eq!(bad.iter().map(|f| f.check).collect::<Vec<_>>(), [Check::Pressure]);
    }
}
