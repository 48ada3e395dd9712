//! Messages and datagrams between hosts that belong together.

mod common;

use std::time::{Duration, Instant};

use common::{Agent, cluster, host, limits, loopback, pair};
use evenkeel_net::{DialError, Limits, NetEvent, PeerRefused, Undelivered};

#[tokio::test]
async fn two_agents_exchange_messages_over_one_connection() {
    let (mut a, mut b) = pair();
    a.send(&b, b"ping");
    assert_eq!(b.message().await, (host("a"), b"ping".to_vec()));
    b.send(&a, b"pong");
    assert_eq!(a.message().await, (host("b"), b"pong".to_vec()));
    assert_eq!((a.net.connections(), b.net.connections()), (1, 1));
}

#[tokio::test]
async fn messages_arrive_in_order_and_whole() {
    let (a, mut b) = pair();
    let message = |n: u8| vec![n; 1000 * usize::from(n) + 1];
    for n in 0..50 {
        a.send(&b, &message(n));
    }
    for n in 0..50 {
        assert_eq!(b.message().await.1, message(n), "message {n}");
    }
}

#[tokio::test]
async fn the_largest_messages_do_not_stand_in_each_others_way() {
    let (a, mut b) = pair();
    for n in 0..32 {
        a.send(&b, &vec![n; 1 << 20]);
    }
    for n in 0..32 {
        let (_, bytes) = b.message().await;
        assert!(bytes.len() == 1 << 20 && bytes.iter().all(|byte| *byte == n), "message {n}");
    }
}

#[tokio::test]
async fn a_host_that_moved_is_reached_at_its_new_address() {
    let ca = cluster();
    let a = Agent::start(&ca.issue(&host("a")).unwrap());
    let identity = ca.issue(&host("b")).unwrap();
    let (runtime, mut b) = in_own_runtime(loopback(), &identity);
    a.send(&b, b"here");
    b.message().await;
    kill(runtime, b);
    let mut b = Agent::start(&identity);
    a.send(&b, b"there");
    assert_eq!(b.message().await.1, b"there");
}

#[tokio::test]
async fn two_that_call_each_other_at_once_lose_nothing() {
    let (mut a, mut b) = pair();
    for n in 0..20 {
        a.send(&b, &[n]);
        b.send(&a, &[n]);
    }
    for _ in 0..20 {
        a.message().await;
        b.message().await;
    }
    assert!(a.net.connections() <= 2, "each side called at most once");
}

#[tokio::test]
async fn datagrams_arrive_and_the_first_ones_wait_for_the_connection() {
    let (a, mut b) = pair();
    for n in 0..3u8 {
        a.net.send_datagram(&b.id, b.addr, vec![n; 1150]);
    }
    for n in 0..3u8 {
        let NetEvent::Datagram { from, bytes } = b.next().await else { panic!("no datagram") };
        assert_eq!((from, &bytes[..]), (host("a"), &[n; 1150][..]));
    }
    // Longer than any path takes: dropped, and nothing else suffers.
    a.net.send_datagram(&b.id, b.addr, vec![9; 9000]);
    b.nothing_but_from(&a).await;
}

#[tokio::test]
async fn a_seed_is_identified_by_its_certificate_and_the_connection_is_kept() {
    let (a, mut b) = pair();
    assert_eq!(a.net.identify(b.addr).await, Ok(host("b")));
    a.send(&b, b"hello");
    b.message().await;
    assert_eq!(a.net.connections(), 1);
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused_on_either_side_and_the_connection_lives() {
    let ca = cluster();
    let generous = Limits { message_bytes_max: 4 << 20, ..limits() };
    let mut a = Agent::at(loopback(), &ca.issue(&host("a")).unwrap(), generous);
    let mut b = Agent::start(&ca.issue(&host("b")).unwrap());
    let refused = a.net.send(&b.id, b.addr, vec![0; (4 << 20) + 1]);
    assert!(matches!(refused, Err(Undelivered::TooLong { .. })), "{refused:?}");

    a.send(&b, &vec![0; 2 << 20]);
    let (to, why) = a.undelivered().await;
    assert!(to == host("b") && why.contains("code 1"), "{why}");
    a.send(&b, &vec![7; 1 << 20]);
    assert_eq!(b.message().await.1.len(), 1 << 20);
    assert_eq!(a.net.connections(), 1);
}

#[tokio::test]
async fn more_messages_than_the_queue_holds_are_refused_and_none_of_the_others_is_lost() {
    let ca = cluster();
    let small = Limits { messages_to_peer_max: 4, events_max: 1, ..limits() };
    let a = Agent::at(loopback(), &ca.issue(&host("a")).unwrap(), small.clone());
    let mut b = Agent::at(loopback(), &ca.issue(&host("b")).unwrap(), small);
    let sent = (0..10u8).filter(|n| a.net.send(&b.id, b.addr, vec![*n]).is_ok()).count();
    assert_eq!(sent, 4);
    for n in 0..4 {
        assert_eq!(b.message().await.1, [n]);
    }
}

#[tokio::test]
async fn nobody_there_is_told_within_the_limit() {
    let (mut a, b) = pair();
    // Bound, so that it is nobody else's, and silent.
    let silent = std::net::UdpSocket::bind(loopback()).unwrap();
    a.net.send(&b.id, silent.local_addr().unwrap(), b"hello".to_vec()).unwrap();
    let (to, why) = a.undelivered().await;
    assert!(to == host("b") && why.contains("nobody answers at"), "{why}");
}

#[tokio::test]
async fn another_host_than_the_one_called_is_refused_naming_both() {
    let ca = cluster();
    let mut a = Agent::start(&ca.issue(&host("a")).unwrap());
    let mut b = Agent::start(&ca.issue(&host("b")).unwrap());
    let c = Agent::start(&ca.issue(&host("c")).unwrap());
    // Somebody claims that `c` is where in truth `b` is.
    a.net.send(&c.id, b.addr, b"for c alone".to_vec()).unwrap();
    let (to, why) = a.undelivered().await;
    assert_eq!(to, host("c"));
    assert!(why.contains("host `b` answers where host `c` was expected"), "{why}");
    b.nothing_but_from(&c).await;
}

#[tokio::test]
async fn a_host_with_our_own_id_is_refused_on_both_sides() {
    let ca = cluster();
    let mut a = Agent::start(&ca.issue(&host("a")).unwrap());
    let twin = Agent::start(&ca.issue(&host("a")).unwrap());
    let b = Agent::start(&ca.issue(&host("b")).unwrap());
    let refused = twin.net.identify(a.addr).await;
    assert!(
        matches!(&refused, Err(DialError::Refused { why: PeerRefused::OwnName(_), .. })),
        "{refused:?}"
    );
    a.nothing_but_from(&b).await;
}

#[tokio::test]
async fn a_graceful_close_delivers_what_was_sent_before() {
    let (a, mut b) = pair();
    for n in 0..10 {
        a.send(&b, &[n; 10_000]);
    }
    a.net.send_datagram(&b.id, b.addr, &b"bye"[..]);
    a.net.close(Duration::from_secs(2)).await;
    assert_eq!(a.net.send(&b.id, b.addr, vec![1]), Err(Undelivered::Closing));
    let (mut messages, mut datagrams) = (0, 0);
    while messages < 10 || datagrams < 1 {
        match b.next().await {
            NetEvent::Message { .. } => messages += 1,
            NetEvent::Datagram { .. } => datagrams += 1,
            other => panic!("{other:?}"),
        }
    }
}

/// Runs an agent in a runtime of its own, so that it can end without a word, as a killed one does.
fn in_own_runtime(
    addr: std::net::SocketAddr,
    identity: &evenkeel_net::Identity,
) -> (tokio::runtime::Runtime, Agent) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let agent = {
        let _inside = runtime.enter();
        Agent::at(addr, identity, limits())
    };
    (runtime, agent)
}

/// Ends an agent without a word, and its socket.
fn kill(runtime: tokio::runtime::Runtime, agent: Agent) {
    // A runtime may not be waited for inside of another.
    let ended = std::thread::spawn(|| runtime.shutdown_timeout(Duration::from_secs(5)));
    ended.join().expect("it ends");
    drop(agent);
}

#[tokio::test]
async fn a_peer_that_dies_is_told_within_the_limit_and_its_restart_is_reached_at_once() {
    let ca = cluster();
    let mut a = Agent::start(&ca.issue(&host("a")).unwrap());
    let identity = ca.issue(&host("b")).unwrap();
    let (runtime, mut b) = in_own_runtime(loopback(), &identity);
    let addr = b.addr;
    a.send(&b, b"one");
    b.message().await;
    // With an answer comes the acknowledgement; without it, what was said would be said again.
    b.send(&a, b"answer");
    a.message().await;

    kill(runtime, b);
    a.net.send(&host("b"), addr, b"two".to_vec()).unwrap();
    let (to, why) = a.undelivered().await;
    assert_eq!(to, host("b"), "{why}");

    // Up again, and dead and up again while nothing is sent: the old connection is no trap.
    let (runtime, mut b) = in_own_runtime(addr, &identity);
    a.send(&b, b"three");
    assert_eq!(b.message().await.1, b"three");
    b.send(&a, b"answer");
    a.message().await;
    kill(runtime, b);
    let (runtime, mut b) = in_own_runtime(addr, &identity);
    a.send(&b, b"four");
    assert_eq!(b.message().await.1, b"four");
    kill(runtime, b);
}

#[tokio::test]
async fn a_certificate_is_replaced_without_a_restart() {
    let ca = cluster();
    let b = Agent::start(&ca.issue(&host("b")).unwrap());
    // Good for a moment only.
    let (now, moment) = (std::time::SystemTime::now(), Duration::from_secs(1));
    let short = ca.issue_within(&host("a"), now - moment, now + moment).unwrap();
    let a = Agent::start(&short);
    assert_eq!(b.net.identify(a.addr).await, Ok(host("a")));
    while std::time::SystemTime::now() < short.expires() + moment {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let expired = b.net.identify(a.addr).await;
    assert!(
        matches!(&expired, Err(DialError::Refused { why: PeerRefused::Expired, .. })),
        "{expired:?}"
    );
    a.net.replace_identity(&ca.issue(&host("a")).unwrap()).unwrap();
    assert_eq!(b.net.identify(a.addr).await, Ok(host("a")));
    let other = a.net.replace_identity(&ca.issue(&host("c")).unwrap());
    assert!(other.unwrap_err().to_string().contains("runs as host `a`"));
}

/// `cargo test --release -p evenkeel-net --test transport -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "the figures are the result")]
async fn what_a_message_costs() {
    const ROUNDS: u32 = 2000;
    let (mut a, mut b) = pair();
    let mut round = async || {
        let started = Instant::now();
        a.send(&b, &[7; 300]);
        b.message().await;
        b.send(&a, &[7; 300]);
        a.message().await;
        started.elapsed()
    };
    let first = round().await;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.push(round().await);
    }
    times.sort();
    let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("there and back with 300 bytes: first {first:?}, median {median:?}, p99 {p99:?}");
}
