//! The catalog's server hangs and another takes over: moves made there are heard of.
#![cfg(test)]

use std::time::Duration;

use howdah::testing::TestCluster;
use howdah::{Cluster, Migrations, Result, ShardId, Statement};
use tokio::time::{sleep, timeout};

const NOTES: &str = "CREATE TABLE notes (text text)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ('here')");

/// A server whose kernel goes on acknowledging keeps its connections; nobody is told that it answers no more.
#[tokio::test]
async fn a_catalog_that_hangs_is_left_for_the_one_that_was_promoted() -> Result<()> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let builder = TestCluster::builder().instances(1).replicas(1).shards(1).migrations(notes);
    let mut test = builder.start().await?;
    let cluster = Cluster::connect(test.config().connect_timeout(Duration::from_secs(1))).await?;
    let shard = cluster.shard(ShardId::new(0)?)?;
    shard.execute(&ADD, &[]).await?;

    test.suspend("pg1").await?;
    test.promote("pg1-r1").await?;
    let promoted = test.admin("pg1-r1").await?;
    let moved = "ALTER SCHEMA shard_0000_e1 RENAME TO shard_0000_e2;
        UPDATE howdah.home SET epoch = 2; UPDATE howdah.cluster SET map_version = map_version + 1";
    promoted.batch_execute(moved).await.unwrap();

    let found = timeout(Duration::from_secs(60), async {
        while shard.execute(&ADD, &[]).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    found.await.expect("the shard's new name is never heard of");
    test.resume("pg1").await
}
