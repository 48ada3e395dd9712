use evenkeel_core::decision::Reason;
use evenkeel_core::model::{Entry, ExchangeId, MachineId, Resources};
use evenkeel_core::port::HandoffId;

use super::*;

fn decision(ending: Reason) -> Decision {
    Decision {
        exchange: ExchangeId(u64::MAX),
        host: HostId::new("a").unwrap(),
        initiator: HostId::new("a").unwrap(),
        peer: Some(HostId::new("b").unwrap()),
        role: Some(Role::Donor),
        began: Time::from_unix_ms(1),
        ended: Time::from_unix_ms(2),
        pair: None,
        candidates: Vec::new(),
        handoff: Some(HandoffId(3)),
        ending,
        detail: "ü".to_owned(),
        stats: None,
        predicted: None,
        measure: None,
    }
}

fn handoff(id: u64, phase: Phase) -> Handoff {
    Handoff {
        id: HandoffId(id),
        role: Role::Donor,
        peer: HostId::new("b").unwrap(),
        machine: MachineId::new("m").unwrap(),
        name: "web".to_owned(),
        entry: Entry::default(),
        usage: Resources::ZERO,
        load: 0.1,
        memory_bytes: 1e9,
        anti_affinity: Vec::new(),
        phase,
        since: Time::from_unix_ms(id),
        attempts: 0,
        cancelled_for: None,
        decision: decision(Reason::Moved),
    }
}

#[test]
fn handoffs_under_way_are_there_after_a_restart_and_ended_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    store.persist(&handoff(1, Phase::Transferring)).unwrap();
    store.persist(&handoff(2, Phase::Transferring)).unwrap();
    store.persist(&handoff(2, Phase::Done)).unwrap();
    let identity = store.identity().unwrap();
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.open_handoffs().unwrap(), [handoff(1, Phase::Transferring)]);
    assert_eq!(store.identity().unwrap(), identity);
}

#[test]
fn a_second_agent_is_refused_by_name_of_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Store::open(directory.path()).unwrap();
    let refused = Store::open(directory.path()).unwrap_err();
    assert!(matches!(refused, StoreError::InUse(_)));
    assert!(refused.to_string().contains(&*directory.path().to_string_lossy()));
}

#[test]
fn decisions_come_back_newest_first() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    for ending in [Reason::Busy, Reason::Moved, Reason::NoPeer] {
        store.record(&decision(ending)).unwrap();
    }
    let endings: Vec<_> = store.decisions(2).unwrap().iter().map(|d| d.ending).collect();
    assert_eq!(endings, [Reason::NoPeer, Reason::Moved]);
    assert_eq!(store.decisions(9).unwrap()[0], decision(Reason::NoPeer));
}

#[test]
fn a_join_token_brings_in_one_host_with_one_key() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let admissions = store.admissions().unwrap();
    let admit = |token: &str, host: &str, key: &str| {
        admissions.admit(token, &HostId::new(host).unwrap(), key).unwrap()
    };
    assert_eq!(admit("t1", "a", "k1"), Admitted::Yes);
    assert_eq!(admit("t1", "a", "k1"), Admitted::Yes, "the certificate may not have arrived");
    assert_eq!(admit("t1", "a", "k2"), Admitted::TokenUsed);
    assert_eq!(admit("t1", "b", "k1"), Admitted::TokenUsed);
    assert_eq!(admit("t2", "a", "k3"), Admitted::HostTaken);
    assert_eq!(admit("t2", "b", "k3"), Admitted::Yes);
}

#[test]
fn a_store_of_a_later_version_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.connection.pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
    drop(store);
    let refused = Store::open(directory.path()).unwrap_err();
    assert!(matches!(refused, StoreError::Newer { version, .. } if version == SCHEMA_VERSION + 1));
}

#[test]
fn members_are_remembered_at_their_last_address() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    let host = HostId::new("b").unwrap();
    store.remember(&host, "127.0.0.1:1".parse().unwrap()).unwrap();
    store.remember(&host, "[::1]:2".parse().unwrap()).unwrap();
    assert_eq!(store.members().unwrap(), [(host, "[::1]:2".parse().unwrap())]);
}

#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    store.persist(&handoff(1, Phase::Transferring)).unwrap();
    // SQLite's own limit on the file gives the same error as a file system without room.
    let pages: i64 = store.connection.pragma_query_value(None, "page_count", |r| r.get(0)).unwrap();
    store.connection.pragma_update(None, "max_page_count", pages).unwrap();
    let mut large = handoff(2, Phase::Transferring);
    large.decision.detail = "x".repeat(1 << 20);
    let refused = store.persist(&large).unwrap_err().to_string();
    assert!(refused.contains("nothing was written") && refused.contains("full"), "{refused}");
    assert_eq!(store.open_handoffs().unwrap(), [handoff(1, Phase::Transferring)]);
}
