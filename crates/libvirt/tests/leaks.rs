//! Connections come and go; nothing of them stays. Alone in its program, since it counts what the
//! program has open.

mod support;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use evenkeel_core::port::{Event, Order};
use evenkeel_hypervisor::Hypervisor;
use evenkeel_libvirt::{LibvirtHypervisor, all_closed};
use support::{clock, config, lab};

const SOON: Duration = Duration::from_secs(20);

/// Open files and threads of this program.
fn open() -> (usize, usize) {
    let count = |path| std::fs::read_dir(path).expect("/proc is mounted").count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

#[test]
fn a_hypervisor_that_is_dropped_leaves_no_connection_and_no_thread() {
    let lab = lab();
    let use_once = || {
        let (sink, events) = mpsc::channel();
        let sink = move |event| drop(sink.send(event));
        let config = config(&lab, "h1");
        let hypervisor = LibvirtHypervisor::new(config, sink, clock());
        let mut hypervisor = hypervisor.expect("there are threads");
        hypervisor.submit(Order::Sample);
        let answer = events.recv_timeout(SOON).expect("it answers");
        assert!(matches!(answer, Event::Sampled(Ok(_))), "{answer:?}");
        assert!(!all_closed(Duration::ZERO), "it is connected");
        drop(hypervisor);
        assert!(all_closed(SOON), "a connection is left open");
        // The channel closes when the last thread has let go of the other end.
        assert!(
            events.recv_timeout(SOON).is_err_and(|e| e == mpsc::RecvTimeoutError::Disconnected)
        );
    };
    // libvirt's own event loop and what else is made once.
    use_once();
    let before = open();
    for _ in 0..10 {
        use_once();
    }
    let end = Instant::now() + SOON;
    // What was closing while it was counted before may be gone now.
    let is_more = |now: (usize, usize)| now.0 > before.0 || now.1 > before.1;
    while is_more(open()) {
        assert!(Instant::now() < end, "files and threads: {before:?} before, {:?} after", open());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "no test, but the supervisor of the lab of the other, which starts it"]
fn the_supervisor_of_the_labs_of_these_tests() {
    support::supervise();
}
