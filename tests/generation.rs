//! A move raises the generation that a server must have: connections prove themselves, and are not made anew.
#![cfg(test)]

mod cutover;

use cutover::cut_over;
use howdah::testing::TestCluster;
use howdah::{Cluster, Result, Shard, ShardId, Statement};

const BACKEND: Statement = Statement::new("SELECT pg_backend_pid(), {shard}.is_local(1)");
const READ: Statement = Statement::new("SELECT last_value FROM {shard}.howdah_block");

async fn backend(shard: &Shard) -> Result<i32> {
    Ok(shard.query_one(&BACKEND, &[]).await?.get(0))
}

/// What the end of a move does, on one server: a higher generation, another name, another home.
async fn move_shard(test: &TestCluster, on_the_server: bool) {
    let admin = test.admin("pg1").await.unwrap();
    let places = if on_the_server { &["instance", "identity"][..] } else { &["instance"] };
    for place in places {
        let raise = format!("UPDATE howdah.{place} SET generation = generation + 1");
        admin.batch_execute(&raise).await.unwrap();
    }
    cut_over(test, 0).await;
}

#[tokio::test]
async fn connections_stay_through_a_move_and_go_where_the_server_knows_nothing_of_it() -> Result<()>
{
    let test = TestCluster::builder().instances(1).shards(1).start().await?;
    let config = test.config().max_size(2).pipelines(1);
    let shard = Cluster::connect(config).await?.shard(ShardId::new(0)?)?;
    shard.query(&READ, &[]).await?;
    let before = backend(&shard).await?;
    move_shard(&test, true).await;
    assert_eq!(backend(&shard).await?, before);
    assert_eq!(shard.home()?.epoch().get(), 2);
    shard.query(&READ, &[]).await?;
    assert_eq!(backend(&shard).await?, before);

    // This one has not heard of the move: it is an old primary, or an old copy.
    move_shard(&test, false).await;
    for statement in [&BACKEND, &READ] {
        let error = shard.query(statement, &[]).await.unwrap_err();
        assert!(error.is_wrong_server() && error.to_string().contains("generation 2"), "{error:?}");
    }
    Ok(())
}
