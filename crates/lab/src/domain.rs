//! The domain definition of a guest.

use crate::layout::Layout;
use crate::machine::{Acceleration, Machine};
use crate::spec::{Dirty, GuestSpec};

/// The guest's commands for burning and dirtying, as `guest/README.md` describes them.
pub(crate) fn burn_command(permille: u32) -> String {
    format!("burn:{permille}")
}

pub(crate) fn dirty_command(dirty: Dirty) -> String {
    format!("dirty:{}:{}", dirty.mib, dirty.mib_per_s)
}

/// The domain's XML. Names are letters, digits and hyphens, so only paths need escaping.
pub(crate) fn xml(guest: &GuestSpec, machine: &Machine, layout: &Layout) -> String {
    let (kind, cpu) = match machine.acceleration {
        Acceleration::Kvm => ("kvm", "<cpu mode='host-passthrough' check='none' migratable='on'/>"),
        Acceleration::Tcg => (
            "qemu",
            "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>",
        ),
    };
    format!(
        "<domain type='{kind}'>
  <name>{name}</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{kernel}</kernel>
    <cmdline>ek={burn},{dirty},period:{report_ms}</cmdline>
  </os>
  <features><acpi/></features>
  {cpu}
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>{qemu}</emulator>
    <controller type='usb' model='none'/>
    <serial type='pty'>
      <log file='{console}' append='on'/>
      <target port='0'/>
    </serial>
    <memballoon model='none'/>
  </devices>
</domain>
",
        name = guest.name,
        memory_mib = guest.memory_mib,
        report_ms = guest.report_ms,
        burn = burn_command(guest.burn_permille),
        dirty = dirty_command(guest.dirty),
        kernel = escape(&layout.guest_image().display().to_string()),
        qemu = escape(&machine.qemu.display().to_string()),
        console = escape(&layout.console(&guest.name).display().to_string()),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}
