//! Reads over many shards while shards are moved between servers and rows are added: every answer is whole.
#![cfg(test)]

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Cursor, Id, InstanceName, Migrations, Mover, Result, ShardId, Statement};

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), n int)";
const ADD: Statement = Statement::new(
    "INSERT INTO {shard}.notes (n) SELECT n FROM generate_series(1, $1) n RETURNING id",
);
const NEWEST: Statement =
    Statement::new("SELECT id FROM {shard}.notes WHERE id < $1 ORDER BY id DESC LIMIT $2");
const BY_IDS: Statement = Statement::new("SELECT id FROM {shard}.notes WHERE id = ANY($1)");
const ALL: Statement = Statement::new("SELECT id FROM {shard}.notes ORDER BY id DESC");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.notes");

/// Goes through all pages.
async fn pages(cluster: &Cluster) -> Result<Vec<Id>> {
    let mut seen = Vec::new();
    let mut cursor: Option<Cursor> = None;
    loop {
        let page = cluster.scatter(&NEWEST).all(&[]).page("id", cursor.as_ref(), 40).await?;
        seen.extend(page.rows.iter().map(|row| row.get::<_, Id>(0)));
        cursor = page.next;
        if cursor.is_none() {
            return Ok(seen);
        }
    }
}

async fn merged(cluster: &Cluster) -> Result<Vec<Id>> {
    let order = |row: &howdah::postgres::Row| Reverse(row.get::<_, Id>(0));
    let mut rows = cluster.scatter(&ALL).all(&[]).merge(100, order);
    let mut seen = Vec::new();
    while let Some(row) = rows.next().await {
        seen.push(row?.get::<_, Id>(0));
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moving_shards_are_read_whole() -> Result<()> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let test = TestCluster::builder().shards(4).migrations(notes).start().await?;
    let cluster = test.cluster().await?;
    let mut old = BTreeSet::new();
    for shard in cluster.map().count().iter() {
        let rows = cluster.shard(shard)?.query(&ADD, &[&100]).await?;
        old.extend(rows.iter().map(|row| row.get::<_, Id>(0)));
    }
    let asked: Vec<Id> = old.iter().copied().collect();

    let stop = AtomicBool::new(false);
    let rounds = AtomicUsize::new(0);
    let moving = async {
        let mover = Mover::new(&test.config())?;
        for (shard, to) in [(1, "pg1"), (0, "pg2")] {
            mover.run(ShardId::new(shard)?, &InstanceName::new(to)?).await?;
            // Each home is read at least once.
            let seen = rounds.load(Ordering::Relaxed);
            until("it is read", async || rounds.load(Ordering::Relaxed) >= seen + 2).await;
        }
        stop.store(true, Ordering::Relaxed);
        Ok::<_, howdah::Error>(())
    };
    let adding = async {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            number = (number + 1) % 4;
            cluster.shard(ShardId::new(number)?)?.execute(&ADD, &[&1]).await?;
            // However slow the machine: who reads comes to an end.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, howdah::Error>(())
    };
    let reading = async {
        while !stop.load(Ordering::Relaxed) {
            let seen = pages(&cluster).await?;
            assert!(seen.is_sorted_by(|one, other| one > other), "no row twice, and in order");
            assert!(old.is_subset(&seen.into_iter().collect()), "no old row is missed");
            let found = cluster.get_many(&BY_IDS, &asked).await?;
            assert!(found.absent().is_empty(), "{:?}", found.absent());
            let first = merged(&cluster).await?;
            assert!(first.len() == 100 && first.is_sorted_by(|one, other| one > other));
            assert!(cluster.scatter(&COUNT).all(&[]).count().await?.value >= 400);
            rounds.fetch_add(1, Ordering::Relaxed);
        }
        Ok::<_, howdah::Error>(())
    };
    // The first that fails ends the others.
    tokio::try_join!(moving, adding, reading)?;
    Ok(())
}
