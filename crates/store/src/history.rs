//! Decision records: kept for so many days, rows and bytes, and found again.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use evenkeel_core::decision::{Decision, Reason};
use evenkeel_core::model::{ExchangeId, HostId, MachineId, Time};
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params, params_from_iter};

use super::{Store, StoreError, signed};

/// How many decision records are kept: the oldest go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// For so many days, counted back from the newest record; at least 1.
    pub days: u32,
    /// At most so many; at least 1.
    pub records: u32,
    /// At most so many bytes of them, as they are kept.
    pub bytes: u64,
}

/// So many records are cleared at once because they are too old: of a clock that was wrong for a while
/// the history does not fall victim.
const OLD_CLEARED_MAX: u32 = 2 * super::CLEAR_EVERY;
/// A page of the history holds no more bytes than this and one record.
const PAGE_BYTES_MAX: usize = 4 << 20;

impl Default for Retention {
    fn default() -> Self {
        Self { days: 30, records: 100_000, bytes: 256 << 20 }
    }
}

/// Which decision records are wanted, newest first. All of them by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// At most so many.
    pub limit: u32,
    /// Only those that ended then or later.
    pub since: Option<Time>,
    /// Only those in which a machine was chosen, whatever became of it.
    pub moves: bool,
    /// Only those that judged this machine; with [`Self::moves`] those that chose it.
    pub machine: Option<MachineId>,
    /// Only those of this exchange.
    pub exchange: Option<ExchangeId>,
    /// Only those that were kept before the record that [`Page::next`] of an earlier page names.
    pub before: Option<u64>,
}

/// A part of the history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Newest first.
    pub decisions: Vec<Decision>,
    /// If there may be more that are wanted: [`Wanted::before`] of the next page.
    pub next: Option<u64>,
}

impl Wanted {
    /// The newest ones, at most `limit`.
    #[must_use]
    pub fn newest(limit: u32) -> Self {
        Self { limit, ..Self::default() }
    }

    fn select(&self) -> (String, Vec<Value>) {
        let (mut conditions, mut values) = (vec!["1"], Vec::new());
        let mut where_ = |condition: &'static str, value: Option<Value>| {
            conditions.push(condition);
            values.extend(value);
        };
        if let Some(since) = self.since {
            where_("ended_ms >= ?", Some(signed(since).into()));
        }
        match (&self.machine, self.moves) {
            (Some(id), true) => where_("machine = ?", Some(id.as_str().to_owned().into())),
            (Some(id), false) => {
                // As JSON writes it, so that no other machine's name is taken for its id.
                let told = format!("\"machine\":\"{id}\"");
                where_("instr(record, ?)", Some(told.into()));
            }
            (None, true) => where_("machine IS NOT NULL", None),
            (None, false) => {}
        }
        if let Some(exchange) = self.exchange {
            where_("exchange = ?", Some(exchange.to_string().into()));
        }
        if let Some(before) = self.before {
            where_("seq < ?", Some(i64::try_from(before).unwrap_or(i64::MAX).into()));
        }
        values.push(i64::from(self.limit).into());
        let conditions = conditions.join(" AND ");
        let select = format!(
            "SELECT seq, record FROM decision WHERE {conditions} ORDER BY seq DESC LIMIT ?"
        );
        (select, values)
    }
}

/// The decision records, read by another connection than they are written by.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl History {
    pub(crate) fn open(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(super::BUSY_TIME_MAX)?;
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection) })
    }

    /// The decision records that are wanted, newest first, or the first of them. Blocks while others
    /// read.
    ///
    /// # Errors
    /// When the database cannot be read or a record is damaged.
    pub fn page(&self, wanted: &Wanted) -> Result<Page, StoreError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |source| {
            let path = self.path.clone();
            StoreError::Database { path, action: "read records", source }
        };
        let (select, values) = wanted.select();
        let mut statement = connection.prepare(&select).map_err(failed)?;
        let mut rows = statement.query(params_from_iter(values)).map_err(failed)?;
        let (mut page, mut bytes) = (Page::default(), 0);
        while let Some(row) = rows.next().map_err(failed)? {
            let seq: i64 = row.get(0).map_err(failed)?;
            let record = row.get_ref(1).and_then(|value| Ok(value.as_str()?)).map_err(failed)?;
            let decision = serde_json::from_str(record).map_err(|e| StoreError::Record {
                path: self.path.clone(),
                what: "a decision".to_owned(),
                detail: e.to_string(),
            })?;
            page.decisions.push(decision);
            bytes += record.len();
            if bytes >= PAGE_BYTES_MAX {
                page.next = u64::try_from(seq).ok();
                break;
            }
        }
        Ok(page)
    }
}

impl Store {
    /// Keeps so many decision records from now on.
    pub const fn retain(&mut self, retention: Retention) {
        self.retention = retention;
    }

    /// Keeps a decision record.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn record(&mut self, decision: &Decision) -> Result<(), StoreError> {
        let record = self.json("a decision", serde_json::to_string(decision))?;
        let insert = "INSERT INTO decision (exchange, ended_ms, peer, ending, record, machine, bytes) \
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let bytes = record.len();
        let row = params![
            decision.exchange.to_string(),
            signed(decision.ended),
            decision.peer.as_ref().map(HostId::as_str),
            decision.ending.code(),
            record,
            decision.chosen().map(|chosen| chosen.machine.as_str()),
            i64::try_from(bytes).unwrap_or(i64::MAX),
        ];
        let judged = decision.candidates.iter().filter(|c| c.verdict != Reason::Returned);
        let write = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            transaction.execute(insert, row)?;
            let seq = transaction.last_insert_rowid();
            let mut last =
                transaction.prepare_cached("INSERT OR REPLACE INTO judged VALUES (?1, ?2)")?;
            for machine in judged {
                last.execute(params![machine.machine.as_str(), seq])?;
            }
            drop(last);
            transaction.commit()
        };
        write(&mut self.connection).map_err(|e| self.error("write a decision", e))?;
        self.clear_now_and_then(bytes);
        Ok(())
    }

    /// The decision records that are wanted, newest first.
    ///
    /// # Errors
    /// When the database cannot be read or a record is damaged.
    pub fn decisions(&self, wanted: &Wanted) -> Result<Vec<Decision>, StoreError> {
        let (select, values) = wanted.select();
        let select = format!("SELECT record FROM ({select})");
        self.records("a decision", &select, params_from_iter(values))
    }

    /// The last decision record that judged a machine, if it is kept still.
    ///
    /// # Errors
    /// When the database cannot be read or the record is damaged.
    pub fn last_judgement(&self, machine: &MachineId) -> Result<Option<Decision>, StoreError> {
        let select =
            "SELECT record FROM decision JOIN judged USING (seq) WHERE judged.machine = ?1";
        Ok(self.records("a decision", select, [machine.as_str()])?.pop())
    }

    /// Clears decision records that are too old, too many or too long. Of those that are too many, the
    /// oldest go that are with the peer which has caused the most: whoever fills the history pushes
    /// nobody else's records out of it.
    pub(crate) fn clear_decisions(&mut self) -> rusqlite::Result<()> {
        let Retention { days, records, bytes } = self.retention;
        let transaction = self.connection.transaction()?;
        // A record from the future is not what others are old by.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let old = "DELETE FROM decision WHERE seq IN (SELECT seq FROM decision WHERE ended_ms < \
                   min((SELECT max(ended_ms) FROM decision), ?1) - ?2 ORDER BY seq LIMIT ?3)";
        let span = i64::from(days.max(1)) * 86_400_000;
        transaction.execute(old, params![now, span, OLD_CLEARED_MAX])?;
        let (records, bytes) =
            (i64::from(records.max(1)), i64::try_from(bytes).unwrap_or(i64::MAX));
        loop {
            let total = "SELECT ifnull(sum(records), 0), ifnull(sum(bytes), 0) FROM decisions_of";
            let (kept, long): (i64, i64) =
                transaction.query_row(total, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let (by, count) = match (kept - records, long - bytes) {
                (over @ 1.., _) => ("records", over.min(64)),
                (_, 1..) if kept > 1 => ("bytes", 1),
                _ => return transaction.commit(),
            };
            let most = format!(
                "DELETE FROM decision WHERE seq IN (SELECT seq FROM decision WHERE ifnull(peer, '') = \
                 (SELECT peer FROM decisions_of ORDER BY {by} DESC LIMIT 1) ORDER BY seq LIMIT ?1)"
            );
            if transaction.prepare_cached(&most)?.execute([count])? == 0 {
                return transaction.commit();
            }
        }
    }
}
