//! Durable state of one agent, in one SQLite file that an operator can open.
//!
//! | table | holds | lost without harm |
//! | --- | --- | --- |
//! | `meta` | the store's identity, how often it was opened, and whether the host takes part | no |
//! | `handoff` | every handoff under way, and those ended lately | no |
//! | `mark` | of every machine, to whom it was released and from whom it was claimed last | no |
//! | `life` | every opening of this store, and how many handoffs it has numbered | no |
//! | `decision` | decision records, as many as [`Retention`] says | yes |
//! | `decisions_of` | of every peer, how many and how long those with it are | yes |
//! | `judged` | of every machine the last of those that judged it | yes |
//! | `pause` | what is known of pauses, in one row | yes |
//! | `member` | the other hosts and where they were last reached | no |
//! | `acquaintance` | what other hosts have said of themselves and of each other | no |
//! | `certificate` | of every other host that was met, its newest certificate | no |
//! | `admission` | hosts brought into the cluster, and with which join token | no |
//! | `host_key` | every key that has had a certificate, and whether its host was removed | no |
//!
//! A handoff is written with `synchronous = FULL`, in one transaction with its mark and its number,
//! and is on disk when [`Store::persist`] returns. A store that was lost or restored from a backup
//! misses lives, or numbers of a life, that other hosts know of: by that it is found out.

mod acquaintances;
mod admissions;
mod history;

use std::fs::{File, Permissions, TryLockError};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use evenkeel_core::control::PauseRegister;
use evenkeel_core::decision::Role;
use evenkeel_core::handoff::{Handoff, MarkKind, Recovered};
use evenkeel_core::model::{HostId, HostState, Ticket, Time};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use serde::{Deserialize, Serialize};

pub use crate::admissions::{Admissions, Admitted, Key, RENEWALS_PER_DAY_MAX, Renewed};
pub use crate::history::{History, Page, Retention, Wanted};

/// Most ended handoffs kept, and how many bytes of them; the oldest go first.
const HANDOFFS_ENDED_MAX: u32 = 10_000;
const HANDOFFS_ENDED_BYTES_MAX: u32 = 64 << 20;
/// Most ended handoffs with one peer that are kept.
const HANDOFFS_OF_PEER_MAX: u32 = 2_000;

/// Old records are cleared once in this many writes, or bytes.
const CLEAR_EVERY: u32 = 256;
const CLEAR_EVERY_BYTES: usize = 4 << 20;

/// How long one connection waits for the other.
const BUSY_TIME_MAX: Duration = Duration::from_secs(5);

/// What makes the schema: each entry brings a store from the version of its index to the next.
const SCHEMA: &[&str] = &[
    "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE handoff (
        id TEXT PRIMARY KEY, machine TEXT NOT NULL, peer TEXT NOT NULL, role TEXT NOT NULL,
        phase TEXT NOT NULL, open INTEGER NOT NULL, since_ms INTEGER NOT NULL, record TEXT NOT NULL
    ) STRICT;
    CREATE INDEX handoff_open ON handoff (open, since_ms);
    CREATE TABLE decision (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, exchange TEXT NOT NULL, ended_ms INTEGER NOT NULL,
        peer TEXT, ending TEXT NOT NULL, record TEXT NOT NULL
    ) STRICT;
    CREATE TABLE member (host TEXT PRIMARY KEY, address TEXT NOT NULL) STRICT;
    CREATE TABLE admission (
        token TEXT PRIMARY KEY, host TEXT NOT NULL UNIQUE, key TEXT NOT NULL
    ) STRICT;
    INSERT INTO meta VALUES ('identity', hex(randomblob(16))), ('generation', '0');
    ",
    // A host may have several keys, be removed and come back.
    "
    ALTER TABLE admission RENAME TO admission_1;
    CREATE TABLE admission (
        token TEXT PRIMARY KEY, host TEXT NOT NULL, key TEXT NOT NULL
    ) STRICT;
    CREATE TABLE host_key (
        key TEXT PRIMARY KEY, host TEXT NOT NULL, removed INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    INSERT INTO admission SELECT token, host, key FROM admission_1;
    INSERT INTO host_key SELECT key, host, 0 FROM admission_1;
    DROP TABLE admission_1;
    ",
    // What outlives a handoff, and the numbers by which a lost store is found out.
    "
    CREATE TABLE mark (
        kind TEXT NOT NULL, machine TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (kind, machine)
    ) STRICT;
    CREATE TABLE life (life TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT;
    ",
    // Finding records again, and the last one that judged a machine.
    "
    ALTER TABLE decision ADD COLUMN machine TEXT;
    UPDATE decision SET machine = (
        SELECT value ->> '$.machine' FROM json_each(record, '$.candidates')
        WHERE value ->> '$.verdict' = 'CHOSEN'
    );
    CREATE INDEX decision_ended ON decision (ended_ms);
    CREATE INDEX decision_machine ON decision (machine) WHERE machine IS NOT NULL;
    CREATE TABLE judged (machine TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT;
    ",
    // What other hosts have said of themselves, for rules across a label.
    "
    CREATE TABLE acquaintance (host TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
    ",
    // What an operator has said to the whole cluster.
    "
    CREATE TABLE pause (one INTEGER PRIMARY KEY CHECK (one = 1), record TEXT NOT NULL) STRICT;
    ",
    // The id of a handoff is its source's, and counts only together with the other host.
    "
    ALTER TABLE handoff RENAME TO handoff_6;
    DROP INDEX handoff_open;
    CREATE TABLE handoff (
        id TEXT NOT NULL, machine TEXT NOT NULL, peer TEXT NOT NULL, role TEXT NOT NULL,
        phase TEXT NOT NULL, open INTEGER NOT NULL, since_ms INTEGER NOT NULL, record TEXT NOT NULL,
        PRIMARY KEY (id, peer)
    ) STRICT;
    CREATE INDEX handoff_open ON handoff (open, since_ms);
    INSERT INTO handoff SELECT id, machine, peer, role, phase, open, since_ms, record FROM handoff_6;
    DROP TABLE handoff_6;
    ",
    // Bounds: by when a key was issued, and by how much each peer has caused to be recorded.
    "
    ALTER TABLE host_key ADD COLUMN issued_ms INTEGER NOT NULL DEFAULT 0;
    UPDATE host_key SET issued_ms = CAST(strftime('%s') AS INTEGER) * 1000 WHERE NOT removed;
    CREATE INDEX host_key_host ON host_key (host);
    CREATE TABLE certificate (host TEXT PRIMARY KEY, certificate BLOB NOT NULL) STRICT;
    ALTER TABLE decision ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
    UPDATE decision SET bytes = length(CAST(record AS BLOB));
    CREATE INDEX decision_peer ON decision (ifnull(peer, ''), seq);
    DELETE FROM judged WHERE seq NOT IN (SELECT seq FROM decision);
    CREATE INDEX judged_seq ON judged (seq);
    CREATE TABLE decisions_of (
        peer TEXT PRIMARY KEY, records INTEGER NOT NULL, bytes INTEGER NOT NULL
    ) STRICT;
    INSERT INTO decisions_of
        SELECT ifnull(peer, ''), count(*), sum(bytes) FROM decision GROUP BY ifnull(peer, '');
    CREATE TRIGGER decision_kept AFTER INSERT ON decision BEGIN
        INSERT INTO decisions_of VALUES (ifnull(new.peer, ''), 1, new.bytes)
        ON CONFLICT (peer) DO UPDATE SET records = records + 1, bytes = bytes + excluded.bytes;
    END;
    CREATE TRIGGER decision_cleared AFTER DELETE ON decision BEGIN
        UPDATE decisions_of SET records = records - 1, bytes = bytes - old.bytes
        WHERE peer = ifnull(old.peer, '');
        DELETE FROM decisions_of WHERE peer = ifnull(old.peer, '') AND records = 0;
        DELETE FROM judged WHERE seq = old.seq;
    END;
    ",
];

/// The version that this program writes.
const SCHEMA_VERSION: i64 = SCHEMA.len() as i64;

/// Why the store could not do something. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error(
        "the state directory `{0}` is in use by another agent: one agent runs on a host, stop the \
         other one first"
    )]
    InUse(PathBuf),
    /// The directory, its lock or the file in it cannot be made or written.
    #[error(
        "cannot write to the state directory `{path}`: {source}; the store and the machines of this \
         host are as they were, and handoffs under way wait: have it mounted read-write, with room, \
         and writable for the agent's user, and start the agent again"
    )]
    Unwritable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It was written by a later version.
    #[error(
        "the store `{path}` has format {version}, and this agent knows up to {SCHEMA_VERSION}: \
         run the newer agent, or move the file away to begin anew"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: i64,
    },
    /// The database refused.
    #[error("cannot {action} in `{path}`: {source}; nothing was written")]
    Database {
        /// The file.
        path: PathBuf,
        /// What was to be done.
        action: &'static str,
        /// Why not.
        source: rusqlite::Error,
    },
    /// A record in it cannot be read.
    #[error(
        "cannot read {what} in `{path}`: {detail}; it was written by another version or damaged: run \
         the agent that wrote it, or move the file away to begin anew, which forgets the history"
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// Which record.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
}

/// Whether a host takes part, as an operator has said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// It takes part, or not.
    pub state: HostState,
    /// If only until the host boots again: which boot that was said in.
    pub boot: Option<String>,
}

/// The store of one agent.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    connection: Connection,
    writes: u32,
    /// Written since old records were cleared last.
    bytes: usize,
    retention: Retention,
    life: u64,
    /// Held as long as the store is open: a second agent on this host finds it locked.
    _lock: File,
}

/// Makes the database, or takes others' rights to it away: it holds what operators may see. SQLite gives
/// the files beside it the same mode.
fn keep_private(path: &Path) -> std::io::Result<()> {
    let file = File::options().create(true).append(true).mode(0o600).open(path)?;
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 == 0 { Ok(()) } else { file.set_permissions(Permissions::from_mode(0o600)) }
}

impl Store {
    /// Opens the store in `directory`, making both if they are missing.
    ///
    /// # Errors
    /// When another process has it open, or the directory or file cannot be used.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let failed = |source: std::io::Error| unwritable(directory, source);
        std::fs::create_dir_all(directory).map_err(failed)?;
        let lock = File::create(directory.join("agent.lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(directory.to_owned())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let path = directory.join("state.sqlite");
        keep_private(&path).map_err(failed)?;
        let error = |action, source: rusqlite::Error| match source.sqlite_error_code() {
            // SQLite opens a file to read that it may not write, and fails at the first write.
            Some(
                ErrorCode::CannotOpen
                | ErrorCode::DiskFull
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::SystemIoFailure,
            ) => unwritable(directory, source),
            _ => StoreError::Database { path: path.clone(), action, source },
        };
        let connection = Connection::open(&path).map_err(|e| error("open the store", e))?;
        let version = prepare(&connection).map_err(|e| error("prepare the store", e))?;
        if version > SCHEMA_VERSION {
            return Err(StoreError::Newer { path, version });
        }
        let life = begin_life(&connection).map_err(|e| error("write to the store", e))?;
        let retention = Retention::default();
        Ok(Self { path, connection, writes: 0, bytes: 0, retention, life, _lock: lock })
    }

    /// The store's identity: drawn when it was made, the same as long as it is not lost.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn identity(&self) -> Result<String, StoreError> {
        let select = "SELECT value FROM meta WHERE key = 'identity'";
        self.connection
            .query_row(select, [], |row| row.get(0))
            .map_err(|e| self.error("read the store's identity", e))
    }

    /// Whether the host takes part, if an operator has said so.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn standing(&self) -> Result<Option<Standing>, StoreError> {
        let select = "SELECT value FROM meta WHERE key = 'standing'";
        let told = self.connection.query_row(select, [], |row| row.get::<_, String>(0)).optional();
        let told = told.map_err(|e| self.error("read whether the host takes part", e))?;
        told.map(|text| self.json("whether the host takes part", serde_json::from_str(&text)))
            .transpose()
    }

    /// Keeps whether the host takes part: when this returns, it is on disk.
    ///
    /// # Errors
    /// When it could not be written; what was said before then stands.
    pub fn keep_standing(&mut self, standing: &Standing) -> Result<(), StoreError> {
        let record = self.json("whether the host takes part", serde_json::to_string(standing))?;
        let insert = "INSERT OR REPLACE INTO meta VALUES ('standing', ?1)";
        self.connection
            .execute(insert, params![record])
            .map_err(|e| self.error("write whether the host takes part", e))?;
        Ok(())
    }

    /// Makes a handoff durable: when this returns, it is on disk.
    ///
    /// # Errors
    /// When it could not be written; the store then holds what it held before.
    pub fn persist(&mut self, handoff: &Handoff) -> Result<(), StoreError> {
        let open = !handoff.phase.has_ended();
        let record = self.json("a handoff", serde_json::to_string(handoff))?;
        let bytes = record.len();
        let insert = "INSERT OR REPLACE INTO handoff VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let role = match handoff.role {
            Role::Source => "donor",
            Role::Target => "receiver",
        };
        let row = params![
            handoff.id.to_string(),
            handoff.machine.as_str(),
            handoff.peer.as_str(),
            role,
            format!("{:?}", handoff.phase).to_lowercase(),
            open,
            signed(handoff.since),
            record,
        ];
        let mark = handoff.mark().map(|mark| (mark_kind(mark.kind), serde_json::to_string(&mark)));
        let mark = match mark {
            Some((kind, record)) => Some((kind, self.json("a mark", record)?)),
            None => None,
        };
        let ticket = handoff.ticket.filter(|_| handoff.role == Role::Source);
        let write = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            transaction.execute(insert, row)?;
            if let Some((kind, record)) = mark {
                let mark = "INSERT OR REPLACE INTO mark VALUES (?1, ?2, ?3)";
                transaction.execute(mark, params![kind, handoff.machine.as_str(), record])?;
            }
            if let Some(Ticket { life, number }) = ticket {
                let count = "UPDATE life SET number = max(number, ?2) WHERE life = ?1";
                let number = i64::try_from(number).unwrap_or(i64::MAX);
                transaction.execute(count, params![format!("{life:016x}"), number])?;
            }
            transaction.commit()
        };
        write(&mut self.connection).map_err(|e| self.error("write a handoff", e))?;
        self.clear_now_and_then(bytes);
        Ok(())
    }

    /// What an agent goes on with: the handoffs that were under way when it ended last, what is known
    /// of machines for good, and the life of this store that began when it was opened. `boot` tells
    /// one boot of the host from another.
    ///
    /// # Errors
    /// When the database cannot be read or a record is damaged.
    pub fn recovered(&self, boot: String) -> Result<Recovered, StoreError> {
        let open = "SELECT record FROM handoff WHERE open = 1 ORDER BY since_ms";
        Ok(Recovered {
            handoffs: self.records("a handoff", open, [])?,
            marks: self.records("a mark", "SELECT record FROM mark", [])?,
            lives: self.lives()?,
            life: self.life,
            boot,
            pause: self.records("a pause", "SELECT record FROM pause", [])?.pop(),
            acquaintances: self.acquaintances()?,
        })
    }

    fn lives(&self) -> Result<Vec<Ticket>, StoreError> {
        let failed = |e| self.error("read the lives of the store", e);
        let mut statement =
            self.connection.prepare("SELECT life, number FROM life").map_err(failed)?;
        let rows = statement
            .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))
            .map_err(failed)?;
        let mut lives = Vec::new();
        for row in rows {
            let (life, number) = row.map_err(failed)?;
            if let (Ok(life), Ok(number)) = (u64::from_str_radix(&life, 16), number.try_into()) {
                lives.push(Ticket { life, number });
            }
        }
        Ok(lives)
    }

    /// Keeps what is known of pauses, in place of what was kept before.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn keep(&mut self, register: &PauseRegister) -> Result<(), StoreError> {
        let record = self.json("a pause", serde_json::to_string(register))?;
        let insert = "INSERT OR REPLACE INTO pause VALUES (1, ?1)";
        self.connection.execute(insert, [record]).map_err(|e| self.error("write a pause", e))?;
        Ok(())
    }

    /// Remembers where another host was reached.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn remember(&mut self, host: &HostId, address: SocketAddr) -> Result<(), StoreError> {
        let insert = "INSERT OR REPLACE INTO member VALUES (?1, ?2)";
        let row = params![host.as_str(), address.to_string()];
        self.connection.execute(insert, row).map_err(|e| self.error("write a member", e))?;
        Ok(())
    }

    /// Where other hosts were last reached.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn members(&self) -> Result<Vec<(HostId, SocketAddr)>, StoreError> {
        let failed = |e| self.error("read the members", e);
        let mut statement =
            self.connection.prepare("SELECT host, address FROM member").map_err(failed)?;
        let rows = statement
            .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
            .map_err(failed)?;
        let mut members = Vec::new();
        for row in rows {
            let (host, address) = row.map_err(failed)?;
            if let (Ok(host), Ok(address)) = (HostId::new(&host), address.parse()) {
                members.push((host, address));
            }
        }
        Ok(members)
    }

    /// Keeps the certificate of another host.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn keep_certificate(&mut self, host: &HostId, der: &[u8]) -> Result<(), StoreError> {
        let insert = "INSERT OR REPLACE INTO certificate VALUES (?1, ?2)";
        let row = params![host.as_str(), der];
        self.connection.execute(insert, row).map_err(|e| self.error("write a certificate", e))?;
        Ok(())
    }

    /// The certificates of other hosts that were kept.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn certificates(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let failed = |e| self.error("read the certificates", e);
        let select = "SELECT certificate FROM certificate";
        let mut statement = self.connection.prepare(select).map_err(failed)?;
        let rows = statement.query_map([], |row| row.get(0)).map_err(failed)?;
        rows.map(|row| row.map_err(failed)).collect()
    }

    /// Forgets whatever is known of a host but for what was decided with it: where it was reached, what
    /// it has said of itself, and its certificate.
    ///
    /// # Errors
    /// When it could not be written; the store then holds what it held before.
    pub fn forget(&mut self, host: &HostId) -> Result<(), StoreError> {
        let forget = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            for table in ["member", "acquaintance", "certificate"] {
                let delete = format!("DELETE FROM {table} WHERE host = ?1");
                transaction.execute(&delete, [host.as_str()])?;
            }
            transaction.commit()
        };
        forget(&mut self.connection).map_err(|e| self.error("forget a host", e))
    }

    /// Forgets what is known of pauses.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn forget_pause(&mut self) -> Result<(), StoreError> {
        let delete = "DELETE FROM pause";
        self.connection.execute(delete, []).map_err(|e| self.error("forget a pause", e))?;
        Ok(())
    }

    /// The decision records, for use on another thread.
    ///
    /// # Errors
    /// When the database cannot be opened once more.
    pub fn history(&self) -> Result<History, StoreError> {
        History::open(&self.path).map_err(|e| self.error("open the store once more", e))
    }

    /// The memory of who was brought into the cluster, for use on another thread.
    ///
    /// # Errors
    /// When the database cannot be opened once more.
    pub fn admissions(&self) -> Result<Admissions, StoreError> {
        let failed = |e| self.error("open the store once more", e);
        let connection = Connection::open(&self.path).map_err(failed)?;
        connection.busy_timeout(BUSY_TIME_MAX).map_err(failed)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        Ok(Admissions { path: self.path.clone(), connection: Mutex::new(connection) })
    }

    fn records<T: serde::de::DeserializeOwned>(
        &self,
        what: &str,
        select: &str,
        params: impl rusqlite::Params,
    ) -> Result<Vec<T>, StoreError> {
        let failed = |e| self.error("read records", e);
        let mut statement = self.connection.prepare(select).map_err(failed)?;
        let rows = statement.query_map(params, |row| row.get::<_, String>(0)).map_err(failed)?;
        let parse = |row: Result<String, rusqlite::Error>| {
            self.json(what, serde_json::from_str(&row.map_err(failed)?))
        };
        rows.map(parse).collect()
    }

    fn json<T>(&self, what: &str, result: Result<T, serde_json::Error>) -> Result<T, StoreError> {
        result.map_err(|e| StoreError::Record {
            path: self.path.clone(),
            what: what.to_owned(),
            detail: e.to_string(),
        })
    }

    fn error(&self, action: &'static str, source: rusqlite::Error) -> StoreError {
        StoreError::Database { path: self.path.clone(), action, source }
    }

    /// Clears old records. Failing to does no harm: the next write tries again.
    fn clear_now_and_then(&mut self, bytes: usize) {
        self.writes = self.writes.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.writes < CLEAR_EVERY && self.bytes < CLEAR_EVERY_BYTES {
            return;
        }
        (self.writes, self.bytes) = (0, 0);
        let _ = self.clear_decisions();
        let ended = "DELETE FROM handoff WHERE open = 0 AND rowid IN (SELECT row FROM (SELECT \
                     rowid AS row, row_number() OVER newest AS number, \
                     sum(length(CAST(record AS BLOB))) OVER newest AS bytes, \
                     row_number() OVER (PARTITION BY peer ORDER BY since_ms DESC, rowid DESC) \
                     AS of_peer \
                     FROM handoff WHERE open = 0 \
                     WINDOW newest AS (ORDER BY since_ms DESC, rowid DESC)) \
                     WHERE number > ?1 OR bytes > ?2 OR of_peer > ?3)";
        let most = [HANDOFFS_ENDED_MAX, HANDOFFS_ENDED_BYTES_MAX, HANDOFFS_OF_PEER_MAX];
        let _ = self.connection.execute(ended, most);
    }
}

fn unwritable(
    directory: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Unwritable { path: directory.to_owned(), source: source.into() }
}

/// Makes the schema, or brings it up to date. Returns its version.
fn prepare(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.busy_timeout(BUSY_TIME_MAX)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // One agent needs no megabytes of cache.
    connection.pragma_update(None, "cache_size", -512)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let missing = usize::try_from(version).ok().and_then(|version| SCHEMA.get(version..));
    for (index, step) in missing.unwrap_or_default().iter().enumerate() {
        let next = version + 1 + index as i64;
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {step} PRAGMA user_version = {next}; COMMIT;"
        ))?;
    }
    let count = "UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation'";
    connection.execute(count, [])?;
    Ok(version.max(SCHEMA_VERSION))
}

/// Draws the life of the store that begins now.
fn begin_life(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let draw = "INSERT INTO life VALUES (lower(hex(randomblob(8))), 0) RETURNING life";
    let life: String = connection.query_row(draw, [], |row| row.get(0))?;
    // Sixteen hexadecimal digits, as drawn above.
    Ok(u64::from_str_radix(&life, 16).unwrap_or_default())
}

const fn mark_kind(kind: MarkKind) -> &'static str {
    match kind {
        MarkKind::Released => "released",
        MarkKind::Claimed => "claimed",
    }
}

/// SQLite has signed integers only; times this side of the year 292,000,000 fit.
fn signed(time: Time) -> i64 {
    i64::try_from(time.unix_ms()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
