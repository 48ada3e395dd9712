//! The host that made a cluster, and what brings others into it.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evenkeel_core::model::HostId;
use evenkeel_net::{
    Admission, AdmissionRefused, ClusterCa, Enroller, JoinToken, Net, Registrar, enrol,
};

use super::{Agent, Dir, host, limits, loopback};

/// Remembers as the agent does, without a disk.
#[derive(Clone, Default)]
pub struct Book(Arc<Mutex<Pages>>);

#[derive(Default)]
struct Pages {
    admissions: BTreeMap<String, Admission>,
    keys: BTreeMap<HostId, BTreeSet<String>>,
    removed: BTreeMap<HostId, BTreeSet<String>>,
}

impl Book {
    /// How many tokens have been used.
    pub fn tokens(&self) -> usize {
        self.0.lock().expect("no panic").admissions.len()
    }
}

impl Registrar for Book {
    fn admit(&self, wish: &Admission) -> Result<(), AdmissionRefused> {
        let mut book = self.0.lock().expect("no panic");
        match book.admissions.get(&wish.token.to_string()) {
            Some(earlier) if earlier == wish => return Ok(()),
            Some(_) => return Err(AdmissionRefused::TokenUsed(wish.token.clone())),
            None => {}
        }
        if wish.host == host("full") {
            return Err(AdmissionRefused::NotRecorded("the disk is full".to_owned()));
        }
        if book.keys.contains_key(&wish.host) {
            return Err(AdmissionRefused::HostTaken(wish.host.clone()));
        }
        book.admissions.insert(wish.token.to_string(), wish.clone());
        book.keys.entry(wish.host.clone()).or_default().insert(wish.key.clone());
        Ok(())
    }

    fn renew(&self, host: &HostId, key: &str) -> Result<(), AdmissionRefused> {
        let mut book = self.0.lock().expect("no panic");
        book.keys.entry(host.clone()).or_default().insert(key.to_owned());
        Ok(())
    }

    fn remove(&self, host: &HostId) -> Result<Vec<String>, AdmissionRefused> {
        let mut book = self.0.lock().expect("no panic");
        match book.keys.remove(host) {
            Some(keys) => book.removed.entry(host.clone()).or_default().extend(keys),
            None if book.removed.contains_key(host) => {}
            None => return Err(AdmissionRefused::NotAMember(host.clone())),
        }
        Ok(book.removed.values().flatten().cloned().collect())
    }
}

/// The host that made the cluster, `a`, and its authority.
pub fn founder() -> (Agent, ClusterCa, Book) {
    let dir = Dir::new();
    let ca = ClusterCa::init(dir.path()).expect("a new cluster");
    let book = Book::default();
    let identity = ca.issue(&host("a")).expect("a certificate");
    let enroller = Enroller::new(ClusterCa::load(dir.path()).expect("its files"), book.clone());
    let (net, events) =
        Net::bind(loopback(), &identity, limits(), Some(enroller)).expect("a free port");
    let addr = net.local_addr().expect("an address");
    (Agent { id: host("a"), net, addr, events }, ca, book)
}

pub fn token(ca: &ClusterCa, at: &Agent) -> JoinToken {
    let token = ca.mint_token(vec![at.addr], Duration::from_secs(60)).expect("a token");
    // As it travels: through a terminal.
    format!(" {}\n", token.to_text()).parse().expect("what was minted")
}

/// A host that joins with a token, and where its identity is.
pub async fn join(name: &str, ca: &ClusterCa, at: &mut Agent) -> (Agent, Dir) {
    let dir = Dir::new();
    let identity =
        enrol(&token(ca, at), &host(name), dir.path(), &limits()).await.expect("admitted");
    at.next().await;
    (Agent::start(&identity), dir)
}
