//! What benchmarks of migrations have in common: one guest that goes to and fro between two hosts.

use std::path::Path;
use std::time::Duration;

use evenkeel_lab::{Dirty, GuestSpec};

use crate::swing::Swing;

pub(crate) const GUEST: &str = "guest";
/// The hosts; the guest begins on the first.
pub(crate) const NAMES: [&str; 2] = ["h1", "h2"];
/// Longer than any of it takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// Brings the hosts up with a guest of which all memory is there to be sent, and which dirties so much
/// of it. Without agents if there is nothing for their configuration to end with.
pub(crate) fn up(memory_mib: u32, dirty_mib_per_s: u32, more: Option<&str>) -> Swing {
    settled(memory_mib, dirty_mib_per_s, |guests| Swing::direct(guests, more))
}

/// The same with agents that are another program.
#[allow(dead_code, reason = "not every benchmark compares programs")]
pub(crate) fn up_before(
    memory_mib: u32,
    dirty_mib_per_s: u32,
    more: &str,
    program: &Path,
) -> Swing {
    settled(memory_mib, dirty_mib_per_s, |guests| Swing::direct_before(guests, more, program))
}

fn settled(
    memory_mib: u32,
    dirty_mib_per_s: u32,
    up: impl FnOnce(Vec<GuestSpec>) -> Swing,
) -> Swing {
    let dirty = |mib_per_s| Dirty { mib: memory_mib - 8, mib_per_s };
    let guest = GuestSpec { memory_mib, dirty: dirty(0), ..GuestSpec::new(GUEST, NAMES[0], 0) };
    let swing = up(vec![guest]);
    swing.cluster.until(LIMIT, "all of its memory verified once", |cluster| {
        let console = cluster.lab().console(GUEST).ok()?;
        (console.last()?.pages_checked > 0).then_some(())
    });
    swing.cluster.lab().set_dirty(GUEST, dirty(dirty_mib_per_s)).expect("the guest obeys");
    swing
}

/// A number from the environment.
pub(crate) fn number(name: &str, otherwise: u32) -> u32 {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}
