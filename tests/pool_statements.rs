//! What a connection keeps prepared: within its caps in number and in bytes, and made anew where the server has lost it.
#![cfg(test)]

use howdah::testing::TestCluster;
use howdah::{Cluster, Config, Migrations, Result, Shard, ShardId, Statement};

const NOTES: &str = "CREATE TABLE notes (n int);
    INSERT INTO notes VALUES (1);
    CREATE FUNCTION forget() RETURNS int LANGUAGE plpgsql AS $$
        BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN 7; END $$;
    CREATE VIEW oblivion AS SELECT forget() AS n";
const ALL: Statement = Statement::new("SELECT n FROM {shard}.notes");
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes VALUES ($1)");
const FORGET: Statement = Statement::new("SELECT n FROM {shard}.oblivion");
/// How many the server keeps, with how many bytes; the driver's own for types not included.
const KEPT: Statement = Statement::new(
    "SELECT count(*), coalesce(sum(length(statement)), 0)::bigint FROM pg_prepared_statements, {shard}.notes
     WHERE statement LIKE '%shard\\_%'",
);

async fn start(
    shards: u16,
    config: impl FnOnce(Config) -> Config,
) -> Result<(TestCluster, Cluster)> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let test = TestCluster::builder().instances(1).shards(shards).migrations(notes).start().await?;
    let cluster = Cluster::connect(config(test.config())).await?;
    Ok((test, cluster))
}

fn first(cluster: &Cluster) -> Result<Shard> {
    cluster.shard(ShardId::new(0)?)
}

async fn kept(shard: &Shard) -> Result<(i64, i64)> {
    let row = shard.query_one(&KEPT, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

#[tokio::test]
async fn a_pipeline_keeps_no_more_than_its_cap() -> Result<()> {
    const CAP: u32 = 40;
    const STATEMENTS: u64 = 15;
    const SHARDS: u16 = 16;

    let along = |config: Config| config.max_size(2).pipelines(1).statement_cache(CAP, 1 << 20);
    let (_test, cluster) = start(SHARDS, along).await?;
    let statements: Vec<_> = (0..STATEMENTS)
        .map(|n| Statement::parse(format!("SELECT n, {n} FROM {{shard}}.notes")))
        .collect::<Result<_>>()?;
    // Where it is being opened, the others do not wait for it.
    kept(&first(&cluster)?).await?;
    for number in cluster.map().count().iter() {
        let shard = cluster.shard(number)?;
        for some in statements.chunks(5) {
            let reads = some.iter().map(|statement| shard.query(statement, &[]));
            futures_util::future::try_join_all(reads).await?;
        }
    }
    let before = cluster.stats().remove(0);
    let (count, _) = kept(&first(&cluster)?).await?;
    let pool = cluster.stats().remove(0);
    assert_eq!(pool.pipelined, before.pipelined + 1, "that was asked on the pipeline");
    assert!(pool.pipelined > u64::from(SHARDS) * STATEMENTS / 2, "as were the others: {pool:?}");
    assert!(count <= i64::from(CAP), "the server keeps {count}");
    assert!(pool.statement_evictions > u64::from(CAP), "{pool:?}");
    assert!(pool.statements_kept <= 2 * u64::from(CAP), "{pool:?}");
    Ok(())
}

#[tokio::test]
async fn long_statements_are_kept_up_to_so_many_bytes() -> Result<()> {
    const BYTES: u64 = 64 << 10;

    for pipelines in [0, 1] {
        let limited =
            |config: Config| config.max_size(2).pipelines(pipelines).statement_cache(1000, BYTES);
        let (_test, cluster) = start(1, limited).await?;
        let shard = first(&cluster)?;
        let long = |n: usize, length: usize| {
            Statement::parse(format!(
                "SELECT n, {n} FROM {{shard}}.notes -- {}",
                "x".repeat(length)
            ))
        };
        for n in 0..40 {
            assert_eq!(shard.query_one(&long(n, 10_000)?, &[]).await?.get::<_, i32>(0), 1);
        }
        let (count, bytes) = kept(&shard).await?;
        // A schema's name is longer than its place in the text.
        assert!((4..=7).contains(&count), "{count} are kept");
        assert!(bytes <= i64::try_from(BYTES + 1000).unwrap(), "{bytes} bytes are kept");
        let pool = cluster.stats().remove(0);
        assert!(pool.statement_bytes <= BYTES && pool.statement_evictions >= 34, "{pool:?}");

        // One that is longer than all that may be kept is run, and not kept.
        for n in 0..3 {
            assert_eq!(shard.query_one(&long(n, 100_000)?, &[]).await?.get::<_, i32>(0), 1);
        }
        let (_, bytes) = kept(&shard).await?;
        assert!(bytes <= i64::try_from(BYTES + 1000).unwrap(), "{bytes} bytes are kept");
        assert!(cluster.stats()[0].statement_bytes <= BYTES);
    }
    Ok(())
}

#[tokio::test]
async fn a_session_that_has_forgotten_its_statements_is_told_them_again() -> Result<()> {
    for pipelines in [0, 1] {
        let few = |config: Config| config.max_size(1 + pipelines).pipelines(pipelines);
        let (_test, cluster) = start(1, few).await?;
        let shard = first(&cluster)?;
        // A pipeline may take the connection that is there.
        shard.query(&ALL, &[]).await?;
        for round in 0..3 {
            // Known to the session, and then to nobody but us.
            shard.execute(&ADD, &[&1_i32]).await?;
            let rows = shard.query(&ALL, &[]).await?.len();
            assert_eq!(rows, 2 * (round + 1));
            let before = cluster.stats().remove(0);
            assert_eq!(shard.query_one(&FORGET, &[]).await?.get::<_, i32>(0), 7);
            assert_eq!(shard.query(&ALL, &[]).await?.len(), rows);
            assert_eq!(shard.execute(&ADD, &[&1_i32]).await?, 1);
            let after = cluster.stats().remove(0);
            assert!(after.statement_misses > before.statement_misses, "it knew them still");
            assert_eq!(after.connects, before.connects, "on the same connections");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_transaction_on_such_a_session_is_run_again() -> Result<()> {
    let (_test, cluster) = start(1, |config| config.max_size(1).pipelines(0)).await?;
    let shard = first(&cluster)?;
    shard.execute(&ADD, &[&1_i32]).await?;
    shard.query_one(&FORGET, &[]).await?;
    let mut runs = 0;
    shard
        .transaction(|tx| {
            runs += 1;
            async move { tx.execute(&ADD, &[&1_i32]).await }
        })
        .await?;
    assert_eq!(runs, 2, "once to find it out");
    assert_eq!(shard.query(&ALL, &[]).await?.len(), 3, "and done once");
    Ok(())
}
