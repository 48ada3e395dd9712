//! What a member can and cannot do through the carrier. It is taken to be a host of this cluster
//! that asks for whatever it likes.

use std::os::unix::fs::symlink;
use std::time::Duration;

use evenkeel_core::model::{Entry, MachineId, Requirements};
use evenkeel_core::port::Commit;
use evenkeel_net::{ClusterCa, Limits, StreamError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::arrivals::Terms;
use super::*;

pub(super) const LIMIT: Duration = Duration::from_secs(10);
pub(super) const HANDOFF: HandoffId = HandoffId(0xabc);
pub(super) const MACHINE: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";

pub(super) struct Host {
    pub(super) id: HostId,
    net: Net,
    addr: SocketAddr,
}

/// A target with a libvirt, its source, and another member.
pub(super) struct Rig {
    pub(super) dir: tempfile::TempDir,
    target: Host,
    pub(super) carrier: Carrier,
    libvirt: UnixListener,
    pub(super) source: Host,
    other: Host,
}

impl Rig {
    /// The target expects a machine from the source.
    async fn new() -> Self {
        Self::before(None).await
    }

    /// The same with this libvirt behind it.
    pub(super) async fn before(libvirt: Option<Libvirt>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = ClusterCa::init(&dir.path().join("ca")).unwrap();
        let host = |name: &str| {
            let id = HostId::new(name).unwrap();
            let identity = ca.issue(&id).unwrap();
            let addr = SocketAddr::from(([127, 0, 0, 1], 0));
            let (net, _) = Net::bind(addr, &identity, Limits::default(), None).unwrap();
            let addr = net.local_addr().unwrap();
            Host { id, net, addr }
        };
        let (target, source, other) = (host("target"), host("source"), host("other"));
        let socket = dir.path().join("libvirt.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut carrier = Carrier::new(target.net.clone(), dir.path().join("there"), None);
        let uri = "qemu:///system".to_owned();
        let silent = Libvirt { uri, socket, look: Arc::new(|_| Ok(Here::default())) };
        let daemon = libvirt.unwrap_or(silent);
        carrier.let_in(target.net.listen_streams().await.unwrap(), daemon).unwrap();
        let rig = Self { dir, target, carrier, libvirt: listener, source, other };
        rig.expect(&[(HANDOFF, true)]);
        rig
    }

    /// The target expects these, open to more streams or not, from the source.
    pub(super) fn expect(&self, handoffs: &[(HandoffId, bool)]) {
        let expected = |(id, open): &(HandoffId, bool)| {
            let terms = Terms {
                machine: MachineId::new(MACHINE).unwrap(),
                name: "web".to_owned(),
                entry: Entry::default(),
                paused: true,
                memory_bytes: 1e9,
                needs: Requirements::default(),
                disks: Vec::new(),
            };
            (*id, Expected { from: self.source.id.clone(), open: *open, terms })
        };
        self.carrier.expect_only(handoffs.iter().map(expected).collect());
    }

    pub(super) fn memory(&self) -> PathBuf {
        Sockets::of(&self.dir.path().join("there"), HANDOFF).memory()
    }

    /// A socket of a caller, joined to what it was let in to.
    pub(super) async fn call(
        &self,
        host: &Host,
        request: &[u8],
    ) -> Result<UnixStream, StreamError> {
        let stream = host.net.open_stream(&self.target.id, self.target.addr, request).await?;
        let (near, far) = UnixStream::pair().unwrap();
        tokio::spawn(async move { stream.join(far, None).await });
        Ok(near)
    }

    async fn is_declined(&self, host: &Host, request: &[u8], says: &str) {
        match self.call(host, request).await {
            Err(StreamError::Declined { why, .. }) => assert!(why.contains(says), "{why}"),
            Err(why) => panic!("{why}"),
            Ok(_) => panic!("{request:?} of `{}` was let in", host.id),
        }
    }

    /// libvirt writes down that the machine runs in a process.
    fn runs_in(&self, pid: u32) {
        let dir = self.dir.path().join("qemu");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("web.pid"), pid.to_string()).unwrap();
    }

    async fn libvirt(&self) -> UnixStream {
        timeout(LIMIT, self.libvirt.accept()).await.expect("a connection").unwrap().0
    }
}

pub(super) async fn ends(socket: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(LIMIT, socket.read_to_end(&mut bytes)).await.expect("an end").unwrap();
    bytes
}

/// A frame of libvirt's protocol: a call of this procedure.
pub(super) fn call(procedure: u32, body: &[u8]) -> Vec<u8> {
    let words = [28 + body.len() as u32, 0x2000_8086, 1, procedure, 0, procedure, 0];
    words.iter().flat_map(|word| word.to_be_bytes()).chain(body.iter().copied()).collect()
}

/// A call that opens a connection.
pub(super) fn opening(uri: &str) -> Vec<u8> {
    let mut body = [1_u32, uri.len() as u32].map(u32::to_be_bytes).concat();
    body.extend_from_slice(uri.as_bytes());
    body.resize(body.len().next_multiple_of(4) + 4, 0);
    call(1, &body)
}

fn migration(rig: &Rig) -> Migration {
    Migration {
        handoff: HANDOFF,
        machine: MachineId::new(MACHINE).unwrap(),
        to: rig.target.id.clone(),
        uri: "qemu+evenkeel:///system".to_owned(),
        entry: Entry::default(),
        commit: Commit::Strict,
        bandwidth_bytes_per_s: None,
        disks: Vec::new(),
        needs: Requirements::default(),
    }
}

#[tokio::test]
async fn only_the_source_of_a_handoff_under_way_is_let_in_and_only_for_it() {
    let rig = Rig::new().await;
    let unexpected = "no machine is expected";
    for channel in Channel::ALL {
        rig.is_declined(&rig.other, &channel.request(HANDOFF), unexpected).await;
        rig.is_declined(&rig.source, &channel.request(HandoffId(0xabd)), unexpected).await;
    }
    for request in [&b""[..], b"\x01", b"\x09\0\0\0\0\0\0\x0a\xbc", b"/run/libvirt/libvirt-sock"] {
        rig.is_declined(&rig.source, request, "does not know what is asked for").await;
    }
    // Claimed: what is open may end, and nothing begins.
    let request = Channel::Control.request(HANDOFF);
    let mut open = rig.call(&rig.source, &request).await.unwrap();
    let mut libvirt = rig.libvirt().await;
    rig.expect(&[(HANDOFF, false)]);
    rig.is_declined(&rig.source, &Channel::Memory.request(HANDOFF), unexpected).await;
    // A keepalive.
    let mut words: Vec<u8> =
        [28, 0x6b65_6570, 1, 1, 2, 0, 0].iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
    libvirt.write_all(&words).await.unwrap();
    timeout(LIMIT, open.read_exact(&mut words)).await.expect("words").unwrap();
    // Over: what is open is cut, and nothing is left.
    rig.expect(&[]);
    assert_eq!(ends(&mut open).await, b"");
    assert_eq!(ends(&mut libvirt).await, b"");
    rig.is_declined(&rig.source, &request, unexpected).await;
    assert!(!rig.memory().parent().unwrap().exists(), "its directory is left");
}

#[tokio::test]
async fn a_handoff_has_one_stream_of_each_kind_and_a_few_for_disks() {
    let rig = Rig::new().await;
    let disks = Sockets::of(&rig.dir.path().join("there"), HANDOFF).disks();
    let _qemu = UnixListener::bind(disks).unwrap();
    rig.runs_in(std::process::id());
    let request = Channel::Disks.request(HANDOFF);
    let mut copies = Vec::new();
    for _ in 0..Channel::Disks.streams_max() {
        copies.push(rig.call(&rig.source, &request).await.unwrap());
    }
    rig.is_declined(&rig.source, &request, "has its streams").await;
    let request = Channel::Control.request(HANDOFF);
    let first = rig.call(&rig.source, &request).await.unwrap();
    let mut libvirt = rig.libvirt().await;
    rig.is_declined(&rig.source, &request, "has its streams").await;
    drop(first);
    assert_eq!(ends(&mut libvirt).await, b"");
}

#[tokio::test]
async fn a_source_can_do_nothing_with_libvirt_but_migrate_to_it() {
    // To define a domain; to open another connection; to prepare before it is opened.
    let elsewhere = opening("qemu+ssh://x/system?command=/usr/bin/env");
    for (number, said) in [call(11, &[]), elsewhere, call(303, &[])].into_iter().enumerate() {
        let rig = Rig::new().await;
        let mut socket = rig.call(&rig.source, &Channel::Control.request(HANDOFF)).await.unwrap();
        let mut libvirt = rig.libvirt().await;
        let asks = call(66, &[]);
        socket.write_all(&asks).await.unwrap();
        let mut heard = vec![0; asks.len()];
        timeout(LIMIT, libvirt.read_exact(&mut heard)).await.expect("the call").unwrap();
        assert_eq!(heard, asks);
        socket.write_all(&said).await.unwrap();
        assert_eq!(ends(&mut libvirt).await, b"", "libvirt heard of {number}");
        let answer = ends(&mut socket).await;
        // An error (status 1) in place of the answer (type 1).
        assert_eq!((answer[19], answer[27]), (1, 1), "{number}: {answer:?}");
        let accused = rig.carrier.accused();
        assert_eq!((&accused[0].host, accused[0].times), (&rig.source.id, 1));
        // Its libvirt speaks once.
        let again = Channel::Control.request(HANDOFF);
        rig.is_declined(&rig.source, &again, "spoken to").await;
    }
}

#[tokio::test]
async fn a_target_answers_what_was_asked_and_nothing_else() {
    let rig = Rig::new().await;
    let mut carrier = Carrier::new(rig.source.net.clone(), rig.dir.path().join("here"), None);
    let mut migration = migration(&rig);
    migration.handoff = HANDOFF;
    carrier.depart(&migration, "web", Some(rig.target.addr)).unwrap();
    let sockets = Sockets::of(&rig.dir.path().join("here"), HANDOFF);
    let mut control = UnixStream::connect(sockets.control()).await.unwrap();
    control.write_all(&call(66, &[])).await.unwrap();
    let mut libvirt = rig.libvirt().await;
    let mut heard = vec![0; 28];
    timeout(LIMIT, libvirt.read_exact(&mut heard)).await.expect("the call").unwrap();
    // An event of a domain, which nobody has asked for.
    let mut event = call(318, &[0; 8]);
    event[19] = 2;
    libvirt.write_all(&event).await.unwrap();
    assert_eq!(ends(&mut control).await, b"", "the source's libvirt heard of it");
    assert_eq!(ends(&mut libvirt).await, b"");
}

#[tokio::test]
async fn memory_goes_to_the_socket_that_qemu_made_and_nowhere_else() {
    let rig = Rig::new().await;
    let request = Channel::Memory.request(HANDOFF);
    rig.is_declined(&rig.source, &request, "QEMU does not answer").await;
    symlink(rig.dir.path().join("libvirt.sock"), rig.memory()).unwrap();
    rig.is_declined(&rig.source, &request, "is no socket").await;
    std::fs::remove_file(rig.memory()).unwrap();
    let qemu = UnixListener::bind(rig.memory()).unwrap();
    // Another process than the one that libvirt says runs the machine: another machine's, say.
    rig.runs_in(1);
    rig.is_declined(&rig.source, &request, "does not run machine").await;
    let (mut declined, _) = timeout(LIMIT, qemu.accept()).await.expect("a connection").unwrap();
    assert_eq!(ends(&mut declined).await, b"");
    rig.runs_in(std::process::id());
    let mut socket = rig.call(&rig.source, &request).await.unwrap();
    let (mut incoming, _) = timeout(LIMIT, qemu.accept()).await.expect("a connection").unwrap();
    socket.write_all(b"pages").await.unwrap();
    socket.shutdown().await.unwrap();
    assert_eq!(ends(&mut incoming).await, b"pages");
}

#[tokio::test]
async fn a_disk_is_copied_by_the_process_that_runs_its_machine_and_by_no_other() {
    let mut rig = Rig::new().await;
    // Every QEMU of a host may open the socket: they are of one group.
    let place = evenkeel_core::model::DiskPlace { name: "vda".into(), path: "/srv/x".into() };
    let (handoff, to) = (HandoffId(7), rig.other.id.clone());
    let migration = Migration { handoff, to, disks: vec![place], ..migration(&rig) };
    let sockets = Sockets::of(&rig.dir.path().join("there"), handoff);
    for (pid, says) in [(1, "does not run machine"), (std::process::id(), "cannot reach")] {
        rig.runs_in(pid);
        rig.carrier.depart(&migration, "web", Some(rig.other.addr)).unwrap();
        let mut socket = UnixStream::connect(sockets.disks()).await.unwrap();
        assert_eq!(ends(&mut socket).await, b"");
        let why = rig.carrier.departed(handoff).unwrap();
        assert!(why.contains(says), "{why}");
    }
}

#[tokio::test]
async fn a_departure_is_carried_through_sockets_that_only_this_user_can_use_and_leaves_nothing() {
    let rig = Rig::new().await;
    let dir = rig.dir.path().join("here");
    let mut carrier = Carrier::new(rig.source.net.clone(), dir.clone(), None);
    let migration = |handoff| Migration { handoff, ..migration(&rig) };
    carrier.depart(&migration(HANDOFF), "web", Some(rig.target.addr)).unwrap();
    let sockets = Sockets::of(&dir, HANDOFF);
    for (path, mode) in
        [(&sockets.dir, 0o700), (&sockets.control(), 0o600), (&sockets.memory(), 0o600)]
    {
        let found = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{}", path.display());
    }
    let mut control = UnixStream::connect(sockets.control()).await.unwrap();
    control.write_all(&call(66, &[])).await.unwrap();
    let mut heard = vec![0; 28];
    timeout(LIMIT, rig.libvirt().await.read_exact(&mut heard)).await.expect("the call").unwrap();
    assert_eq!(carrier.departed(HANDOFF), None);
    assert_eq!(ends(&mut control).await, b"");
    assert!(!sockets.dir.exists());
    // One that nobody expects says so, for the record.
    let unknown = HandoffId(7);
    carrier.depart(&migration(unknown), "web", Some(rig.target.addr)).unwrap();
    let sockets = Sockets::of(&dir, unknown);
    let mut control = UnixStream::connect(sockets.control()).await.unwrap();
    assert_eq!(ends(&mut control).await, b"");
    let why = carrier.departed(unknown).unwrap();
    assert!(why.contains("host `target` does not take the stream: no machine"), "{why}");
}
