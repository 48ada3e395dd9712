//! Names of hosts: only the authority's signature makes one.

mod common;

use common::founder::{founder, join};
use common::{Agent, cluster, host};

#[tokio::test]
async fn a_name_counts_once_its_certificate_was_seen_on_a_link_or_shown_by_another_host() {
    let ca = cluster();
    let start = |name| Agent::start(&ca.issue(&host(name)).unwrap());
    let (mut a, mut b, c) = (start("a"), start("b"), start("c"));
    assert!(!a.net.vouches(&host("c")));
    c.send(&b, b"hello");
    b.meets(&host("c")).await;
    a.send(&b, b"hello");
    a.meets(&host("b")).await;
    assert!(a.net.vouches(&host("b")) && !a.net.vouches(&host("c")), "it was not heard of");

    let named = [host("ghost"), host("c"), host("a")];
    a.net.ask_for_proof(&named, &host("b"), b.addr).await;
    let certificate = a.meets(&host("c")).await;
    assert!(a.net.vouches(&host("c")) && !a.net.vouches(&host("ghost")));
    assert!(!a.net.vouches(&host("a")), "of itself it needs no proof");

    // In its next life it knows again, and what another cluster's authority has signed is none.
    let again = start("d");
    let foreign = Agent::start(&cluster().issue(&host("e")).unwrap());
    foreign.net.remember([certificate.clone()]);
    again.net.remember([certificate, b"nonsense".to_vec()]);
    assert!(again.net.vouches(&host("c")) && !foreign.net.vouches(&host("c")));
    again.net.forget(&host("c"));
    assert!(!again.net.vouches(&host("c")));
}

#[tokio::test]
async fn that_a_host_was_removed_is_known_by_the_list_and_ends_when_it_joins_again() {
    let (mut a, ca, _) = founder();
    let (mut b, _b_dir) = join("b", &ca, &mut a).await;
    let (mut c, _c_dir) = join("c", &ca, &mut a).await;
    b.send(&a, b"hello");
    a.meets(&host("b")).await;
    c.send(&a, b"hello");
    c.send(&b, b"hello");
    b.meets(&host("c")).await;
    assert!(!b.net.has_removed(&host("c")) && !b.net.has_removed(&host("never-was")));
    a.net.remove(&host("c")).await.unwrap();
    while !b.net.has_removed(&host("c")) {
        b.next_of_all().await;
    }
    assert!(!b.net.vouches(&host("c")));
    c.send(&b, b"let me in");
    c.undelivered().await;
    let (c, _dir) = join("c", &ca, &mut a).await;
    c.send(&b, b"hello");
    b.meets(&host("c")).await;
    assert!(b.net.vouches(&host("c")) && !b.net.has_removed(&host("c")));
}
