//! What operators ask of a whole cluster, from within an application.
#![cfg(test)]

mod cutover;

use cutover::cut_over;
use howdah::testing::TestCluster;
use howdah::{HostRole, InstanceState, Statement};

const COUNT: Statement =
    Statement::new("SELECT count(*) AS n, {shard}.is_local(1) AS own FROM pg_class");

#[tokio::test]
async fn status_and_exec_run_in_a_task_of_their_own() {
    let test = TestCluster::start().await.unwrap();
    let cluster = test.cluster().await.unwrap();
    let status = tokio::spawn({
        let cluster = cluster.clone();
        async move { cluster.status().await }
    });
    let status = status.await.unwrap();
    assert_eq!((status.shards.get(), status.instances.len()), (8, 2));
    for instance in &status.instances {
        assert_eq!((instance.state, instance.shards.len()), (InstanceState::Active, 4));
        assert!(instance.hosts.iter().all(|host| host.role == HostRole::Primary));
    }

    let answers = tokio::spawn(async move { cluster.exec(&COUNT).run(|_| {}).await });
    let answers = answers.await.unwrap().unwrap();
    assert_eq!(answers.len(), 8);
    for (answer, shard) in answers.iter().zip(0..) {
        assert_eq!(answer.shard.get(), shard);
        let rows = answer.result.as_ref().unwrap();
        assert_eq!(rows.columns, ["n", "own"]);
        // An id of shard 0 is at home there alone.
        assert_eq!(rows.rows[0][1].as_deref(), Some(if shard == 0 { "t" } else { "f" }));
    }
}

#[tokio::test]
async fn exec_follows_a_shard_that_has_moved() {
    let test = TestCluster::start().await.unwrap();
    let cluster = test.cluster().await.unwrap();
    cut_over(&test, 2).await;
    let answers = cluster.exec(&COUNT).run(|_| {}).await.unwrap();
    assert!(answers.iter().all(|answer| answer.result.is_ok()), "{answers:?}");
}
