//! A server that is down hurts the shards that live on it, and no others; nothing has to be restarted afterwards.
#![cfg(test)]

use std::collections::BTreeSet;

use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Cursor, Id, Migrations, Outcome, Result, ShardId, Statement};

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), text text)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1) RETURNING id");
const NEWEST: Statement =
    Statement::new("SELECT id FROM {shard}.notes WHERE id < $1 ORDER BY id DESC LIMIT $2");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.notes");

/// Shards with even numbers live on pg1, with the catalog; the others on pg2.
async fn cluster_of_its_own() -> Result<(TestCluster, Cluster)> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let test = TestCluster::builder().own_servers().migrations(notes).start().await?;
    let cluster = test.cluster().await?;
    Ok((test, cluster))
}

async fn add_everywhere(cluster: &Cluster, each: usize) -> Result<BTreeSet<Id>> {
    let mut ids = BTreeSet::new();
    for _ in 0..each {
        for shard in cluster.map().count().iter() {
            ids.insert(cluster.shard(shard)?.query_one(&ADD, &[&"note"]).await?.get(0));
        }
    }
    Ok(ids)
}

#[tokio::test]
async fn the_other_shards_go_on_and_the_lost_ones_come_back() -> Result<()> {
    let (mut test, cluster) = cluster_of_its_own().await?;
    let on = |number| cluster.shard(ShardId::new(number)?);
    add_everywhere(&cluster, 1).await?;
    test.kill("pg2").await?;

    assert_eq!(on(0)?.execute(&ADD, &[&"still there"]).await?, 1);
    let error = on(1)?.execute(&ADD, &[&"lost"]).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert_eq!(error.instance(), Some("pg2"), "{error:?}");
    // Once the dead connections are gone, nothing is even sent.
    let error = on(1)?.execute(&ADD, &[&"lost"]).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotExecuted, "{error:?}");
    assert!(!error.is_timeout(), "the reason is a refused connection: {error:?}");

    let error = cluster.scatter(&COUNT).all(&[]).rows().await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    let found = cluster.scatter(&COUNT).all(&[]).partial().rows().await?;
    let missing: Vec<_> = found.missing.iter().map(|shard| shard.get()).collect();
    assert_eq!((found.rows.len(), missing), (4, vec![1, 3, 5, 7]));

    test.start_server("pg2").await?;
    let lost = on(1)?;
    until("the lost one is back", async || lost.execute(&ADD, &[&"back"]).await).await;
    let found = cluster.scatter(&COUNT).all(&[]).rows().await?;
    assert_eq!(found.rows.iter().map(|(_, row)| row.get::<_, i64>(0)).sum::<i64>(), 10);
    Ok(())
}

#[tokio::test]
async fn a_page_names_its_gap_and_no_page_after_it_passes_it() -> Result<()> {
    let (mut test, cluster) = cluster_of_its_own().await?;
    let expected = add_everywhere(&cluster, 5).await?;
    let mut seen = Vec::new();
    let mut cursor: Option<Cursor> = None;
    for number in 0.. {
        if number == 2 {
            test.kill("pg2").await?;
        }
        if number == 4 {
            test.start_server("pg2").await?;
            let lost = cluster.shard(ShardId::new(1)?)?;
            until("the lost one is back", async || lost.query(&COUNT, &[]).await).await;
        }
        let page =
            cluster.scatter(&NEWEST).all(&[]).partial().page("id", cursor.as_ref(), 4).await?;
        assert_eq!(page.missing.len(), if (2..4).contains(&number) { 4 } else { 0 });
        seen.extend(page.rows.iter().map(|row| row.get::<_, Id>(0)));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), expected.len());
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), expected);
    Ok(())
}

#[tokio::test]
async fn a_copy_of_the_map_starts_an_application_without_its_catalog() -> Result<()> {
    let (mut test, cluster) = cluster_of_its_own().await?;
    let folder = std::env::temp_dir().join(format!("howdah-{}", test.servers().database()));
    std::fs::create_dir_all(&folder).unwrap();
    let copy = folder.join("map");
    let config = test.config().map_cache(&copy);
    drop(Cluster::connect(config.clone()).await?);
    assert!(copy.exists());
    test.kill("pg1").await?;

    let error = Cluster::connect(test.config()).await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("127.0.0.1"), "{error:?}");

    let without = Cluster::connect(config).await?;
    assert_eq!(without.map(), cluster.map());
    assert_eq!(without.shard(ShardId::new(1)?)?.execute(&ADD, &[&"pg2 lives"]).await?, 1);
    std::fs::remove_dir_all(folder).unwrap();
    Ok(())
}
