//! What hosts do for each other besides taking messages: one bidirectional stream each time.
//!
//! The first byte of a stream says what is asked; a request follows, and the answer comes back on
//! the same stream. Only hosts of this cluster get that far.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use evenkeel_core::model::HostId;
use quinn::{Connection, RecvStream, SendStream};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::time::timeout;

use crate::ca::generate_key;
use crate::enrol::{Answer, FRAME_BYTES_MAX, encode, signing_request};
use crate::files::{self, PkiError};
use crate::identity::{HOST_CERTIFICATE_FILE, HOST_KEY_FILE, Identity, NEXT_KEY_FILE};
use crate::net::{Inner, Net, NetEvent, code, plain, shown_on};
use crate::rates::Deed;
use crate::revocations::{LIST_BYTES_MAX, Lists, Revocations};

/// Requests of one peer that may be under way.
pub(crate) const REQUESTS_MAX: u32 = 4;

/// The revocation list, from either side: whoever has the newer one gives it.
const LIST: u8 = 1;
/// A certificate for another key.
const RENEW: u8 = 2;
/// A call, which lasts as long as both sides like.
pub(crate) const CALL: u8 = 4;
/// Certificates of other hosts.
pub(crate) const SHOW: u8 = 8;

/// Why a host could not be removed from the cluster.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// This agent cannot.
    #[error(
        "host `{0}` does not hold the key of the cluster's authority: remove hosts on the one where \
         `evenkeel cluster init` ran"
    )]
    NoAuthority(HostId),
    /// It would remove itself.
    #[error(
        "host `{0}` holds the key of the cluster's authority and cannot remove itself: move the \
         authority to another host first"
    )]
    Own(HostId),
    /// It is not known, or the list cannot be signed or recorded.
    #[error("host `{host}` stays in the cluster: {why}")]
    Failed {
        /// Which host.
        host: HostId,
        /// Why.
        why: String,
    },
    /// The list is in force here, and would not be after a restart.
    #[error("the host is removed, but not lastingly: {0}")]
    NotSaved(#[from] PkiError),
}

/// Why there is no new certificate. The present one stays in use.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// Nobody who could sign one was reached.
    #[error(
        "no host that is connected now can sign a certificate: the one that holds the authority's \
         key must run its agent ({0})"
    )]
    Nobody(String),
    /// Keys and certificates on this host.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The new certificate does not work.
    #[error("the new certificate {0}")]
    Unusable(String),
    /// The identity is not kept in files.
    #[error("the identity of host `{0}` is not kept in files, so that no other can be")]
    NoFiles(HostId),
}

impl Net {
    /// Removes a host from the cluster: from now on its certificates are good nowhere, and its
    /// connections are closed. Other hosts hear of it from this one and from each other.
    ///
    /// # Errors
    /// When this host cannot; see [`RemoveError`].
    pub async fn remove(&self, host: &HostId) -> Result<(), RemoveError> {
        let inner = &self.inner;
        let Some(enroller) = inner.enroller.clone() else {
            return Err(RemoveError::NoAuthority(inner.me.clone()));
        };
        if *host == inner.me {
            return Err(RemoveError::Own(host.clone()));
        }
        let failed = |why: String| RemoveError::Failed { host: host.clone(), why };
        let (revoked, removed) = (inner.revoked.clone(), host.clone());
        let sign = move || enroller.remove(&removed, &revoked);
        let news = tokio::task::spawn_blocking(sign)
            .await
            .map_err(|e| failed(format!("the agent failed: {e}")))?
            .map_err(failed)?;
        if let Some(lists) = news {
            inner.in_force(lists).await?;
        }
        Ok(())
    }

    /// Makes a new key, asks the hosts that are connected now for a certificate, until one can
    /// sign it, and uses both from now on. Answers when the certificate expires.
    ///
    /// # Errors
    /// When nobody can, or the files cannot be written; see [`RenewError`].
    pub async fn renew(&self, present: &Identity) -> Result<SystemTime, RenewError> {
        let inner = &self.inner;
        let Some(dir) = present.dir.clone() else {
            return Err(RenewError::NoFiles(present.host.clone()));
        };
        let key = next_key(&dir)?;
        let request = signing_request(&key).map_err(RenewError::Nobody)?;
        let certificate = inner.ask_for_certificate(present, &request).await?;
        let secret = PrivatePkcs8KeyDer::from(key.serialize_der());
        let identity = Identity::checked(present.ca.clone(), certificate, secret)
            .map_err(RenewError::Unusable)?;
        let certificate = files::pem("CERTIFICATE", &identity.certificate);
        files::replace(&dir.join(HOST_CERTIFICATE_FILE), &certificate, 0o644)?;
        let path = dir.join(HOST_KEY_FILE);
        files::rename(&dir.join(NEXT_KEY_FILE), &path).map_err(|source| PkiError::File {
            doing: "replace",
            path,
            source,
        })?;
        self.replace_identity(&identity).map_err(|e| RenewError::Unusable(e.to_string()))?;
        Ok(identity.expires)
    }
}

/// The key of an earlier try, or a new one, which is on disk before it is used.
fn next_key(dir: &Path) -> Result<KeyPair, PkiError> {
    const REMEDY: &str = "remove it to make a new one";
    let path = dir.join(NEXT_KEY_FILE);
    if path.exists() {
        let key = files::read_key(&path, REMEDY)?;
        return KeyPair::try_from(&key)
            .map_err(|e| files::content(&path, format!("cannot be used ({e}): {REMEDY}")));
    }
    let key = generate_key()?;
    files::write_new(&path, &key.serialize_pem(), 0o600, REMEDY)?;
    Ok(key)
}

impl Inner {
    /// Serves what a peer asks for, until the connection is gone.
    pub(crate) async fn serve(self: Arc<Self>, host: HostId, link: Connection) {
        while let Ok((send, recv)) = link.accept_bi().await {
            self.may(&host, Deed::Request).await;
            let (inner, host, link) = (self.clone(), host.clone(), link.clone());
            self.runtime.spawn(async move {
                let limit = inner.limits.delivery;
                let remote = host.clone();
                if timeout(limit, inner.answer(host, link, send, recv)).await.is_err() {
                    tracing::debug!(host = %remote, "a request took too long");
                }
            });
        }
    }

    async fn answer(
        self: Arc<Self>,
        host: HostId,
        link: Connection,
        mut send: SendStream,
        mut recv: RecvStream,
    ) {
        let mut what = [0];
        if recv.read_exact(&mut what).await.is_err() {
            return;
        }
        // Whatever is asked on a link, it is asked by who is of this cluster when it is answered.
        let Some(shown) = shown_on(&link).filter(|_| self.name_of(&link).is_ok()) else { return };
        let answer = match what[0] {
            CALL => return self.called(host, send, recv),
            LIST => match recv.read_to_end(LIST_BYTES_MAX).await {
                Ok(theirs) => self.compare(&host, &theirs).await,
                Err(_) => return,
            },
            RENEW => match recv.read_to_end(FRAME_BYTES_MAX).await {
                Ok(request) => encode(&Answer::new(self.sign(host, shown, request).await)),
                Err(_) => return,
            },
            SHOW => match recv.read_to_end(FRAME_BYTES_MAX).await {
                Ok(wanted) => self.show(&wanted),
                Err(_) => return,
            },
            _ => {
                // Something that a later version asks for.
                let _ = recv.stop(code::REFUSED);
                let _ = send.reset(code::REFUSED);
                return;
            }
        };
        // Whether it arrives is for the other to see.
        if send.write_all(&answer).await.is_ok() && send.finish().is_ok() {
            let _ = send.stopped().await;
        }
    }

    async fn sign(
        &self,
        host: HostId,
        shown: CertificateDer<'static>,
        request: Vec<u8>,
    ) -> Result<CertificateDer<'static>, String> {
        let Some(enroller) = self.enroller.clone() else {
            return Err(format!("host `{}` does not hold the authority's key", self.me));
        };
        let (trust, revoked) = (self.credentials().trust, self.revoked.clone());
        let is_good = move || trust.named(&shown).map(drop).map_err(|why| why.to_string());
        tokio::task::spawn_blocking(move || enroller.renew(&host, is_good, &request, &revoked))
            .await
            .map_err(|e| format!("the agent failed: {e}"))?
    }

    /// Takes in a peer's list, and answers ours if it is another one; else one of which there is more
    /// to say.
    async fn compare(self: &Arc<Self>, host: &HostId, theirs: &[u8]) -> Vec<u8> {
        self.hear_list(host, theirs).await;
        let lists = self.revoked.lists();
        lists.all().map(|list| &list.der).find(|ours| *ours != theirs).cloned().unwrap_or_default()
    }

    async fn hear_list(self: &Arc<Self>, host: &HostId, der: &[u8]) {
        if der.is_empty() || der == self.revoked.lists().newest.der {
            return;
        }
        let list = match Revocations::read(der, &self.ca) {
            Ok(list) => list,
            Err(why) => {
                return tracing::warn!(%host, why, "a list of removed hosts is not believed");
            }
        };
        let Some(mut lists) = self.revoked.learn(list) else { return };
        if let Some(enroller) = self.enroller.clone().filter(|_| !lists.is_one()) {
            let revoked = self.revoked.clone();
            match tokio::task::spawn_blocking(move || enroller.unite(&revoked)).await {
                Ok(Ok(Some(united))) => lists = united,
                Ok(Ok(None)) => {}
                Ok(Err(why)) => {
                    tracing::warn!(why, "there are two lists of removed hosts; both are in force");
                }
                // With the whole runtime only.
                Err(_) => return,
            }
        }
        if let Err(error) = self.in_force(lists).await {
            tracing::warn!(%error, "removed hosts stay out until this agent restarts");
        }
    }

    /// These lists are in force, which is news: closes what must not stand any more, passes the newest
    /// on, and writes them down.
    async fn in_force(self: &Arc<Self>, lists: Arc<Lists>) -> Result<(), PkiError> {
        self.close_and_tell(&lists);
        let Some(dir) = self.dir.clone() else { return Ok(()) };
        // Two may come at once: whichever is written last are those that are in force then.
        let _one = self.saving.lock().await;
        let (path, lists) = (dir.clone(), self.revoked.lists());
        let saved = tokio::task::spawn_blocking(move || lists.save(&dir)).await;
        saved.unwrap_or_else(|e| Err(files::content(&path, format!("was not written: {e}"))))
    }

    fn close_and_tell(self: &Arc<Self>, lists: &Lists) {
        let (number, entries) = (lists.newest.number, lists.revoked.len());
        tracing::info!(number, entries, "a new list of removed hosts is in force");
        let events = self.events.clone();
        self.runtime.spawn(async move { events.send(NetEvent::Revoked).await });
        self.streams.recheck();
        for (host, link) in self.peers.links_standing() {
            if let Err(why) = self.name_of(&link) {
                link.close(code::REFUSED, why.to_string().as_bytes());
                tracing::warn!(%host, "connection closed: {why}");
            } else {
                self.runtime.spawn(self.clone().offer_list(host, link));
            }
        }
    }

    /// Compares lists with a peer.
    pub(crate) async fn offer_list(self: Arc<Self>, host: HostId, link: Connection) {
        // Nearly always one.
        for ours in self.revoked.lists().all() {
            let asked = ask(&link, LIST, &ours.der, LIST_BYTES_MAX);
            // A peer of an earlier version takes no requests.
            let Ok(Ok(theirs)) = timeout(self.limits.delivery, asked).await else { return };
            self.hear_list(&host, &theirs).await;
        }
    }

    async fn ask_for_certificate(
        self: &Arc<Self>,
        present: &Identity,
        request: &[u8],
    ) -> Result<CertificateDer<'static>, RenewError> {
        // This host itself may hold the authority's key.
        let own = present.certificate.clone();
        let mut why = match self.sign(self.me.clone(), own, request.to_vec()).await {
            Ok(certificate) => return Ok(certificate),
            Err(why) => why,
        };
        for (host, link) in self.peers.links_standing() {
            let asked = ask(&link, RENEW, request, FRAME_BYTES_MAX);
            let answer = match timeout(self.limits.delivery, asked).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(e)) => {
                    why = format!("host `{host}`: {e}");
                    continue;
                }
                Err(_) => continue,
            };
            match minicbor::decode::<Answer>(&answer) {
                Ok(Answer { certificate: Some(der), .. }) => return Ok(CertificateDer::from(der)),
                Ok(Answer { refusal, .. }) => why = refusal.unwrap_or_default(),
                Err(e) => why = format!("the answer of host `{host}` is malformed: {e}"),
            }
        }
        Err(RenewError::Nobody(why))
    }
}

/// Asks one thing, and takes at most `max` bytes as answer.
pub(crate) async fn ask(
    link: &Connection,
    what: u8,
    request: &[u8],
    max: usize,
) -> Result<Vec<u8>, String> {
    let (mut send, mut recv) = link.open_bi().await.map_err(|e| plain(&e))?;
    send.write_all(&[what]).await.map_err(|e| e.to_string())?;
    send.write_all(request).await.map_err(|e| e.to_string())?;
    send.finish().map_err(|e| e.to_string())?;
    recv.read_to_end(max).await.map_err(|e| e.to_string())
}
