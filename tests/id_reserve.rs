//! Blocks of ids in advance: of the shard's own clock, and only while they are fresh.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic wherever it likes")]

use std::time::Duration;

use howdah::testing::TestCluster;
use howdah::{Id, ShardId, Statement};

const NEXT: Statement = Statement::new("SELECT {shard}.next_id()");

#[tokio::test]
async fn a_block_lies_between_the_ids_before_and_after_it() {
    let test = TestCluster::start().await.unwrap();
    let cluster = test.cluster().await.unwrap();
    let shard = cluster.shard(ShardId::new(5).unwrap()).unwrap();
    let next = async || shard.query_one(&NEXT, &[]).await.unwrap().get::<_, Id>(0);

    let before = next().await;
    let block: Vec<Id> = shard.reserve_ids(5000).await.unwrap().collect();
    let after = next().await;
    assert_eq!(block.len(), 5000);
    assert!(block.is_sorted_by(|a, b| a < b));
    assert!(before < block[0] && block[4999] < after);
    assert!(block.iter().all(|id| cluster.layout().shard_of(*id) == shard.id()));
}

#[tokio::test]
async fn many_at_once_share_nothing() {
    let test = TestCluster::start().await.unwrap();
    let cluster = test.cluster().await.unwrap();
    let shard = cluster.shard(ShardId::new(2).unwrap()).unwrap();
    let blocks = (0..8).map(|_| shard.reserve_ids(1000));
    let blocks = futures_util::future::try_join_all(blocks).await.unwrap();
    let mut all: Vec<Id> = blocks.into_iter().flatten().collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 8000);
}

#[tokio::test]
async fn a_stale_block_gives_no_more() {
    let test = TestCluster::start().await.unwrap();
    let shard = test.cluster().await.unwrap().shard(ShardId::new(0).unwrap()).unwrap();
    let mut ids = shard.reserve_ids(10).await.unwrap();
    assert!(ids.next().is_some() && ids.try_next().is_ok());
    let mut ids = ids.max_age(Duration::ZERO);
    assert_eq!(ids.next(), None);
    assert!(ids.try_next().unwrap_err().is_refused());
    let mut ids = ids.max_age(Duration::MAX);
    assert_eq!(ids.next(), None, "what was stale stays so");
    assert!(ids.try_next().unwrap_err().is_refused());
    // What is used up does not grow old.
    let mut ids = shard.reserve_ids(1).await.unwrap();
    assert!(ids.try_next().is_ok());
    assert!(ids.max_age(Duration::ZERO).try_next().unwrap_err().is_invalid_input());
}

#[tokio::test]
async fn a_block_has_a_bound() {
    let test = TestCluster::start().await.unwrap();
    let shard = test.cluster().await.unwrap().shard(ShardId::new(0).unwrap()).unwrap();
    assert_eq!(shard.reserve_ids(0).await.unwrap().count(), 0);
    for count in [1 << 21, u32::MAX] {
        assert!(shard.reserve_ids(count).await.unwrap_err().is_invalid_input());
    }
}
