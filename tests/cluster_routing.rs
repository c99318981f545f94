//! Statements run where their shard lives, also when it has moved.
#![cfg(test)]

mod cutover;

use cutover::cut_over;
use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Id, InstanceName, Migrations, Outcome, Result, ShardId, Statement};

const NOTES: &str =
    "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id() CHECK (is_local(id)), text text)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1) RETURNING id");
const READ: Statement = Statement::new("SELECT text FROM {shard}.notes WHERE id = $1");
const TYPO: Statement = Statement::new("SELECT text FROM {shard}.ntoes");

async fn cluster_with_notes() -> Result<(TestCluster, Cluster)> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let test = TestCluster::builder().migrations(notes).start().await?;
    let cluster = test.cluster().await?;
    Ok((test, cluster))
}

#[tokio::test]
async fn a_row_lives_where_its_id_says_and_nowhere_else() -> Result<()> {
    let (test, cluster) = cluster_with_notes().await?;
    for name in ["alice", "bob", "Zoë", "", "mallory"] {
        let shard = cluster.shard_for_key(name);
        let id: Id = shard.query_one(&ADD, &[&name]).await?.get(0);
        assert_eq!(cluster.shard_of_id(id)?.id(), shard.id());
        let found = cluster.shard_of_id(id)?.query_one(&READ, &[&id]).await?;
        assert_eq!(found.get::<_, &str>(0), name);
        for home in cluster.map().homes() {
            let server = test.admin(home.instance().as_str()).await?;
            let count = format!("SELECT count(*) FROM {}.notes WHERE id = {id}", home.schema());
            let here = server.query_one(&count, &[]).await.unwrap().get::<_, i64>(0);
            assert_eq!(here, i64::from(home.shard() == shard.id()), "{name} in {}", home.schema());
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_id_of_another_shard_is_refused_by_the_table() -> Result<()> {
    const FORCE: Statement = Statement::new("INSERT INTO {shard}.notes (id) VALUES ($1)");

    let (_test, cluster) = cluster_with_notes().await?;
    let foreign: Id = cluster.shard(ShardId::new(1)?)?.query_one(&ADD, &[&"x"]).await?.get(0);
    let error = cluster.shard(ShardId::new(2)?)?.execute(&FORCE, &[&foreign]).await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("23514"), "{error}");
    assert_eq!(error.outcome(), Outcome::Failed);
    Ok(())
}

#[tokio::test]
async fn what_does_not_exist_is_named() -> Result<()> {
    let (_test, cluster) = cluster_with_notes().await?;
    let error = cluster.shard(ShardId::new(8)?).unwrap_err();
    assert!(error.is_invalid_input() && error.to_string().contains("8"), "{error}");
    let foreign: Id = "11637205501278089".parse()?;
    let error = cluster.shard_of_id(foreign).unwrap_err();
    assert!(error.is_invalid_input() && error.to_string().contains("1341"), "{error}");
    let error = cluster.instance(&InstanceName::new("pg9")?).unwrap_err();
    assert!(error.to_string().contains("pg1, pg2"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_shard_that_has_moved_is_followed() -> Result<()> {
    let (test, cluster) = cluster_with_notes().await?;
    for number in 0..4 {
        let shard = cluster.shard(ShardId::new(number)?)?;
        // Prepared on the old home, so that the stale statement is one that the server had accepted.
        let id: Id = shard.query_one(&ADD, &[&"before"]).await?.get(0);
        cut_over(&test, shard.id().get()).await;
        let row = shard.query_one(&READ, &[&id]).await?;
        assert_eq!(row.get::<_, &str>(0), "before");
        cut_over(&test, shard.id().get()).await;
        assert_eq!(shard.execute(&ADD, &[&"after"]).await?, 1);
        assert_eq!(shard.home()?.epoch().get(), 3);
    }
    Ok(())
}

#[tokio::test]
async fn a_transaction_is_run_again_on_the_new_home() -> Result<()> {
    let (test, cluster) = cluster_with_notes().await?;
    let shard = cluster.shard_for_key("alice");
    cut_over(&test, shard.id().get()).await;
    let ids = shard
        .transaction(async |tx| {
            let first: Id = tx.query_one(&ADD, &[&"one"]).await?.get(0);
            let second: Id = tx.query_one(&ADD, &[&"two"]).await?.get(0);
            Ok([first, second])
        })
        .await?;
    assert!(ids[0] < ids[1]);
    Ok(())
}

#[tokio::test]
async fn a_misspelt_table_is_the_callers_and_never_asks_the_catalog() -> Result<()> {
    let (test, cluster) = cluster_with_notes().await?;
    // Whoever asks the catalog now gets an error, and would say so.
    let catalog = test.admin("pg1").await?;
    catalog.batch_execute("REVOKE SELECT ON howdah.home FROM howdah_app").await.unwrap();
    for _ in 0..20 {
        let error = cluster.shard_for_key("bob").query(&TYPO, &[]).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Failed, "{error}");
        assert_eq!(error.code().map(|code| code.code()), Some("42P01"));
        assert!(error.to_string().contains("ntoes"), "{error}");
        assert!(!error.to_string().contains("shard map"), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_change_of_the_map_is_heard() -> Result<()> {
    let (test, cluster) = cluster_with_notes().await?;
    let shard = cluster.shard(ShardId::new(5)?)?;
    cut_over(&test, shard.id().get()).await;
    let catalog = test.admin("pg1").await?;
    // More than once, for it may not listen yet.
    until("it has heard", async || {
        catalog.batch_execute("NOTIFY howdah_map").await.unwrap();
        shard.home().unwrap().epoch().get() == 2
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn the_key_hash_is_the_servers() -> Result<()> {
    use howdah::{ShardCount, ShardKey};

    for postgres in [15, 18] {
        let test = TestCluster::builder().postgres(postgres).start().await?;
        let server = test.admin("pg1").await?;
        for count in [1, 7, 64, 1000, 8192] {
            let shards = ShardCount::new(count)?;
            let count = i64::from(count);
            let ints: Vec<i64> = (0..200_i64)
                .map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed()))
                .chain([0, 1, -1, i64::MAX, i64::MIN, i64::from(u32::MAX), -4_294_967_296])
                .collect();
            let sql =
                "SELECT (((hashint8extended(k, 0) % $2) + $2) % $2)::int FROM unnest($1::int8[]) k";
            let rows = server.query(sql, &[&ints, &count]).await.unwrap();
            for (key, row) in ints.iter().zip(rows) {
                let shard = ShardKey::from(*key).shard(shards);
                assert_eq!(i32::from(shard.get()), row.get::<_, i32>(0), "{key} of {count}");
            }
            let texts: Vec<String> =
                (0..60).map(|length| "añ字b".chars().cycle().take(length).collect()).collect();
            let sql =
                "SELECT (((hashtextextended(k, 0) % $2) + $2) % $2)::int FROM unnest($1::text[]) k";
            let rows = server.query(sql, &[&texts, &count]).await.unwrap();
            for (key, row) in texts.iter().zip(rows) {
                let shard = ShardKey::from(key).shard(shards);
                assert_eq!(i32::from(shard.get()), row.get::<_, i32>(0), "{key} of {count}");
            }
        }
    }
    Ok(())
}
