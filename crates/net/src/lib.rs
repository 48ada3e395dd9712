//! Identity, mutual TLS and QUIC between agents: bytes between hosts that have names.
//!
//! # Who is who
//!
//! A cluster has an authority of its own ([`ClusterCa`]), and every host a certificate from it whose
//! one name is the host id ([`Identity`]). A host joins with a [`JoinToken`], which holds a
//! short-lived certificate that can do nothing but ask for that ([`enrol`], [`Enroller`]).
//!
//! # What is answered
//!
//! Every connection is QUIC with TLS 1.3 and certificates on both sides, over one UDP port
//! ([`Net`]). Beyond the handshake nothing is answered without a certificate of this cluster that is
//! valid now: a caller may open no stream until it is known who it is, and what it may open depends
//! on that. An event says `from` whom it is by the certificate, whatever the bytes say.
//!
//! # Messages and datagrams
//!
//! A message is one unidirectional stream, its end the end of the stream. It is delivered when the
//! peer's QUIC has acknowledged it, within [`Limits::delivery`]; otherwise the driver hears that it
//! was not. A datagram is sent or dropped. Connections are made when something is to be sent, used
//! in both directions, and kept until they have been idle for a while.
//!
//! # Requests and calls
//!
//! A bidirectional stream begins with a byte that says what it is for: comparing lists of removed
//! hosts, a new certificate ([`Net::renew`]), or a [`Call`], on which the agents speak as they like.
//!
//! # Byte streams
//!
//! What is large (a machine's memory) goes over TCP with the same TLS and certificates, on the same
//! port number ([`Net::listen_streams`], [`Net::open_stream`]): it costs a third of what QUIC would,
//! and holds up no message. A stream begins with a request of a few bytes and the answer whether it
//! is taken, and is cut when its peer is removed from the cluster.

mod book;
mod ca;
mod calls;
mod doors;
mod enrol;
mod enroller;
mod files;
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod incoming;
mod join;
mod limits;
mod name;
mod net;
mod peers;
mod rates;
mod relay;
mod revocations;
mod services;
mod streams;
mod throttle;
mod tls;
mod token;
mod vouching;

pub use ca::{CA_KEY_FILE, ClusterCa};
pub use calls::{Call, CallStream};
pub use enrol::{EnrolError, SEEDS_FILE, enrol, kept_seeds};
pub use enroller::{Admission, AdmissionRefused, Enroller, IssuedKey, KEY_MEMORY, Registrar};
pub use files::PkiError;
pub use identity::{CA_CERTIFICATE_FILE, HOST_CERTIFICATE_FILE, HOST_KEY_FILE, Identity};
pub use join::{Joined, Pace};
pub use limits::Limits;
pub use name::{ClusterId, NameError, TokenId};
pub use net::{DialError, Net, NetError, NetEvent, Undelivered};
pub use relay::{Cut, Translate};
pub use revocations::REVOCATIONS_FILE;
pub use services::{RemoveError, RenewError};
pub use streams::{Caller, REQUEST_BYTES_MAX, Stream, StreamError};
pub use tls::PeerRefused;
pub use token::{JoinToken, TokenError};
