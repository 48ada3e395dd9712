//! Limits on everything that a peer can make grow, and on every wait.

use std::sync::Arc;
use std::time::Duration;

use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

/// What QUIC holds of datagrams per connection and direction.
pub(crate) const DATAGRAM_BUFFER_BYTES: usize = 64 << 10;

/// What is allowed, and how long. The same on every host of a cluster, or nearly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest message in bytes, sent or taken.
    pub message_bytes_max: usize,
    /// Messages to one peer that may be on their way, unacknowledged or waiting.
    pub messages_to_peer_max: usize,
    /// Messages from one peer that may be on their way; they are read one after the other.
    pub messages_from_peer_max: u32,
    /// Messages a second that are taken from one peer on average, whichever of its connections they
    /// come by; a burst of as many is taken at once. Whoever sends more waits.
    pub messages_from_peer_per_s_max: u32,
    /// Datagrams a second that are taken from one peer, likewise; more are dropped.
    pub datagrams_from_peer_per_s_max: u32,
    /// Requests and calls a second that are taken from one peer, likewise; more wait.
    pub requests_from_peer_per_s_max: u32,
    /// Datagrams to one peer that wait for a connection; the oldest is dropped for a newer one.
    pub datagrams_waiting_max: usize,
    /// Events that wait for the driver. Messages then wait with their sender; datagrams are
    /// dropped.
    pub events_max: usize,
    /// Connections with one peer. Two are usual when both called at once; the oldest is closed for
    /// a newer one.
    pub connections_per_peer_max: usize,
    /// Connections in all. Callers above it are refused.
    pub connections_max: usize,
    /// Callers that are proving who they are, by QUIC and by TCP each, and from addresses at which a
    /// member was seen and from others each. Above half of it (a quarter at members' addresses), a
    /// caller by QUIC must first show that it is at the address that it calls from; above all of it,
    /// callers are ignored.
    pub handshakes_max: usize,
    /// Of these, from one address; of IPv6, from one network of 64 bits.
    pub handshakes_from_address_max: usize,
    /// Callers a second from one address that are let in at all, on average; a burst of as many.
    pub handshakes_from_address_per_s_max: u32,
    /// Byte streams that one peer may have open here.
    pub streams_from_peer_max: usize,
    /// How long a handshake, or a request to enrol, may take.
    pub handshake: Duration,
    /// How long a message may take, a connection included, until the peer has acknowledged it.
    pub delivery: Duration,
    /// How long a connection without traffic is kept.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 1 << 20,
            messages_to_peer_max: 64,
            messages_from_peer_max: 16,
            messages_from_peer_per_s_max: 500,
            datagrams_from_peer_per_s_max: 500,
            requests_from_peer_per_s_max: 50,
            datagrams_waiting_max: 8,
            events_max: 256,
            connections_per_peer_max: 4,
            connections_max: 1024,
            handshakes_max: 64,
            handshakes_from_address_max: 16,
            handshakes_from_address_per_s_max: 64,
            streams_from_peer_max: 32,
            handshake: Duration::from_secs(3),
            delivery: Duration::from_secs(5),
            idle: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// How a connection behaves. A caller may open nothing until it is known who it is.
    pub(crate) fn transport(&self) -> Arc<TransportConfig> {
        const STREAM_WINDOW: u32 = 256 << 10;
        const SEND_WINDOW: u32 = 1 << 20;
        // Every stream has room for itself: the first, which is read first, never waits for others.
        let window = STREAM_WINDOW.saturating_mul(self.messages_from_peer_max.max(1));
        let idle = u32::try_from(self.idle.as_millis()).unwrap_or(u32::MAX);
        // Searched when a connection begins; on a local network it does not change afterwards.
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.interval(Duration::from_secs(3600));
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
            .receive_window(VarInt::from_u32(window.min(1 << 30)))
            .send_window(u64::from(SEND_WINDOW))
            // The earlier message first, not a bit of each.
            .send_fairness(false)
            .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES))
            .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES)
            // A lost first packet is sent again after thrice this; agents are not an ocean apart.
            .initial_rtt(Duration::from_millis(100))
            .mtu_discovery_config(Some(mtu));
        Arc::new(transport)
    }
}
