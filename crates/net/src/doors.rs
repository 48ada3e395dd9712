//! Who may prove who it is: two doors, one for callers from addresses at which a member of the cluster
//! was seen, and one for everybody else. Whoever crowds the one does not stand in the other.
//!
//! A caller takes room from when it is let in until it has shown a certificate, at most
//! [`Limits::handshake`]. One address has a part of either room, and a rate: of IPv6 addresses the
//! first 64 bits count, since whoever has one of them has all that begin alike.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::Limits;
use crate::throttle::Bucket;

/// Addresses of members that are remembered; the one that was seen longest ago goes first.
const KNOWN_MAX: usize = 4096;
/// Addresses whose rates are remembered at each door. When it is full of such as have called lately,
/// a caller from a further one is not let in.
const CALLERS_MAX: usize = 4096;
/// An address that has not called for so long has all of its rate again.
const FORGET_AFTER: Duration = Duration::from_secs(4);

/// Why a caller is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Shut {
    #[error("too many callers are proving who they are")]
    Full,
    #[error("too many callers from its address are proving who they are")]
    Address,
    #[error("it calls too often from its address")]
    Often,
}

#[derive(Clone)]
pub(crate) struct Doors(Arc<Mutex<State>>);

struct State {
    /// At each, those from addresses of members first.
    inside: [usize; 2],
    callers: [HashMap<IpAddr, Visits>; 2],
    /// When a member was seen there last.
    known: HashMap<IpAddr, Instant>,
}

struct Visits {
    inside: usize,
    rate: Bucket,
    last: Instant,
}

/// One that is let in, until it has proved who it is.
pub(crate) struct Inside {
    doors: Doors,
    door: usize,
    from: IpAddr,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut state = self.doors.lock();
        state.inside[self.door] -= 1;
        if let Some(visits) = state.callers[self.door].get_mut(&self.from) {
            visits.inside -= 1;
        }
    }
}

/// What counts of an address.
fn part(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Doors {
    pub(crate) fn new() -> Self {
        let (callers, known) = ([HashMap::new(), HashMap::new()], HashMap::new());
        Self(Arc::new(Mutex::new(State { inside: [0; 2], callers, known })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member was seen at this address: it has shown its certificate.
    pub(crate) fn seen(&self, addr: IpAddr, now: Instant) {
        let known = &mut self.lock().known;
        let addr = part(addr);
        if known.len() >= KNOWN_MAX && !known.contains_key(&addr) {
            let oldest = known.iter().min_by_key(|(_, at)| **at).map(|(addr, _)| *addr);
            oldest.map(|addr| known.remove(&addr));
        }
        known.insert(addr, now);
    }

    /// Whether half of the room that this caller would be in is taken: then it has to show that it is
    /// where it says. One that claims the address of a member has to in any case, or the room of
    /// members could be filled from anywhere.
    pub(crate) fn must_show_its_address(&self, addr: IpAddr, limits: &Limits) -> bool {
        let state = self.lock();
        let is_known = state.known.contains_key(&part(addr));
        state.inside[usize::from(!is_known)] >= limits.handshakes_max / if is_known { 4 } else { 2 }
    }

    /// Lets a caller in, or says why not.
    pub(crate) fn enter(
        &self,
        addr: IpAddr,
        limits: &Limits,
        now: Instant,
    ) -> Result<Inside, Shut> {
        let from = part(addr);
        let mut state = self.lock();
        let door = usize::from(!state.known.contains_key(&from));
        if state.inside[door] >= limits.handshakes_max {
            return Err(Shut::Full);
        }
        let callers = &mut state.callers[door];
        if callers.len() >= CALLERS_MAX && !callers.contains_key(&from) {
            let is_recent = |visits: &Visits| {
                visits.inside > 0 || now.saturating_duration_since(visits.last) < FORGET_AFTER
            };
            callers.retain(|_, visits| is_recent(visits));
            if callers.len() >= CALLERS_MAX {
                return Err(Shut::Full);
            }
        }
        let rate = || Bucket::new(limits.handshakes_from_address_per_s_max, now);
        let visits =
            callers.entry(from).or_insert_with(|| Visits { inside: 0, rate: rate(), last: now });
        visits.last = now;
        if visits.inside >= limits.handshakes_from_address_max {
            return Err(Shut::Address);
        }
        visits.rate.take(now).map_err(|_| Shut::Often)?;
        visits.inside += 1;
        state.inside[door] += 1;
        drop(state);
        Ok(Inside { doors: self.clone(), door, from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn limits() -> Limits {
        Limits {
            handshakes_max: 8,
            handshakes_from_address_max: 2,
            handshakes_from_address_per_s_max: 3,
            ..Limits::default()
        }
    }

    #[test]
    fn strangers_fill_their_room_and_not_that_of_members() {
        let (doors, limits, now) = (Doors::new(), limits(), Instant::now());
        let inside: Vec<_> =
            (0..200).filter_map(|n| doors.enter(v4(n), &limits, now).ok()).collect();
        assert_eq!(inside.len(), limits.handshakes_max);
        assert_eq!(doors.enter(v4(201), &limits, now).err(), Some(Shut::Full));
        doors.seen(v4(201), now);
        let member = doors.enter(v4(201), &limits, now);
        assert!(member.is_ok());
        drop(inside);
        assert!(doors.enter(v4(202), &limits, now).is_ok(), "there is room again");
    }

    #[test]
    fn one_address_has_a_part_of_the_room_and_a_rate() {
        let (doors, limits, now) = (Doors::new(), limits(), Instant::now());
        let enter = |addr, at| doors.enter(addr, &limits, at);
        let both = (enter(v4(1), now).unwrap(), enter(v4(1), now).unwrap());
        assert_eq!(enter(v4(1), now).err(), Some(Shut::Address));
        assert!(enter(v4(2), now).is_ok());
        drop(both);
        assert!(enter(v4(1), now).is_ok());
        assert_eq!(enter(v4(1), now).err(), Some(Shut::Often));
        assert!(enter(v4(1), now + Duration::from_secs(1)).is_ok());
        // Whoever has one address of a network of IPv6 has them all.
        let v6 = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 7, n, n, n, n]);
        let inside: Vec<_> = (0..9).filter_map(|n| enter(v6(n), now).ok()).collect();
        assert_eq!(inside.len(), limits.handshakes_from_address_max);
    }

    #[test]
    fn what_is_remembered_of_callers_does_not_grow_without_end() {
        let (doors, limits, start) = (Doors::new(), limits(), Instant::now());
        for n in 0..20_000_u32 {
            let now = start + Duration::from_millis(u64::from(n) * 2);
            let addr = IpAddr::from(n.to_be_bytes());
            drop(doors.enter(addr, &limits, now));
            doors.seen(addr, now);
        }
        let state = doors.lock();
        let (callers, known) = (state.callers[1].len(), state.known.len());
        assert!(callers <= CALLERS_MAX && known <= KNOWN_MAX, "{callers} and {known}");
    }
}
