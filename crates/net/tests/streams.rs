//! Byte streams between hosts.

mod common;

use std::time::Duration;

use common::founder::{founder, join};
use common::{Agent, cluster, host, pair};
use evenkeel_net::{Caller, Joined, Pace, Stream, StreamError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

const LIMIT: Duration = Duration::from_secs(10);

async fn next(callers: &mut Receiver<Caller>) -> Caller {
    timeout(LIMIT, callers.recv()).await.expect("within ten seconds").expect("it listens")
}

/// A stream, from both of its ends.
async fn connected(a: &Agent, b: &Agent, callers: &mut Receiver<Caller>) -> (Stream, Stream) {
    let opening = a.net.open_stream(&b.id, b.addr, b"please");
    let taking = async { next(callers).await.accept().await };
    let (near, far) = tokio::join!(opening, taking);
    (near.expect("taken"), far.expect("still there"))
}

/// A stream joined to a socket, whose other end is returned.
fn joined(stream: Stream, pace: Option<Pace>) -> (UnixStream, JoinHandle<std::io::Result<Joined>>) {
    let (inner, outer) = UnixStream::pair().expect("sockets");
    (outer, tokio::spawn(async move { stream.join(inner, pace.as_ref()).await }))
}

async fn read_all(from: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(LIMIT, from.read_to_end(&mut bytes)).await.expect("an end").expect("readable");
    bytes
}

#[tokio::test]
async fn a_stream_carries_bytes_both_ways_and_the_end_of_each() {
    let (a, b) = pair();
    let mut callers = b.net.listen_streams().await.expect("the port is free");
    let (near, far) = connected(&a, &b, &mut callers).await;
    let ((mut here, a_side), (mut there, b_side)) = (joined(near, None), joined(far, None));
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let write = async {
        here.write_all(&sent).await.expect("writable");
        here.shutdown().await.expect("writable");
    };
    let ((), received) = tokio::join!(write, read_all(&mut there));
    assert!(received == sent, "{} bytes arrived, or others", received.len());
    // The other direction goes on after the first has ended.
    there.write_all(b"thanks").await.expect("writable");
    there.shutdown().await.expect("writable");
    assert_eq!(read_all(&mut here).await, b"thanks");
    let bytes = sent.len() as u64;
    assert_eq!(a_side.await.unwrap().unwrap(), Joined { sent: bytes, received: 6 });
    assert_eq!(b_side.await.unwrap().unwrap(), Joined { sent: 6, received: bytes });
}

#[tokio::test]
async fn a_stream_says_who_calls_and_why_it_is_declined() {
    let (a, b) = pair();
    let mut callers = b.net.listen_streams().await.expect("the port is free");
    let judging = async {
        let caller = next(&mut callers).await;
        assert_eq!((caller.from.as_str(), &caller.request[..]), ("a", &b"please"[..]));
        caller.decline("not today").await;
    };
    let (opened, ()) = tokio::join!(a.net.open_stream(&b.id, b.addr, b"please"), judging);
    let declined = StreamError::Declined { host: host("b"), why: "not today".to_owned() };
    assert_eq!(opened.err(), Some(declined));
}

#[tokio::test]
async fn another_cluster_another_host_and_a_stranger_get_no_stream() {
    let (a, b) = pair();
    let mut callers = b.net.listen_streams().await.expect("the port is free");
    let other = Agent::start(&cluster().issue(&host("a")).expect("a certificate"));
    let refused = other.net.open_stream(&b.id, b.addr, b"please").await.err().expect("refused");
    assert!(refused.to_string().contains("not from the authority"), "{refused}");
    let wrong = a.net.open_stream(&host("c"), b.addr, b"please").await.err().expect("refused");
    assert!(wrong.to_string().contains("host `b` answers where host `c`"), "{wrong}");
    // Without TLS, and with TLS and no certificate: the end, and no caller.
    let mut plain = TcpStream::connect(b.addr).await.expect("it listens");
    plain.write_all(b"\x00\x06please").await.expect("writable");
    let mut answer = Vec::new();
    let ended = timeout(LIMIT, plain.read_to_end(&mut answer)).await.expect("an end");
    assert!(ended.is_err() || !answer.contains(&0x17), "it got data: {answer:?}");
    assert!(callers.try_recv().is_err(), "a stranger reached the driver");
    drop(connected(&a, &b, &mut callers).await);
}

#[tokio::test]
async fn a_peer_has_a_limited_number_of_streams_and_frees_them() {
    let (a, b) = pair();
    let mut callers = b.net.listen_streams().await.expect("the port is free");
    let max = common::limits().streams_from_peer_max;
    let mut open = Vec::new();
    for _ in 0..max {
        open.push(connected(&a, &b, &mut callers).await);
    }
    let refused = a.net.open_stream(&b.id, b.addr, b"please").await;
    assert!(refused.is_err(), "a stream above the limit was taken");
    open.pop();
    open.push(connected(&a, &b, &mut callers).await);
}

#[tokio::test]
async fn a_removed_host_loses_its_streams() {
    let (mut a, ca, _) = founder();
    let (b, _b_dir) = join("b", &ca, &mut a).await;
    let mut callers = a.net.listen_streams().await.expect("the port is free");
    let (near, far) = connected(&b, &a, &mut callers).await;
    let ((mut here, _), (mut there, cut)) = (joined(near, None), joined(far, None));
    here.write_all(b"hello").await.expect("writable");
    let mut hello = [0; 5];
    there.read_exact(&mut hello).await.expect("readable");
    a.net.remove(&host("b")).await.expect("it is the authority");
    let why = timeout(LIMIT, cut).await.expect("cut").unwrap().unwrap_err();
    assert!(why.to_string().contains("host `b` was removed"), "{why}");
    assert_eq!(read_all(&mut there).await, b"");
}

#[tokio::test]
async fn streams_keep_to_the_pace_together() {
    let (a, b) = pair();
    let mut callers = b.net.listen_streams().await.expect("the port is free");
    let pace = std::sync::Arc::new(Pace::new(4_000_000));
    let began = Instant::now();
    let mut done = Vec::new();
    for _ in 0..2 {
        let (near, far) = connected(&a, &b, &mut callers).await;
        let (mut there, _) = joined(far, None);
        let (inner, mut here) = UnixStream::pair().expect("sockets");
        let pace = pace.clone();
        tokio::spawn(async move { near.join(inner, Some(&pace)).await });
        tokio::spawn(async move {
            here.write_all(&[7; 1_000_000]).await.expect("writable");
        });
        done.push(tokio::spawn(async move {
            let received = read_all(&mut there).await.len();
            (received, began.elapsed().as_secs_f64())
        }));
    }
    for stream in done {
        let (received, seconds) = stream.await.unwrap();
        assert_eq!(received, 1_000_000);
        // Half a second for all of it; in turns, so that neither is done much before the other.
        assert!(seconds > 0.35, "done after {seconds} s");
    }
}
