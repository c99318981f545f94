//! What a move has done with is kept for the next, as long as any goes on: a session that has seen a server's catalogs answers
//! in a fraction of the time that it takes to make a new one.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::dump::Dumps;
use super::journal::Journal;
use super::side::Side;
use crate::Result;
use crate::catalog::{Catalog, Snapshot};
use crate::connect::Connector;
use crate::shard::InstanceName;

/// How long after it was opened something is still taken up again: who logs in anew finds the server that is the primary then.
const YOUNG: Duration = Duration::from_secs(60);

/// The sessions of a mover that nobody needs just now.
#[derive(Default)]
pub(super) struct Kept {
    shelf: Mutex<Shelf>,
    pub(super) dumps: Dumps,
}

#[derive(Default)]
struct Shelf {
    /// How many are at work on moves, and may want something.
    at_work: usize,
    sides: Vec<Side>,
    journals: Vec<Journal>,
    catalogs: Vec<Catalog>,
    /// When a server was last let in by another: whose follows, and whom.
    let_in: BTreeMap<(InstanceName, InstanceName), Instant>,
}

/// Somebody is at work on moves. When nobody is any more, everything is closed.
pub(super) struct AtWork<'a>(&'a Kept);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let mut shelf = self.0.shelf();
        shelf.at_work -= 1;
        if shelf.at_work == 0 {
            let closed = mem::take(&mut *shelf);
            drop(shelf);
            drop(closed);
            self.0.dumps.clear();
        }
    }
}

impl Kept {
    pub(super) fn at_work(&self) -> AtWork<'_> {
        self.shelf().at_work += 1;
        AtWork(self)
    }

    /// The catalog as it is now.
    pub(super) async fn snapshot(&self, connector: &Connector) -> Result<Snapshot> {
        let kept = self.shelf().catalogs.pop();
        let mut catalog = kept.unwrap_or_else(|| Catalog::new(connector.clone()));
        let snapshot = Box::pin(catalog.load()).await?;
        self.keep(|shelf| shelf.catalogs.push(catalog));
        Ok(snapshot)
    }

    /// The journal, to write in it.
    pub(super) async fn journal(&self, connector: &Connector) -> Result<Journal> {
        let kept = self.shelf().journals.pop();
        if let Some(journal) = kept
            && journal.opened.elapsed() < YOUNG
            && journal.is_in_place().await
        {
            return Ok(journal);
        }
        // Boxed because it is rare, and large.
        Box::pin(Journal::open(connector)).await
    }

    pub(super) fn keep_journal(&self, journal: Journal) {
        self.keep(|shelf| shelf.journals.push(journal));
    }

    /// The sessions at an instance, which hold no lock.
    pub(super) async fn side(
        &self,
        connector: &Connector,
        snapshot: &Snapshot,
        name: &InstanceName,
    ) -> Result<Side> {
        let kept = {
            let mut shelf = self.shelf();
            let at = shelf.sides.iter().position(|side| side.name == *name);
            at.map(|at| shelf.sides.swap_remove(at))
        };
        if let Some(side) = kept
            && side.opened.elapsed() < YOUNG
            && let Some(side) = side.take_up(snapshot).await
        {
            return Ok(side);
        }
        Box::pin(Side::connect(connector, snapshot, name)).await
    }

    /// Whether one instance's server was let in by the other's a short time ago.
    pub(super) fn was_let_in(&self, from: &InstanceName, to: &InstanceName) -> bool {
        let at = self.shelf().let_in.get(&(from.clone(), to.clone())).copied();
        at.is_some_and(|at| at.elapsed() < YOUNG)
    }

    pub(super) fn keep_let_in(&self, from: &InstanceName, to: &InstanceName) {
        self.keep(|shelf| {
            shelf.let_in.insert((from.clone(), to.clone()), Instant::now());
        });
    }

    pub(super) fn keep_side(&self, side: Side) {
        self.keep(|shelf| shelf.sides.push(side));
    }

    /// Keeps something, if anybody may want it.
    fn keep(&self, put: impl FnOnce(&mut Shelf)) {
        let mut shelf = self.shelf();
        if shelf.at_work > 0 {
            put(&mut shelf);
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
