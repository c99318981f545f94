//! Many rows by their ids: in the order asked, through moves and outages, and with what is missing told.
#![cfg(test)]

mod cutover;

use cutover::cut_over;
use howdah::testing::TestCluster;
use howdah::{Cluster, Id, Migrations, Result, Statement};

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), n int)";
const ADD: Statement = Statement::new(
    "INSERT INTO {shard}.notes (n) SELECT n FROM generate_series(1, $1) n RETURNING id",
);
const BY_IDS: Statement = Statement::new("SELECT id, n FROM {shard}.notes WHERE id = ANY($1)");

fn notes() -> Result<Migrations> {
    Migrations::new([("0001_notes.sql", NOTES)])
}

/// So many rows on each shard, and their ids in turn: one of each shard, then the next.
async fn fill(cluster: &Cluster, each: i32) -> Result<Vec<Id>> {
    let mut by_shard = Vec::new();
    for shard in cluster.map().count().iter() {
        let rows = cluster.shard(shard)?.query(&ADD, &[&each]).await?;
        by_shard.push(rows.iter().map(|row| row.get(0)).collect::<Vec<Id>>());
    }
    let each = usize::try_from(each).unwrap();
    Ok((0..each).flat_map(|n| by_shard.iter().map(move |ids| ids[n])).collect())
}

#[tokio::test]
async fn ten_thousand_come_in_the_order_asked() -> Result<()> {
    let test = TestCluster::builder().migrations(notes()?).start().await?;
    let cluster = test.cluster().await?;
    let mut ids = fill(&cluster, 1_300).await?;
    ids.reverse();
    let found = cluster.get_many(&BY_IDS, &ids).await?;
    assert!(found.absent().is_empty() && found.missing.is_empty());
    assert!(found.iter().all(|(id, row)| row.unwrap().get::<_, Id>(0) == id));
    let rows: Vec<Id> = found.into_rows().iter().map(|row| row.get(0)).collect();
    assert_eq!(rows, ids);
    Ok(())
}

#[tokio::test]
async fn a_hundred_thousand_are_not_too_many() -> Result<()> {
    let test = TestCluster::builder().migrations(notes()?).start().await?;
    let cluster = test.cluster().await?;
    let ids = fill(&cluster, 12_500).await?;
    assert_eq!(ids.len(), 100_000);
    let found = cluster.get_many(&BY_IDS, &ids).await?;
    assert!(found.absent().is_empty() && found.missing.is_empty());
    assert!(
        found
            .iter()
            .zip(&ids)
            .all(|((id, row), asked)| { id == *asked && row.unwrap().get::<_, Id>(0) == id })
    );
    Ok(())
}

#[tokio::test]
async fn none_and_too_many_are_said_so() -> Result<()> {
    let test = TestCluster::builder().migrations(notes()?).start().await?;
    let cluster = test.cluster().await?;
    assert!(cluster.get_many(&BY_IDS, &[]).await?.into_rows().is_empty());
    let ids: Vec<Id> = (0..100_001).map(|n| Id::new(n).unwrap()).collect();
    let error = cluster.get_many(&BY_IDS, &ids).await.unwrap_err();
    assert!(error.is_invalid_input(), "{error}");
    // An id that no shard of this cluster can have made is like any other that there is not.
    let foreign: Id = "11637205501278089".parse()?;
    assert_eq!(cluster.get_many(&BY_IDS, &[foreign]).await?.absent(), [foreign]);
    Ok(())
}

#[tokio::test]
async fn a_statement_that_returns_something_else_is_refused() -> Result<()> {
    const EVERYTHING: Statement =
        Statement::new("SELECT id FROM {shard}.notes WHERE id = ANY($1) OR true");
    const TWICE: Statement =
        Statement::new("SELECT id FROM {shard}.notes, generate_series(1, 2) WHERE id = ANY($1)");
    const NO_ID: Statement = Statement::new("SELECT n FROM {shard}.notes WHERE id = ANY($1)");

    let test = TestCluster::builder().migrations(notes()?).start().await?;
    let cluster = test.cluster().await?;
    let ids = fill(&cluster, 2).await?;
    for statement in [EVERYTHING, TWICE, NO_ID] {
        let error = cluster.get_many(&statement, &ids[..1]).await.unwrap_err();
        assert!(!error.is_unavailable() && !error.is_invalid_input(), "{error:?}");
    }
    assert!(cluster.get_many(&BY_IDS, &ids[..1]).key("id").await.is_ok());
    assert!(cluster.get_many(&BY_IDS, &ids[..1]).key("nonsense").await.is_err());
    Ok(())
}

#[tokio::test]
async fn shards_that_have_moved_are_followed() -> Result<()> {
    let test = TestCluster::builder().migrations(notes()?).start().await?;
    let cluster = test.cluster().await?;
    let ids = fill(&cluster, 20).await?;
    // Prepared on the old homes.
    assert!(cluster.get_many(&BY_IDS, &ids).await?.absent().is_empty());
    for number in [1, 2, 5] {
        cut_over(&test, number).await;
    }
    let found = cluster.get_many(&BY_IDS, &ids).await?;
    assert!(found.absent().is_empty(), "{:?}", found.absent());
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_down_leaves_a_gap_that_is_named() -> Result<()> {
    let builder = TestCluster::builder().own_servers().migrations(notes()?);
    let mut test = builder.start().await?;
    let cluster = test.cluster().await?;
    let mut ids = fill(&cluster, 5).await?;
    // After the last one of shard 0.
    let nobody = Id::new(ids[32].get() + 1)?;
    ids.push(nobody);
    test.kill("pg2").await?;
    let error = cluster.get_many(&BY_IDS, &ids).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert_eq!(error.instance(), Some("pg2"), "{error:?}");

    let found = cluster.get_many(&BY_IDS, &ids).partial().await?;
    let missing: Vec<_> = found.missing.iter().map(|shard| shard.get()).collect();
    assert_eq!(missing, [1, 3, 5, 7]);
    assert_eq!(found.absent(), [nobody], "the gap's ids are not told as absent");
    let is_lost = |id: &&Id| cluster.layout().shard_of(**id).get() % 2 == 1;
    assert_eq!(found.unknown(), ids.iter().filter(is_lost).copied().collect::<Vec<_>>());
    assert_eq!(found.into_rows().len(), 20);
    Ok(())
}
