use std::net::SocketAddr;

use axum::routing::get;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A configuration that works, on a port of the system's choice, and the certificate.
fn site() -> (TempDir, TcpConfig, CertificateDer<'static>) {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let made = params.self_signed(&key).unwrap();
    let file = |name: &str| dir.path().join(name);
    let config = TcpConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        certificate: file("cert.pem"),
        key: file("key.pem"),
        token_file: file("token"),
    };
    write(&config.certificate, &made.pem(), 0o644);
    write(&config.key, &key.serialize_pem(), 0o600);
    write(&config.token_file, &format!("{TOKEN}\n"), 0o600);
    (dir, config, made.der().clone())
}

/// What comes back for a request with this header line over TLS.
async fn ask(addr: SocketAddr, trusted: &CertificateDer<'static>, line: &str) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let tcp = from_address([127, 0, 0, 2], addr).await;
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    let request = format!("GET /x HTTP/1.1\r\nhost: localhost\r\n{line}\r\n");
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The other side may end without TLS's own goodbye.
    let _ = tls.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// A connection from an address of this host.
async fn from_address(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn one_address_does_not_take_all_places_at_the_port() {
    let (_dir, config, certificate) = site();
    let tcp = Tcp::open(&config).await.unwrap();
    let addr = tcp.listener.local_addr().unwrap();
    tokio::spawn(tcp.serve(Router::new().route("/x", get(|| async { "the answer" }))));
    let mut held = Vec::new();
    for _ in 0..CALLERS_FROM_ADDRESS_MAX {
        held.push(TcpStream::connect(addr).await.unwrap());
    }
    // One more is closed without a word, and whoever calls from elsewhere is answered.
    let mut more = TcpStream::connect(addr).await.unwrap();
    let mut said = Vec::new();
    assert!(more.read_to_end(&mut said).await.is_err() || said.is_empty());
    let line = format!("authorization: Bearer {TOKEN}\r\n");
    for _ in 0..2 {
        assert!(ask(addr, &certificate, &line).await.contains("the answer"));
    }
    drop(held);
}

#[test]
fn callers_are_counted_by_address_and_network_and_leave_their_places() {
    let callers = Callers::default();
    let addr = |text: &str| text.parse::<IpAddr>().unwrap();
    let admit = |text: &str| callers.admit(addr(text));
    let mut v4: Vec<_> = (0..8).map(|_| admit("192.0.2.1").unwrap()).collect();
    assert!(admit("192.0.2.1").is_none() && admit("::ffff:192.0.2.1").is_none());
    assert!(admit("192.0.2.2").is_some());
    let _v6: Vec<_> = (0..8).map(|n| admit(&format!("2001:db8::{n}")).unwrap()).collect();
    assert!(admit("2001:db8::ffff").is_none() && admit("2001:db8:0:1::1").is_some());
    v4.pop();
    assert!(admit("192.0.2.1").is_some());
}

#[tokio::test]
async fn nobody_is_answered_without_tls_and_the_token() {
    let (_dir, config, certificate) = site();
    let tcp = Tcp::open(&config).await.unwrap();
    let addr = tcp.listener.local_addr().unwrap();
    tokio::spawn(tcp.serve(Router::new().route("/x", get(|| async { "the answer" }))));

    let mut plain = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET /x HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
    plain.write_all(request.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said).await;
    assert!(!String::from_utf8_lossy(&said).contains("the answer"), "without TLS");

    let wrong = TOKEN.replace('0', "1");
    for (line, status) in [
        (String::new(), 401),
        (format!("authorization: Bearer {wrong}\r\n"), 401),
        (format!("authorization: Bearer {}\r\n", &TOKEN[..31]), 401),
        (format!("authorization: Basic {TOKEN}\r\n"), 401),
        (format!("authorization: Bearer {TOKEN}\r\n"), 200),
    ] {
        let answer = ask(addr, &certificate, &line).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line:?}: {answer}");
        assert_eq!(answer.contains("the answer"), status == 200, "{line:?}: {answer}");
    }
}

#[tokio::test]
async fn a_secret_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    type Spoil = fn(&TcpConfig);
    let cases: [(Spoil, &str); 4] = [
        (|c| write(&c.token_file, TOKEN, 0o640), "chmod 600"),
        (|c| write(&c.token_file, "guess", 0o600), "openssl rand -hex 32"),
        (
            |c| std::fs::set_permissions(&c.key, PermissionsExt::from_mode(0o604)).unwrap(),
            "chmod 600",
        ),
        (|c| std::fs::remove_file(&c.certificate).unwrap(), "cert.pem"),
    ];
    for (spoil, says) in cases {
        let (_dir, config, _) = site();
        spoil(&config);
        let error = Tcp::open(&config).await.err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}
