//! Hosts, judged against each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Check, Facts, Finding, Sharing, StorageFacts};

/// Clocks that differ by more than this are worth a look, by more than [`SKEW_ERROR_MS`] trouble.
const SKEW_WARNING_MS: u64 = 1_000;
const SKEW_ERROR_MS: u64 = 30_000;

/// A host as it was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The host.
    pub host: String,
    /// What it said, or why it did not.
    pub facts: Result<Facts, String>,
    /// By how much its clock is ahead of the one of the host that asked, in milliseconds, and how far
    /// that may be wrong.
    pub skew_ms: (i64, u64),
}

/// Whether one host reaches another's libvirt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// From here.
    pub from: String,
    /// To there.
    pub to: String,
    /// Why not, if not.
    pub fault: Option<String>,
}

/// The CPU that all hosts can give to machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// Its model.
    pub model: String,
    /// How many features beyond the model.
    pub features: usize,
}

/// What is found about several hosts. `baseline` is why it could not be worked out, if so.
#[must_use]
pub fn examine(asked: &[Asked], ways: &[Way], baseline: &Result<Baseline, String>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = asked.iter().filter_map(silent).collect();
    findings.extend(asked.iter().filter(|a| a.facts.is_ok()).map(clock));
    findings.extend(ways.iter().map(reach));
    let facts: Vec<&Facts> = asked.iter().filter_map(|a| a.facts.as_ref().ok()).collect();
    findings.push(cpu(&facts, baseline));
    findings.extend(shared(&facts));
    findings.extend(host_uuids(&facts));
    findings.push(versions(&facts));
    findings
}

fn silent(asked: &Asked) -> Option<Finding> {
    let why = asked.facts.as_ref().err()?;
    let what = format!("it was not asked: {why}");
    let remedy = "run `evenkeel doctor` on that host";
    Some(Finding::error(Check::Agent, &asked.host, what, remedy))
}

fn clock(asked: &Asked) -> Finding {
    let (skew, slack) = asked.skew_ms;
    let (host, size) = (&asked.host, skew.unsigned_abs().saturating_sub(slack));
    let ahead = if skew < 0 { "behind" } else { "ahead" };
    let what =
        format!("its clock is {:.1} s {ahead} of this host's", skew.unsigned_abs() as f64 / 1e3);
    let remedy = "have all hosts set their clocks by the same source (chrony, systemd-timesyncd): \
                  certificates, windows of time and records are judged by them";
    if size > SKEW_ERROR_MS {
        Finding::error(Check::Clock, host, what, remedy)
    } else if size > SKEW_WARNING_MS {
        Finding::warning(Check::Clock, host, what, remedy)
    } else {
        Finding::ok(Check::Clock, host, what)
    }
}

fn reach(way: &Way) -> Finding {
    let Way { from, to, fault } = way;
    match fault {
        None => Finding::ok(Check::Reach, from, format!("reaches the libvirt of host `{to}`")),
        Some(why) => Finding::error(
            Check::Reach,
            from,
            format!("does not reach the libvirt of host `{to}`: {why}"),
            format!(
                "no machine moves from `{from}` to `{to}`: open TCP port 7946 there, besides UDP, where \
                 agents carry machines; otherwise look at `migration_uri` there, libvirt's \
                 certificates on both, and the network between the two"
            ),
        ),
    }
}

fn cpu(facts: &[&Facts], baseline: &Result<Baseline, String>) -> Finding {
    let models: BTreeSet<&str> = facts
        .iter()
        .filter_map(|facts| facts.libvirt.as_ref().ok())
        .map(|libvirt| libvirt.cpu.as_str())
        .collect();
    match baseline {
        Err(why) => Finding::warning(
            Check::Cpu,
            "",
            format!("which CPU all hosts can run is not known: {why}"),
            "machines are compared with each host before they move, in any case",
        ),
        Ok(Baseline { model, features }) if models.len() <= 1 => Finding::ok(
            Check::Cpu,
            "",
            format!("all hosts can run the same: `{model}` and {features} features"),
        ),
        Ok(Baseline { model, features }) => Finding::warning(
            Check::Cpu,
            "",
            format!(
                "hosts differ; all can run `{model}` and {features} features, and machines with \
                 `host-model` or `host-passthrough` move only to hosts with the same or more"
            ),
            format!("define machines with the model `{model}` where they are to go everywhere"),
        ),
    }
}

/// Ids that not all hosts have, or that stand for different things.
fn shared(facts: &[&Facts]) -> Vec<Finding> {
    let mut places: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for facts in facts {
        for (id, storage) in &facts.storage {
            let sources = places.entry(id).or_default();
            sources.entry(&storage.source).or_default().push(&facts.host);
        }
    }
    let mut findings = Vec::new();
    for (id, sources) in &places {
        findings.extend(half_mounted(id, facts));
        let having: BTreeSet<&str> = sources.values().flatten().copied().collect();
        let without: Vec<&str> =
            facts.iter().map(|f| f.host.as_str()).filter(|host| !having.contains(host)).collect();
        if !without.is_empty() {
            findings.push(Finding::warning(
                Check::Shared,
                "",
                format!("storage `{id}` is not declared on {}", without.join(", ")),
                "machines on it do not move there; declare it under `[storage]` if it is reached",
            ));
        }
        let known: Vec<_> = sources.iter().filter(|(source, _)| is_network(source)).collect();
        if known.len() > 1 {
            let each: Vec<String> = known
                .iter()
                .map(|(source, hosts)| format!("`{source}` on {}", hosts.join(", ")))
                .collect();
            findings.push(Finding::error(
                Check::Shared,
                "",
                format!("storage `{id}` is not the same everywhere: {}", each.join("; ")),
                "a machine that moves would not find its disks, or others': use one id for one thing",
            ));
        }
    }
    if findings.is_empty() {
        let what = match places.len() {
            0 => "no storage is declared".to_owned(),
            count => format!("{count} ids, on all hosts"),
        };
        findings.push(Finding::ok(Check::Shared, "", what));
    }
    findings
}

/// Hosts that libvirt takes for one and the same.
fn host_uuids(facts: &[&Facts]) -> Vec<Finding> {
    let mut hosts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for facts in facts {
        let uuid = facts.libvirt.as_ref().map_or("", |libvirt| libvirt.host_uuid.as_str());
        if !uuid.is_empty() {
            hosts.entry(uuid).or_default().push(&facts.host);
        }
    }
    let same = hosts.iter().filter(|(_, hosts)| hosts.len() > 1);
    let mut findings: Vec<Finding> = same
        .map(|(uuid, hosts)| {
            Finding::error(
                Check::HostUuid,
                "",
                format!("hosts {} have the same UUID, {uuid}", hosts.join(", ")),
                "no machine moves between them, since libvirt takes them for one: set `host_uuid` in \
                 libvirtd.conf (virtqemud.conf) of all but one, such as by `uuidgen`, and restart libvirt",
            )
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::ok(Check::HostUuid, "", "no two hosts have the same"));
    }
    findings
}

/// Storage that is a mount of the network on some hosts, and a file system of their own on others.
fn half_mounted(id: &str, facts: &[&Facts]) -> Option<Finding> {
    let of = |wanted: fn(&StorageFacts) -> bool| -> Vec<String> {
        let having = facts.iter().filter_map(|f| Some((f, f.storage.get(id)?)));
        let wanted = having.filter(|(_, storage)| wanted(storage));
        wanted
            .map(|(f, storage)| {
                let StorageFacts { source, file_system, .. } = storage;
                format!("`{source}` ({file_system}) on {}", f.host)
            })
            .collect()
    };
    let mounted = of(|s| is_network(&s.source) || s.sharing == Sharing::Shared);
    let own =
        of(|s| !is_network(&s.source) && matches!(s.sharing, Sharing::Local | Sharing::Nothing));
    (!mounted.is_empty() && !own.is_empty()).then(|| {
        Finding::error(
            Check::Shared,
            "",
            format!("storage `{id}` is {}, and {}", mounted.join(", "), own.join(", ")),
            "mount it on every host that declares it: a machine that moves would not find its disks",
        )
    })
}

/// Whether the name of what is mounted says the same on every host: `nas:/vm` does, `/dev/vda1` not.
fn is_network(source: &str) -> bool {
    source.contains(':') && !source.starts_with('/')
}

fn versions(facts: &[&Facts]) -> Finding {
    let of = |pick: fn(&Facts) -> Option<String>| -> BTreeSet<String> {
        facts.iter().filter_map(|facts| pick(facts)).collect()
    };
    let all = [
        ("Evenkeel", of(|f| Some(f.evenkeel.clone()))),
        ("libvirt", of(|f| Some(f.libvirt.as_ref().ok()?.version.to_string()))),
        ("QEMU", of(|f| Some(f.libvirt.as_ref().ok()?.qemu.to_string()))),
    ];
    let list = |versions: &BTreeSet<String>| {
        versions.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    };
    let said = |(name, versions): &(&str, BTreeSet<String>)| format!("{name} {}", list(versions));
    let mixed: Vec<_> = all.iter().filter(|(_, versions)| versions.len() > 1).map(said).collect();
    if mixed.is_empty() {
        return Finding::ok(
            Check::Versions,
            "",
            all.iter().map(said).collect::<Vec<_>>().join("; "),
        );
    }
    Finding::warning(
        Check::Versions,
        "",
        format!("hosts differ: {}", mixed.join("; ")),
        "finish the upgrade; machines started on the newer QEMU may have a machine type that the \
         older one does not, and stay until then",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::sound;
    use crate::{Level, Version, worst};

    fn asked(host: &str) -> Asked {
        Asked { host: host.to_owned(), facts: Ok(sound(host)), skew_ms: (5, 10) }
    }

    fn baseline() -> Result<Baseline, String> {
        Ok(Baseline { model: "EPYC".to_owned(), features: 12 })
    }

    fn way(from: &str, to: &str) -> Way {
        Way { from: from.to_owned(), to: to.to_owned(), fault: None }
    }

    #[test]
    fn hosts_that_are_alike_are_found_to_be_so() {
        let hosts = [asked("h1"), asked("h2")];
        let findings = examine(&hosts, &[way("h1", "h2"), way("h2", "h1")], &baseline());
        assert_eq!(worst(&findings), Level::Ok, "{findings:#?}");
    }

    type Spoil = fn(&mut Asked, &mut Way, &mut Result<Baseline, String>);

    #[test]
    fn what_differs_is_found_by_its_own_check() {
        let cases: [(Spoil, Check, Level, &str); 11] = [
            (|h, _, _| h.facts = Err("no route".into()), Check::Agent, Level::Error, "no route"),
            (|h, _, _| h.skew_ms = (-2500, 100), Check::Clock, Level::Warning, "2.5 s behind"),
            (|h, _, _| h.skew_ms = (61_000, 100), Check::Clock, Level::Error, "61.0 s ahead"),
            (|_, w, _| w.fault = Some("TLS".into()), Check::Reach, Level::Error, "`h2`: TLS"),
            (|_, _, b| *b = Err("no libvirt".into()), Check::Cpu, Level::Warning, "no libvirt"),
            (
                |h, _, _| {
                    h.facts.as_mut().unwrap().libvirt.as_mut().unwrap().cpu = "<cpu/>".into();
                },
                Check::Cpu,
                Level::Warning,
                "`EPYC`",
            ),
            (
                |h, _, _| h.facts.as_mut().unwrap().storage.clear(),
                Check::Shared,
                Level::Warning,
                "`nfs` is not declared on h2",
            ),
            (
                |h, _, _| {
                    let storage = &mut h.facts.as_mut().unwrap().storage;
                    storage.get_mut("nfs").unwrap().source = "old-nas:/vm".into();
                },
                Check::Shared,
                Level::Error,
                "`old-nas:/vm` on h2",
            ),
            (
                |h, _, _| {
                    let libvirt = h.facts.as_mut().unwrap().libvirt.as_mut().unwrap();
                    libvirt.host_uuid = "uuid of h1".into();
                },
                Check::HostUuid,
                Level::Error,
                "h1, h2 have the same UUID",
            ),
            (
                |h, _, _| {
                    let storage = &mut h.facts.as_mut().unwrap().storage;
                    let own = storage.get_mut("nfs").unwrap();
                    (own.source, own.file_system) = ("/dev/vda1".into(), "ext4".into());
                    own.sharing = Sharing::Local;
                },
                Check::Shared,
                Level::Error,
                "`nas:/vm` (nfs4) on h1, and `/dev/vda1` (ext4) on h2",
            ),
            (
                |h, _, _| {
                    let libvirt = h.facts.as_mut().unwrap().libvirt.as_mut().unwrap();
                    libvirt.qemu = Version(9_002_000);
                },
                Check::Versions,
                Level::Warning,
                "QEMU 10.0.2, 9.2.0",
            ),
        ];
        for (spoil, check, level, words) in cases {
            let (mut other, mut way, mut baseline) = (asked("h2"), way("h1", "h2"), baseline());
            spoil(&mut other, &mut way, &mut baseline);
            let findings = examine(&[asked("h1"), other], &[way], &baseline);
            let bad: Vec<_> = findings.iter().filter(|f| f.level != Level::Ok).collect();
            let [found] = bad[..] else { panic!("{words}: {bad:#?}") };
            assert_eq!((found.check, found.level), (check, level), "{found:?}");
            assert!(found.what.contains(words) && found.remedy.is_some(), "{found:?}");
        }
    }

    #[test]
    fn a_skew_that_may_be_the_way_of_the_answer_is_none() {
        let slow = Asked { skew_ms: (1_800, 900), ..asked("h2") };
        assert_eq!(clock(&slow).level, Level::Ok);
    }
}
