//! Links that can be cut: everything that goes from one host to another goes through a proxy.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Whether anything passes.
#[derive(Clone, Default)]
pub struct Link {
    cut: Arc<AtomicBool>,
    /// Whether what the side that was called says is held back.
    mute: Arc<AtomicBool>,
    /// Connections that are broken when the link is.
    open: Arc<Mutex<Vec<Shut>>>,
}

/// Breaks a connection.
type Shut = Box<dyn Fn() + Send>;

impl Link {
    /// From now on nothing passes, in silence, as when a cable is pulled.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    /// Everything passes again.
    pub fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
        self.mute.store(false, Ordering::SeqCst);
    }

    /// From now on what is asked passes and what is answered waits.
    pub fn hold_answers(&self) {
        self.mute.store(true, Ordering::SeqCst);
    }

    /// Breaks every connection, as when something on the way is started anew.
    pub fn reset(&self) {
        for shut in self.open.lock().expect("no panic").drain(..) {
            shut();
        }
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }
}

/// How often a proxy that holds something back looks whether it may pass.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// One direction of a connection. What is sent over a cut link waits, as it would be sent again.
fn pump(mut from: impl Read, mut to: impl Write, waits: &[&AtomicBool]) {
    let mut bytes = [0; 64 * 1024];
    while let Ok(length) = from.read(&mut bytes) {
        while waits.iter().any(|wait| wait.load(Ordering::SeqCst)) {
            thread::sleep(LOOK_AGAIN);
        }
        if length == 0 || to.write_all(&bytes[..length]).is_err() {
            return;
        }
    }
}

macro_rules! join {
    ($link:expr, $a:expr, $b:expr) => {{
        let (link, a, b) = ($link.clone(), $a, $b);
        let (Ok(a2), Ok(b2), Ok(a3), Ok(b3)) =
            (a.try_clone(), b.try_clone(), a.try_clone(), b.try_clone())
        else {
            continue;
        };
        link.open.lock().expect("no panic").push(Box::new(move || {
            let _ = a3.shutdown(Shutdown::Both);
            let _ = b3.shutdown(Shutdown::Both);
        }));
        for (from, to, is_answer) in [(a, b, false), (b2, a2, true)] {
            let link = link.clone();
            thread::spawn(move || {
                let waits = [&*link.cut, &*link.mute];
                pump(&from, &to, &waits[..=usize::from(is_answer)]);
                let _ = to.shutdown(Shutdown::Both);
                let _ = from.shutdown(Shutdown::Both);
            });
        }
    }};
}

/// A socket that leads to another one.
pub fn unix(path: &Path, to: PathBuf, link: &Link) {
    let listener = UnixListener::bind(path).expect("a socket");
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(path, open).expect("it is ours");
    let link = link.clone();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            if let Ok(far) = UnixStream::connect(&to) {
                join!(link, near, far);
            }
        }
    });
}

/// A TCP port that leads to another one.
pub fn tcp(at: SocketAddr, to: SocketAddr, link: &Link) {
    let listener = TcpListener::bind(at).expect("a free port");
    let link = link.clone();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            if let Ok(far) = TcpStream::connect(to) {
                join!(link, near, far);
            }
        }
    });
}

/// A UDP port that leads to another one; datagrams over a cut link are lost.
pub fn udp(at: SocketAddr, to: SocketAddr, link: &Link) {
    let near = Arc::new(UdpSocket::bind(at).expect("a free port"));
    let link = link.clone();
    thread::spawn(move || {
        let mut far: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
        let mut bytes = [0; 65_536];
        while let Ok((length, from)) = near.recv_from(&mut bytes) {
            let socket = far.entry(from).or_insert_with(|| {
                let socket = Arc::new(UdpSocket::bind(("127.0.0.1", 0)).expect("a port"));
                socket.connect(to).expect("an address");
                let (back, near, link) = (Arc::clone(&socket), Arc::clone(&near), link.clone());
                thread::spawn(move || {
                    let mut bytes = [0; 65_536];
                    loop {
                        // An error is the other side's port that is closed just now.
                        let Ok(length) = back.recv(&mut bytes) else { continue };
                        if !link.is_cut() {
                            let _ = near.send_to(&bytes[..length], from);
                        }
                    }
                });
                socket
            });
            if !link.is_cut() {
                let _ = socket.send(&bytes[..length]);
            }
        }
    });
}
