//! Rows that are fetched as they are wanted: cursors on the servers.
//!
//! A reading is one connection in one transaction that sees one moment of its instance, with a cursor for each of its
//! shards. It holds that connection until it is closed, or dropped.

use tokio_postgres::Row;

use super::Cluster;
use super::retry::{Patience, Visit};
use crate::connect::sqlstate::is_skipped;
use crate::connect::{statement_failure, within_read_only};
use crate::pool::Params;
use crate::shard::{Home, ShardId};
use crate::statement::Statement;
use crate::{Error, Outcome, Result};

/// All shards of the instance are read as they are at one moment, and nothing is written.
const ONE_MOMENT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

pub(super) struct Reading {
    visit: Visit,
    /// The shard of each cursor.
    shards: Vec<ShardId>,
}

/// A shard to read, with the parameters of its statement.
pub(super) type Target<'a> = (ShardId, Params<'a>);

/// Why a reading could not be opened; with the visit, while its connection is of use.
struct NotOpened(Error, Option<Visit>);

impl Reading {
    /// Opens a cursor on a shard; follows it when it has moved.
    pub(super) async fn of_shard(
        cluster: &Cluster,
        statement: &Statement,
        target: Target<'_>,
    ) -> Result<Self> {
        let mut readings = Self::of_shards(cluster, statement, &[target]).await?;
        readings.pop().ok_or_else(|| Error::input("no shard was asked for"))
    }

    /// Opens a cursor on each of several shards, with one reading for each instance that has any.
    pub(super) async fn of_shards(
        cluster: &Cluster,
        statement: &Statement,
        targets: &[Target<'_>],
    ) -> Result<Vec<Self>> {
        let mut patience = Patience::new();
        loop {
            match Self::try_open(cluster, statement, targets).await {
                Ok(readings) => return Ok(readings),
                Err(NotOpened(error, visit)) => {
                    Box::pin(cluster.reconsider(error, visit, &mut patience)).await?;
                }
            }
        }
    }

    async fn try_open(
        cluster: &Cluster,
        statement: &Statement,
        targets: &[Target<'_>],
    ) -> Result<Vec<Self>, NotOpened> {
        let snapshot = cluster.snapshot();
        let mut homes = Vec::with_capacity(targets.len());
        for (shard, params) in targets {
            let home = snapshot.map.home(*shard).map_err(|error| NotOpened(error, None))?;
            homes.push((home, *params));
        }
        homes.sort_by_key(|(home, _)| (home.instance(), home.shard()));
        let mut readings = Vec::new();
        for homes in homes.chunk_by(|(one, _), (other, _)| one.instance() == other.instance()) {
            let visit = cluster.visit_home(&snapshot, homes[0].0).await;
            let visit = visit.map_err(|error| NotOpened(error, None))?;
            readings.push(Self::open(visit, statement, homes).await?);
        }
        Ok(readings)
    }

    async fn open(
        mut visit: Visit,
        statement: &Statement,
        homes: &[(&Home, Params<'_>)],
    ) -> Result<Self, NotOpened> {
        let lent = &visit.lent;
        if !statement.is_bounded() {
            // It may set what the next one would find.
            lent.spend();
        }
        if let Err(error) = lent.begin_with_next(&[ONE_MOMENT]).await {
            return Err(NotOpened(read_failure(error, &visit), None));
        }
        let declared = lent.declare(statement, homes).await;
        let failures = homes.iter().zip(declared).filter_map(|((home, _), declared)| {
            let error = declared.err()?;
            Some((*home, error))
        });
        // Where one was refused, the others are told that the transaction has failed.
        let failed = failures.min_by_key(|(_, error)| error.code().is_some_and(is_skipped));
        let Some((home, error)) = failed else {
            let shards = homes.iter().map(|(home, _)| home.shard()).collect();
            return Ok(Self { visit, shards });
        };
        // The shard that has moved, if any has, is this one.
        visit.home = home.clone();
        let error =
            statement_failure(error, format!("cannot run {statement:?} on shard {}", home.shard()));
        let error = read_failure(error, &visit);
        let sound = visit.lent.end("ROLLBACK").await.is_ok();
        Err(NotOpened(error, sound.then_some(visit)))
    }

    /// The shards, in the order of their cursors.
    pub(super) fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    /// The next rows of a cursor, at most so many; fewer when there are no more.
    pub(super) async fn fetch(&self, cursor: usize, count: usize) -> Result<Vec<Row>> {
        self.visit.lent.fetch(cursor, count).await.map_err(|error| {
            let shard = self.shards[cursor];
            let error = statement_failure(error, format!("shard {shard} broke off"));
            read_failure(error, &self.visit)
        })
    }

    /// Gives the connection back.
    pub(super) async fn close(self) {
        // One on which this fails is not lent again.
        let _ = self.visit.lent.end("COMMIT").await;
    }
}

/// A read changes nothing, whatever becomes of it.
fn read_failure(error: Error, visit: &Visit) -> Error {
    within_read_only(error.at(visit.home.instance())).if_unknown(Outcome::NotExecuted)
}
