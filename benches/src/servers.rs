//! The servers that are measured on, and what is in their tables.

use std::time::{Duration, SystemTime};

use howdah::postgres::Client;
use howdah::testing::TestCluster;
use howdah::{Id, IdParts, Layout, Migrations, ShardId};

use crate::Result;

/// What keeps the disk and the server's own housekeeping out of the figures: the tables fit into memory.
const SETTINGS: [&str; 3] = [
    "ALTER SYSTEM SET shared_buffers = '256MB'",
    "ALTER SYSTEM SET max_wal_size = '4GB'",
    "ALTER SYSTEM SET autovacuum = off",
];

/// The table of every shard. Updates stay within their page, so it keeps its size.
const ITEMS: &str = "CREATE TABLE items (
    id   bigint PRIMARY KEY,
    hits bigint NOT NULL DEFAULT 0,
    text text   NOT NULL
) WITH (fillfactor = 50)";

const FILL: &str = "INSERT INTO {schema}.items (id, text)
                    SELECT id, 'the text of item ' || id FROM unnest($1::bigint[]) id";

/// Servers of the benchmark's own: so many instances, and a table `items (id, hits, text)` in each of so many shards.
///
/// Like all tests' servers they do not wait for the disk (`fsync` is off): its time is the same for everybody.
///
/// # Errors
///
/// When a server cannot be started, or refuses the table.
pub async fn servers(instances: usize, shards: u16) -> Result<TestCluster> {
    servers_with(ITEMS, instances, shards).await
}

/// The same, with other tables in each shard.
///
/// # Errors
///
/// As [`servers`].
pub async fn servers_with(
    tables: &'static str,
    instances: usize,
    shards: u16,
) -> Result<TestCluster> {
    let migrations = Migrations::new([("0001_tables.sql", tables)])?;
    let cluster = TestCluster::builder().instances(instances).shards(shards).own_servers();
    let mut test = cluster.migrations(migrations).start().await?;
    let names: Vec<String> = test.servers().names().map(str::to_owned).collect();
    for name in &names {
        let admin = test.admin(name).await?;
        for sql in SETTINGS.into_iter().chain(["CHECKPOINT"]) {
            admin.batch_execute(sql).await?;
        }
        test.kill(name).await?;
        test.start_server(name).await?;
    }
    Ok(test)
}

/// Puts so many rows into each shard, a millisecond apart, each on the next shard; returns their ids in that order.
///
/// # Errors
///
/// When an instance cannot be reached, or refuses the rows.
pub async fn fill(test: &TestCluster, rows: usize) -> Result<Vec<Id>> {
    let cluster = test.cluster().await?;
    let map = cluster.map();
    let shards: Vec<ShardId> = map.count().iter().collect();
    let count = rows * shards.len();
    let start = SystemTime::now() - Duration::from_millis(count as u64);
    let ids: Vec<Id> = (0..count)
        .map(|n| {
            let time = start + Duration::from_millis(n as u64);
            Layout::default().encode(IdParts::at(time.into(), shards[n % shards.len()], 0))
        })
        .collect::<howdah::Result<_>>()?;
    for (first, home) in map.homes().enumerate() {
        let own: Vec<Id> = ids.iter().skip(first).step_by(shards.len()).copied().collect();
        let admin = test.admin(home.instance().as_str()).await?;
        admin.execute(&FILL.replace("{schema}", &home.schema()), &[&own]).await?;
    }
    for instance in cluster.instances() {
        settle(&test.admin(instance.name().as_str()).await?).await?;
    }
    Ok(ids)
}

/// Puts rows with these ids into one table `unsharded.items` on the first server.
///
/// # Errors
///
/// When the server cannot be reached, or refuses the rows.
pub async fn fill_unsharded(test: &TestCluster, ids: &[Id]) -> Result<()> {
    let admin = test.admin("pg1").await?;
    let table = ITEMS.replace("items", "unsharded.items");
    admin
        .batch_execute(&format!(
            "CREATE SCHEMA unsharded; {table}; GRANT USAGE ON SCHEMA unsharded TO howdah_app;
             GRANT SELECT ON unsharded.items TO howdah_app"
        ))
        .await?;
    admin.execute(&FILL.replace("{schema}", "unsharded"), &[&ids]).await?;
    settle(&admin).await
}

async fn settle(admin: &Client) -> Result<()> {
    admin.batch_execute("VACUUM ANALYZE").await?;
    Ok(admin.batch_execute("CHECKPOINT").await?)
}
