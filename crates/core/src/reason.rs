//! Reason codes: why an exchange ended as it did, or why a machine was not chosen. A closed list.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[cbor($index:literal)])* $name:ident = $code:literal : $meaning:literal, $remedy:literal;)*) => {
        /// Why an exchange ended as it did, or why a machine was not chosen: a closed list.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
            minicbor::Encode, minicbor::Decode, Serialize, Deserialize,
        )]
        #[cbor(index_only)]
        pub enum Reason {
            $(
                #[doc = $meaning]
                #[serde(rename = $code)]
                $(#[n($index)])*
                $name,
            )*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// It as another host is told of it, whose agent may be of an earlier version.
            #[must_use]
            pub fn told(self) -> Self {
                if self == Self::NotYet { Self::GainSmall } else { self }
            }

            /// The code: stable, upper case.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning),* }
            }

            /// What to do about it, in a sentence; that there is nothing to do, where so.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy),* }
            }
        }
    };
}

reasons! {
    // How exchanges end.
    #[cbor(0)] Moved = "MOVED": "The machine runs on the other host and its schedule entry is there.", "Nothing.";
    #[cbor(1)] WithinDeadBand = "WITHIN_DEAD_BAND": "The two loads are too close together to act on.", "Nothing; a smaller `dead_band` or `difference_min` acts on smaller differences.";
    #[cbor(2)] NoCandidate = "NO_CANDIDATE": "No machine of the more loaded host may move, or none would bring the two closer.", "See the verdict on each machine.";
    #[cbor(3)] NoPeer = "NO_PEER": "No other host of the cluster is alive.", "Check that the other agents run and reach this one; `evenkeel status` lists members.";
    #[cbor(4)] Busy = "BUSY": "The other host is in an exchange with somebody else.", "Nothing; the next round asks another host at random.";
    #[cbor(5)] Cordoned = "CORDONED": "The less loaded host takes no machines.", "`evenkeel uncordon` with the name of that host lets it take machines again.";
    #[cbor(6)] Draining = "DRAINING": "The less loaded host is being emptied.", "Nothing; `evenkeel uncordon` with the name of that host lets it take machines again.";
    #[cbor(7)] Stopping = "STOPPING": "One of the two agents is being stopped.", "Nothing.";
    #[cbor(8)] UnknownLoad = "UNKNOWN_LOAD": "A load is not known, and nothing is decided on the unknown.", "The detail names what could not be measured; a host just started is known after two samples.";
    #[cbor(9)] Version = "VERSION": "The two agents share no version of the protocol; of a machine: the other agent is too old to judge its rules.", "Upgrade the older agent; one version back is understood.";
    #[cbor(10)] TimedOut = "TIMED_OUT": "The other host did not answer in time.", "Check its agent and the network between the two.";
    #[cbor(11)] Unreachable = "UNREACHABLE": "A message to the other host could not be delivered.", "Check its agent, its address and the UDP port between the two.";
    #[cbor(12)] Protocol = "PROTOCOL": "The other host said something out of turn.", "Harmless once, after a restart; otherwise report it, with both agents' versions.";
    #[cbor(13)] StoreFailed = "STORE_FAILED": "This host's store could not be written, so it neither gives nor takes a machine.", "Make room on, or mend, the file system of the agent's state directory.";
    #[cbor(14)] MigrationFailed = "MIGRATION_FAILED": "The hypervisor could not migrate the machine, which runs on where it was.", "The detail holds the hypervisor's words.";
    #[cbor(15)] MigrationTooLong = "MIGRATION_TOO_LONG": "The migration was aborted because it lasted too long; the machine runs on where it was.", "Raise `migration_time_max`, or find out why the machine does not converge.";
    #[cbor(16)] ReservationExpired = "RESERVATION_EXPIRED": "The machine did not arrive before its reservation expired.", "Nothing; the other host's record says why.";
    #[cbor(17)] Ended = "ENDED": "The machine ended while it was being moved.", "Nothing, if it was shut down on purpose.";
    #[cbor(18)] Held = "HELD": "This host is above its limit, but has not been for long enough to act.", "Nothing; a smaller `hold` acts sooner.";
    #[cbor(19)] MoveLimit = "MOVE_LIMIT": "A host has taken part in as many moves within an hour as it may.", "Nothing; see `given_per_hour_max` and `taken_per_hour_max`.";
    #[cbor(20)] Learning = "LEARNING": "This host does not know its fair share of the cluster's load yet.", "Nothing; it takes some rounds, more in larger clusters.";
    #[cbor(21)] Paused = "PAUSED": "An operator has paused the whole cluster.", "`evenkeel resume` ends the pause before its time; `evenkeel status` says until when it holds, and who wanted it.";
    #[cbor(22)] OutsideHours = "OUTSIDE_HOURS": "A host moves machines by itself only in certain hours, and this was outside them.", "Nothing; `windows` and `blackouts` under `[operation]` say which.";
    #[cbor(23)] Observing = "OBSERVING": "A host or the machine only observes: this is what would have been done.", "Set `mode` under `[operation]`, or of the machine, to `approve` or `automatic` when it may move machines.";
    #[cbor(24)] AwaitsApproval = "AWAITS_APPROVAL": "It is recommended, and waits for an operator.", "`evenkeel recommendations` lists what waits; `evenkeel approve` does it, `evenkeel skip` drops it.";
    #[cbor(27)] Returning = "RETURNING": "The less loaded host has come back a short while ago and is filled gently.", "Nothing; see `return_time` and `return_per_minute_max`.";
    #[cbor(28)] NoSpare = "NO_SPARE": "Once this host is empty, the rest could not do without another one of them.", "Add a host, free memory, or drain with `--force`.";
    #[cbor(85)] NoRoom = "NO_ROOM": "None of the hosts that this one asked takes machines now: each is cordoned, being emptied, busy, at its limit of moves, or does not know the cluster yet.", "Nothing, if it passes; otherwise see `evenkeel explain host` of the others.";
    // Verdicts on machines.
    #[cbor(32)] Chosen = "CHOSEN": "It fits best by the policy that decides: its load is nearest to what the pair is to exchange.", "Nothing.";
    #[cbor(33)] Farther = "FARTHER": "It would help, but another machine fits better.", "Nothing.";
    #[cbor(34)] NoImprovement = "NO_IMPROVEMENT": "Its load is zero, or so large that the two hosts would end no closer together.", "Nothing.";
    #[cbor(35)] GainSmall = "GAIN_SMALL": "Moving it would bring the two closer by too little.", "Nothing; a smaller `gain_min` moves for less.";
    #[cbor(113)] NotYet = "NOT_YET": "Moving it would not have levelled enough yet to be worth what its migration costs.", "Nothing: while the difference lasts it counts for more. The detail says what it would level, for how long that is counted on and what it costs; a higher `aggressiveness` moves for less.";
    #[cbor(36)] NoMemory = "NO_MEMORY": "The other host has not enough free memory for it.", "Free memory there, lower `reserved_memory`, or let more be promised than there is: `memory` above 1 under `[ceilings]` there.";
    #[cbor(37)] NoCpuModel = "NO_CPU_MODEL": "The other host cannot run its CPU model or architecture.", "Define it with a CPU model that both hosts have; `evenkeel doctor --cluster` names one.";
    #[cbor(38)] NoStorage = "NO_STORAGE": "A disk of it is not within reach of the other host.", "Put its disks on shared storage and tell both agents its id under `[storage]`.";
    #[cbor(39)] RulePinned = "RULE_PINNED": "The other host is none that it may run on, or one that it must not.", "See `evenkeel rule` and the labels of that host.";
    #[cbor(40)] RuleIgnored = "RULE_IGNORED": "It is to be left alone.", "`evenkeel rule MACHINE remove ignore`, if the balancer may move it; `evenkeel migrate` moves it in any case.";
    #[cbor(41)] RuleAffinity = "RULE_AFFINITY": "More machines of its affinity group would stay behind than are on the other host, or the group would leave what it shares a label with.", "Nothing; to move the group as a whole, make the rule soft for that time (see `evenkeel rule`).";
    #[cbor(42)] RuleAntiAffinity = "RULE_ANTI_AFFINITY": "A machine of its anti-affinity group is on the other host.", "Nothing, if another host takes it; otherwise add a host, or make the rule soft for that time (`evenkeel rule MACHINE set anti-affinity=GROUP?`).";
    #[cbor(43)] NotRunning = "NOT_RUNNING": "It is paused or off, and only a running machine is moved live.", "To have it leave, let it run again (`virsh resume`), save it (`virsh managedsave`) or shut it down. If its host is rebooted while it is paused, its memory is lost.";
    #[cbor(44)] EntryInvalid = "ENTRY_INVALID": "Its schedule entry cannot be read, so it is left alone.", "Mend the entry in its libvirt metadata; the detail says what is wrong.";
    #[cbor(45)] UnderWay = "UNDER_WAY": "It is being moved already.", "Nothing; `evenkeel status` says how far it is, and what it waits for.";
    #[cbor(46)] CoolDown = "COOL_DOWN": "It moved a short while ago, or came from that very host not long ago.", "Nothing; a smaller `cool_down` lets it move sooner.";
    #[cbor(49)] WarmingUp = "WARMING_UP": "It has been started, or this host's agent has, too short a while ago to know what it uses.", "Nothing; fewer `warm_up` samples let it move sooner.";
    #[cbor(50)] Quarantined = "QUARANTINED": "Its migrations fail whatever the other host is, and it is left alone for a time that doubles with every failure.", "Find out why they failed; the records of those migrations hold the hypervisor's words.";
    #[cbor(120)] FailedThere = "FAILED_THERE": "Its last migration to that host failed, and it is not tried there for a time that doubles with every failure.", "Nothing, if another host takes it; otherwise find out why it failed: the record of that migration holds the hypervisor's words.";
    #[cbor(121)] TargetFails = "TARGET_FAILS": "Migrations of different machines to the other host have failed, and nothing is given to it for a while.", "Find out why they failed: `evenkeel status` holds the hypervisor's words. One machine is tried there again by itself; `evenkeel migrate MACHINE HOST` tries one at once, and a success ends it.";
    #[cbor(51)] CpuCeiling = "CPU_CEILING": "With what it may come to use, the other host would have more of its CPU in use than its ceiling allows.", "Nothing; a higher `cpu` under `[ceilings]` there takes it.";
    #[cbor(52)] IoCeiling = "IO_CEILING": "With what it may come to use, the other host would have more of its I/O in use than its ceiling allows.", "Nothing; a higher `io` under `[ceilings]` there takes it.";
    #[cbor(53)] NotConverging = "NOT_CONVERGING": "Its migration is predicted not to end within its limits: it is too large for the link, or dirties its memory too fast, or the last two were aborted.", "A faster link, a higher `migration_link` if it is told too low, or a longer `migration_time_max`.";
    #[cbor(54)] CostHigh = "COST_HIGH": "Moving it is predicted to cost more than levelling its load gains for as long as that load is expected to last.", "Nothing; a longer `payback` counts on loads lasting longer.";
    #[cbor(55)] NoLocks = "NO_LOCKS": "Nothing keeps two copies of it apart, and `handoff.mode` is `fast`.", "Set `handoff.mode` to `auto` or `strict`, or put its disks on storage whose locks hold on all hosts.";
    #[cbor(56)] RunsTwice = "RUNS_TWICE": "It was seen running on another host, too, and nobody moves it.", "Stop the copy that is wrong, and look at its disks after that.";
    #[cbor(25)] OtherMover = "OTHER_MOVER": "Somebody else has moved it here not long ago, so it is left alone for a while.", "Nothing; a smaller `cool_down` lets it move sooner. If another program balances these hosts, too, let only one of them.";
    #[cbor(57)] RuleSoft = "RULE_SOFT": "A soft rule would not hold on the other host, and nothing presses.", "Nothing; soft rules yield when a host is emptied or over a ceiling.";
    #[cbor(58)] RuleNeverLive = "RULE_NEVER_LIVE": "It is never to be migrated live.", "Shut it down, or `evenkeel rule MACHINE remove never-live`; `evenkeel migrate` moves it in any case.";
    #[cbor(59)] RuleMaxShare = "RULE_MAX_SHARE": "It would take a larger share of the other host than it may.", "Nothing; larger hosts take it, or raise its `max-share`.";
    #[cbor(60)] RuleNoLabel = "RULE_NO_LABEL": "A rule of it goes across a label that the other host does not have.", "Give that host the label under `[labels]`.";
    #[cbor(61)] RuleRepaired = "RULE_REPAIRED": "It broke a rule where it was and goes to where it breaks none, whatever the loads.", "Nothing; find out who put it there, or set `repair = false` under `[rules]`.";
    #[cbor(62)] RuleUnrepaired = "RULE_UNREPAIRED": "A rule is broken here, and no host asked can take the machine such that its rules hold.", "See the rules of the machine named in the detail: they may contradict each other, or hosts that are right for it may be full.";
    #[cbor(67)] RuleAcross = "RULE_ACROSS": "A host with the same value of a label has, or is about to get, another machine of its group.", "Nothing; it goes to a host with another value, or change `anti-affinity` in its schedule entry.";
    #[cbor(68)] WitnessSilent = "WITNESS_SILENT": "A host that may have another machine of its group has not answered, so that the rule across the label cannot be judged.", "Start that host's agent, or remove the host from the cluster if it is gone for good; the detail names it.";
    #[cbor(69)] WitnessUnsure = "WITNESS_UNSURE": "A host that may have another machine of its group has not been measured since its schedule changed.", "Nothing; if it lasts, see why that host is not measured.";
    #[cbor(70)] Passthrough = "PASSTHROUGH": "A device of its host is passed through to it, so that it cannot be moved live.", "Detach the device, or move the machine while it is off.";
    #[cbor(90)] NotAdmitted = "NOT_ADMITTED": "It has something that the other host does not let in through agents.", "Take it out of the machine, or, where the detail is a key of `migration.admit`, admit it in the configuration of the other host.";
    #[cbor(71)] NoMachineType = "NO_MACHINE_TYPE": "The other host has not its type of virtual hardware, or does not run machines in its way.", "Install the same QEMU on both hosts, or define it with a machine type that both have.";
    #[cbor(72)] NoCpuFeature = "NO_CPU_FEATURE": "The other host's CPU lacks features that it runs with.", "Define it with a CPU that all hosts have; `evenkeel doctor --cluster` names the richest one.";
    #[cbor(73)] NoNetwork = "NO_NETWORK": "The other host has not the virtual network, bridge or interface that it is connected to.", "Define the network on that host under the same name and start it.";
    #[cbor(74)] NoHugePages = "NO_HUGE_PAGES": "The other host has not enough free huge pages of the size that its memory is made of.", "Reserve more huge pages on that host (`vm.nr_hugepages`).";
    #[cbor(75)] NoNumaNode = "NO_NUMA_NODE": "It is bound to NUMA nodes or CPUs that the other host does not have.", "Take the binding out of its definition, or bind it to what all hosts have.";
    #[cbor(76)] LocalDisk = "LOCAL_DISK": "A disk of it is on its host alone, and may not or cannot be copied.", "Put the disk on shared storage, or let it be copied: `copy-storage` in its schedule entry, or `copy_storage` under `[handoff]`.";
    #[cbor(77)] NoDiskRoom = "NO_DISK_ROOM": "The other host has no place for the copy of a disk: no pool of that name, no room in it, or a file in the way.", "Make a pool of that name on that host with room enough, and clear away what an earlier move left there.";
    #[cbor(78)] NeedsChanged = "NEEDS_CHANGED": "What it needs of a host has changed since the two hosts agreed on it, so its migration was not begun.", "Nothing; the next round offers it as it is now.";
    #[cbor(79)] FitUnknown = "FIT_UNKNOWN": "The other host's hypervisor could not say whether it can run it.", "The detail holds its words; see that libvirt answers there.";
    #[cbor(95)] AlreadyHere = "ALREADY_HERE": "The other host knows the machine or the handoff already: it has a definition of the machine, runs it, or has had this handoff before.", "If the copy there is stale, remove it there (`virsh managedsave-remove`, `virsh undefine --keep-nvram`); if it is another machine with the same UUID, give one of the two a new UUID.";
    #[cbor(100)] OtherNetwork = "OTHER_NETWORK": "A network of that name is another one on the other host, or reaches only what is on its host.", "Connect it to a bridge into the same segment on both hosts; where the two are the same all the same, say so under `[networks]`.";
    #[cbor(101)] NoFile = "NO_FILE": "The other host has not a file or a program that it needs: firmware, a kernel, a socket, an emulator of a TPM.", "Put it there, at the same path, or take it out of the machine's definition.";
    #[cbor(102)] NoSecret = "NO_SECRET": "The other host's libvirt does not know a secret that a disk of it is opened with.", "Define the secret there with the same UUID and usage (`virsh secret-define`, `virsh secret-set-value`).";
    #[cbor(103)] NoAddress = "NO_ADDRESS": "It listens at an address of its present host, for a console or a serial port.", "Have it listen at `0.0.0.0`, at `127.0.0.1` or by a `listen` of type `network`.";
    #[cbor(104)] NameTaken = "NAME_TAKEN": "Another machine has its name on the other host.", "Rename one of the two (`virsh domrename`).";
    #[cbor(105)] CpuPinned = "CPU_PINNED": "A CPU of the other host that it is pinned to is pinned to another machine there.", "Pin one of the two to other CPUs (`virsh vcpupin`), or to more than it has virtual ones.";
    #[cbor(106)] SameHostUuid = "SAME_HOST_UUID": "The two hosts have the same UUID, and libvirt takes them for one.", "Set `host_uuid` in libvirtd.conf (virtqemud.conf) of one of the two, and restart libvirt there.";
    #[cbor(107)] Snapshots = "SNAPSHOTS": "libvirt keeps snapshots of it, and migrates no machine that has any.", "Delete them (`virsh snapshot-delete`), with `--metadata` where another program keeps them.";
    #[cbor(108)] Checkpoints = "CHECKPOINTS": "libvirt keeps checkpoints of it for incremental backups, and a migration loses them.", "Delete them (`virsh checkpoint-delete --metadata`), or set `lose_checkpoints = true` under `[handoff]` where the next backup may be a full one.";
    #[cbor(109)] OtherManager = "OTHER_MANAGER": "Another program manages it, and would start it again where it was.", "Move it by that program; or name the program in `move_managed` under `[migration]`, if it takes note of moves that are not its own.";
    #[cbor(110)] NotMigratable = "NOT_MIGRATABLE": "It has something that libvirt does not migrate live.", "Take it out of the machine, or move the machine while it is off.";
    #[cbor(111)] UnsafeStorage = "UNSAFE_STORAGE": "libvirt does not take the storage of a disk of it for shared, and refuses to migrate it.", "Mount the storage by a network file system on every host; from libvirt 11 on, name its path in `shared_filesystems` in qemu.conf.";
    #[cbor(112)] JobUnderWay = "JOB_UNDER_WAY": "A job is under way on it, such as a backup, and is not disturbed.", "Nothing; it is offered again when the job has ended.";
    #[cbor(48)] Returned = "RETURNED": "It goes the other way, in return for the machine chosen.", "Nothing.";
    #[cbor(47)] NotOffered = "NOT_OFFERED": "There were more machines than one exchange offers, and it was among the farthest.", "Nothing.";
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_every_one_says_what_to_do() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.meaning().ends_with('.') && reason.remedy().ends_with('.'), "{reason}");
            let json = serde_json::to_string(reason).unwrap();
            assert_eq!(json, format!("\"{reason}\""));
        }
    }
}
