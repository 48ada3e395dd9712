//! Lies that need a second look: files by other names than the one that is looked at, numbers that libvirt
//! counts to, and sizes that it makes files of.

use std::fs;
use std::path::PathBuf;

use evenkeel_core::model::{DiskPlace, LocalDisk};

use super::judge::cpu;
use super::tests::{FLAGS, MACHINE, Rig, parameters};
use crate::storage::Storage;

/// The recorded machine's first disk, as it is described.
const DISK: &str = "<backingStore/>";

/// Makes an image in the shared directory that refers to another file.
fn image(rig: &Rig, name: &str, backing: &str) -> String {
    let mut bytes = vec![0; 104];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[8..16].copy_from_slice(&104_u64.to_be_bytes());
    bytes[16..20].copy_from_slice(&(backing.len() as u32).to_be_bytes());
    bytes.extend_from_slice(backing.as_bytes());
    let path = rig.path(&format!("shared/{name}"));
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn of_two_files_that_a_disk_names_both_are_looked_at() {
    let mut rig = Rig::new();
    let good = rig.path("shared/top.qcow2");
    let evil = image(&rig, "evil.qcow2", "/etc/shadow");
    let disk = |source: &str| {
        format!(
            "<disk type='block' device='disk'><driver name='qemu' type='qcow2'/>{source}\
             <target dev='vdx' bus='virtio'/></disk><panic"
        )
    };
    rig.here.taken.insert(PathBuf::from(rig.path("shared/theirs")), false);
    fs::write(rig.path("shared/theirs"), "").unwrap();
    for (source, words) in [
        (format!("<source file='{good}' dev='{evil}'/>"), "refers to `/etc/shadow`"),
        (format!("<source dev='{good}' file='{evil}'/>"), "refers to `/etc/shadow`"),
        (format!("<source file='{good}' dev='{}'/>", rig.path("shared/theirs")), "another machine"),
    ] {
        let why = rig.takes_with("<panic", &disk(&source)).expect_err(&source);
        assert!(why.contains(words), "{source}: {why}");
    }
    rig.takes_with("<panic", &disk(&format!("<source dev='{good}'/>"))).unwrap();
}

#[test]
fn a_chain_that_is_spelled_out_is_looked_at_to_its_last_image() {
    let rig = Rig::new();
    let evil = image(&rig, "evil.qcow2", "/etc/shadow");
    let raw = rig.path("shared/c.raw");
    let store = |inner: &str| format!("<backingStore type='file'>{inner}</backingStore>");
    let qcow2 = |file: &str, next: &str| {
        store(&format!("<format type='qcow2'/><source file='{file}'/>{next}"))
    };
    let good = image(&rig, "good.qcow2", &raw);
    for (chain, words) in [
        (qcow2(&evil, ""), "refers to `/etc/shadow`"),
        (qcow2(&evil, DISK), "refers to `/etc/shadow`"),
        (qcow2(&good, &qcow2(&evil, "")), "refers to `/etc/shadow`"),
        (store(&format!("<source file='{evil}'/>")), "of which format"),
        (store("<format type='raw'/><source file='/etc/shadow'/>"), "no storage"),
    ] {
        let why = rig.takes_with(DISK, &chain).expect_err(&chain);
        assert!(why.contains(words), "{chain}: {why}");
    }
    rig.takes_with(DISK, &qcow2(&good, "")).unwrap();
}

#[test]
fn a_volume_of_a_pool_is_judged_as_the_file_that_it_is() {
    let mut rig = Rig::new();
    let shared = rig.path("shared");
    image(&rig, "evil.qcow2", "/etc/shadow");
    for name in ["free.raw", "theirs.raw"] {
        fs::write(rig.path(&format!("shared/{name}")), "").unwrap();
    }
    let netfs = format!(
        "<pool type='netfs'><name>nfs</name><source><host name='nas'/><dir path='/x'/></source>\
         <target><path>{shared}</path></target></pool>"
    );
    let own = "<pool type='dir'><name>own</name><target><path>/srv/own</path></target></pool>";
    let rbd = "<pool type='rbd'><name>ceph</name><source><host name='mon'/><name>vms</name>\
               </source></pool>";
    let pools = [netfs, own.to_owned(), rbd.to_owned()];
    let configured = crate::SharedStorage { id: "shared".to_owned(), path: shared.into() };
    rig.here.storage = Storage::new(&[configured], &pools);
    rig.agreed.needs.storage.extend(["netfs:nas:/x".to_owned(), "rbd:mon:vms".to_owned()]);
    rig.here.taken.insert(PathBuf::from(rig.path("shared/theirs.raw")), true);
    let disk = |pool: &str, volume: &str, format: &str| {
        format!(
            "<disk type='volume'><driver name='qemu' type='{format}'/>\
             <source pool='{pool}' volume='{volume}'/><target dev='vdx' bus='virtio'/></disk><panic"
        )
    };
    for (pool, volume, format, words) in [
        ("nfs", "theirs.raw", "raw", "another machine"),
        ("nfs", "evil.qcow2", "qcow2", "refers to `/etc/shadow`"),
        ("nfs", "..", "raw", "no directory of this host"),
        ("own", "x.raw", "raw", "no storage that was agreed on"),
        ("ceph", "x", "raw", "no directory of this host"),
        ("none", "x", "raw", "no directory of this host"),
    ] {
        let why = rig.takes_with("<panic", &disk(pool, volume, format)).expect_err(volume);
        assert!(why.contains(words), "{pool}/{volume}: {why}");
    }
    let half = "<disk type='volume'><driver name='qemu' type='raw'/><source pool='nfs'/>\
                <target dev='vdx' bus='virtio'/></disk><panic";
    assert!(rig.takes_with("<panic", half).unwrap_err().contains("half a volume"));
    rig.takes_with("<panic", &disk("nfs", "free.raw", "raw")).unwrap();
}

#[test]
fn what_takes_memory_and_processors_is_counted_in_whatever_way_it_is_said() {
    let rig = Rig::new();
    let cell = "<cpu><numa><cell id='0' cpus='0' memory='1048576' unit='MiB'/></numa></cpu><os>";
    for (part, other, words) in [
        ("<os>", cell, "NUMA"),
        ("<os>", "<iothreads>99999</iothreads><os>", "iothreads"),
        (">2</vcpu>", " current='1'>0x40</vcpu>", "virtual CPUs"),
    ] {
        let xml = rig.xml();
        let from = if xml.contains(part) { part } else { "<os " };
        let other = if from == part { other.to_owned() } else { other.replacen("<os>", "<os ", 1) };
        let xml = match xml.find("<cpu") {
            // It has one CPU already.
            Some(start) if other.contains("<cpu>") => {
                let end = xml
                    .find("</cpu>")
                    .map_or(xml[start..].find("/>").unwrap() + start + 2, |end| end + 6);
                format!("{}{}", &xml[..start], &xml[end..])
            }
            _ => xml,
        };
        let why = rig.takes(&xml.replacen(from, &other, 1)).expect_err(words);
        assert!(why.contains(words), "{words}: {why}");
    }
}

#[test]
fn a_copy_is_no_larger_than_was_agreed_on() {
    let mut rig = Rig::new();
    let cookie = |more: &str| {
        format!(
            "<qemu-migration><name>big</name><uuid>{MACHINE}</uuid><hostname>h1</hostname>\
             <hostuuid>{MACHINE}</hostuuid><nbd>{more}</nbd></qemu-migration>"
        )
    };
    let told = LocalDisk { name: "vdx".to_owned(), bytes: 4096, ..LocalDisk::default() };
    rig.agreed.needs.local_disks = Some(vec![told]);
    let judged = |rig: &Rig, more: &str| {
        let bytes = format!("{}\0", cookie(more)).into_bytes();
        super::cookie::judged(&bytes, &rig.agreed, super::cookie::Author::Source(None))
    };
    let disk = |name: &str, bytes: &str| format!("<disk target='{name}' capacity='{bytes}'/>");
    assert!(judged(&rig, &disk("vdx", "4096")).is_err(), "nothing is copied");
    let place = DiskPlace { name: "vdx".to_owned(), path: "/srv/x".to_owned() };
    rig.agreed.disks = vec![place];
    judged(&rig, &disk("vdx", "4096")).unwrap();
    for bytes in ["4097", "-1", "0x10"] {
        let why = judged(&rig, &disk("vdx", bytes)).expect_err(bytes);
        assert!(why.contains("were agreed on"), "{why}");
        // libvirt reads the disks of every list.
        let second = format!("</nbd><nbd>{}", disk("vdx", bytes));
        judged(&rig, &second).expect_err("the second list");
    }
    // A source's libvirt lists also disks that are not copied: the target's is not told of them.
    let kept = judged(&rig, &[disk("sdb", "8192"), disk("vdx", "4096")].concat()).unwrap();
    let kept = String::from_utf8(kept).unwrap();
    assert!(kept.contains("\"vdx\"") && !kept.contains("sdb"), "{kept}");
    // As it is said when a machine comes.
    let all = parameters(&rig.xml());
    rig.agreed.disks.clear();
    let why = rig.prepares(&all, &cookie(&disk("vdx", "1")), FLAGS).unwrap_err();
    assert!(why.contains("copies a disk"), "{why}");
}

#[test]
fn a_cpu_is_written_anew_before_libvirt_reads_it() {
    let plain = "<cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model>\
                 <feature policy='require' name='x2apic'/></cpu>";
    assert!(cpu(plain).unwrap().starts_with("<cpu mode=\"custom\""));
    for text in [
        "<!DOCTYPE c [<!ENTITY e SYSTEM 'file:///etc/shadow'>]><cpu><model>&e;</model></cpu>",
        "<?xml version='1.0' encoding='utf-7'?><cpu/>",
        "<cpu><model>x</model><script/></cpu>",
        "<domain/>",
        "",
        &"<cpu>".repeat(1000),
    ] {
        assert!(cpu(text).is_err(), "{text}");
    }
}

#[test]
fn an_interface_is_on_what_was_agreed_on_by_whatever_name() {
    use evenkeel_core::model::Network;
    let mut rig = Rig::new();
    rig.agreed.needs.networks = Some(vec![Network::Virtual("lan".to_owned())]);
    let interface = |kind: &str, source: &str| {
        format!("<interface type='{kind}'><source {source}/></interface><panic")
    };
    for (kind, source, words) in [
        ("bridge", "network='lan' bridge='br9'", "of another type"),
        ("direct", "network='lan' dev='eth0'", "of another type"),
        ("bridge", "bridge='br9'", "`br9`"),
        ("network", "network='other'", "`other`"),
    ] {
        let why = rig.takes_with("<panic", &interface(kind, source)).expect_err(source);
        assert!(why.contains(words), "{source}: {why}");
    }
    // libvirt passes over the bridge of another host.
    rig.takes_with("<panic", &interface("network", "network='lan' bridge='br9'")).unwrap();
}
