//! The life of an agent: joining, starting, stopping, being killed, and starting again.

mod daemon;
mod skips;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use daemon::{Daemon, Place, Ran, Site, evenkeel};

/// Makes a cluster and its first host by the command line, as an operator does.
fn first_host(site: &Site) -> Place {
    let mut place = site.stranger("h1");
    let (authority, identity) = (site.dir().join("authority"), place.dir.join("identity"));
    let init = ["cluster", "init", "--host", "h1", "--ca-dir", text(&authority), "--identity-dir"];
    let made = evenkeel(&[&init[..], &[text(&identity)]].concat());
    assert!(made.stderr.contains("evenkeel cluster join-token"), "{made:?}");
    assert!(!made.done().is_empty() && !made.done().contains(char::is_whitespace), "{made:?}");
    let again = evenkeel(&[&init[..], &[text(&identity)]].concat());
    again.refused(1, &[text(&authority), "exists already"]);
    place.more = format!("ca_dir = '{}'\n", text(&authority));
    place
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours")
}

fn token(site: &Site, seed: &Place, more: &[&str]) -> Ran {
    let (authority, seed) = (site.dir().join("authority"), seed.listen.to_string());
    let ask = ["cluster", "join-token", "--ca-dir", text(&authority), "--seed", &seed];
    evenkeel(&[&ask[..], more].concat())
}

#[test]
fn hosts_join_with_a_token_each_and_find_each_other_again_without_seeds() {
    let site = Site::new();
    let (h1, h2, h3) = (first_host(&site), site.stranger("h2"), site.stranger("h3"));
    let first = h1.start(&[]);
    let (for_h2, for_h3) = (token(&site, &h1, &[]), token(&site, &h1, &[]));
    assert!(for_h2.done().starts_with("ek1.") && for_h2.stderr.is_empty(), "{for_h2:?}");

    // The one names itself in its configuration and the other on the command line, from a file.
    h2.configure(&[h1.listen]);
    let second = h2.start_as_configured(&["--join", for_h2.done()]);
    second.await_log(&["joined the cluster", "h2"]);
    let file = h3.dir.join("token");
    std::fs::write(&file, for_h3.done()).expect("written");
    h3.configure(&[h1.listen]);
    let config = std::fs::read_to_string(h3.config()).expect("written");
    h3.write(&config.replace("host = 'h3'\n", ""));
    let third = h3.start_as_configured(&["--join-file", text(&file), "--host-id", "h3"]);
    h1.until_members(&["h2", "h3"]);
    h2.until_members(&["h1", "h3"]);
    h3.until_members(&["h1", "h2"]);

    // Used up, out of date, or no token at all.
    let join = |place: &Place, token: &str| {
        place.configure(&[h1.listen]);
        evenkeel(&["agent", "--config", text(&place.config()), "--join", token])
    };
    let h4 = site.stranger("h4");
    let used = join(&h4, for_h2.done());
    used.refused(1, &["`h4`", "has been used already", "evenkeel cluster join-token"]);
    let late = token(&site, &h1, &["--valid-for", "0s"]);
    join(&h4, late.done()).refused(1, &["has expired", "evenkeel cluster join-token"]);
    join(&h4, "ek1.nonsense").refused(1, &["the join token is damaged", "copy it whole"]);
    join(&h4, "welcome").refused(1, &["not a join token", "ek1."]);
    let taken = join(&site.stranger("h2b"), for_h2.done());
    taken.refused(1, &["has been used already"]);
    let mut twin = site.stranger("twin");
    twin.name = "h3".to_owned();
    join(&twin, token(&site, &h1, &[]).done()).refused(1, &["`h3` is taken", "--host-id"]);

    // Everybody restarts, told nobody's address, at the address where it was.
    for agent in [first, second, third] {
        assert_eq!(agent.stop(), Some(0));
    }
    let _second = h2.start(&[]);
    let _third = h3.start(&[]);
    h2.until_members(&["h3"]);
    let _first = h1.start(&[]);
    h1.until_members(&["h2", "h3"]);
}

#[test]
fn a_host_is_removed_and_certificates_are_renewed_while_agents_run() {
    let site = Site::new();
    let (h1, h2, h3) = (first_host(&site), site.stranger("h2"), site.stranger("h3"));
    let _first = h1.start(&[]);
    let join = |place: &Place| {
        place.configure(&[h1.listen]);
        place.start_as_configured(&["--join", token(&site, &h1, &[]).done()])
    };
    let (second, third) = (join(&h2), join(&h3));
    h2.until_members(&["h1", "h3"]);

    let cluster = |place: &Place, ask: &[&str]| {
        evenkeel(&[&["cluster"], ask, &["--socket", text(&place.socket)]].concat())
    };
    let certificate = || std::fs::read(h2.dir.join("identity/host.crt")).expect("a certificate");
    let before = certificate();
    cluster(&h2, &["renew"]).done();
    assert_ne!(certificate(), before);

    cluster(&h2, &["remove", "h3"]).refused(1, &["`h2`", "the key of the cluster's authority"]);
    cluster(&h1, &["remove", "h1"]).refused(1, &["`h1`", "cannot remove itself"]);
    cluster(&h1, &["remove", "h9"]).refused(1, &["`h9`", "on record"]);
    assert!(cluster(&h1, &["remove", "h3"]).done().contains("h3"));
    // By the connection that is closed, or by the next that is refused.
    third.await_log(&["removed from the cluster"]);
    h1.until_members(&["h2"]);
    h2.until_members(&["h1"]);
    let removed = h2.dir.join("identity/revoked.crl");
    assert!(removed.exists(), "h2 heard of it from h1");

    // The name may be taken again, and the renewed certificate holds after a restart.
    drop(third);
    std::fs::remove_dir_all(h3.dir.join("identity")).expect("moved away");
    let _third = join(&h3);
    assert_eq!(second.stop(), Some(0));
    let _second = h2.start(&[h1.listen]);
    h3.until_members(&["h1", "h2"]);
    h2.until_members(&["h1", "h3"]);
}

#[test]
fn the_service_manager_is_told_of_both_ends_of_an_agents_life_and_only_its_user_may_ask_it() {
    let site = Site::new();
    let place = site.host("h1");
    // A socket that a killed agent left behind is no obstacle.
    drop(place.start(&[]));
    assert!(place.socket.exists(), "it was killed");
    let mut agent = place.start(&[]);
    let mode = std::fs::metadata(&place.socket).expect("served").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    assert_eq!(place.status()["host"], "h1");
    // By the loop itself, again and again.
    agent.await_notices("WATCHDOG=1", 3);
    strangers_are_refused(&site, &place, &agent);
    agent.signal(rustix::process::Signal::TERM);
    agent.await_notice("STOPPING=1");
    assert_eq!(agent.ended(), Some(0));
    assert!(!place.socket.exists());
}

/// Whatever became of the socket's mode, another user gets no answer.
fn strangers_are_refused(site: &Site, place: &Place, agent: &Daemon) {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        skips::skip("only root can be somebody else");
        return;
    }
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    };
    let program = site.dir().join("evenkeel");
    std::fs::copy(env!("CARGO_BIN_EXE_evenkeel"), &program).expect("copied");
    for directory in [site.dir(), &place.dir] {
        open(directory, 0o755);
    }
    open(&place.socket, 0o666);
    let ask = ["status", "--socket", text(&place.socket)];
    let asked = std::process::Command::new(&program).args(ask).uid(NOBODY).output();
    assert_eq!(asked.expect("it runs").status.code(), Some(1));
    agent.await_log(&["uid=65534", "refused"]);
}
