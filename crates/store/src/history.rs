//! Decision records: kept for so many days and rows, and found again.

use evenkeel_core::decision::{Decision, Reason};
use evenkeel_core::model::{ExchangeId, HostId, MachineId, Time};
use rusqlite::types::Value;
use rusqlite::{params, params_from_iter};

use super::{Store, StoreError, signed};

/// How many decision records are kept: the oldest go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// For so many days, counted back from the newest record; at least 1.
    pub days: u32,
    /// At most so many; at least 1.
    pub records: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { days: 30, records: 100_000 }
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
        values.push(i64::from(self.limit).into());
        let conditions = conditions.join(" AND ");
        let select =
            format!("SELECT record FROM decision WHERE {conditions} ORDER BY seq DESC LIMIT ?");
        (select, values)
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
        let insert = "INSERT INTO decision (exchange, ended_ms, peer, ending, record, machine) \
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let row = params![
            decision.exchange.to_string(),
            signed(decision.ended),
            decision.peer.as_ref().map(HostId::as_str),
            decision.ending.code(),
            record,
            decision.chosen().map(|chosen| chosen.machine.as_str()),
        ];
        let judged = decision.candidates.iter().filter(|c| c.verdict != Reason::Returned);
        let write = |connection: &mut rusqlite::Connection| {
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
        self.clear_now_and_then();
        Ok(())
    }

    /// The decision records that are wanted, newest first.
    ///
    /// # Errors
    /// When the database cannot be read or a record is damaged.
    pub fn decisions(&self, wanted: &Wanted) -> Result<Vec<Decision>, StoreError> {
        let (select, values) = wanted.select();
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

    /// Clears decision records that are too old or too many. Failing to does no harm.
    pub(crate) fn clear_decisions(&self) {
        let Retention { days, records } = self.retention;
        let many = "DELETE FROM decision WHERE seq <= (SELECT max(seq) FROM decision) - ?1";
        let _ = self.connection.execute(many, [records.max(1)]);
        let old = "DELETE FROM decision WHERE ended_ms < (SELECT max(ended_ms) FROM decision) - ?1";
        let _ = self.connection.execute(old, [i64::from(days.max(1)) * 86_400_000]);
        let lost = "DELETE FROM judged WHERE seq < (SELECT min(seq) FROM decision)";
        let _ = self.connection.execute(lost, []);
    }
}
