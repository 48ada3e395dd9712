//! Callers, and what comes through connections.

use std::sync::Arc;
use std::time::Instant;

use evenkeel_core::model::HostId;
use quinn::{Connection, Incoming, ReadToEndError};
use tokio::time::timeout;

use crate::doors::Inside;
use crate::enrol;
use crate::name::Name;
use crate::net::{Inner, NetEvent, code, plain};
use crate::rates::Deed;
use crate::tls::PeerRefused;

/// Takes callers until the endpoint is closed.
pub(crate) async fn accept(inner: Arc<Inner>) {
    while let Some(incoming) = inner.endpoint.accept().await {
        let remote = incoming.remote_address();
        if inner.endpoint.open_connections() >= inner.limits.connections_max {
            inner.log_refusal(remote, &"too many connections stand already");
            incoming.refuse();
            continue;
        }
        let (addr, limits) = (remote.ip(), &inner.limits);
        // Before it takes any room: whoever is not where it says could take that of others.
        let is_shown = incoming.remote_address_validated() || !incoming.may_retry();
        if !is_shown && inner.doors.must_show_its_address(addr, limits) {
            // It may retry, as just asked.
            let _ = incoming.retry();
            continue;
        }
        match inner.doors.enter(addr, limits, Instant::now()) {
            Ok(inside) => drop(inner.runtime.spawn(greet(inner.clone(), incoming, inside))),
            // It will call again, and by then there may be room.
            Err(_) => incoming.ignore(),
        }
    }
}

/// Lets a caller prove who it is, and treats it accordingly.
async fn greet(inner: Arc<Inner>, incoming: Incoming, inside: Inside) {
    let remote = incoming.remote_address();
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(e) => return inner.log_refusal(remote, &plain(&e)),
    };
    let connection = match timeout(inner.limits.handshake, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(e)) => return inner.log_refusal(remote, &plain(&e)),
        Err(_) => return inner.log_refusal(remote, &"it did not finish its handshake in time"),
    };
    match inner.name_of(&connection) {
        Ok(Name::Host(_, host)) if host == inner.me => {
            let why = PeerRefused::OwnName(host);
            connection.close(code::REFUSED, why.to_string().as_bytes());
            inner.log_refusal(remote, &why);
        }
        Ok(Name::Host(_, host)) => {
            drop(inside);
            inner.adopt(&host, connection);
        }
        Ok(Name::Enrolment(_, token)) => {
            enrol::serve(&inner, &connection, token).await;
        }
        Ok(Name::Authority(_)) => {
            connection.close(code::REFUSED, b"an authority is no host");
            inner.log_refusal(remote, &"it shows the authority's certificate as its own");
        }
        Err(why) => {
            connection.close(code::REFUSED, b"your certificate names nobody here");
            inner.log_refusal(remote, &why);
        }
    }
}

impl Inner {
    /// Waits until a host may do one more of these.
    pub(crate) async fn may(&self, host: &HostId, deed: Deed) {
        // Others of its connections wait for the same.
        while let Err(wait) = self.rates.take(host, deed, &self.limits, Instant::now()) {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Reads messages, one after the other, so that they stay in order and one peer has at most one of
/// them in memory. While the driver is busy they wait with their sender.
pub(crate) async fn read_messages(inner: Arc<Inner>, host: HostId, link: Connection) {
    let (max, limit) = (inner.limits.message_bytes_max, inner.limits.delivery);
    while let Ok(mut stream) = link.accept_uni().await {
        inner.may(&host, Deed::Message).await;
        let refused = match timeout(limit, stream.read_to_end(max)).await {
            Ok(Ok(bytes)) => {
                let event = NetEvent::Message { from: host.clone(), bytes };
                if inner.events.send(event).await.is_err() {
                    break;
                }
                continue;
            }
            Ok(Err(ReadToEndError::TooLong)) => (code::TOO_LARGE, "too long"),
            // The sender changed its mind, or the connection is gone.
            Ok(Err(ReadToEndError::Read(_))) => continue,
            Err(_) => (code::TOO_SLOW, "too slow"),
        };
        // A stream that is finished already needs no stopping.
        let _ = stream.stop(refused.0);
        let why = format!("a message from host `{host}` is {}", refused.1);
        inner.log_refusal(link.remote_address(), &why);
    }
    inner.release(&host);
}

/// Reads datagrams, and drops them while the driver is busy or when there are too many.
pub(crate) async fn read_datagrams(inner: Arc<Inner>, host: HostId, link: Connection) {
    while let Ok(bytes) = link.read_datagram().await {
        if inner.rates.take(&host, Deed::Datagram, &inner.limits, Instant::now()).is_err() {
            continue;
        }
        let event = NetEvent::Datagram { from: host.clone(), bytes };
        if let Err(tokio::sync::mpsc::error::TrySendError::Closed(_)) = inner.events.try_send(event)
        {
            break;
        }
    }
}
