//! The host that made a cluster, and what brings others into it.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use evenkeel_core::model::HostId;
use evenkeel_net::{
    Admission, AdmissionRefused, ClusterCa, Enroller, Identity, IssuedKey, JoinToken, Net,
    Registrar, enrol,
};

use super::{Agent, Dir, host, limits, loopback};

/// Remembers as the agent does, without a disk.
#[derive(Clone)]
pub struct Book(Arc<Mutex<Pages>>);

impl Default for Book {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Pages {
            admissions: BTreeMap::new(),
            keys: BTreeMap::new(),
            removed: BTreeMap::new(),
            began: SystemTime::now(),
            cannot_write: false,
        })))
    }
}

struct Pages {
    admissions: BTreeMap<String, Admission>,
    keys: BTreeMap<HostId, BTreeSet<String>>,
    removed: BTreeMap<HostId, BTreeSet<String>>,
    /// When every key counts as issued.
    began: SystemTime,
    cannot_write: bool,
}

impl Book {
    /// From now on, or until it is said again, nobody can be recorded as removed.
    pub fn cannot_write(&self, cannot: bool) {
        self.0.lock().expect("no panic").cannot_write = cannot;
    }

    /// What a host does that asks for so many certificates.
    pub fn renews(&self, host: &HostId, times: u32) {
        let key = |n: u32| format!("{n:08x}").repeat(8);
        let mut book = self.0.lock().expect("no panic");
        book.keys.entry(host.clone()).or_default().extend((0..times).map(key));
    }

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

    fn keys(&self, host: &HostId) -> Result<Vec<IssuedKey>, AdmissionRefused> {
        let book = self.0.lock().expect("no panic");
        if !book.keys.contains_key(host) && !book.removed.contains_key(host) {
            return Err(AdmissionRefused::NotAMember(host.clone()));
        }
        let issued = |(host, keys): (&HostId, &BTreeSet<String>), removed| {
            let (host, issued) = (host.clone(), Some(book.began));
            let of = move |key: &String| IssuedKey {
                host: host.clone(),
                key: key.clone(),
                issued,
                removed,
            };
            keys.iter().map(of).collect::<Vec<_>>()
        };
        let removed = book.removed.iter().flat_map(|of| issued(of, true));
        let present =
            book.keys.iter().filter(|(of, _)| *of == host || book.removed.contains_key(*of));
        Ok(removed.chain(present.flat_map(|of| issued(of, false))).collect())
    }

    fn remove(&self, host: &HostId) -> Result<(), AdmissionRefused> {
        let mut book = self.0.lock().expect("no panic");
        if book.cannot_write {
            return Err(AdmissionRefused::NotRecorded("the disk is full".to_owned()));
        }
        if let Some(keys) = book.keys.remove(host) {
            book.removed.entry(host.clone()).or_default().extend(keys);
        }
        Ok(())
    }
}

/// The host that made the cluster, `a`, and its authority.
pub fn founder() -> (Agent, ClusterCa, Book) {
    let dir = Dir::new();
    let ca = ClusterCa::init(dir.path()).expect("a new cluster");
    let book = Book::default();
    let identity = ca.issue(&host("a")).expect("a certificate");
    (authority(&identity, dir.path(), &book), ca, book)
}

/// A host that holds the authority in a directory.
pub fn authority(identity: &Identity, ca: &Path, book: &Book) -> Agent {
    let enroller = Enroller::new(ClusterCa::load(ca).expect("its files"), book.clone());
    let (net, events) =
        Net::bind(loopback(), identity, limits(), Some(enroller)).expect("a free port");
    let addr = net.local_addr().expect("an address");
    Agent { id: identity.host().clone(), net, addr, events }
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
