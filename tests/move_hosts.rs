//! A shard leaves its home only when every host of the new one has all of it.
#![cfg(test)]

mod moving;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use howdah::{Id, InstanceName, MoveNews, MoveStep, Mover, Result};
use moving::{Load, cluster_with_tables, shard};
use tokio::time::sleep;

/// The standby replays commits later than the cutover waits for it. So each attempt is taken back, and what the standby shows
/// while the next one waits is the opening of the attempt before: the right name, without the last rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_that_was_taken_back_is_not_taken_for_the_next() -> Result<()> {
    let test = cluster_with_tables()?.replicas(1).start().await?;
    let delay = async |length: &str| {
        let standby = test.admin("pg1-r1").await.unwrap();
        let set = format!("ALTER SYSTEM SET recovery_min_apply_delay = '{length}'");
        standby.batch_execute(&set).await.unwrap();
        standby.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    };
    delay("1500ms").await;
    let opened = Arc::new(AtomicU32::new(0));
    let count = opened.clone();
    let mover = Mover::new(&test.config())?.on_event(move |event| {
        if event.step == MoveStep::OpenTarget && matches!(event.what, MoveNews::Done) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let load = Load::start(&test, 3).await?;
    let moving = tokio::spawn(async move { mover.run(shard(), &InstanceName::new("pg1")?).await });
    while opened.load(Ordering::Relaxed) < 3 {
        assert!(
            !moving.is_finished(),
            "it left before the standby had its rows: {:?}",
            moving.await
        );
        sleep(Duration::from_millis(10)).await;
    }
    let ledger = load.stop().await;
    delay("0").await;
    moving.await.unwrap()?;

    let standby = test.admin("pg1-r1").await?;
    let rows = standby.query("SELECT id FROM shard_0001_e2.photos", &[]).await.unwrap();
    let there: HashSet<Id> = rows.iter().map(|row| row.get(0)).collect();
    assert!(ledger.written.iter().all(|id| there.contains(id)), "whoever is promoted has all");
    ledger.check(&test.cluster().await?.shard(shard())?).await
}
