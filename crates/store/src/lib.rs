//! Durable state in SQLite: handoff journal and decision records.
