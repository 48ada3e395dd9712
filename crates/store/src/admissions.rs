//! Who belongs to the cluster, on the host that holds its authority.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// A key that has had a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Whose it is.
    pub host: HostId,
    /// The key, as it was recorded.
    pub key: String,
    /// When it was recorded, unless that was by an earlier version.
    pub issued: Option<SystemTime>,
    /// Whether its host was removed since.
    pub removed: bool,
}

/// What became of a wish for another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// It is recorded, now or before.
    Yes,
    /// The host has had [`RENEWALS_PER_DAY_MAX`] within a day.
    TooOften,
    /// The host was removed.
    Removed,
}

/// Most keys that a host is given within a day. One in some years is usual.
pub const RENEWALS_PER_DAY_MAX: u32 = 8;

const DAY_MS: i64 = 86_400_000;
/// How long a key is remembered: longer than its certificate is good.
const KEY_MEMORY_MS: i64 = 10 * 365 * DAY_MS + DAY_MS;

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
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
            let insert = "INSERT INTO host_key VALUES (?1, ?2, 0, ?3)";
            change.execute(insert, params![key, host.as_str(), now_ms()])?;
            Ok(Admitted::Yes)
        })
    }

    /// Records another key of a host; it is on disk when this returns.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn renew(&self, host: &HostId, key: &str) -> Result<Renewed, StoreError> {
        self.change("record a host's new key", |change| {
            let (now, name) = (now_ms(), host.as_str());
            // One that stands for the host stays whatever a clock says.
            let forget = "DELETE FROM host_key WHERE issued_ms BETWEEN 1 AND ?1 AND (removed OR EXISTS \
                          (SELECT 1 FROM host_key AS newer WHERE newer.host = host_key.host \
                          AND NOT newer.removed AND newer.issued_ms > host_key.issued_ms))";
            change.execute(forget, [now - KEY_MEMORY_MS])?;
            let known = "SELECT 1 FROM host_key WHERE key = ?1 AND host = ?2 AND NOT removed";
            if change.prepare(known)?.exists([key, name])? {
                return Ok(Renewed::Yes);
            }
            let count = "SELECT ifnull(sum(removed), 0), ifnull(sum(NOT removed), 0), \
                         ifnull(sum(issued_ms BETWEEN ?2 AND ?3), 0) FROM host_key WHERE host = ?1";
            let (removed, present, lately): (u32, u32, u32) =
                change.query_row(count, params![name, now - DAY_MS, now], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?;
            if removed > 0 && present == 0 {
                return Ok(Renewed::Removed);
            }
            if lately >= RENEWALS_PER_DAY_MAX {
                return Ok(Renewed::TooOften);
            }
            let insert = "INSERT OR IGNORE INTO host_key VALUES (?1, ?2, 0, ?3)";
            change.execute(insert, params![key, name, now])?;
            Ok(Renewed::Yes)
        })
    }

    /// The keys of a host, and of every host that was ever removed, also those that it has now;
    /// `None` if there was never such a host.
    ///
    /// # Errors
    /// When they could not be read.
    pub fn keys(&self, host: &HostId) -> Result<Option<Vec<Key>>, StoreError> {
        self.change("read the keys of hosts", |change| {
            let known = "SELECT 1 FROM host_key WHERE host = ?1";
            if !change.prepare(known)?.exists([host.as_str()])? {
                return Ok(None);
            }
            let select = "SELECT host, key, issued_ms, removed FROM host_key WHERE host = ?1 OR host \
                          IN (SELECT host FROM host_key WHERE removed) ORDER BY host, key";
            let mut statement = change.prepare(select)?;
            let keys = statement.query_map([host.as_str()], |row| {
                let issued_ms: i64 = row.get(2)?;
                let issued = u64::try_from(issued_ms).ok().filter(|ms| *ms > 0);
                let issued = issued.map(|ms| UNIX_EPOCH + Duration::from_millis(ms));
                let name: String = row.get(0)?;
                Ok((name, Key { host: host.clone(), key: row.get(1)?, issued, removed: row.get(3)? }))
            })?;
            let named = keys.filter_map(|row| match row {
                Ok((name, key)) => HostId::new(&name).ok().map(|host| Ok(Key { host, ..key })),
                Err(error) => Some(Err(error)),
            });
            named.collect::<Result<_, _>>().map(Some)
        })
    }

    /// Removes a host, whose name may then be taken by another; it is on disk when this returns.
    /// Answers whether there was ever such a host.
    ///
    /// # Errors
    /// When it could not be written; the host is not removed then.
    pub fn remove(&self, host: &HostId) -> Result<bool, StoreError> {
        self.change("remove a host", |change| {
            let update = "UPDATE host_key SET removed = 1 WHERE host = ?1";
            Ok(change.execute(update, [host.as_str()])? > 0)
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
