//! A transaction over shards: points go from one user to another, on both users' shards or on neither.
//!
//! ```text
//! howdah local up
//! howdah migrate up --dir examples/migrations
//! cargo run --example two_phase_commit
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use howdah::{Cluster, Config, Id, Result, Statement};

const USER: Statement = Statement::new(
    "INSERT INTO {shard}.users (name) VALUES ($1)
     ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id",
);
const CHANGE: Statement =
    Statement::new("UPDATE {shard}.users SET points = points + $2 WHERE id = $1 RETURNING points");

#[tokio::main]
async fn main() -> Result<()> {
    run(Config::load()?).await
}

pub(crate) async fn run(config: Config) -> Result<()> {
    let cluster = Cluster::connect(config).await?;
    let user = async |name: &str| {
        let row = cluster.shard_for_key(name).query_one(&USER, &[&name]).await?;
        Ok::<Id, howdah::Error>(row.get(0))
    };
    let (alice, bob) = (user("alice").await?, user("bob").await?);

    println!("alice and bob have {:?} points", give(&cluster, alice, bob, 1).await?);
    // The constraint of one shard refuses, and nothing happens on the other.
    match give(&cluster, alice, bob, 1_000_000).await {
        Ok(points) => println!("alice was rich: {points:?}"),
        Err(error) => println!("refused: {error}"),
    }
    println!("alice and bob have {:?} points", give(&cluster, bob, alice, 1).await?);

    // Nothing to do here. Had a process died between the two phases, any other would finish what it left: in the
    // background, or at once.
    let recovered = cluster.recover(Duration::ZERO).await;
    println!("left behind by others: {}", recovered.committed + recovered.rolled_back);
    Ok(())
}

/// Returns what the giver and the taker have then.
async fn give(cluster: &Cluster, giver: Id, taker: Id, points: i64) -> Result<(i64, i64)> {
    let (from, to) = (cluster.shard_of_id(giver)?, cluster.shard_of_id(taker)?);
    // Where both shards live on one server, this is a plain transaction. Else it is two-phase commit.
    cluster
        .transaction(async |tx| {
            let left = tx.on(&from).await?.query_one(&CHANGE, &[&giver, &-points]).await?;
            let has = tx.on(&to).await?.query_one(&CHANGE, &[&taker, &points]).await?;
            Ok((left.get(0), has.get(0)))
        })
        .await
}
