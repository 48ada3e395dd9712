use evenkeel_core::control::Pause;
use evenkeel_core::decision::{Decision, Judged, Reason};
use evenkeel_core::exchange::Agreement;
use evenkeel_core::handoff::{Mark, Phase};
use evenkeel_core::message::Candidate;
use evenkeel_core::model::{Entry, Epoch, ExchangeId, MachineId};
use evenkeel_core::port::HandoffId;
use evenkeel_core::witness::Acquaintance;

use std::time::{SystemTime, UNIX_EPOCH};

use super::*;

fn decision(ending: Reason) -> Decision {
    Decision {
        peer: Some(HostId::new("b").unwrap()),
        role: Some(Role::Source),
        began: Time::from_unix_ms(1),
        handoff: Some(HandoffId(3)),
        detail: "ü".to_owned(),
        ..Decision::new(
            ExchangeId(u64::MAX),
            HostId::new("a").unwrap(),
            ending,
            Time::from_unix_ms(2),
        )
    }
}

fn handoff(id: u64, phase: Phase) -> Handoff {
    let agreement = Agreement {
        exchange: ExchangeId(1),
        peer: HostId::new("b").unwrap(),
        candidate: Candidate {
            at_donor: 0.1,
            memory_bytes: 1e9,
            ..Candidate::new(MachineId::new("m").unwrap(), "web")
        },
        at_receiver: 0.1,
        entry: Entry { epoch: Epoch(id), ..Entry::default() },
        verdicts: Vec::new(),
        decision: decision(Reason::Moved),
        in_return: None,
    };
    let mut handoff =
        Handoff::begin(HandoffId(id), Role::Source, agreement, Time::from_unix_ms(id));
    handoff.phase = phase;
    handoff
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
    assert_eq!(store.recovered(String::new()).unwrap().handoffs, [handoff(1, Phase::Transferring)]);
    assert_eq!(store.identity().unwrap(), identity);
}

#[test]
fn handoffs_of_one_id_with_two_hosts_are_two() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    let (mine, mut other) = (handoff(1, Phase::Released), handoff(1, Phase::Reserved));
    other.peer = HostId::new("liar").unwrap();
    other.role = Role::Target;
    store.persist(&mine).unwrap();
    store.persist(&other).unwrap();
    drop(store);
    let mut store = Store::open(directory.path()).unwrap();
    let mut found = store.recovered(String::new()).unwrap().handoffs;
    found.sort_by(|a, b| a.peer.cmp(&b.peer));
    assert_eq!(found, [mine.clone(), other.clone()]);
    // Either ends by itself.
    other.phase = Phase::Cancelled;
    store.persist(&other).unwrap();
    assert_eq!(store.recovered(String::new()).unwrap().handoffs, [mine]);
}

#[test]
fn handoffs_under_way_are_there_after_a_store_of_an_earlier_format_was_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.sqlite");
    let connection = Connection::open(&path).unwrap();
    for step in &SCHEMA[..6] {
        connection.execute_batch(step).unwrap();
    }
    connection.pragma_update(None, "user_version", 6).unwrap();
    // As that version wrote it: without what has been added since.
    let mut record = serde_json::to_value(handoff(1, Phase::Transferring)).unwrap();
    for added in ["persistent", "finished"] {
        record.as_object_mut().unwrap().remove(added).unwrap();
    }
    let insert = "INSERT INTO handoff VALUES ('0000000000000001', 'm', 'b', 'donor', 'transferring', \
                  1, 1, ?1)";
    connection.execute(insert, [record.to_string()]).unwrap();
    drop(connection);
    let store = Store::open(directory.path()).unwrap();
    let found = store.recovered(String::new()).unwrap().handoffs;
    assert_eq!(found, [handoff(1, Phase::Transferring)]);
    assert!(found[0].persistent && !found[0].finished, "nothing is taken for proved");
}

#[test]
fn whom_a_host_knows_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    let host = |name| HostId::new(name).unwrap();
    let labels = Some([("rack".to_owned(), "r1".to_owned())].into());
    let heard = Acquaintance { host: host("b"), labels, told: Some(u64::MAX), removed: false };
    store.remember(&host("z"), "192.0.2.1:7".parse().unwrap()).unwrap();
    store.remember(&host("a"), "192.0.2.2:7".parse().unwrap()).unwrap();
    store.acquaint(&Acquaintance { told: None, ..heard.clone() }).unwrap();
    store.acquaint(&heard).unwrap();
    drop(store);
    let known = Store::open(directory.path()).unwrap().recovered(String::new()).unwrap();
    assert_eq!(*known.acquaintances.members, [host("a"), host("z")]);
    assert_eq!(*known.acquaintances.met, [(host("b"), heard)].into());
}

#[test]
fn what_was_said_last_of_a_pause_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let pause = Pause {
        until: Time::from_unix_ms(9),
        by: "eve".to_owned(),
        reason: "switch maintenance".to_owned(),
    };
    let written = |at, pause| PauseRegister {
        at: Time::from_unix_ms(at),
        on: HostId::new("a").unwrap(),
        pause,
    };
    let said = [written(1, Some(pause)), written(2, None)];
    for register in &said {
        Store::open(directory.path()).unwrap().keep(register).unwrap();
        let known = Store::open(directory.path()).unwrap().recovered(String::new()).unwrap();
        assert_eq!(known.pause.as_ref(), Some(register));
    }
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
    let endings: Vec<_> =
        store.decisions(&Wanted::newest(2)).unwrap().iter().map(|d| d.ending).collect();
    assert_eq!(endings, [Reason::NoPeer, Reason::Moved]);
    assert_eq!(store.decisions(&Wanted::newest(9)).unwrap()[0], decision(Reason::NoPeer));
}

fn judged(machine: &str, verdict: Reason) -> Judged {
    Judged {
        machine: MachineId::new(machine).unwrap(),
        name: "web".to_owned(),
        basis: None,
        factors: None,
        at_donor: None,
        at_receiver: None,
        verdict,
        detail: String::new(),
    }
}

/// A record of these machines that ended after so many days.
fn at_day(day: u64, exchange: u64, candidates: &[(&str, Reason)]) -> Decision {
    let candidates = candidates.iter().map(|(machine, verdict)| judged(machine, *verdict));
    Decision {
        exchange: ExchangeId(exchange),
        ended: Time::from_unix_ms(day * 86_400_000),
        candidates: candidates.collect(),
        ..decision(Reason::Moved)
    }
}

#[test]
fn records_are_found_by_time_machine_and_exchange() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    store.record(&at_day(1, 1, &[("m", Reason::Chosen), ("n", Reason::Farther)])).unwrap();
    store.record(&at_day(2, 2, &[("n", Reason::Chosen)])).unwrap();
    store.record(&at_day(3, 3, &[("m", Reason::CoolDown)])).unwrap();
    let found = |wanted: &Wanted| -> Vec<u64> {
        store.decisions(wanted).unwrap().iter().map(|d| d.exchange.0).collect()
    };
    let all = Wanted::newest(9);
    let machine = |id: &str| Some(MachineId::new(id).unwrap());
    assert_eq!(found(&all), [3, 2, 1]);
    assert_eq!(
        found(&Wanted { since: Some(Time::from_unix_ms(172_800_000)), ..all.clone() }),
        [3, 2]
    );
    assert_eq!(found(&Wanted { moves: true, ..all.clone() }), [2, 1]);
    assert_eq!(found(&Wanted { machine: machine("m"), ..all.clone() }), [3, 1]);
    assert_eq!(found(&Wanted { machine: machine("m"), moves: true, ..all.clone() }), [1]);
    assert_eq!(found(&Wanted { exchange: Some(ExchangeId(2)), ..all }), [2]);
    let last = |id: &str| {
        let last = store.last_judgement(&MachineId::new(id).unwrap()).unwrap();
        last.map(|decision| decision.exchange.0)
    };
    assert_eq!((last("m"), last("n"), last("o")), (Some(3), Some(2), None));
}

#[test]
fn records_are_kept_for_so_many_days_and_rows_only() {
    let all = Retention::default();
    for (retention, kept) in [
        (Retention { days: 10, records: 1000, ..all }, 11),
        (Retention { days: 1000, records: 7, ..all }, 7),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path()).unwrap();
        store.retain(retention);
        for day in 0..u64::from(CLEAR_EVERY) {
            store.record(&at_day(day, day, &[("m", Reason::Farther)])).unwrap();
        }
        let found = store.decisions(&Wanted::newest(1000)).unwrap();
        assert_eq!(found.len(), kept, "{retention:?}");
        assert_eq!(found[0].exchange.0, u64::from(CLEAR_EVERY) - 1);
        assert!(store.last_judgement(&MachineId::new("m").unwrap()).unwrap().is_some());
    }
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
fn a_removed_host_leaves_all_its_keys_and_frees_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let admissions = store.admissions().unwrap();
    let host = HostId::new("a").unwrap();
    assert_eq!(admissions.keys(&host).unwrap(), None);
    assert!(!admissions.remove(&host).unwrap());
    admissions.admit("t1", &host, "k1").unwrap();
    assert_eq!(admissions.renew(&host, "k2").unwrap(), Renewed::Yes);
    admissions.admit("t2", &HostId::new("b").unwrap(), "k3").unwrap();
    let keys = || {
        let keys = admissions.keys(&host).unwrap().unwrap();
        assert!(keys.iter().all(|key| key.host == host && key.issued.is_some()), "{keys:?}");
        keys.into_iter().map(|key| (key.key, key.removed)).collect::<Vec<_>>()
    };
    let are = |keys: &[(&str, bool)]| -> Vec<_> {
        keys.iter().map(|(key, removed)| ((*key).to_owned(), *removed)).collect()
    };
    assert_eq!(keys(), are(&[("k1", false), ("k2", false)]));
    assert!(admissions.remove(&host).unwrap());
    assert!(admissions.remove(&host).unwrap(), "asked again");
    assert_eq!(keys(), are(&[("k1", true), ("k2", true)]));
    assert_eq!(admissions.renew(&host, "k5").unwrap(), Renewed::Removed);
    assert_eq!(admissions.admit("t1", &host, "k1").unwrap(), Admitted::Yes, "a late repetition");
    assert_eq!(admissions.admit("t3", &host, "k4").unwrap(), Admitted::Yes);
    assert_eq!(keys(), are(&[("k1", true), ("k2", true), ("k4", false)]));
    // A host that never had a token made the cluster.
    assert_eq!(admissions.renew(&HostId::new("c").unwrap(), "k6").unwrap(), Renewed::Yes);
}

#[test]
fn a_host_has_a_few_new_keys_a_day_and_expired_ones_are_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let admissions = store.admissions().unwrap();
    let host = HostId::new("a").unwrap();
    let renew = |n: u32| admissions.renew(&host, &format!("k{n}")).unwrap();
    let given = (0..5_000).filter(|n| renew(*n) == Renewed::Yes).count();
    assert_eq!(given as u32, RENEWALS_PER_DAY_MAX);
    assert_eq!(renew(0), Renewed::Yes, "the answer to the same may not have arrived");
    let age = |days: i64| {
        let older = "UPDATE host_key SET issued_ms = issued_ms - ?1";
        store.connection.execute(older, [days * 86_400_000]).unwrap();
    };
    age(1);
    assert_eq!(renew(5_000), Renewed::Yes);
    let known = || admissions.keys(&host).unwrap().map(|keys| keys.len());
    assert_eq!(known(), Some(9));
    age(10 * 365 + 1);
    assert_eq!(renew(5_001), Renewed::Yes);
    // Once more, now that there is a newer one.
    assert_eq!(renew(5_002), Renewed::Yes);
    assert_eq!(known(), Some(2));
    // A clock that is wrong for a moment does not free the name.
    age(20 * 365);
    let other = HostId::new("b").unwrap();
    admissions.renew(&other, "k").unwrap();
    assert_eq!(admissions.admit("t", &host, "stolen").unwrap(), Admitted::HostTaken);
}

/// A record with a peer of so many bytes more than one without words.
fn with_peer(peer: &str, exchange: u64, bytes: usize) -> Decision {
    Decision {
        exchange: ExchangeId(exchange),
        peer: Some(HostId::new(peer).unwrap()),
        detail: "x".repeat(bytes),
        ..decision(Reason::NoPeer)
    }
}

#[test]
fn whoever_fills_the_history_pushes_nobody_elses_records_out_of_it() {
    for (retention, bytes) in [
        (Retention { records: 100, ..Retention::default() }, 0),
        (Retention { bytes: 400_000, ..Retention::default() }, 10_000),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path()).unwrap();
        store.retain(retention);
        for n in 0..20 {
            store.record(&with_peer("honest", n, 0)).unwrap();
        }
        for n in 0..u64::from(CLEAR_EVERY) * 4 {
            store.record(&with_peer("liar", n, bytes)).unwrap();
        }
        let kept = store.decisions(&Wanted::newest(u32::MAX)).unwrap();
        let of = |peer: &str| {
            kept.iter().filter(|d| d.peer.as_ref().is_some_and(|p| p.as_str() == peer)).count()
        };
        assert_eq!(of("honest"), 20, "{retention:?}");
        assert!(of("liar") > 0 && kept.len() <= 100 + CLEAR_EVERY as usize, "{}", kept.len());
        let size: i64 = store
            .connection
            .query_row("SELECT sum(length(record)) FROM decision", [], |row| row.get(0))
            .unwrap();
        assert!(size <= 400_000 + i64::from(CLEAR_EVERY) * 11_000, "{size} bytes");
        let counted = "SELECT (SELECT sum(bytes) FROM decisions_of), (SELECT sum(records) FROM \
                       decisions_of), (SELECT count(*) FROM decision)";
        let counted: (i64, i64, i64) = store
            .connection
            .query_row(counted, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap();
        assert_eq!((counted.0, counted.1), (size, counted.2));
    }
}

#[test]
fn a_record_from_the_future_clears_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 86_400;
    store.record(&at_day(now + 36_500, 1, &[])).unwrap();
    for n in 2..=u64::from(CLEAR_EVERY) {
        store.record(&at_day(now, n, &[])).unwrap();
    }
    let found = store.decisions(&Wanted::newest(1000)).unwrap();
    assert_eq!(found.len(), CLEAR_EVERY as usize);
}

#[test]
fn the_history_is_read_page_by_page_beside_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    for n in 0..12 {
        store.record(&with_peer("b", n, 1 << 20)).unwrap();
    }
    let history = store.history().unwrap();
    let (mut wanted, mut found, mut pages) = (Wanted::newest(10), Vec::new(), 0);
    loop {
        let page = history.page(&wanted).unwrap();
        found.extend(page.decisions.iter().map(|d| d.exchange.0));
        assert!(page.decisions.len() <= 4, "a page of {} MiB", page.decisions.len());
        pages += 1;
        wanted.limit = 10 - found.len() as u32;
        wanted.before = page.next;
        if page.next.is_none() || wanted.limit == 0 {
            break;
        }
    }
    assert_eq!((found, pages), ((2..12).rev().collect(), 3));
}

#[test]
fn whatever_is_known_of_a_name_is_forgotten_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    let host = HostId::new("ghost").unwrap();
    store.remember(&host, "192.0.2.1:7".parse().unwrap()).unwrap();
    store.keep_certificate(&host, b"certificate").unwrap();
    let known = Acquaintance { host: host.clone(), labels: None, told: None, removed: false };
    store.acquaint(&known).unwrap();
    assert_eq!(store.certificates().unwrap(), [b"certificate"]);
    store.forget(&host).unwrap();
    let left = store.recovered(String::new()).unwrap().acquaintances;
    assert!(left.members.is_empty() && left.met.is_empty());
    assert!(store.certificates().unwrap().is_empty());
}

#[test]
fn a_store_of_the_first_version_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let old = Connection::open(directory.path().join("state.sqlite")).unwrap();
    old.execute_batch(SCHEMA[0]).unwrap();
    old.execute_batch("INSERT INTO admission VALUES ('t1', 'a', 'k1'); PRAGMA user_version = 1;")
        .unwrap();
    drop(old);
    let store = Store::open(directory.path()).unwrap();
    let host = HostId::new("a").unwrap();
    let admissions = store.admissions().unwrap();
    assert_eq!(admissions.admit("t2", &host, "k2").unwrap(), Admitted::HostTaken);
    let keys = admissions.keys(&host).unwrap().unwrap();
    assert!(matches!(&keys[..], [key] if key.key == "k1" && key.issued.is_some()), "{keys:?}");
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
    assert_eq!(store.recovered(String::new()).unwrap().handoffs, [handoff(1, Phase::Transferring)]);
}

#[test]
fn what_a_handoff_lays_down_for_good_is_kept_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    let (machine, peer) = (MachineId::new("m").unwrap(), HostId::new("b").unwrap());
    for id in [1, 2] {
        store.persist(&handoff(id, Phase::Transferring)).unwrap();
        assert_eq!(store.recovered(String::new()).unwrap().marks.len(), usize::from(id > 1));
        store.persist(&handoff(id, Phase::Released)).unwrap();
        store.persist(&handoff(id, Phase::Done)).unwrap();
    }
    let mut claimed = handoff(3, Phase::Claimed);
    claimed.role = Role::Target;
    store.persist(&claimed).unwrap();
    drop(store);
    let marks = Store::open(directory.path()).unwrap().recovered(String::new()).unwrap().marks;
    let mark = |kind, id| Mark {
        kind,
        machine: machine.clone(),
        epoch: Epoch(id),
        handoff: HandoffId(id),
        peer: peer.clone(),
    };
    assert_eq!(marks.len(), 2);
    assert!(marks.contains(&mark(MarkKind::Released, 2)), "the newest: {marks:?}");
    assert!(marks.contains(&mark(MarkKind::Claimed, 3)), "{marks:?}");
}

#[test]
fn a_store_knows_all_its_lives_and_one_restored_from_a_backup_misses_some() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.sqlite");
    let mut store = Store::open(directory.path()).unwrap();
    let life = store.recovered(String::new()).unwrap().life;
    let numbered = |number| {
        let mut handoff = handoff(number, Phase::Transferring);
        handoff.ticket = Some(Ticket { life, number });
        handoff
    };
    store.persist(&numbered(4)).unwrap();
    store.connection.pragma_update(None, "wal_checkpoint", "TRUNCATE").unwrap();
    drop(store);
    let backup = std::fs::read(&file).unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    let later = store.recovered(String::new()).unwrap();
    assert_ne!(later.life, life, "every opening is another life");
    assert!(later.lives.contains(&Ticket { life, number: 4 }), "{:?}", later.lives);
    store.persist(&numbered(5)).unwrap();
    store.persist(&numbered(3)).unwrap();
    let lives = store.recovered(String::new()).unwrap().lives;
    assert!(lives.contains(&Ticket { life, number: 5 }), "{lives:?}");
    drop(store);
    for rest in ["state.sqlite-wal", "state.sqlite-shm"] {
        let _ = std::fs::remove_file(directory.path().join(rest));
    }
    std::fs::write(&file, backup).unwrap();
    let lives = Store::open(directory.path()).unwrap().recovered(String::new()).unwrap().lives;
    assert!(lives.contains(&Ticket { life, number: 4 }), "{lives:?}");
    assert!(lives.iter().all(|known| known.life != later.life), "{lives:?}");
}

#[test]
fn every_write_is_on_disk_when_it_returns() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let level = store.connection.pragma_query_value(None, "synchronous", |r| r.get::<_, i64>(0));
    assert_eq!(level.unwrap(), 2, "2 is FULL");
}

#[test]
fn a_store_of_version_1_is_taken_over_with_what_is_under_way_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut old = serde_json::to_value(handoff(1, Phase::Reserved)).unwrap();
    let fields = old.as_object_mut().unwrap();
    for added in ["from", "commit", "autostart", "ticket", "boot", "leftover", "last_error"] {
        assert!(fields.remove(added).is_some(), "{added}");
    }
    fields.insert("phase".to_owned(), "claiming".into());
    fields["decision"].as_object_mut().unwrap().remove("commit");
    let connection = Connection::open(directory.path().join("state.sqlite")).unwrap();
    let row = "INSERT INTO handoff VALUES ('1', 'm', 'b', 'donor', 'claiming', 1, 1, ?1)";
    connection.execute_batch(&format!("{} PRAGMA user_version = 1;", SCHEMA[0])).unwrap();
    connection.execute(row, [old.to_string()]).unwrap();
    drop(connection);
    let recovered = Store::open(directory.path()).unwrap().recovered(String::new()).unwrap();
    let [open] = &recovered.handoffs[..] else { panic!("{recovered:?}") };
    // It was begun by the hypervisor's commit point, and its peer does not know another.
    assert_eq!((open.commit, open.ticket), (evenkeel_core::port::Commit::Fast, None));
    assert_eq!(open.phase, Phase::Reserved);
}

#[test]
fn whether_a_host_takes_part_outlasts_its_agent() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    assert_eq!(store.standing().unwrap(), None);
    for boot in [None, Some("b1".to_owned())] {
        let standing = Standing { state: HostState::Draining, boot };
        store.keep_standing(&standing).unwrap();
        drop(store);
        store = Store::open(directory.path()).unwrap();
        assert_eq!(store.standing().unwrap(), Some(standing));
    }
}
