//! Calls: a stream of bytes to another host and back, for what agents ask of each other by requests
//! of their own making.
//!
//! A call is a bidirectional stream whose first byte says so. What is spoken on it is the business of
//! whoever calls and whoever listens; here it is from whom the certificate says, and one of few.

use std::net::SocketAddr;
use std::sync::PoisonError;

use evenkeel_core::model::HostId;
use quinn::{RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::net::{DialError, Inner, Net, code, plain};
use crate::services::CALL;

/// Calls that may wait for whoever listens. Further ones are refused.
const CALLS_MAX: usize = 16;

/// What is spoken on.
pub type CallStream = tokio::io::Join<RecvStream, SendStream>;

/// Another host calls.
#[derive(Debug)]
pub struct Call {
    /// The host that its certificate names.
    pub from: HostId,
    /// What is spoken on. Ends the call when it is dropped.
    pub stream: CallStream,
}

impl Net {
    /// Listens for calls from now on; whoever listened before hears no more. Calls are refused as
    /// long as nobody listens.
    #[must_use]
    pub fn calls(&self) -> mpsc::Receiver<Call> {
        let (calls, receiver) = mpsc::channel(CALLS_MAX);
        let listener = &self.inner.listener;
        *listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(calls);
        receiver
    }

    /// Calls a host, at `addr` unless there is a connection with it. That it listens is not known
    /// before it has said something.
    ///
    /// # Errors
    /// When it is not reached, or takes no more calls of this host, within
    /// [`Limits::handshake`](crate::Limits::handshake) and
    /// [`Limits::delivery`](crate::Limits::delivery).
    pub async fn call(&self, to: &HostId, addr: SocketAddr) -> Result<CallStream, DialError> {
        let link = self.inner.link_to(to, addr).await?;
        let limit = self.inner.limits.delivery;
        let open = async {
            let (mut send, recv) = link.open_bi().await.map_err(|e| plain(&e))?;
            send.write_all(&[CALL]).await.map_err(|e| e.to_string())?;
            Ok(tokio::io::join(recv, send))
        };
        let opened = timeout(limit, open).await.map_err(|_| DialError::Silent { addr, limit })?;
        opened.map_err(|why| DialError::Unreachable { addr, why })
    }
}

impl Inner {
    /// Hands a call to whoever listens.
    pub(crate) fn called(&self, from: HostId, send: SendStream, recv: RecvStream) {
        let call = Call { from, stream: tokio::io::join(recv, send) };
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let refused = match listener {
            Some(listener) => match listener.try_send(call) {
                Ok(()) => return,
                Err(error) => error.into_inner(),
            },
            None => call,
        };
        let (mut recv, mut send) = refused.stream.into_inner();
        let _ = recv.stop(code::REFUSED);
        let _ = send.reset(code::REFUSED);
    }
}
