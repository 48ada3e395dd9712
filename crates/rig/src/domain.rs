//! How a guest is described to libvirt.

use std::fmt::Write as _;

/// A Linux guest of a rig.
#[derive(Debug, Clone)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// 1 to 100: its address is 10.77.0.(100 + number), and its UUID and MAC address follow.
    pub number: u8,
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// Its disks, as hosts see them: path and format. The first one is mounted.
    pub disks: Vec<(String, String)>,
    /// A file in its cdrom drive; no drive without one.
    pub cdrom: Option<String>,
    /// Whether it boots by UEFI, with variables of its own.
    pub uefi: bool,
    /// More devices, as XML.
    pub devices: String,
}

impl Domain {
    /// A guest with an interface on the bridge, a balloon, and no disk.
    pub fn new(name: &str, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            number,
            memory_mib: 128,
            disks: Vec::new(),
            cdrom: None,
            uefi: false,
            devices: String::new(),
        }
    }

    /// With another disk: a path as hosts see it, and its format.
    #[must_use]
    pub fn disk(mut self, path: &str, format: &str) -> Self {
        self.disks.push((path.to_owned(), format.to_owned()));
        self
    }

    /// Its UUID.
    pub fn uuid(&self) -> String {
        format!("7e570000-0000-4000-8000-{:012}", self.number)
    }

    /// The description that libvirt takes.
    pub fn to_xml(&self) -> String {
        let Self { name, number, memory_mib, devices, .. } = self;
        let uuid = self.uuid();
        let address = 100 + number;
        let firmware = if self.uefi {
            "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>\
             <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'/>"
        } else {
            ""
        };
        let mut disks = String::new();
        for ((path, format), letter) in self.disks.iter().zip('a'..='z') {
            let _ = write!(
                disks,
                "<disk type='file' device='disk'><driver name='qemu' type='{format}' cache='none'/>\
                 <source file='{path}'/><target dev='vd{letter}' bus='virtio'/></disk>"
            );
        }
        if let Some(path) = &self.cdrom {
            let _ = write!(
                disks,
                "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>\
                 <source file='{path}'/><target dev='sda' bus='scsi'/><readonly/></disk>\
                 <controller type='scsi' model='virtio-scsi'/>"
            );
        }
        format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid>
<memory unit='MiB'>{memory_mib}</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type>{firmware}
<kernel>/srv/rig/guest/vmlinuz</kernel><initrd>/srv/rig/guest/initramfs</initrd>
<cmdline>console=ttyS0 quiet address=10.77.0.{address}</cmdline></os>
<features><acpi/></features>
<cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model></cpu>
<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
<devices>{disks}
<interface type='bridge'><mac address='52:54:00:77:00:{number:02x}'/><source bridge='br0'/>
<model type='virtio'/></interface>
<serial type='pty'><log file='/var/log/libvirt/qemu/{name}-console.log' append='on'/></serial>
<memballoon model='virtio'><stats period='1'/></memballoon>{devices}</devices></domain>\n"
        )
    }
}
