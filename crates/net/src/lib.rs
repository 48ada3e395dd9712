//! Identity, mutual TLS and QUIC between agents.
