//! What is wrong with a host or a cluster before it shows.
//!
//! [`host::examine`] judges the [`Facts`] of one host, [`cluster::examine`] those of several against
//! each other. Both only judge: who gathers the facts, and how, is no matter here, so that every
//! verdict can be tested by a table. `docs/doctor.md` lists the checks.

pub mod cluster;
mod facts;
pub mod host;

use serde::{Deserialize, Serialize};

pub use facts::{
    AgentFacts, CapacityFacts, Facts, IdentityFacts, LibvirtFacts, MigrationFacts, Sharing,
    StorageFacts, StoreFacts, Version,
};

macro_rules! checks {
    ($($name:ident = $code:literal : $what:literal;)*) => {
        /// What was looked at: a closed list.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Check {
            $(#[doc = $what] #[serde(rename = $code)] $name,)*
        }

        impl Check {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code: stable, upper case.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// What it looks at, in a sentence.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Self::$name => $what),* }
            }
        }
    };
}

checks! {
    Agent = "AGENT": "The agent runs, and has measured its host not long ago.";
    Libvirt = "LIBVIRT": "libvirt answers at the configured URI and is new enough.";
    MigrationUri = "MIGRATION_URI": "libvirt is reached at the URI by which other hosts reach it.";
    MigrationPorts = "MIGRATION_PORTS": "Ports are free at which QEMU takes machines from other hosts.";
    Qemu = "QEMU": "QEMU migrates the machines of this host without corrupting their memory.";
    Identity = "IDENTITY": "The certificate and the key are there, fit, and only this user reads the key.";
    Expiry = "EXPIRY": "The certificate is renewed before it expires.";
    Machines = "MACHINES": "No machine runs twice, is left over or hangs; which machines stay whatever other hosts have.";
    Storage = "STORAGE": "Every directory under `[storage]` is there, and on storage that libvirt takes for shared.";
    LockManager = "LOCK_MANAGER": "A lock manager that is declared is one that libvirt uses.";
    Memory = "MEMORY": "What is declared of the memory is there, and something of it is kept for the host itself.";
    Store = "STORE": "The agent's store can be written, on a file system of this host with room.";
    Pressure = "PRESSURE": "The kernel tells how long machines wait (PSI).";
    Reach = "REACH": "Each host's libvirt is reached from this one. The other way is asked on that host.";
    Clock = "CLOCK": "The clocks of all hosts agree.";
    Cpu = "CPU": "Which CPU all hosts can run.";
    Shared = "SHARED": "All hosts have the same storage under the same ids.";
    Rules = "RULES": "What the rules of machines name is there: hosts, labels and values.";
    Targets = "TARGETS": "No host is left out because migrations to it fail.";
    HostUuid = "HOST_UUID": "libvirt tells all hosts apart.";
    Versions = "VERSIONS": "All hosts run the same versions of Evenkeel, libvirt and QEMU.";
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth a look before it is trouble.
    Warning,
    /// Trouble.
    Error,
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The check.
    pub check: Check,
    /// The host that it is about; none if it is about all.
    pub host: Option<String>,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What to do about it; none if there is nothing to do.
    pub remedy: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn ok(check: Check, host: &str, what: impl Into<String>) -> Self {
        Self::new(check, host, Level::Ok, what, None)
    }

    /// Worth a look.
    pub fn warning(
        check: Check,
        host: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(check, host, Level::Warning, what, Some(remedy.into()))
    }

    /// Trouble.
    pub fn error(
        check: Check,
        host: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(check, host, Level::Error, what, Some(remedy.into()))
    }

    /// `host` is empty for what is about all of them.
    fn new(
        check: Check,
        host: &str,
        level: Level,
        what: impl Into<String>,
        remedy: Option<String>,
    ) -> Self {
        let host = (!host.is_empty()).then(|| host.to_owned());
        Self { check, host, level, what: what.into(), remedy }
    }
}

/// The worst of several findings.
#[must_use]
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_distinct_and_the_documentation_lists_all() {
        let page = include_str!("../../../docs/doctor.md");
        let mut codes: Vec<_> = Check::ALL.iter().map(|check| check.code()).collect();
        for check in Check::ALL {
            let row = format!("| `{}` | {} |", check.code(), check.what());
            assert!(page.contains(&row), "docs/doctor.md does not have: {row}");
            let json = serde_json::to_string(check).unwrap();
            assert_eq!(json, format!("\"{}\"", check.code()));
        }
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Check::ALL.len());
    }

    #[test]
    fn the_worst_finding_counts() {
        let of = |level| Finding::new(Check::Clock, "", level, "", None);
        assert_eq!(worst(&[]), Level::Ok);
        assert_eq!(worst(&[of(Level::Ok), of(Level::Error), of(Level::Warning)]), Level::Error);
    }
}
