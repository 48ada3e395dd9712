use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use evenkeel_core::model::MachineId;
use evenkeel_net::{ClusterCa, Limits};
use hyper::Method;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::Config;
use crate::api::{self, Peers, Socket};
use crate::client::{Client, ClientError};
use crate::clock::Clock;
use crate::request::{Edit, Request as Asked};

/// An agent's API and network, and a driver that knows addresses and says whose it is.
struct Agent {
    host: HostId,
    net: Net,
    client: Client,
    acted: Arc<AtomicUsize>,
    _socket: Socket,
}

impl Agent {
    fn start(ca: &ClusterCa, dir: &TempDir, name: &str, may: Members, known: &[&Self]) -> Self {
        let host = HostId::new(name).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let identity = ca.issue(&host).unwrap();
        let (net, events) = Net::bind(any, &identity, Limits::default(), None).unwrap();
        let path = dir.path().join(name);
        let store = evenkeel_store::Store::open(&dir.path().join(format!("{name}.state"))).unwrap();
        let history = Arc::new(store.history().unwrap());
        let clock = Clock::start();
        let peers = Peers { here: host.clone(), net: net.clone(), may, tcp: None, history, clock };
        let config = Config { api_socket: path.clone(), ..Config::default() };
        let (socket, mut requests) = api::serve(&config, peers).unwrap();
        let mut addresses: BTreeMap<_, _> =
            known.iter().map(|a| (a.host.clone(), a.net.local_addr().unwrap())).collect();
        // Nobody listens at port 9.
        addresses.insert(HostId::new("gone").unwrap(), SocketAddr::from(([127, 0, 0, 1], 9)));
        let acted = Arc::new(AtomicUsize::new(0));
        let (me, count) = (host.clone(), acted.clone());
        tokio::spawn(async move {
            let _events = events;
            while let Some(request) = requests.recv().await {
                match request {
                    Asked::Address(host, reply) => {
                        let known = addresses.get(&host).copied();
                        drop(reply.send(known.ok_or(format!("host `{host}` was never seen"))));
                    }
                    Asked::Edit(Edit { answer: reply, .. }) => {
                        count.fetch_add(1, Ordering::Relaxed);
                        drop(reply.send(Ok(())));
                    }
                    other => other.refuse(&format!("so says {me}")),
                }
            }
        });
        Self { host, net, client: Client::new(&path), acted, _socket: socket }
    }

    /// What the agent of `other`, asked by this one's, says to a request for what it knows.
    async fn read(&self, other: &str) -> String {
        said(self.client.of(&HostId::new(other).unwrap()).status().await)
    }
}

fn said<T>(answer: Result<T, ClientError>) -> String {
    answer.map_or_else(|error| error.to_string(), |_| "done".to_owned())
}

fn cluster() -> (TempDir, ClusterCa) {
    let dir = tempfile::tempdir().unwrap();
    let ca = ClusterCa::init(&dir.path().join("ca")).unwrap();
    (dir, ca)
}

#[test]
fn what_is_asked_of_a_host_is_what_stands_behind_its_name() {
    for (asked, known) in [
        ("/api/v1/hosts/kvm2/status", Some("/api/v1/status")),
        ("/api/v1/hosts/kvm2/decisions?limit=5", Some("/api/v1/decisions?limit=5")),
        ("/api/v1/hosts/kvm2/hosts/kvm3/status", Some("/api/v1/hosts/kvm3/status")),
        ("/api/v1/hosts/kvm2", None),
        ("/metrics", None),
    ] {
        let uri = beyond_host(&asked.parse().unwrap());
        assert_eq!(uri.map(|uri| uri.to_string()).as_deref(), known, "{asked}");
    }
}

#[tokio::test]
async fn a_request_that_names_a_host_is_answered_by_that_hosts_agent() {
    let (dir, ca) = cluster();
    let far = Agent::start(&ca, &dir, "far", Members::Read, &[]);
    let near = Agent::start(&ca, &dir, "near", Members::None, &[&far]);
    assert_eq!(near.read("far").await, "so says far");
    assert_eq!(near.read("near").await, "so says near");
    assert_eq!(said(near.client.status().await), "so says near");
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_named_with_what_to_do() {
    let (dir, ca) = cluster();
    let far = Agent::start(&ca, &dir, "far", Members::Read, &[]);
    let near = Agent::start(&ca, &dir, "near", Members::None, &[&far]);
    assert!(near.read("nobody").await.contains("host `nobody` was never seen"));
    let gone = near.read("gone").await;
    assert!(gone.contains("host `gone`") && gone.contains("127.0.0.1:9"), "{gone}");
    assert!(gone.contains("see that its agent runs"), "{gone}");
    // As an agent of an earlier version, which knows no calls.
    drop(far.net.calls());
    let deaf = near.read("far").await;
    assert!(deaf.contains("host `far` does not answer") && deaf.contains("this version"), "{deaf}");
}

#[tokio::test]
async fn a_member_cannot_ask_for_more_than_the_configuration_grants() {
    let (dir, ca) = cluster();
    let machine = MachineId::new("vm1").unwrap();
    let (other, grants) = (HostId::new("near").unwrap(), |said: &str, what: &str| {
        assert!(said.contains(&format!("members = \"{what}\"")), "{said}");
    });
    for may in [Members::None, Members::Read, Members::Operate] {
        let name = format!("{may:?}").to_lowercase();
        let far = Agent::start(&ca, &dir, &name, may, &[]);
        let near = Agent::start(&ca, &dir, "near", Members::None, &[&far]);
        let asked = near.client.of(&far.host);
        let read = said(asked.status().await);
        let operated = said(asked.set_target(&machine, Some(0.5)).await);
        match may {
            Members::None => grants(&read, "read"),
            _ => assert_eq!(read, format!("so says {name}")),
        }
        match may {
            Members::Operate => assert_eq!(operated, "done"),
            _ => grants(&operated, "operate"),
        }
        let acted = far.acted.load(Ordering::Relaxed);
        assert_eq!(acted, usize::from(may == Members::Operate));
        // Nor, whatever it grants: have a machine run twice, change who is in the cluster, or reach
        // a third host.
        let third = format!("/api/v1/hosts/{}/status", near.host);
        for asked in [
            said(asked.claim(&machine, &other).await),
            said(asked.remove_host(&other).await),
            said(asked.renew_certificate().await),
            said(asked.call::<()>(Method::GET, &third, Bytes::new()).await),
        ] {
            assert!(asked.contains("on that host itself"), "{asked}");
        }
        assert_eq!(said(far.client.set_target(&machine, None).await), "done", "on the host itself");
    }
}

#[tokio::test]
async fn a_member_cannot_keep_others_from_being_answered() {
    let (dir, ca) = cluster();
    let far = Agent::start(&ca, &dir, "far", Members::Read, &[]);
    let rude = Agent::start(&ca, &dir, "rude", Members::None, &[&far]);
    let addr = far.net.local_addr().unwrap();
    let mut silent = Vec::new();
    for _ in 0..REQUESTS_OF_PEER_MAX {
        let mut stream = rude.net.call(&far.host, addr).await.unwrap();
        stream.write_all(b"GET /api").await.unwrap();
        silent.push(stream);
    }
    let polite = Agent::start(&ca, &dir, "polite", Members::None, &[&far]);
    assert_eq!(polite.read("far").await, "so says far");
    // And the first is heard again once it speaks.
    let stream = &mut silent[0];
    stream.write_all(b"/v1/status HTTP/1.1\r\nhost: far\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("so says far"), "{answer}");
}

#[tokio::test]
async fn a_member_cannot_send_a_request_without_end() {
    let (dir, ca) = cluster();
    let far = Agent::start(&ca, &dir, "far", Members::Operate, &[]);
    let near = Agent::start(&ca, &dir, "near", Members::None, &[&far]);
    let addr = far.net.local_addr().unwrap();
    let body = vec![b' '; REQUEST_BYTES_MAX + 1];
    let path = "/api/v1/machines/vm1/target";
    let head = format!("PUT {path} HTTP/1.1\r\nhost: far\r\ncontent-type: application/json\r\n");
    let mut stream = near.net.call(&far.host, addr).await.unwrap();
    let long = format!("{head}content-length: {}\r\n\r\n", body.len());
    stream.write_all(long.as_bytes()).await.unwrap();
    // It may have been refused before all of it is written.
    let _ = stream.write_all(&body).await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    // An agent does not even pass it on.
    let local = near.client.of(&far.host);
    let refused = said(local.call::<()>(Method::PUT, path, body.into()).await);
    assert!(refused.contains("host `far`") && refused.contains("bytes"), "{refused}");
    assert_eq!(far.acted.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_text_that_is_nested_as_deep_as_it_is_long_is_an_error() {
    let (dir, ca) = cluster();
    let agent = Agent::start(&ca, &dir, "far", Members::Operate, &[]);
    let peer = Agent::start(&ca, &dir, "near", Members::None, &[&agent]);
    let addr = agent.net.local_addr().unwrap();
    for (path, open) in [
        ("/api/v1/machines/vm1/target", "["),
        ("/api/v1/machines/vm1/rules", "{\"x\":"),
        ("/api/v1/state", "[{\"a\":"),
    ] {
        let body = open.repeat((REQUEST_BYTES_MAX - 1024) / open.len());
        let request = format!(
            "PUT {path} HTTP/1.1\r\nhost: far\r\ncontent-type: application/json\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = peer.net.call(&agent.host, addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
    }
    assert_eq!(agent.acted.load(Ordering::Relaxed), 0);
}
