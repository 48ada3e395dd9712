//! Whom this host knows: what rules across a label rely on.

use std::sync::Arc;

use evenkeel_core::model::HostId;
use evenkeel_core::witness::{Acquaintance, Acquaintances};
use rusqlite::params;

use crate::{Store, StoreError};

impl Store {
    /// Makes what is known of another host durable: when this returns, it is on disk.
    ///
    /// # Errors
    /// When it could not be written; the store then holds what it held before.
    pub fn acquaint(&mut self, acquaintance: &Acquaintance) -> Result<(), StoreError> {
        let record = self.json("an acquaintance", serde_json::to_string(acquaintance))?;
        let insert = "INSERT OR REPLACE INTO acquaintance VALUES (?1, ?2)";
        let row = params![acquaintance.host.as_str(), record];
        self.connection.execute(insert, row).map_err(|e| self.error("write an acquaintance", e))?;
        Ok(())
    }

    /// Every host that was ever a member or heard of.
    pub(crate) fn acquaintances(&self) -> Result<Acquaintances, StoreError> {
        let select = "SELECT record FROM acquaintance";
        let met: Vec<Acquaintance> = self.records("an acquaintance", select, [])?;
        let mut members: Vec<HostId> = self.members()?.into_iter().map(|(host, _)| host).collect();
        members.sort_unstable();
        let met = met.into_iter().map(|known| (known.host.clone(), known)).collect();
        Ok(Acquaintances { members: Arc::from(members), met: Arc::new(met) })
    }
}
