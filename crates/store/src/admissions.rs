//! Who belongs to the cluster, on the host that holds its authority.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use evenkeel_core::model::HostId;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use crate::StoreError;

/// Who was brought into the cluster, and with which join token. It has a connection of its own to
/// the store that it came from, and must not outlive it.
#[derive(Debug)]
pub struct Admissions {
    pub(crate) path: PathBuf,
    pub(crate) connection: Mutex<Connection>,
}

/// What became of a wish to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It is recorded, now or as the very same wish before.
    Yes,
    /// The token has brought in another host, or the same with another key.
    TokenUsed,
    /// The host's name is taken.
    HostTaken,
}

impl Admissions {
    /// Records that `token` brings in `host` with `key`; it is on disk when this returns.
    ///
    /// # Errors
    /// When it could not be written; nothing is admitted then.
    pub fn admit(&self, token: &str, host: &HostId, key: &str) -> Result<Admitted, StoreError> {
        self.change("record a new host", |change| {
            let row = params![token, host.as_str(), key];
            let select = "SELECT host = ?2 AND key = ?3 FROM admission WHERE token = ?1";
            match change.query_row(select, row, |row| row.get(0)).optional()? {
                Some(true) => return Ok(Admitted::Yes),
                Some(false) => return Ok(Admitted::TokenUsed),
                None => {}
            }
            let taken = "SELECT 1 FROM host_key WHERE host = ?1 AND NOT removed";
            if change.prepare(taken)?.exists([host.as_str()])? {
                return Ok(Admitted::HostTaken);
            }
            change.execute("INSERT INTO admission VALUES (?1, ?2, ?3)", row)?;
            change.execute("INSERT INTO host_key VALUES (?1, ?2, 0)", [key, host.as_str()])?;
            Ok(Admitted::Yes)
        })
    }

    /// Records another key of a host; it is on disk when this returns.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn renew(&self, host: &HostId, key: &str) -> Result<(), StoreError> {
        self.change("record a host's new key", |change| {
            let insert = "INSERT OR IGNORE INTO host_key VALUES (?1, ?2, 0)";
            change.execute(insert, [key, host.as_str()]).map(|_| ())
        })
    }

    /// Removes a host, whose name may then be taken by another; it is on disk when this returns.
    /// Answers the keys of all hosts that were ever removed; `None` if there was never such a host.
    ///
    /// # Errors
    /// When it could not be written; the host is not removed then.
    pub fn remove(&self, host: &HostId) -> Result<Option<Vec<String>>, StoreError> {
        self.change("remove a host", |change| {
            let update = "UPDATE host_key SET removed = 1 WHERE host = ?1";
            if change.execute(update, [host.as_str()])? == 0 {
                return Ok(None);
            }
            let mut removed = change.prepare("SELECT key FROM host_key WHERE removed")?;
            let keys = removed.query_map([], |row| row.get(0))?;
            keys.collect::<Result<_, _>>().map(Some)
        })
    }

    /// Carries out all of a change or nothing.
    fn change<T>(
        &self,
        action: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let all = || {
            // At once for writing: the agent's other connection writes, too.
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = change(&transaction)?;
            transaction.commit().map(|()| result)
        };
        all().map_err(|source| StoreError::Database { path: self.path.clone(), action, source })
    }
}
