//! Hosts that are removed, and certificates that are renewed.

mod common;

use std::time::{Duration, Instant, SystemTime};

use common::founder::{Book, authority, founder, join, token};
use common::{Agent, Dir, host, limits};
use evenkeel_net::{ClusterCa, Identity, REVOCATIONS_FILE, RemoveError, RenewError, enrol};

/// Until `done`, for what happens on other tasks.
async fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(10), "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Two hosts have spoken, so that a connection stands.
async fn acquaint(a: &Agent, b: &mut Agent) {
    a.send(b, b"hello");
    assert_eq!(b.message().await.1, b"hello");
}

/// What a removed host sends does not arrive, and it is told why.
async fn is_refused(removed: &mut Agent, by: &Agent) {
    removed.send(by, b"let me in");
    let (_, why) = removed.undelivered().await;
    assert!(why.contains("removed from the cluster"), "{why}");
}

fn list_in(dir: &Dir) -> std::path::PathBuf {
    dir.path().join(REVOCATIONS_FILE)
}

#[tokio::test]
async fn a_removed_host_is_cut_off_everywhere_and_stays_out() {
    let (mut a, ca, _) = founder();
    let (mut b, b_dir) = join("b", &ca, &mut a).await;
    let (mut c, _c_dir) = join("c", &ca, &mut a).await;
    acquaint(&a, &mut b).await;
    acquaint(&c, &mut b).await;
    acquaint(&c, &mut a).await;

    a.net.remove(&host("c")).await.unwrap();
    until("b has heard it from a", || list_in(&b_dir).exists()).await;
    until("nobody is connected with c", || c.net.connections() == 0).await;
    is_refused(&mut c, &b).await;
    b.send(&c, b"come out");
    let (_, why) = b.undelivered().await;
    assert!(why.contains("host `c` was removed"), "{why}");

    // Nor after a restart, by what is on disk.
    drop(b);
    let mut b = Agent::start(&Identity::load(b_dir.path()).unwrap());
    b.send(&c, b"come out");
    assert!(b.undelivered().await.1.contains("host `c` was removed"));
    acquaint(&a, &mut b).await;
}

#[tokio::test]
async fn a_host_that_slept_learns_from_whomever_it_talks_to() {
    let (mut a, ca, _) = founder();
    let (mut b, b_dir) = join("b", &ca, &mut a).await;
    let (_c, _c_dir) = join("c", &ca, &mut a).await;
    let (mut d, d_dir) = join("d", &ca, &mut a).await;
    acquaint(&a, &mut b).await;
    a.net.remove(&host("c")).await.unwrap();
    until("b knows", || list_in(&b_dir).exists()).await;
    assert!(!list_in(&d_dir).exists(), "d slept");
    drop(a);
    // Whoever calls: both directions carry the list.
    acquaint(&d, &mut b).await;
    until("d knows", || list_in(&d_dir).exists()).await;
    acquaint(&b, &mut d).await;
}

#[tokio::test]
async fn a_removed_host_may_join_again_under_its_name() {
    let (mut a, ca, _) = founder();
    let (mut old, _dir) = join("b", &ca, &mut a).await;
    let refused = enrol(&token(&ca, &a), &host("b"), Dir::new().path(), &limits()).await;
    assert!(refused.unwrap_err().to_string().contains("evenkeel cluster remove b"));
    a.net.remove(&host("b")).await.unwrap();
    let (mut new, _dir) = join("b", &ca, &mut a).await;
    acquaint(&a, &mut new).await;
    is_refused(&mut old, &a).await;
    // Once more, in case that the first answer was not seen: both are out now.
    a.net.remove(&host("b")).await.unwrap();
    is_refused(&mut new, &a).await;
}

#[tokio::test]
async fn only_the_authority_removes_and_not_itself() {
    let (mut a, ca, _) = founder();
    let (mut b, b_dir) = join("b", &ca, &mut a).await;
    let refused = b.net.remove(&host("a")).await.unwrap_err();
    assert!(matches!(refused, RemoveError::NoAuthority(_)), "{refused}");
    let refused = a.net.remove(&host("a")).await.unwrap_err();
    assert!(matches!(refused, RemoveError::Own(_)), "{refused}");
    let refused = a.net.remove(&host("nobody")).await.unwrap_err().to_string();
    assert!(refused.contains("`nobody`") && refused.contains("on record"), "{refused}");

    // A member that spreads a list of its own making is not believed.
    let (mut other, other_ca, _) = founder();
    let (_victim, _dir) = join("victim", &other_ca, &mut other).await;
    let (spy, spy_dir) = join("spy", &other_ca, &mut other).await;
    spy.net.identify(other.addr).await.unwrap();
    other.net.remove(&host("victim")).await.unwrap();
    until("there is a foreign list", || list_in(&spy_dir).exists()).await;
    std::fs::copy(list_in(&spy_dir), list_in(&b_dir)).unwrap();
    let refused = Identity::load(b_dir.path()).unwrap_err().to_string();
    assert!(refused.contains("has not signed it") && refused.contains(REVOCATIONS_FILE));
    acquaint(&a, &mut b).await;
}

#[tokio::test]
async fn an_older_list_does_not_undo_a_newer_one() {
    let (mut a, ca, _) = founder();
    let (mut b, b_dir) = join("b", &ca, &mut a).await;
    let (_c, _dir) = join("c", &ca, &mut a).await;
    let (mut d, _d_dir) = join("d", &ca, &mut a).await;
    acquaint(&a, &mut b).await;
    a.net.remove(&host("c")).await.unwrap();
    until("b knows the first", || list_in(&b_dir).exists()).await;
    let first = std::fs::read(list_in(&b_dir)).unwrap();
    a.net.remove(&host("d")).await.unwrap();
    let second = || std::fs::read(list_in(&b_dir)).is_ok_and(|list| list != first);
    until("b knows the second", second).await;
    // b comes back from a backup, and is told by a what it has missed.
    drop(b);
    std::fs::write(list_in(&b_dir), &first).unwrap();
    let mut b = Agent::start(&Identity::load(b_dir.path()).unwrap());
    acquaint(&b, &mut a).await;
    until("b knows the second again", second).await;
    is_refused(&mut d, &b).await;
    b.nothing_but_from(&a).await;
}

#[tokio::test]
async fn a_certificate_is_renewed_while_messages_flow() {
    let (mut a, ca, _) = founder();
    let (mut b, dir) = join("b", &ca, &mut a).await;
    let before = Identity::load(dir.path()).unwrap();
    let files = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let (certificate, key) = (files("host.crt"), files("host.key"));
    assert!(before.renewal_due() > SystemTime::now() && before.renewal_due() < before.expires());
    let refused = b.net.renew(&before).await.unwrap_err();
    assert!(matches!(refused, RenewError::Nobody(_)), "nobody is connected: {refused}");
    acquaint(&a, &mut b).await;

    b.net.renew(&before).await.unwrap();
    assert!(certificate != files("host.crt") && key != files("host.key"));
    acquaint(&b, &mut a).await;
    // The key that was replaced is out together with the new one when the host is removed.
    let mut old = Agent::start(&before);
    acquaint(&old, &mut a).await;
    a.net.remove(&host("b")).await.unwrap();
    is_refused(&mut old, &a).await;
    is_refused(&mut b, &a).await;
}

#[tokio::test]
async fn a_renewal_that_was_interrupted_is_finished_at_the_next_start() {
    let (mut a, ca, _) = founder();
    let (mut b, dir) = join("b", &ca, &mut a).await;
    acquaint(&a, &mut b).await;
    let old_key = std::fs::read(dir.path().join("host.key")).unwrap();
    b.net.renew(&Identity::load(dir.path()).unwrap()).await.unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::rename(at("host.key"), at("host.key.next")).unwrap();
    std::fs::write(at("host.key"), &old_key).unwrap();
    set_private(&at("host.key"));
    let identity = Identity::load(dir.path()).unwrap();
    assert!(!at("host.key.next").exists());
    drop(b);
    let b = Agent::start(&identity);
    acquaint(&b, &mut a).await;
    // And a key that nobody has signed yet is left for the next try.
    let unsigned = rcgen::KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(at("host.key.next"), unsigned).unwrap();
    set_private(&at("host.key.next"));
    Identity::load(dir.path()).unwrap();
    assert!(at("host.key.next").exists());
}

fn set_private(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("ours");
}

#[tokio::test]
async fn who_joins_later_is_told_who_is_out() {
    let (mut a, ca, _) = founder();
    let (_b, _dir) = join("b", &ca, &mut a).await;
    a.net.remove(&host("b")).await.unwrap();
    let (c, c_dir) = join("c", &ca, &mut a).await;
    assert!(matches!(c.net.identify(a.addr).await, Ok(h) if h == host("a")));
    until("c knows", || list_in(&c_dir).exists()).await;
}

#[tokio::test]
async fn a_host_that_was_renewed_ever_so_often_is_removed_and_others_after_it() {
    let (mut a, ca, book) = founder();
    let (mut b, _b_dir) = join("b", &ca, &mut a).await;
    let (mut c, _c_dir) = join("c", &ca, &mut a).await;
    acquaint(&a, &mut b).await;
    acquaint(&a, &mut c).await;
    // More keys than there is room for in a list, and none of them is the one that b speaks with.
    book.renews(&host("b"), 20_000);
    a.net.remove(&host("b")).await.unwrap();
    is_refused(&mut b, &a).await;
    book.renews(&host("c"), 20_000);
    a.net.remove(&host("c")).await.unwrap();
    is_refused(&mut c, &a).await;
    is_refused(&mut b, &a).await;
    // Under its name another host may join, and is not taken for the one before.
    let (mut new, _dir) = join("b", &ca, &mut a).await;
    acquaint(&new, &mut a).await;
    acquaint(&a, &mut new).await;
}

#[tokio::test]
async fn a_removal_that_cannot_be_recorded_removes_nobody() {
    let (mut a, ca, book) = founder();
    let (mut b, _dir) = join("b", &ca, &mut a).await;
    book.cannot_write(true);
    let refused = a.net.remove(&host("b")).await.unwrap_err().to_string();
    assert!(refused.contains("`b` stays in the cluster") && refused.contains("disk"), "{refused}");
    acquaint(&b, &mut a).await;
    let taken = enrol(&token(&ca, &a), &host("b"), Dir::new().path(), &limits()).await;
    assert!(taken.unwrap_err().to_string().contains("is taken"));
    book.cannot_write(false);
    a.net.remove(&host("b")).await.unwrap();
    is_refused(&mut b, &a).await;
}

#[tokio::test]
async fn what_a_lost_authority_has_revoked_stays_revoked_by_the_restored_one() {
    let dir = Dir::new();
    let ca = ClusterCa::init(dir.path()).unwrap();
    let (identity, book) = (ca.issue(&host("a")).unwrap(), Book::default());
    let mut lost = authority(&identity, dir.path(), &book);
    let (mut b, b_dir) = join("b", &ca, &mut lost).await;
    let (mut c, _c_dir) = join("c", &ca, &mut lost).await;
    let (mut d, _d_dir) = join("d", &ca, &mut lost).await;
    let (mut e, e_dir) = join("e", &ca, &mut lost).await;
    acquaint(&lost, &mut b).await;
    lost.net.remove(&host("c")).await.unwrap();
    until("b knows the first list", || list_in(&b_dir).exists()).await;
    let first = std::fs::read(list_in(&b_dir)).unwrap();
    drop(lost);

    // From a backup of before: it knows neither the list nor that c was removed.
    let (old, backup) = (Book::default(), Dir::new());
    for name in ["b", "c", "d", "e"] {
        old.renews(&host(name), 1);
    }
    identity.save(backup.path()).unwrap();
    let identity = Identity::load(backup.path()).unwrap();
    let mut restored = authority(&identity, dir.path(), &old);
    acquaint(&restored, &mut e).await;
    restored.net.remove(&host("d")).await.unwrap();
    until("e knows the second list", || list_in(&e_dir).exists()).await;
    is_refused(&mut d, &e).await;
    // One of the two lists is newer everywhere, and both are in force where they meet.
    acquaint(&b, &mut e).await;
    let second = || std::fs::read(list_in(&b_dir)).is_ok_and(|list| list != first);
    until("b knows the second list", second).await;
    is_refused(&mut d, &b).await;
    is_refused(&mut c, &b).await;
    drop(b);
    let b = Agent::start(&Identity::load(b_dir.path()).unwrap());
    is_refused(&mut c, &b).await;
    is_refused(&mut d, &b).await;
    // The authority hears of both, and signs one list that holds all.
    acquaint(&b, &mut restored).await;
    let lists = |dir: &Dir| std::fs::read_to_string(list_in(dir)).unwrap_or_default();
    let one = |dir: &Dir| lists(dir).matches("BEGIN X509 CRL").count() == 1;
    until("b knows one list", || one(&b_dir) && lists(&b_dir) == lists(&backup)).await;
    is_refused(&mut c, &restored).await;
}
