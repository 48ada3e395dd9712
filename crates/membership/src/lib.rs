//! Who is alive: SWIM membership over foca, without I/O, clock or randomness of its own.
//!
//! A driver feeds [`Membership::handle`] with datagrams, timers and wishes, and carries the
//! [`Output`]s out in order. The agent does so over QUIC datagrams and real time, a simulator over
//! an in-memory network and virtual time.
//!
//! ```text
//!   Input                                     Output
//!   Join · Datagram · Timer · Leave  ──────▶  Send · SetTimer · Changed · Refused
//! ```
//!
//! # What is trusted
//!
//! The driver says from whom a datagram came, as the link's certificate has it, and a datagram
//! whose sender calls itself otherwise is refused. Beyond that this is SWIM: a member may lie about
//! others. One that is wrongly declared dead comes back with its next generation.
//!
//! A member can neither give another one a generation that it would never outlive (it is left out if it
//! lies further in the future than clocks may differ), nor fill the memory of hosts with names of
//! hosts that there are not: of those from which nothing has come yet, at most [`UNPROVEN_MAX`] are
//! remembered, and soon forgotten once they are silent.
//!
//! # Bounds
//!
//! A packet has at most [`PACKET_BYTES_MAX`] bytes, so that it fits a QUIC datagram on any path
//! that QUIC runs on. At most [`Config::members_max`] hosts are remembered, dead ones included, and
//! at most [`SEEDS_MAX`] seeds. Timers under way are bounded by the probes of one suspicion span.

mod codec;
mod member;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use evenkeel_core::model::{HostId, Time};
use foca::{Foca, NoCustomBroadcast, Notification, PeriodicParams};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::codec::Codec;
pub use crate::member::Member;

/// Largest datagram sent or taken, in bytes.
///
/// QUIC wants paths of 1200-byte UDP payloads and needs up to 38 of them for a datagram's own
/// framing, so that this always fits.
pub const PACKET_BYTES_MAX: usize = 1150;

/// Most seeds remembered for joining again when everybody else is gone.
pub const SEEDS_MAX: usize = 64;

/// Most hosts remembered that others have told of and from which nothing has come yet.
pub const UNPROVEN_MAX: usize = 512;

/// How long such a host is remembered once it seems dead.
const REMEMBER_UNPROVEN: Duration = Duration::from_secs(60);

/// So many members are asked to take this host up again when it has been renewed.
const JOIN_MEMBERS: usize = 3;

/// How members watch each other. The same on every host of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How often one other host is probed. Longer costs less and finds the dead later. Above twice
    /// [`Self::probe_rtt`].
    pub probe_period: Duration,
    /// How long a direct answer may take before others are asked to probe. Above the worst usual
    /// round trip; shorter costs needless indirect probes.
    pub probe_rtt: Duration,
    /// How long a suspect has to say that it lives. Shorter finds the dead sooner and, on a busy
    /// host or a lossy link, declares the living dead (they come back at once with a new
    /// generation).
    pub suspicion: Duration,
    /// How long a dead host is remembered: for so long is it told, in vain or not, that it may come
    /// back after a partition.
    pub remember_dead: Duration,
    /// How long to wait between attempts to reach a seed while alone.
    pub join_retry: Duration,
    /// Most hosts remembered, dead ones included. Datagrams that speak of more are refused.
    pub members_max: usize,
}

impl Default for Config {
    /// For a local network: a dead host among five is found in about five seconds, and an idle
    /// pair exchanges four small datagrams a second.
    fn default() -> Self {
        Self {
            probe_period: Duration::from_secs(1),
            probe_rtt: Duration::from_millis(300),
            suspicion: Duration::from_secs(4),
            remember_dead: Duration::from_secs(24 * 3600),
            join_retry: Duration::from_secs(2),
            members_max: 16_384,
        }
    }
}

impl Config {
    fn foca(&self) -> foca::Config {
        let one = NonZeroUsize::MIN;
        let three = one.saturating_add(2);
        let every = |frequency, num_members| Some(PeriodicParams { frequency, num_members });
        foca::Config {
            probe_period: self.probe_period,
            probe_rtt: self.probe_rtt,
            num_indirect_probes: three,
            // Enough for 10,000 hosts, and in a small cluster an update is small.
            max_transmissions: NonZeroU8::MIN.saturating_add(11),
            suspect_to_down_after: self.suspicion,
            remove_down_after: Some(self.remember_dead),
            max_packet_size: one.saturating_add(PACKET_BYTES_MAX - 1),
            notify_down_members: true,
            periodic_announce: every(self.probe_period * 30, one),
            periodic_announce_to_down_members: every(self.probe_period * 15, three),
            periodic_gossip: every(self.probe_period / 4, three),
        }
    }
}

/// What membership is told.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// Bytes came from the host that the link's certificate names.
    Datagram {
        /// Who sent them.
        from: HostId,
        /// What they sent.
        bytes: &'a [u8],
    },
    /// A timer fired that an earlier [`Output::SetTimer`] asked for. Timers must be given back in
    /// the order of their times.
    Timer(Timer),
    /// Join the cluster of which this host is a member, and do so again whenever this host finds
    /// itself alone. A driver that knows only an address learns the host from the certificate
    /// there.
    Join {
        /// The seed.
        host: HostId,
        /// Where it listens.
        addr: SocketAddr,
    },
    /// Forget a host that seems dead: an operator says that there is none of this name. Refused as long
    /// as it is alive.
    Forget(HostId),
    /// Tell the others that this host is going, and be silent from then on.
    Leave,
}

/// What shall happen, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram; it may get lost.
    Send {
        /// To whom.
        to: Member,
        /// At most [`PACKET_BYTES_MAX`] bytes.
        bytes: Vec<u8>,
    },
    /// Give the timer back as [`Input::Timer`] at that time, or later.
    SetTimer {
        /// What to give back.
        timer: Timer,
        /// When.
        at: Time,
    },
    /// Who is alive has changed.
    Changed(Change),
    /// An input was refused, and nothing changed that matters. Worth a line in the log, at a
    /// limited rate.
    Refused {
        /// Whose datagram it was, if it was one.
        from: Option<HostId>,
        /// Why it was refused.
        why: String,
    },
}

/// A change of who is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A host is alive that was not.
    Up(Member),
    /// A host that was alive left or was declared dead.
    Down(Member),
    /// A host that never seemed dead is in another life or at another address.
    Replaced {
        /// As it was known.
        before: Member,
        /// As it is.
        after: Member,
    },
    /// This host was taken for dead, or remembered with a higher generation than it has, and goes
    /// on under this new generation.
    Renewed(Member),
}

/// A timer of [`Membership`]; only it knows what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer(Due);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Due {
    Foca(foca::Timer<Member>),
    Forget,
    JoinAgain,
}

/// The hosts that are alive, as this one knows.
pub struct Membership {
    config: Config,
    foca: Foca<Member, Codec, ChaCha8Rng, NoCustomBroadcast>,
    seeds: BTreeMap<HostId, SocketAddr>,
    up: BTreeMap<HostId, Member>,
    /// The dead, and when they are forgotten.
    dead: BTreeMap<HostId, (Member, Time)>,
    /// Of these, the hosts from which a datagram came: there is such a host.
    proven: BTreeSet<HostId>,
    /// Whether foca probes and gossips. It does not while alone, nor after it has renewed this
    /// host until it hears from somebody: if all do so at once, nobody says the first word.
    connected: bool,
    /// When the dead are looked through next.
    forget_at: Option<Time>,
    join_pending: bool,
    left: bool,
}

impl Membership {
    /// Membership of a host that knows nobody yet. `seed` decides every random choice.
    #[must_use]
    pub fn new(me: Member, config: Config, seed: u64) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let foca = Foca::new(me, config.foca(), rng, Codec::default());
        Self {
            config,
            foca,
            seeds: BTreeMap::new(),
            up: BTreeMap::new(),
            dead: BTreeMap::new(),
            proven: BTreeSet::new(),
            connected: false,
            forget_at: None,
            join_pending: false,
            left: false,
        }
    }

    /// This host, as it calls itself now.
    #[must_use]
    pub fn me(&self) -> &Member {
        self.foca.identity()
    }

    /// The other hosts that are alive (suspects included), ordered by host.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.up.values()
    }

    /// One of the other hosts, if it is alive.
    #[must_use]
    pub fn member(&self, host: &HostId) -> Option<&Member> {
        self.up.get(host)
    }

    /// Takes an input and says what shall happen. After [`Input::Leave`] nothing does.
    pub fn handle(&mut self, input: Input<'_>, now: Time) -> Vec<Output> {
        if self.left {
            return Vec::new();
        }
        let mut out = Vec::new();
        match input {
            Input::Datagram { from, bytes } => self.datagram(&from, bytes, now, &mut out),
            Input::Timer(Timer(due)) => self.timer(due, now, &mut out),
            Input::Join { host, addr } => self.join(host, addr, now, &mut out),
            Input::Forget(host) => self.forget(&host, now, &mut out),
            Input::Leave => {
                self.drive(now, &mut out, |foca, sink| foca.leave_cluster(sink));
                self.left = true;
                out.retain(|output| matches!(output, Output::Send { .. }));
            }
        }
        if !self.left {
            self.keep_timers(now, &mut out);
        }
        out
    }

    fn datagram(&mut self, from: &HostId, bytes: &[u8], now: Time, out: &mut Vec<Output>) {
        let (header, bytes) = match self.check(from, bytes, now) {
            Ok(checked) => checked,
            Err(why) => {
                return out.push(Output::Refused { from: Some(from.clone()), why });
            }
        };
        self.proven.insert(from.clone());
        // Somebody remembers a later life of this host than it knows of itself: its clock went
        // back. Outlive that one, or this host stays dead until it is forgotten.
        let (me, remembered) = (self.foca.identity(), header.dst.generation);
        if header.dst.host == me.host && remembered > me.generation {
            let next = Member { generation: remembered + 1, ..me.clone() };
            out.push(Output::Changed(Change::Renewed(next.clone())));
            self.connected = false;
            self.drive(now, out, |foca, sink| foca.change_identity(next, sink));
            self.drive(now, out, |foca, sink| foca.announce(header.src.clone(), sink));
        }
        let refused = self.drive(now, out, |foca, sink| foca.handle_data(&bytes, sink));
        if let Some(why) = refused {
            out.push(Output::Refused { from: Some(from.clone()), why });
        }
    }

    /// What a datagram says, without what it says of members that cannot be.
    fn check<'a>(
        &self,
        from: &HostId,
        bytes: &'a [u8],
        now: Time,
    ) -> Result<(foca::Header<Member>, Cow<'a, [u8]>), String> {
        if bytes.len() > PACKET_BYTES_MAX {
            return Err(format!(
                "a membership datagram of {} bytes, above the {PACKET_BYTES_MAX} allowed",
                bytes.len()
            ));
        }
        let known = |host: &HostId| self.up.contains_key(host) || self.dead.contains_key(host);
        let states = self.foca.iter_membership_state().len();
        let unproven = self.up.keys().chain(self.dead.keys());
        let unproven = unproven.filter(|host| !self.proven.contains(*host)).count();
        let room = UNPROVEN_MAX.saturating_sub(unproven);
        let mut room = room.min(self.config.members_max.saturating_sub(states + 1));
        let keeps = |member: &Member| {
            let is_new = !known(&member.host) && member.host != self.me().host;
            if !can_be(member, now) || is_new && member.host != *from && room == 0 {
                return false;
            }
            room -= usize::from(is_new && member.host != *from);
            true
        };
        let (header, bytes) = codec::without(bytes, keeps)
            .map_err(|e| format!("malformed membership datagram: {e}"))?;
        let foca::Header { src, dst, .. } = &header;
        if src.host != *from {
            return Err(format!("it calls itself `{}` in a membership datagram", src.host));
        }
        if src.host == self.me().host {
            return Err("another agent runs under this host's id: give one of them another id \
                        and certificate"
                .to_owned());
        }
        let third = codec::third(&header.message);
        if let Some(later) =
            [Some(src), Some(dst), third].into_iter().flatten().find(|m| !can_be(m, now))
        {
            return Err(format!(
                "it speaks of a life of `{}` that begins later than any clock may say: see to the \
                 clocks of that host and this one",
                later.host
            ));
        }
        if states >= self.config.members_max && !known(from) {
            return Err(format!(
                "it speaks of `{from}`, one host more than the {} that are remembered at most",
                self.config.members_max
            ));
        }
        Ok((header, bytes))
    }

    /// Forgets one that seems dead.
    fn forget(&mut self, host: &HostId, now: Time, out: &mut Vec<Output>) {
        if self.up.contains_key(host) {
            let why = format!("host `{host}` is alive, and not forgotten");
            return out.push(Output::Refused { from: None, why });
        }
        self.seeds.remove(host);
        self.proven.remove(host);
        if let Some((member, _)) = self.dead.remove(host) {
            let forget = foca::Timer::RemoveDown(member);
            self.drive(now, out, |foca, sink| foca.handle_timer(forget, sink));
        }
    }

    fn timer(&mut self, due: Due, now: Time, out: &mut Vec<Output>) {
        match due {
            Due::Foca(timer) => {
                let refused = self.drive(now, out, |foca, sink| foca.handle_timer(timer, sink));
                if let Some(why) = refused {
                    out.push(Output::Refused { from: None, why });
                }
            }
            Due::JoinAgain => {
                self.join_pending = false;
                if !self.connected {
                    self.join_seeds(now, out);
                    self.join_members(now, out);
                }
            }
            Due::Forget => {
                self.forget_at = None;
                let (due, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
                    std::mem::take(&mut self.dead).into_iter().partition(|(_, (_, at))| *at <= now);
                self.dead = kept;
                for (member, _) in due.into_values() {
                    self.proven.remove(&member.host);
                    let forget = foca::Timer::RemoveDown(member);
                    self.drive(now, out, |foca, sink| foca.handle_timer(forget, sink));
                }
            }
        }
    }

    fn join(&mut self, host: HostId, addr: SocketAddr, now: Time, out: &mut Vec<Output>) {
        if host == self.me().host {
            return;
        }
        if self.seeds.len() >= SEEDS_MAX && !self.seeds.contains_key(&host) {
            let why = format!("seed `{host}` ignored: {SEEDS_MAX} are remembered at most");
            return out.push(Output::Refused { from: None, why });
        }
        self.seeds.insert(host.clone(), addr);
        self.announce(host, addr, now, out);
    }

    fn join_seeds(&mut self, now: Time, out: &mut Vec<Output>) {
        for (host, addr) in self.seeds.clone() {
            self.announce(host, addr, now, out);
        }
    }

    /// Announces this host to some of those that it believes to be alive.
    fn join_members(&mut self, now: Time, out: &mut Vec<Output>) {
        let some: Vec<_> = self.up.values().take(JOIN_MEMBERS).cloned().collect();
        for member in some {
            self.announce(member.host, member.addr, now, out);
        }
    }

    fn announce(&mut self, host: HostId, addr: SocketAddr, now: Time, out: &mut Vec<Output>) {
        // An announcement is taken by whichever life of the host is there.
        let seed = Member { host, addr, generation: 0 };
        self.drive(now, out, |foca, sink| foca.announce(seed, sink));
    }

    /// Keeps the two timers of our own, of which at most one each is under way.
    fn keep_timers(&mut self, now: Time, out: &mut Vec<Output>) {
        let somebody = !self.seeds.is_empty() || !self.up.is_empty();
        if !self.connected && somebody && !self.join_pending {
            self.join_pending = true;
            let at = now + self.config.join_retry;
            out.push(Output::SetTimer { timer: Timer(Due::JoinAgain), at });
        }
        if self.dead.is_empty() {
            return;
        }
        // A sweep at an eighth of the span: nobody is remembered for much longer than it.
        let proven = self.dead.keys().all(|host| self.proven.contains(host));
        let span = if proven { self.config.remember_dead } else { REMEMBER_UNPROVEN };
        let at = now + span.min(self.config.remember_dead) / 8;
        if self.forget_at.is_none_or(|pending| at < pending) {
            self.forget_at = Some(at);
            out.push(Output::SetTimer { timer: Timer(Due::Forget), at });
        }
    }

    /// Calls foca and turns what it asks for into outputs; returns why it refused, if it did.
    fn drive(
        &mut self,
        now: Time,
        out: &mut Vec<Output>,
        call: impl FnOnce(
            &mut Foca<Member, Codec, ChaCha8Rng, NoCustomBroadcast>,
            &mut Sink<'_>,
        ) -> Result<(), foca::Error>,
    ) -> Option<String> {
        let me = self.foca.identity().host.clone();
        let (up, dead, connected) = (&mut self.up, &mut self.dead, &mut self.connected);
        let proven = &self.proven;
        let mut sink = Sink { now, me, up, dead, proven, connected, out };
        call(&mut self.foca, &mut sink).err().map(|e| e.to_string())
    }
}

/// Whether a member can be in this life by `now`: a generation begins as a time.
fn can_be(member: &Member, now: Time) -> bool {
    Time::from_unix_ms(member.generation).can_be(now)
}

/// Foca's view of the world: everything it asks for becomes an output.
struct Sink<'a> {
    now: Time,
    me: HostId,
    up: &'a mut BTreeMap<HostId, Member>,
    dead: &'a mut BTreeMap<HostId, (Member, Time)>,
    proven: &'a BTreeSet<HostId>,
    connected: &'a mut bool,
    out: &'a mut Vec<Output>,
}

impl foca::Runtime<Member> for Sink<'_> {
    fn notify(&mut self, notification: Notification<'_, Member>) {
        let change = match notification {
            Notification::MemberUp(member) => {
                self.dead.remove(&member.host);
                self.up.insert(member.host.clone(), member.clone());
                Change::Up(member.clone())
            }
            Notification::MemberDown(member) => {
                self.up.remove(&member.host);
                Change::Down(member.clone())
            }
            Notification::Rename(before, after) => match self.up.get_mut(&after.host) {
                Some(known) => {
                    *known = after.clone();
                    Change::Replaced { before: before.clone(), after: after.clone() }
                }
                None => return,
            },
            Notification::Rejoin(member) => {
                *self.connected = false;
                Change::Renewed(member.clone())
            }
            // Whether anybody is there is seen in the members.
            Notification::Active | Notification::Idle | Notification::Defunct => {
                *self.connected = matches!(notification, Notification::Active);
                return;
            }
        };
        self.out.push(Output::Changed(change));
    }

    fn send_to(&mut self, to: Member, data: &[u8]) {
        // Foca may remember an earlier life of this very host as dead, and would tell it.
        if to.host != self.me {
            self.out.push(Output::Send { to, bytes: data.to_vec() });
        }
    }

    fn submit_after(&mut self, event: foca::Timer<Member>, after: Duration) {
        let at = self.now + after;
        match event {
            // One sweep instead of a day-long timer for every death.
            foca::Timer::RemoveDown(member) => {
                let is_proven = self.proven.contains(&member.host);
                let at = if is_proven { at } else { at.min(self.now + REMEMBER_UNPROVEN) };
                self.dead.insert(member.host.clone(), (member, at));
            }
            event => {
                self.out.push(Output::SetTimer { timer: Timer(Due::Foca(event)), at });
            }
        }
    }
}
