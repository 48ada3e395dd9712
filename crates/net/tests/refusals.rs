//! Whoever is not a host of this cluster, with a certificate that is valid now, gets nothing.

mod common;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use common::{Agent, call, cluster, host, limits, loopback};
use evenkeel_net::{DialError, Limits, NetEvent, PeerRefused};

/// A caller that shows no certificate, and may speak another protocol.
async fn call_without_certificate(addr: SocketAddr, alpn: &[u8]) -> Result<(), String> {
    let connection = call(addr, alpn, None).await?;
    // TLS lets the caller believe that it is connected until the other side has seen that nothing
    // is shown. Nothing can be sent in the meantime.
    tokio::select! {
        opened = connection.open_uni() => opened.map(drop).map_err(|e| e.to_string()),
        opened = connection.open_bi() => opened.map(drop).map_err(|e| e.to_string()),
        answer = connection.read_datagram() => answer.map(drop).map_err(|e| e.to_string()),
    }
}

#[tokio::test]
async fn a_caller_without_a_certificate_gets_nothing() {
    let mut victim = Agent::start(&cluster().issue(&host("a")).unwrap());
    let refused = call_without_certificate(victim.addr, b"evenkeel/1").await.unwrap_err();
    assert!(refused.contains("certificate"), "{refused}");
    let refused = call_without_certificate(victim.addr, b"h3").await.unwrap_err();
    assert!(refused.contains("protocol"), "{refused}");
    assert!(victim.events.try_recv().is_err());
    assert_eq!(victim.net.connections(), 0);
}

#[tokio::test]
async fn the_hosts_of_two_clusters_have_nothing_to_say_to_each_other() {
    let (ours, theirs) = (cluster(), cluster());
    let mut a = Agent::start(&ours.issue(&host("a")).unwrap());
    let mut stranger = Agent::start(&theirs.issue(&host("b")).unwrap());
    stranger.net.send(&host("a"), a.addr, b"let me in".to_vec()).unwrap();
    stranger.net.send_datagram(&host("a"), a.addr, &b"and me"[..]);
    let (_, why) = stranger.undelivered().await;
    assert!(why.contains(&format!("cluster (`{}`)", theirs.cluster())), "{why}");
    assert!(a.events.try_recv().is_err());
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_now_is_refused_on_either_side() {
    let ca = cluster();
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    for (from, until, expected) in [
        (now - 2 * hour, now - hour, PeerRefused::Expired),
        (now + hour, now + 2 * hour, PeerRefused::NotYetValid),
    ] {
        let mut a = Agent::start(&ca.issue(&host("a")).unwrap());
        let b = Agent::start(&ca.issue(&host("b")).unwrap());
        let invalid = ca.issue_within(&host("c"), from, until).unwrap();
        let mut c = Agent::start(&invalid);
        let refused = a.net.identify(c.addr).await;
        let Err(DialError::Refused { why, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(why, expected);

        c.send(&a, b"let me in");
        let (_, why) = c.undelivered().await;
        assert!(why.contains(&format!("the other side refused: {expected}")), "{why}");
        a.nothing_but_from(&b).await;
    }
}

#[tokio::test]
async fn a_refusal_is_logged_with_the_address_and_a_flood_of_them_is_not() {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .with_env_filter("evenkeel_net=warn")
        .finish();
    // This test's runtime has one thread, which is this one.
    let _logging = tracing::subscriber::set_default(subscriber);

    let victim = Agent::start(&cluster().issue(&host("a")).unwrap());
    for _ in 0..30 {
        call_without_certificate(victim.addr, b"evenkeel/1").await.unwrap_err();
    }
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 10, "{text}");
    assert!(text.contains("remote=127.0.0.1:") && text.contains("certificate"), "{text}");
}

#[tokio::test]
async fn a_caller_above_the_limit_of_connections_is_refused_and_the_others_stay() {
    let ca = cluster();
    let few = Limits { connections_max: 2, ..limits() };
    let mut a = Agent::at(loopback(), &ca.issue(&host("a")).unwrap(), few);
    let callers: Vec<Agent> =
        ["b", "c", "d"].iter().map(|n| Agent::start(&ca.issue(&host(n)).unwrap())).collect();
    for caller in &callers[..2] {
        caller.send(&a, b"in");
        a.message().await;
    }
    let mut last = callers.into_iter().collect::<Vec<_>>();
    let mut third = last.pop().unwrap();
    third.send(&a, b"one too many");
    let (_, why) = third.undelivered().await;
    assert!(why.contains("cannot reach"), "{why}");
    last[0].send(&a, b"still in");
    assert_eq!(a.message().await.1, b"still in");
}

#[tokio::test]
async fn a_peer_that_opens_connection_after_connection_keeps_the_newest_few() {
    let ca = cluster();
    let mut a = Agent::start(&ca.issue(&host("a")).unwrap());
    let b = Agent::start(&ca.issue(&host("b")).unwrap());
    for _ in 0..10 {
        b.net.identify(a.addr).await.unwrap();
    }
    b.send(&a, b"hello");
    a.message().await;
    assert!(a.net.connections() <= limits().connections_per_peer_max);
}

#[tokio::test]
async fn noise_on_the_port_is_ignored() {
    let ca = cluster();
    let mut a = Agent::start(&ca.issue(&host("a")).unwrap());
    let b = Agent::start(&ca.issue(&host("b")).unwrap());
    let socket = std::net::UdpSocket::bind(loopback()).unwrap();
    for n in 0..200usize {
        let noise: Vec<u8> = (0..n * 7).map(|i| (i * 31 + n * 17) as u8).collect();
        socket.send_to(&noise, a.addr).unwrap();
    }
    b.send(&a, b"hello");
    assert!(matches!(a.next().await, NetEvent::Message { .. }));
}

#[tokio::test]
async fn a_peer_that_floods_is_taken_at_the_rate_and_others_are_not_held_up() {
    let ca = cluster();
    let slow =
        Limits { messages_from_peer_per_s_max: 10, datagrams_from_peer_per_s_max: 10, ..limits() };
    let mut a = Agent::at(loopback(), &ca.issue(&host("a")).unwrap(), slow);
    let flooder = Agent::start(&ca.issue(&host("b")).unwrap());
    let calm = Agent::start(&ca.issue(&host("c")).unwrap());
    let began = std::time::Instant::now();
    for n in 0..20 {
        flooder.send(&a, &[n]);
    }
    for n in 0..10 {
        assert_eq!(a.message().await, (host("b"), vec![n]));
    }
    calm.send(&a, b"and me");
    let mut from_flooder = 10;
    loop {
        let (from, bytes) = a.message().await;
        if from == host("c") {
            break;
        }
        assert_eq!(bytes, [from_flooder], "in order");
        from_flooder += 1;
    }
    assert!(from_flooder < 20, "the calm one waited for the whole flood");
    while from_flooder < 20 {
        assert_eq!(a.message().await.1, [from_flooder]);
        from_flooder += 1;
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());

    flooder.net.send_datagram(&a.id, a.addr, vec![1]);
    assert!(matches!(a.next().await, NetEvent::Datagram { .. }), "one is not too many");
    for n in 0..200u8 {
        flooder.net.send_datagram(&a.id, a.addr, vec![n]);
    }
    flooder.send(&a, b"the end");
    let mut taken = 0;
    while let NetEvent::Datagram { .. } = a.next().await {
        taken += 1;
    }
    assert!(taken <= 20, "{taken} of 200 datagrams");
}

#[tokio::test]
async fn a_host_has_one_rate_over_all_its_connections_and_none_anew() {
    let ca = cluster();
    let slow =
        Limits { messages_from_peer_per_s_max: 10, datagrams_from_peer_per_s_max: 10, ..limits() };
    let mut a = Agent::at(loopback(), &ca.issue(&host("a")).unwrap(), slow);
    let identity = ca.issue(&host("b")).unwrap();
    // As many agents under one name as it may have connections, and as many again after those.
    let mut flooders = Vec::new();
    for _ in 0..2 {
        flooders.clear();
        for _ in 0..4 {
            let patient = Limits { delivery: Duration::from_secs(30), ..limits() };
            let flooder = Agent::at(loopback(), &identity, patient);
            for _ in 0..10 {
                flooder.send(&a, b"flood");
            }
            flooders.push(flooder);
        }
        // All that comes at once, by whichever of them.
        for _ in 0..10 {
            assert_eq!(a.message().await.0, host("b"));
        }
    }
    let calm = Agent::start(&ca.issue(&host("c")).unwrap());
    calm.send(&a, b"and me");
    let mut taken = 20;
    while a.message().await.0 != host("c") {
        taken += 1;
    }
    // Were every connection taken at the rate, all of it would have come at once.
    assert!(taken < 60, "the calm one waited for the whole flood");
}

/// Connections on which nobody says anything, from an address of loopback.
async fn silent_from(from: [u8; 4], to: SocketAddr, count: usize) -> Vec<tokio::net::TcpStream> {
    let mut all = Vec::new();
    for _ in 0..count {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from((from, 0))).expect("an address of loopback");
        all.push(socket.connect(to).await.expect("it listens"));
    }
    all
}

#[tokio::test]
async fn strangers_who_hold_connections_open_do_not_keep_a_member_from_carrying() {
    let ca = cluster();
    let a = Agent::start(&ca.issue(&host("a")).unwrap());
    let b = Agent::start(&ca.issue(&host("b")).unwrap());
    let mut callers = a.net.listen_streams().await.unwrap();
    // The two have spoken, as they have before any machine moves.
    b.net.identify(a.addr).await.unwrap();
    // From where no member is: more than all the room there is for strangers.
    let mut silent = Vec::new();
    for n in 2..12 {
        silent.extend(silent_from([127, 0, 0, n], a.addr, 16).await);
    }
    // And from one address more than it has of it, which others do not notice.
    let accept = async { callers.recv().await.unwrap().accept().await.unwrap() };
    let to = host("a");
    let (opened, _taken) = tokio::join!(b.net.open_stream(&to, a.addr, b"x"), accept);
    opened.unwrap();
    drop(silent);
}
