//! Parts of transactions over shards that are prepared and not finished: finding them, and doing what was decided.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, stream};
use tokio_postgres::{Client, Row};

use super::commit::command;
use super::decision::Decision;
use super::gid::Gid;
use crate::cluster::Cluster;
use crate::connect::{sqlstate, statement_failure};
use crate::error::Kind;
use crate::shard::{InstanceName, ShardId};
use crate::statement::Statement;
use crate::{Error, Result};

/// How many instances and parts are seen to at once.
const CONCURRENCY: usize = 8;

/// How many decisions of a shard are held in memory; the rest goes the next time.
const AT_ONCE: usize = 10_000;
const DECISIONS: Statement =
    Statement::new("SELECT id::text FROM {shard}.howdah_decisions LIMIT $1");
const FORGET: Statement =
    Statement::new("DELETE FROM {shard}.howdah_decisions WHERE id = ANY ($1::text[]::uuid[])");

/// One instance's part of a transaction over shards, prepared and not finished. It holds its locks until it is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct InDoubt {
    /// The transaction's id, a UUID; its parts on other instances have the same.
    pub id: String,
    /// The shard that has the decision.
    pub shard: ShardId,
    /// The instance that has this part.
    pub instance: InstanceName,
    /// The schemas of that instance in which it holds locks.
    pub schemas: Vec<String>,
    /// When it was prepared, by the instance's clock.
    pub prepared_at: DateTime<Utc>,
    /// How long ago that was.
    pub age: Duration,
    /// What was decided; `None` if nothing is, or the decision's shard is away.
    pub decision: Option<Decision>,
}

/// What [`Cluster::in_doubt`] found.
#[derive(Debug)]
#[must_use = "some instances may not have been asked"]
#[non_exhaustive]
pub struct InDoubtReport {
    /// All parts that are prepared and not finished, the oldest first.
    pub parts: Vec<InDoubt>,
    /// The instances that could not be asked, and why.
    pub unreachable: Vec<(InstanceName, Error)>,
}

/// What [`Cluster::recover`] did.
#[derive(Debug, Default)]
#[must_use = "some parts may still be in doubt"]
#[non_exhaustive]
pub struct Recovery {
    /// How many parts were committed.
    pub committed: usize,
    /// How many parts were rolled back.
    pub rolled_back: usize,
    /// The parts that are still in doubt, and why.
    pub left: Vec<(InDoubt, Error)>,
    /// The instances that could not be asked, and why.
    pub unreachable: Vec<(InstanceName, Error)>,
    /// The shards whose decisions have to be looked through again: some are of use still, or they are away.
    pub(super) untidied: BTreeSet<ShardId>,
}

/// A prepared transaction, ours or not, as its server tells of it.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) gid: String,
    pub(crate) prepared_at: DateTime<Utc>,
    pub(crate) age: Duration,
    /// Where it holds locks.
    pub(crate) schemas: Vec<String>,
}

impl Prepared {
    /// All that are prepared in a database.
    pub(crate) async fn all(client: &Client) -> Result<Vec<Self>> {
        let rows = client.query_typed(include_str!("../../../sql/prepared.sql"), &[]).await;
        let rows =
            rows.map_err(|error| statement_failure(error, "cannot list prepared transactions"))?;
        Ok(rows.iter().map(Self::from_row).collect())
    }

    fn from_row(row: &Row) -> Self {
        Self {
            gid: row.get("gid"),
            prepared_at: row.get("prepared"),
            // Clocks may step back.
            age: Duration::try_from_secs_f64(row.get("age")).unwrap_or_default(),
            schemas: row.get("schemas"),
        }
    }
}

/// What is prepared on all instances.
pub(super) struct Found {
    pub(super) parts: Vec<(Gid, InDoubt)>,
    pub(super) unreachable: Vec<(InstanceName, Error)>,
}

impl Cluster {
    /// Lists the parts of transactions over shards that are prepared and not finished. Changes nothing.
    ///
    /// A few may be those of transactions that are being committed just now. One that grows old was left behind by a
    /// process that died, and waits for [`Cluster::recover`].
    ///
    /// An instance that cannot be asked is part of the answer.
    pub async fn in_doubt(&self) -> InDoubtReport {
        let Found { parts, unreachable } = self.find_prepared().await;
        let looks = stream::iter(parts).map(async |(gid, mut part)| {
            part.decision = self.decided(&gid).await.unwrap_or(None);
            part
        });
        let mut parts: Vec<_> = looks.buffer_unordered(CONCURRENCY).collect().await;
        parts.sort_by_key(|part| part.prepared_at);
        InDoubtReport { parts, unreachable }
    }

    /// Finishes the transactions over shards that others have left behind: commits what was decided to be committed, and
    /// rolls back what nobody can decide any more. Safe at any time and in any number of processes at once.
    ///
    /// Parts that were prepared less than `idle` ago are left alone; so are those whose transaction is still open,
    /// whatever its age. Every process that has run a transaction over shards does the same in the background, twice a
    /// minute.
    ///
    /// What could not be finished is part of the answer.
    pub async fn recover(&self, idle: Duration) -> Recovery {
        self.sweep(self.map().count().iter(), |_, part| part.age >= idle).await
    }

    /// Finishes what is `due`, and forgets what was decided on the shards given and is of no use any more.
    pub(super) async fn sweep(
        &self,
        shards: impl IntoIterator<Item = ShardId>,
        due: impl Fn(&Gid, &InDoubt) -> bool,
    ) -> Recovery {
        // Read before the servers are asked what they have prepared: a part of one of these that is not found then is
        // finished, and none comes later.
        let shards: BTreeSet<_> = shards.into_iter().collect();
        let decisions = self.decisions(shards.iter().copied()).await;
        // And after that all servers are looked up anew: one with a part that belongs to these decisions was in the catalog
        // before they were made, but need not be known here.
        let knows_all = decisions.values().all(Vec::is_empty) || self.refresh().await.is_ok();
        let Found { parts, unreachable } = self.find_prepared().await;
        let needed: BTreeSet<_> = parts.iter().map(|(gid, _)| gid.id.clone()).collect();
        let is_whole = knows_all && unreachable.is_empty();
        let mut recovery = Recovery { unreachable, untidied: shards, ..Recovery::default() };
        let parts = parts.into_iter().filter(|(gid, part)| due(gid, part));
        let mut coming = stream::iter(parts)
            .map(async |(gid, part)| {
                let done = self.finish_part(&gid, &part).await;
                (part, done)
            })
            .buffer_unordered(CONCURRENCY);
        while let Some((part, done)) = coming.next().await {
            match done {
                Ok(Some(Decision::Committed)) => recovery.committed += 1,
                Ok(Some(Decision::RolledBack)) => recovery.rolled_back += 1,
                Ok(None) => {}
                Err(error) => recovery.left.push((part, error)),
            }
        }
        drop(coming);
        if is_whole {
            for shard in self.forget(decisions, &needed).await {
                recovery.untidied.remove(&shard);
            }
        }
        recovery
    }

    /// All parts of this cluster's that are prepared anywhere.
    pub(super) async fn find_prepared(&self) -> Found {
        let id = self.snapshot().cluster.clone();
        let asked = stream::iter(self.instances()).map(async |instance| {
            let name = instance.name().clone();
            let found = self.prepared_on(&name).await;
            (name, found)
        });
        let mut found = Found { parts: Vec::new(), unreachable: Vec::new() };
        let mut asked = asked.buffer_unordered(CONCURRENCY);
        while let Some((instance, prepared)) = asked.next().await {
            match prepared {
                Ok(prepared) => {
                    let ours = prepared.into_iter().filter_map(|part| {
                        let gid = Gid::parse(&part.gid, &id)?;
                        let part = InDoubt {
                            id: gid.id.clone(),
                            shard: gid.shard,
                            instance: instance.clone(),
                            schemas: part.schemas,
                            prepared_at: part.prepared_at,
                            age: part.age,
                            decision: None,
                        };
                        Some((gid, part))
                    });
                    found.parts.extend(ours);
                }
                Err(error) => found.unreachable.push((instance, error)),
            }
        }
        drop(asked);
        found
    }

    async fn prepared_on(&self, instance: &InstanceName) -> Result<Vec<Prepared>> {
        let snapshot = self.snapshot();
        let lent = self.0.pools.get(instance, &snapshot)?.lend().await?;
        lent.tell_limit_at_once().await.map_err(|error| error.at(instance))?;
        let all = lent.watch(Prepared::all(lent.client())).await;
        all.map_err(|error| error.at(instance))
    }

    /// Does with one part what was decided. `None` where somebody else has done it.
    async fn finish_part(&self, gid: &Gid, part: &InDoubt) -> Result<Option<Decision>> {
        let Some(decision) = self.settle(gid).await? else {
            return Err(Error::new(Kind::Refused, "its transaction is still open")
                .hint("it is finished by whoever runs it, or when that has died"));
        };
        let snapshot = self.snapshot();
        let lent = self.0.pools.get(&part.instance, &snapshot)?.lend().await?;
        lent.tell_limit_at_once().await.map_err(|error| error.at(&part.instance))?;
        match lent.end(&command(gid, decision)).await {
            Ok(()) => Ok(Some(decision)),
            Err(error) if error.code().is_some_and(sqlstate::is_no_prepared_transaction) => {
                Ok(None)
            }
            Err(error) => Err(error.at(&part.instance)),
        }
    }

    /// The decisions that these shards hold, those that could be asked.
    async fn decisions(
        &self,
        shards: impl IntoIterator<Item = ShardId>,
    ) -> BTreeMap<ShardId, Vec<String>> {
        let asked = stream::iter(shards).map(async |shard| {
            let rows = self.shard(shard)?.query(&DECISIONS, &[&(AT_ONCE as i64)]).await?;
            Ok::<_, Error>((shard, rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()))
        });
        let answers: Vec<_> = asked.buffer_unordered(CONCURRENCY).collect().await;
        answers.into_iter().flatten().collect()
    }

    /// Deletes decisions of which no server has a part left. Returns the shards that hold none any more.
    async fn forget(
        &self,
        decisions: BTreeMap<ShardId, Vec<String>>,
        needed: &BTreeSet<String>,
    ) -> Vec<ShardId> {
        let mut tidied = Vec::new();
        for (number, mut ids) in decisions {
            let found = ids.len();
            ids.retain(|id| !needed.contains(id));
            let done = ids.is_empty()
                || match self.shard(number) {
                    Ok(shard) => shard.execute(&FORGET, &[&ids]).await.is_ok(),
                    Err(_) => false,
                };
            if done && ids.len() == found && found < AT_ONCE {
                tidied.push(number);
            }
        }
        tidied
    }
}
