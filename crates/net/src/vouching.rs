//! Whether a name is that of a host of this cluster, and whether that host was removed.

use std::net::SocketAddr;
use std::sync::Arc;

use evenkeel_core::model::HostId;
use minicbor::{Decode, Encode};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::book::{CERTIFICATE_BYTES_MAX, SHOWN_MAX};
use crate::enrol::encode;
use crate::net::{DialError, Inner, Net, NetEvent};
use crate::services::{SHOW, ask};

#[derive(Encode, Decode)]
#[cbor(map)]
pub(crate) struct Wanted {
    #[n(0)]
    hosts: Vec<HostId>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub(crate) struct Shown {
    #[n(0)]
    certificates: Vec<minicbor::bytes::ByteVec>,
}

impl Net {
    /// Takes in certificates of other hosts that were seen in an earlier life of this one, as
    /// [`NetEvent::Met`] told of them. What the authority has not signed is left out.
    pub fn remember(&self, certificates: impl IntoIterator<Item = Vec<u8>>) {
        for certificate in certificates {
            self.inner.believe(&CertificateDer::from(certificate));
        }
    }

    /// Whether this host has seen a certificate of a host of that name which was not removed since.
    #[must_use]
    pub fn vouches(&self, host: &HostId) -> bool {
        self.inner.book.issued(host).is_some() && !self.has_removed(host)
    }

    /// Whether the authority has removed a host of that name, and none has joined under it since, as
    /// far as this host knows.
    #[must_use]
    pub fn has_removed(&self, host: &HostId) -> bool {
        let since = self.inner.revoked.lists().since(host);
        let issued = self.inner.book.issued(host);
        since.is_some_and(|since| issued.is_none_or(|issued| issued <= since))
    }

    /// Forgets the certificate of a host, until it is seen again.
    pub fn forget(&self, host: &HostId) {
        self.inner.book.forget(host);
    }

    /// Makes sure that a host is the one that it is called at `addr`, so that this host vouches for it.
    ///
    /// # Errors
    /// When it is not reached, or somebody else answers.
    pub async fn meet(&self, host: &HostId, addr: SocketAddr) -> Result<(), DialError> {
        self.inner.link_to(host, addr).await.map(drop)
    }

    /// Has another host show the certificates of hosts that it has named, as far as it has any. What
    /// it shows is taken in; [`Self::vouches`] then says of each.
    pub async fn ask_for_proof(&self, of: &[HostId], from: &HostId, addr: SocketAddr) {
        let inner = &self.inner;
        let Ok(link) = inner.link_to(from, addr).await else { return };
        for hosts in of.chunks(SHOWN_MAX) {
            let wanted = encode(&Wanted { hosts: hosts.to_vec() });
            let asked = ask(&link, SHOW, &wanted, SHOWN_MAX * (CERTIFICATE_BYTES_MAX + 8));
            // One of an earlier version shows none.
            let Ok(Ok(answer)) = timeout(inner.limits.delivery, asked).await else { return };
            let Ok(shown) = minicbor::decode::<Shown>(&answer) else { return };
            for certificate in shown.certificates.into_iter().take(hosts.len()) {
                let certificate = CertificateDer::from(Vec::from(certificate));
                if let Some(met) = inner.believe(&certificate) {
                    // Nobody listens any more: then nobody asks either.
                    let _ = inner.events.send(met).await;
                }
            }
        }
    }
}

impl Inner {
    /// Takes in a certificate if it is of a host of this cluster. Answers what there is to be told if
    /// it is newer than what was known.
    pub(crate) fn believe(&self, certificate: &CertificateDer<'_>) -> Option<NetEvent> {
        let (host, issued) = self.credentials().trust.vouch(certificate).ok()?;
        let news = host != self.me && self.book.learn(&host, certificate, issued);
        news.then(|| NetEvent::Met { host, certificate: certificate.to_vec() })
    }

    /// A connection has shown a certificate: tells of it if it is news.
    pub(crate) fn has_met(self: &Arc<Self>, certificate: &CertificateDer<'_>) {
        if let Some(met) = self.believe(certificate) {
            let inner = self.clone();
            self.runtime.spawn(async move { inner.events.send(met).await });
        }
    }

    /// Answers which certificates this host has seen of those that are asked for.
    pub(crate) fn show(&self, wanted: &[u8]) -> Vec<u8> {
        let wanted = minicbor::decode::<Wanted>(wanted).map(|wanted| wanted.hosts);
        let wanted = wanted.unwrap_or_default().into_iter().take(SHOWN_MAX);
        let known = wanted.filter_map(|host| self.book.show(&host));
        encode(&Shown { certificates: known.map(Into::into).collect() })
    }
}
