//! The map changes under its readers, and the catalog is slow, away or set back: nobody goes where a shard no longer is,
//! and nobody storms the catalog to find out.
#![cfg(test)]

mod cutover;

use std::time::{Duration, Instant};

use cutover::cut_over;
use futures_util::future::join_all;
use howdah::postgres::Client;
use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Config, Error, Migrations, Outcome, Result, Shard, ShardId, Statement};

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), text text)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1)");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.notes");
const TYPO: Statement = Statement::new("SELECT * FROM {shard}.ntoes");

async fn cluster_with_notes() -> Result<TestCluster> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    TestCluster::builder().migrations(notes).start().await
}

fn shard(cluster: &Cluster, number: u16) -> Result<Shard> {
    cluster.shard(ShardId::new(number)?)
}

async fn change(test: &TestCluster, sql: &str) -> Result<()> {
    let change = format!("{sql}; UPDATE howdah.cluster SET map_version = map_version + 1");
    test.admin("pg1").await?.batch_execute(&change).await.unwrap();
    Ok(())
}

/// How often the map was read from the catalog, by all who have hung up since.
async fn readings(catalog: &Client) -> i64 {
    // A session tells the statistics what it did when it ends.
    let others = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND usename = 'howdah_app'";
    let alone = async || catalog.query(others, &[]).await.unwrap().is_empty();
    until("all others have hung up", alone).await;
    let scans = "SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_all_tables
                 WHERE relid = 'howdah.instance'::regclass";
    catalog.query_one(scans, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_thousand_tasks_with_an_old_map_ask_the_catalog_a_handful_of_times() -> Result<()> {
    let test = cluster_with_notes().await?;
    let catalog = test.admin("pg1").await?;
    drop(test.cluster().await?);
    let before = readings(&catalog).await;
    let cluster = test.cluster().await?;
    let connecting = 1;
    for number in 0..8 {
        cut_over(&test, number).await;
    }
    let tasks = (0..1000).map(|task| {
        let shard = shard(&cluster, task % 8);
        tokio::spawn(async move { shard?.execute(&ADD, &[&"x"]).await })
    });
    for written in join_all(tasks).await {
        assert_eq!(written.unwrap()?, 1);
    }
    drop(cluster);
    let asked = readings(&catalog).await - before - connecting;
    // One for the change, one when listening began, and what comes while the first is under way.
    assert!((1..=5).contains(&asked), "{asked}");
    Ok(())
}

#[tokio::test]
async fn a_loop_on_a_misspelt_table_never_asks_the_catalog() -> Result<()> {
    let test = cluster_with_notes().await?;
    let catalog = test.admin("pg1").await?;
    let before = readings(&catalog).await;
    let cluster = test.cluster().await?;
    for _ in 0..200 {
        let error = shard(&cluster, 1)?.query(&TYPO, &[]).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Failed, "{error:?}");
    }
    drop(cluster);
    let asked = readings(&catalog).await - before;
    assert!(asked <= 2, "one to start, and one when listening began: {asked}");
    Ok(())
}

#[tokio::test]
async fn a_shard_between_two_homes_is_waited_for_without_a_storm() -> Result<()> {
    let test = cluster_with_notes().await?;
    let catalog = test.admin("pg1").await?;
    let before = readings(&catalog).await;
    let cluster = test.cluster().await?;
    // The old name is gone and the catalog does not know the new one: the moment between the two commits of a cutover.
    let gone = "ALTER SCHEMA shard_0001_e1 RENAME TO shard_0001_e2";
    test.admin("pg2").await?.batch_execute(gone).await.unwrap();
    let tasks = (0..200).map(|_| {
        let shard = shard(&cluster, 1);
        tokio::spawn(async move { shard?.execute(&ADD, &[&"x"]).await })
    });
    let tasks: Vec<_> = tasks.collect();
    let began = Instant::now();
    // That it lasts is the point.
    tokio::time::sleep(Duration::from_millis(500)).await;
    change(&test, "UPDATE howdah.home SET epoch = 2 WHERE shard = 1").await?;
    for written in join_all(tasks).await {
        assert_eq!(written.unwrap()?, 1);
    }
    let lasted = began.elapsed();
    drop(cluster);
    let asked = readings(&catalog).await - before;
    let few = i64::try_from(lasted.as_millis() / 25).unwrap();
    assert!(asked <= few, "{asked} readings in {lasted:?}");
    Ok(())
}

#[tokio::test]
async fn a_catalog_that_was_set_back_takes_nothing_back() -> Result<()> {
    let test = cluster_with_notes().await?;
    for number in [1, 2] {
        cut_over(&test, number).await;
    }
    let cluster = test.cluster().await?;
    let version = cluster.map().version();
    // What a backup from before those two moves says; and then a third shard moves, which only this catalog knows.
    let catalog = test.admin("pg1").await?;
    let restore = "UPDATE howdah.home SET epoch = 1 WHERE shard IN (1, 2);
        UPDATE howdah.cluster SET map_version = 1";
    catalog.batch_execute(restore).await.unwrap();
    cut_over(&test, 3).await;
    assert!(version.get() > 2, "the client has seen a later version than the catalog has now");

    for number in 0..8 {
        assert_eq!(shard(&cluster, number)?.execute(&ADD, &[&"x"]).await?, 1, "shard {number}");
    }
    let epochs: Vec<_> = cluster.map().homes().map(|home| home.epoch().get()).collect();
    assert_eq!(epochs, [1, 2, 2, 2, 1, 1, 1, 1]);
    assert!(cluster.map().version() >= version);
    Ok(())
}

#[tokio::test]
async fn a_copy_of_the_map_knows_what_a_restored_catalog_has_forgotten() -> Result<()> {
    let test = cluster_with_notes().await?;
    let folder = tempfile::tempdir().unwrap();
    let config = test.config().map_cache(folder.path().join("map"));
    cut_over(&test, 1).await;
    drop(Cluster::connect(config.clone()).await?);
    let restore = "UPDATE howdah.home SET epoch = 1; UPDATE howdah.cluster SET map_version = 1";
    test.admin("pg1").await?.batch_execute(restore).await.unwrap();

    let cluster = Cluster::connect(config).await?;
    assert_eq!(shard(&cluster, 1)?.execute(&ADD, &[&"x"]).await?, 1);
    // Who has no copy is told, with nothing executed.
    let cluster = Cluster::connect(test.config()).await?;
    let limit = Duration::from_millis(200);
    let error = shard(&cluster, 1)?.timeout(limit).query(&COUNT, &[]).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotExecuted, "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_copy_that_is_older_than_the_map_is_brought_up_to_date() -> Result<()> {
    let test = cluster_with_notes().await?;
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("map");
    let config = test.config().map_cache(&copy);
    drop(Cluster::connect(config.clone()).await?);
    let old = std::fs::read(&copy).unwrap();
    cut_over(&test, 1).await;

    // With the catalog at hand the copy does not count.
    let cluster = Cluster::connect(config.clone()).await?;
    assert_eq!(shard(&cluster, 1)?.home()?.epoch().get(), 2);
    assert_ne!(std::fs::read(&copy).unwrap(), old, "and is replaced");

    // Without it, it starts the program: what has moved since is told as not executed, and the rest is there.
    std::fs::write(&copy, &old).unwrap();
    let nobody = Config::new("postgres://howdah_app@127.0.0.1:1/nowhere");
    let cluster = Cluster::connect(nobody.map_cache(&copy).max_size(2)).await?;
    assert_eq!(shard(&cluster, 0)?.execute(&ADD, &[&"x"]).await?, 1);
    let limit = Duration::from_millis(200);
    let error = shard(&cluster, 1)?.timeout(limit).query(&COUNT, &[]).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotExecuted, "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_catalog_that_does_not_answer_holds_up_nobody_who_does_not_need_it() -> Result<()> {
    let test = cluster_with_notes().await?;
    let cluster = test.cluster().await?;
    let catalog = test.admin("pg1").await?;
    let change = "BEGIN; LOCK TABLE howdah.home; UPDATE howdah.home SET epoch = 2 WHERE shard = 1;
        UPDATE howdah.cluster SET map_version = map_version + 1";
    catalog.batch_execute(change).await.unwrap();
    let rename = "ALTER SCHEMA shard_0001_e1 RENAME TO shard_0001_e2";
    test.admin("pg2").await?.batch_execute(rename).await.unwrap();

    let limit = Duration::from_millis(200);
    let error = shard(&cluster, 1)?.timeout(limit).query(&COUNT, &[]).await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotExecuted, "{error:?}");
    for number in [0, 2, 3, 4, 5, 6, 7] {
        assert_eq!(shard(&cluster, number)?.execute(&ADD, &[&"x"]).await?, 1);
    }
    let moved = shard(&cluster, 1)?;
    let (written, ()) = tokio::join!(async { moved.execute(&ADD, &[&"x"]).await }, async {
        catalog.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(written?, 1);
    Ok(())
}

#[tokio::test]
async fn a_raised_generation_ends_the_connections_below_it() -> Result<()> {
    let test = cluster_with_notes().await?;
    let cluster = test.cluster().await?;
    shard(&cluster, 1)?.execute(&ADD, &[&"before"]).await?;
    change(&test, "UPDATE howdah.instance SET generation = 2 WHERE name = 'pg2'").await?;
    // A server that was promoted without the fence says so itself: it is refused, and nothing reaches it.
    let catalog = test.admin("pg1").await?;
    let below = shard(&cluster, 1)?;
    let error = until("it is refused", async || {
        catalog.batch_execute("NOTIFY howdah_map").await.unwrap();
        below.execute(&ADD, &[&"during"]).await.err()
    })
    .await;
    assert!(error.is_wrong_server(), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotExecuted);
    assert!(error.to_string().contains("generation 1"), "{error}");
    assert_eq!(shard(&cluster, 0)?.execute(&ADD, &[&"elsewhere"]).await?, 1);

    let raise = "UPDATE howdah.identity SET generation = 2";
    test.admin("pg2").await?.batch_execute(raise).await.unwrap();
    // For a moment the pool still says what it was told last.
    let raised = shard(&cluster, 1)?;
    until("it is served again", async || {
        let written = raised.execute(&ADD, &[&"after"]).await;
        written.inspect_err(|error| assert!(error.is_wrong_server(), "{error:?}"))
    })
    .await;

    // A catalog that was set back does not let the old one in again.
    let restore = "UPDATE howdah.instance SET generation = 1; NOTIFY howdah_map";
    catalog.batch_execute(restore).await.unwrap();
    test.admin("pg2")
        .await?
        .batch_execute("UPDATE howdah.identity SET generation = 1")
        .await
        .unwrap();
    cut_over(&test, 0).await;
    shard(&cluster, 0)?.execute(&ADD, &[&"the catalog was read"]).await?;
    let kick = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND usename = 'howdah_app'";
    test.admin("pg2").await?.query(kick, &[]).await.unwrap();
    // The connections that were ended are found one by one.
    let error = until("it is refused again", async || {
        raised.execute(&ADD, &[&"again"]).await.err().filter(Error::is_wrong_server)
    })
    .await;
    assert_eq!(error.outcome(), Outcome::NotExecuted, "{error:?}");
    Ok(())
}
