//! How a host gets its certificate, and how it does not.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::founder::{founder, token};
use common::{Agent, Dir, call, cluster, host, limits, loopback};
use evenkeel_net::{ClusterCa, EnrolError, Identity, JoinToken, NetEvent, PkiError, enrol};
use proptest::prelude::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// What the holder of a token shows.
fn shown(token: &JoinToken) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let text = token.to_text();
    let body = URL_SAFE_NO_PAD.decode(&text[4..]).expect("base64");
    let mut d = minicbor::Decoder::new(&body);
    assert_eq!(d.map().expect("a map"), Some(4));
    let mut field = || {
        d.u8().expect("its number");
        d.bytes().map(<[u8]>::to_vec).expect("bytes")
    };
    let (_ca, certificate, key) = (field(), field(), field());
    (certificate.into(), PrivatePkcs8KeyDer::from(key).into())
}

#[tokio::test]
async fn a_host_joins_with_a_token_and_speaks_with_the_others() {
    let (mut a, ca, book) = founder();
    let dir = Dir::new();
    let joined = enrol(&token(&ca, &a), &host("b"), dir.path(), &limits()).await.unwrap();
    assert_eq!((joined.host(), joined.cluster()), (&host("b"), ca.cluster()));
    let event = a.next().await;
    assert!(matches!(&event, NetEvent::Enrolled { host: h, .. } if *h == host("b")), "{event:?}");
    assert_eq!(book.tokens(), 1);

    let mode = |name| dir.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("host.key"), 0o600);
    // After a restart the agent has its files and no token.
    let mut b = Agent::start(&Identity::load(dir.path()).unwrap());
    b.send(&a, b"here I am");
    assert_eq!(a.message().await, (host("b"), b"here I am".to_vec()));
    a.send(&b, b"welcome");
    assert_eq!(b.message().await.0, host("a"));
}

#[tokio::test]
async fn a_token_brings_in_one_host_and_no_second() {
    let (a, ca, _) = founder();
    let token = token(&ca, &a);
    let (first, second) = (Dir::new(), Dir::new());
    enrol(&token, &host("b"), first.path(), &limits()).await.unwrap();
    let refused = enrol(&token, &host("c"), second.path(), &limits()).await.unwrap_err();
    assert!(refused.to_string().contains("has been used already"), "{refused}");
    assert!(!second.path().join("host.crt").exists());
}

#[tokio::test]
async fn a_host_whose_certificate_got_lost_on_the_way_asks_again_with_the_same_token() {
    let (a, ca, _) = founder();
    let token = token(&ca, &a);
    let dir = Dir::new();
    enrol(&token, &host("b"), dir.path(), &limits()).await.unwrap();
    std::fs::remove_file(dir.path().join("host.crt")).unwrap();
    enrol(&token, &host("b"), dir.path(), &limits()).await.unwrap();
    // With another key it is somebody else.
    std::fs::remove_file(dir.path().join("host.crt")).unwrap();
    std::fs::remove_file(dir.path().join("host.key")).unwrap();
    let refused = enrol(&token, &host("b"), dir.path(), &limits()).await.unwrap_err();
    assert!(refused.to_string().contains("has been used already"), "{refused}");
}

#[tokio::test]
async fn a_host_id_that_is_taken_is_refused() {
    let (a, ca, _) = founder();
    enrol(&token(&ca, &a), &host("b"), Dir::new().path(), &limits()).await.unwrap();
    for taken in ["a", "b"] {
        let dir = Dir::new();
        let refused =
            enrol(&token(&ca, &a), &host(taken), dir.path(), &limits()).await.unwrap_err();
        let text = refused.to_string();
        assert!(text.contains(&format!("the name `{taken}` is taken")), "{text}");
    }
}

#[tokio::test]
async fn nothing_is_sent_if_it_cannot_be_recorded() {
    let (a, ca, book) = founder();
    let dir = Dir::new();
    let refused = enrol(&token(&ca, &a), &host("full"), dir.path(), &limits()).await.unwrap_err();
    assert!(refused.to_string().contains("the disk is full"), "{refused}");
    assert!(book.tokens() == 0 && !dir.path().join("host.crt").exists());
}

#[tokio::test]
async fn a_token_that_has_expired_is_refused_by_both_sides() {
    let (a, ca, book) = founder();
    let expired = ca.mint_token(vec![a.addr], Duration::ZERO).unwrap();
    let dir = Dir::new();
    let refused = enrol(&expired, &host("b"), dir.path(), &limits()).await.unwrap_err();
    assert!(matches!(refused, EnrolError::Expired { .. }), "{refused}");

    // Certificates know no fractions of a second.
    while SystemTime::now() < expired.expires() + Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A host whose clock is late, or that cheats, asks nevertheless.
    let refused = match call(a.addr, b"evenkeel/1", Some(shown(&expired))).await {
        Ok(connection) => connection.open_bi().await.unwrap_err().to_string(),
        Err(why) => why,
    };
    assert!(refused.contains("closed") || refused.contains("aborted"), "{refused}");
    assert!(book.tokens() == 0);
}

#[tokio::test]
async fn a_token_can_do_nothing_but_enrol() {
    let (mut a, ca, book) = founder();
    let token = token(&ca, &a);
    let link = call(a.addr, b"evenkeel/1", Some(shown(&token))).await.unwrap();
    // It would like to send messages and datagrams, and may not so much as open a stream.
    link.send_datagram(vec![1; 100].into()).unwrap();
    let opened = tokio::time::timeout(Duration::from_secs(10), link.open_uni()).await;
    assert!(matches!(&opened, Ok(Err(_))), "closed for asking nothing: {opened:?}");

    // Nor may it write nonsense, or without end.
    let request = vec![0xff; 100];
    let endless = vec![0; 1 << 20];
    for (bytes, expected) in [(request, "malformed"), (endless, "closed")] {
        let link = call(a.addr, b"evenkeel/1", Some(shown(&token))).await.unwrap();
        let (mut send, mut recv) = link.open_bi().await.unwrap();
        let written = send.write_all(&bytes).await;
        let _ = send.finish();
        let answer = match recv.read_to_end(1 << 20).await {
            Ok(answer) => String::from_utf8_lossy(&answer).into_owned(),
            Err(e) => format!("{e} closed {written:?}"),
        };
        assert!(answer.contains(expected), "{answer}");
    }
    // Nor be a host.
    let b = Agent::start(&ca.issue(&host("b")).unwrap());
    a.nothing_but_from(&b).await;
    assert!(book.tokens() == 0);
}

#[tokio::test]
async fn an_agent_without_the_authoritys_key_says_so() {
    let ca = cluster();
    let a = Agent::start(&ca.issue(&host("a")).unwrap());
    let refused =
        enrol(&token(&ca, &a), &host("b"), Dir::new().path(), &limits()).await.unwrap_err();
    assert!(refused.to_string().contains("does not hold the key"), "{refused}");
}

#[tokio::test]
async fn another_seed_is_asked_when_the_first_is_silent() {
    let (a, ca, _) = founder();
    let silent = std::net::UdpSocket::bind(loopback()).unwrap();
    let seeds = vec![silent.local_addr().unwrap(), a.addr];
    let token = ca.mint_token(seeds, Duration::from_secs(60)).unwrap();
    enrol(&token, &host("b"), Dir::new().path(), &limits()).await.unwrap();
}

#[tokio::test]
async fn an_agent_of_another_cluster_is_not_believed() {
    let (a, _, _) = founder();
    let other = cluster().mint_token(vec![a.addr], Duration::from_secs(60)).unwrap();
    let refused = enrol(&other, &host("b"), Dir::new().path(), &limits()).await.unwrap_err();
    assert!(refused.to_string().contains("not from the authority"), "{refused}");
}

#[test]
fn a_cluster_or_an_identity_is_never_overwritten() {
    let dir = Dir::new();
    let ca = ClusterCa::init(dir.path()).unwrap();
    let again = ClusterCa::init(dir.path()).unwrap_err();
    assert!(matches!(again, PkiError::Exists { .. }), "{again}");
    // The founder keeps both in one directory.
    ca.issue(&host("a")).unwrap().save(dir.path()).unwrap();
    assert_eq!(Identity::load(dir.path()).unwrap().host(), &host("a"));
    assert!(ca.issue(&host("b")).unwrap().save(dir.path()).is_err());
    assert_eq!(Identity::load(dir.path()).unwrap().host(), &host("a"));
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_remedy() {
    let dir = Dir::new();
    let ca = ClusterCa::init(dir.path()).unwrap();
    ca.issue(&host("a")).unwrap().save(dir.path()).unwrap();
    for (file, load) in [
        (
            "host.key",
            (|d| Identity::load(d).map(drop)) as fn(&std::path::Path) -> Result<(), PkiError>,
        ),
        ("ca.key", |d| ClusterCa::load(d).map(drop)),
    ] {
        let path = dir.path().join(file);
        for mode in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let text = load(dir.path()).unwrap_err().to_string();
            assert!(text.contains("chmod 600") && text.contains(file), "{text}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        load(dir.path()).unwrap();
    }
}

#[test]
fn files_that_do_not_belong_together_are_refused_by_name() {
    let (ca, other) = (cluster(), cluster());
    let save = |identity: &Identity| {
        let dir = Dir::new();
        identity.save(dir.path()).expect("an empty directory");
        dir
    };
    let dir = save(&ca.issue(&host("a")).unwrap());
    let same_cluster = save(&ca.issue(&host("b")).unwrap());
    let foreign = save(&other.issue(&host("a")).unwrap());
    for (file, from, expected) in [
        ("host.key", &same_cluster, "does not belong to the private key"),
        ("ca.crt", &foreign, "not from the authority"),
    ] {
        let path = dir.path().join(file);
        let kept = std::fs::read(&path).unwrap();
        std::fs::write(&path, std::fs::read(from.path().join(file)).unwrap()).unwrap();
        let text = Identity::load(dir.path()).unwrap_err().to_string();
        assert!(text.contains("host.crt") && text.contains(expected), "{text}");
        std::fs::write(&path, kept).unwrap();
    }
    for file in ["ca.crt", "host.crt", "host.key"] {
        let path = dir.path().join(file);
        let kept = std::fs::read(&path).unwrap();
        std::fs::write(&path, "nonsense").unwrap();
        let text = Identity::load(dir.path()).unwrap_err().to_string();
        assert!(text.contains(file) && text.contains("PEM"), "{text}");
        std::fs::remove_file(&path).unwrap();
        let text = Identity::load(dir.path()).unwrap_err().to_string();
        assert!(text.contains("there is no") && text.contains("cluster init"), "{text}");
        // With the mode that a key needs.
        std::fs::write(&path, kept).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    Identity::load(dir.path()).unwrap();
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let ca = cluster();
    let token = ca.mint_token(vec![loopback()], Duration::from_secs(60)).unwrap();
    let shown = format!("{ca:?} {:?} {token:?}", ca.issue(&host("a")).unwrap());
    assert!(shown.len() < 200, "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_token_is_refused_or_harmless_and_never_panics(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), "[A-Za-z0-9_-]"), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        thread_local!(static TOKEN: String =
            cluster().mint_token(vec![loopback()], Duration::from_secs(60)).expect("a token").to_text());
        let mut text = TOKEN.with(Clone::clone);
        let _ = text[..cut.index(text.len())].parse::<JoinToken>();
        for (at, with) in damage {
            let at = 4 + at.index(text.len() - 4);
            text.replace_range(at..=at, &with);
        }
        let _ = text.parse::<JoinToken>();
    }
}

#[test]
fn a_clock_that_is_a_day_off_is_named_with_its_direction_before_anybody_is_asked() {
    let dir = Dir::new();
    let ca = ClusterCa::init(dir.path()).unwrap();
    let seed = "127.0.0.1:7946".parse().unwrap();
    let token = ca.mint_token(vec![seed], Duration::from_secs(3600)).unwrap();
    // As it arrives on another host.
    let token: JoinToken = token.to_text().parse().unwrap();
    let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
    token.is_timely(now).unwrap();
    let ahead = token.is_timely(now + day).unwrap_err().to_string();
    assert!(ahead.contains("expired, 23 h ago") && ahead.contains("timedatectl"), "{ahead}");
    let behind = token.is_timely(now - day).unwrap_err().to_string();
    assert!(behind.contains("1 d from now") && behind.contains("behind"), "{behind}");
}
