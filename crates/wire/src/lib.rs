//! The wire format: versions, limits, and the one place where a message is decoded.
