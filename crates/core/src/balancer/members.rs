//! The live members of the cluster, and how some of them are drawn.

use std::sync::Arc;

use rand::Rng;
use rand::seq::index;

use crate::model::HostId;

/// The live members; sorted, with this host among them where the driver shares one list.
#[derive(Clone, Debug, Default)]
pub(super) struct Members(Arc<[HostId]>);

impl Members {
    /// These are members now; answers what they were before.
    pub(super) fn replace(&mut self, members: Arc<[HostId]>) -> Arc<[HostId]> {
        std::mem::replace(&mut self.0, members)
    }

    pub(super) fn all(&self) -> &[HostId] {
        &self.0
    }

    /// All but this host.
    pub(super) fn others<'m>(&'m self, own: &'m HostId) -> impl Iterator<Item = &'m HostId> {
        self.0.iter().filter(move |member| *member != own)
    }

    pub(super) fn has(&self, host: &HostId) -> bool {
        self.0.binary_search(host).is_ok()
    }

    /// Up to `count` other hosts, at random, each at most once (claims 4, 17, 27).
    pub(super) fn draw(&self, count: usize, own: &HostId, rng: &mut dyn Rng) -> Vec<HostId> {
        // One more, in case that this host itself is drawn.
        let drawn = index::sample(rng, self.0.len(), (count + 1).min(self.0.len()));
        let others = drawn.iter().map(|index| &self.0[index]).filter(|member| *member != own);
        others.take(count).cloned().collect()
    }
}
