//! A server that is gone for good, or a copy that has fallen too far behind, hinders no move from being ended; and no slot
//! may keep WAL without bounds meanwhile.
#![cfg(test)]

mod moving;

use std::time::{Duration, Instant};

use howdah::testing::{TestCluster, until};
use howdah::{
    Error, InstanceName, Instances, MoveNews, MovePhase, MoveStep, Mover, Result, Statement,
};
use moving::fault::{Command, Point, Standing, Way};
use moving::{cluster_with_tables, leftovers, leftovers_on, schemas, shard};
use tokio::runtime::Handle;
use tokio::task::block_in_place;
use tokio::time::sleep;
use tokio_postgres::NoTls;

fn pg(number: u8) -> InstanceName {
    InstanceName::new(&format!("pg{number}")).unwrap()
}

async fn limit_wal(test: &TestCluster, instance: &str, limit: &str) {
    let admin = test.admin(instance).await.unwrap();
    let set = format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{limit}'");
    admin.batch_execute(&set).await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    let shown = "SHOW max_slot_wal_keep_size";
    while admin.query_one(shown, &[]).await.unwrap().get::<_, String>(0) != limit {
        assert!(Instant::now() < patience, "{instance} does not read its configuration");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_slot_without_bounds_is_not_made_and_one_that_was_given_up_is_named() -> Result<()> {
    let test = cluster_with_tables()?.own_servers().start().await?;
    let mover = Mover::new(&test.config())?;
    limit_wal(&test, "pg1", "-1").await;
    let error = mover.run(shard(), &pg(1)).await.unwrap_err();
    let said = error.to_string();
    assert!(error.is_refused() && said.contains("pg1 max_slot_wal_keep_size is -1"), "{said}");
    assert!(!said.contains("pg2 max_slot"), "{said}");

    limit_wal(&test, "pg1", "1GB").await;
    let id = mover.run(shard(), &pg(1)).await?.id;
    let old_home = test.admin("pg2").await?;
    let stream: String = old_home
        .query_one("SELECT subname FROM pg_subscription WHERE subname ~ '_r$'", &[])
        .await
        .unwrap()
        .get(0);
    let stop = format!("ALTER SUBSCRIPTION \"{stream}\" DISABLE");
    old_home.batch_execute(&stop).await.unwrap();
    limit_wal(&test, "pg1", "1MB").await;
    let home = test.admin("pg1").await?;
    let lost = "SELECT FROM pg_replication_slots WHERE slot_name = $1 AND wal_status = 'lost'";
    let patience = Instant::now() + Duration::from_secs(60);
    while home.query_opt(lost, &[&stream]).await.unwrap().is_none() {
        assert!(Instant::now() < patience, "the slot is not given up");
        home.batch_execute("SELECT pg_switch_wal(), txid_current()").await.unwrap();
        home.batch_execute("CHECKPOINT").await.unwrap();
    }
    let error = mover.rollback(id).await.unwrap_err();
    let said = error.to_string();
    assert!(error.is_refused() && said.contains("max_slot_wal_keep_size"), "{said}");
    assert!(said.contains("moves finish m1"), "{said}");
    assert_eq!(mover.finish(id).await?.phase, MovePhase::Finished);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_move_is_finished_without_an_old_home_that_is_gone() -> Result<()> {
    let mut test = cluster_with_tables()?.own_servers().start().await?;
    let mover = Mover::new(&test.config())?;
    let config = test.config();
    let without = |lost| Ok::<_, Error>(Mover::new(&config)?.without(lost));
    let (without_home, without_copy) = (without(pg(1))?, without(pg(2))?);
    let id = mover.run(shard(), &pg(1)).await?.id;
    for refused in [without_copy.finish(id).await, without_home.finish(id).await] {
        assert!(refused.unwrap_err().is_refused(), "both are there");
    }

    test.kill("pg2").await?;
    let error = mover.finish(id).await.unwrap_err();
    assert!(
        error.is_unavailable() && error.to_string().contains("finish m1 --lost pg2"),
        "{error}"
    );
    let in_use = Instances::open(&config).await?.remove(&pg(2)).await.unwrap_err();
    assert!(in_use.to_string().contains("--lost pg2"), "{in_use}");
    assert!(without_copy.abort(id).await.unwrap_err().is_refused(), "it has left");
    assert!(without_home.finish(id).await.unwrap_err().is_refused(), "it lives there");
    assert!(without(pg(9))?.finish(id).await.unwrap_err().is_invalid_input());

    let ended = without_copy.finish(id).await?;
    assert_eq!(ended.phase, MovePhase::Finished);
    assert!(ended.error.unwrap().contains("pg2 was given as lost"));
    assert_eq!(leftovers_on(&test, ["pg1"]).await?, Vec::<String>::new());
    Instances::open(&config).await?.remove(&pg(2)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_slot_the_server_gave_up_is_reported_as_that() -> Result<()> {
    const STOP: &str = "DO $$ BEGIN EXECUTE (SELECT format('ALTER SUBSCRIPTION %I DISABLE', subname) \
        FROM pg_subscription WHERE subname LIKE 'howdah%'); END $$";
    const LOST: &str = "SELECT FROM pg_replication_slots WHERE wal_status = 'lost'";

    let test = cluster_with_tables()?.own_servers().start().await?;
    let before_fence = Point::there(MoveStep::CheckHosts);
    let standing = Standing::at(before_fence, &test.config(), &Command::Go(pg(1))).await?;
    test.admin("pg1").await?.batch_execute(STOP).await.unwrap();
    limit_wal(&test, "pg2", "1MB").await;
    let source = test.admin("pg2").await?;
    until("the slot is given up", async || {
        source.batch_execute("SELECT pg_switch_wal(), txid_current()").await.unwrap();
        source.batch_execute("CHECKPOINT").await.unwrap();
        source.query_opt(LOST, &[]).await.unwrap().is_some()
    })
    .await;
    standing.go();
    let error = standing.end().await.unwrap_err();
    let said = error.to_string();
    assert!(error.is_refused() && said.contains("pg2 dropped what the copy lacks"), "{said}");
    assert!(said.contains("raise that on pg2"), "{said}");
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_is_aborted_without_a_target_that_is_gone() -> Result<()> {
    let mut test = cluster_with_tables()?.own_servers().instances(3).start().await?;
    die_at(&test, MoveStep::Verify, pg(3)).await?;
    test.kill("pg3").await?;
    let mover = Mover::new(&test.config())?;
    let open = mover.open_move(shard()).await?.unwrap();
    let without = Mover::new(&test.config())?.without(pg(3));
    assert!(without.finish(open.id).await.unwrap_err().is_refused(), "it never left");
    assert_eq!(without.abort(open.id).await?.phase, MovePhase::Aborted);
    let left = ["pg1", "pg2"];
    assert_eq!(leftovers_on(&test, left).await?, Vec::<String>::new());
    mover.finish(mover.run(shard(), &pg(1)).await?.id).await?;
    test.start_server("pg3").await?;
    assert!(schemas(&test).await?.contains(&"pg3 shard_0001_e1".to_owned()), "left as it was");

    // Closed where it was: only the target can serve.
    die_at(&test, MoveStep::AwaitSourceHosts, pg(2)).await?;
    test.kill("pg2").await?;
    let open = mover.open_move(shard()).await?.unwrap();
    let error = Mover::new(&test.config())?.without(pg(2)).abort(open.id).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("closed on pg1"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_died_when_the_shard_had_left_is_finished_without_its_source() -> Result<()> {
    let mut test = cluster_with_tables()?.own_servers().start().await?;
    die_at(&test, MoveStep::DropForward, pg(1)).await?;
    test.kill("pg2").await?;
    let mover = Mover::new(&test.config())?.without(pg(2));
    let open = mover.open_move(shard()).await?.unwrap();
    assert_eq!(mover.finish(open.id).await?.phase, MovePhase::Finished);
    assert_eq!(leftovers_on(&test, ["pg1"]).await?, Vec::<String>::new());
    Ok(())
}

/// The new home fails over to a standby that does not know yet that it may serve, and the old one is gone for good.
async fn end_with_a_home_that_is_still_sealed(back: bool) -> Result<()> {
    const WRITE: Statement = Statement::new("UPDATE {shard}.users SET n = n + 1");

    let mut test = cluster_with_tables()?.instances(3).shards(2).replicas(1).start().await?;
    let mover = Mover::new(&test.config())?;
    let command = if back {
        Command::RollBack(mover.run(shard(), &pg(3)).await?.id)
    } else {
        Command::Go(pg(3))
    };
    let (home, lost, epoch) = if back { ("pg2", "pg3", 3) } else { ("pg3", "pg2", 2) };
    let standby = format!("{home}-r1");
    let unsealing =
        Point { step: MoveStep::UnsealTarget, way: if back { Way::Back } else { Way::There } };
    let standing = Standing::at(unsealing, &test.config(), &command).await?;
    // From now on the standby hears nothing more.
    let deaf = test.admin(&standby).await?;
    deaf.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
    deaf.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until("the standby hears nothing", async || {
        let deaf = deaf.query_one("SELECT count(*) FROM pg_stat_wal_receiver", &[]).await.unwrap();
        deaf.get::<_, i64>(0) == 0
    })
    .await;
    standing.go();
    until("the catalog has the new home", async || {
        let cluster = test.cluster().await.unwrap();
        cluster.shard(shard()).unwrap().home().unwrap().instance().as_str() == home
    })
    .await;
    standing.stop().await;
    for gone in [home, lost, &format!("{lost}-r1")] {
        test.kill(gone).await?;
    }
    test.promote(&standby).await?;
    let port = test.servers().server(&standby)?.port();
    let dsn = format!("postgres://howdah_app@127.0.0.1:{port}/{}", test.servers().database());
    let change = "UPDATE howdah.instance SET dsn = $1 WHERE name = $2";
    test.admin("pg1").await?.execute(change, &[&dsn, &home]).await.unwrap();
    let promoted = test.admin(&standby).await?;
    let sealed = format!("DELETE FROM shard_0001_e{epoch}.users WHERE false");
    assert_eq!(promoted.batch_execute(&sealed).await.unwrap_err().code().unwrap().code(), "HW002");

    let id = mover.open_move(shard()).await?.unwrap().id;
    let ended = Mover::new(&test.config())?.without(InstanceName::new(lost)?).finish(id).await?;
    let phase = if back { MovePhase::RolledBack } else { MovePhase::Finished };
    assert_eq!(ended.phase, phase);
    assert_eq!(leftovers_on(&test, [standby.as_str()]).await?, Vec::<String>::new());
    let shard = test.cluster().await?.shard(shard())?;
    assert_eq!(shard.execute(&WRITE, &[]).await?, 20);
    shard.reserve_ids(1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_is_still_sealed_is_opened_before_its_move_is_finished() -> Result<()> {
    end_with_a_home_that_is_still_sealed(false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_is_still_sealed_is_opened_before_its_way_back_is_ended() -> Result<()> {
    end_with_a_home_that_is_still_sealed(true).await
}

/// A move dies when a step begins.
async fn die_at(test: &TestCluster, step: MoveStep, to: InstanceName) -> Result<()> {
    let dying = Mover::new(&test.config())?
        .on_event(move |event| assert!(event.step != step, "died as it should"));
    assert!(tokio::spawn(async move { dying.run(shard(), &to).await }).await.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_for_a_moment_is_waited_for() -> Result<()> {
    let test = cluster_with_tables()?.proxies().start().await?;
    let mover = Mover::new(&test.config())?;
    let id = mover.run(shard(), &pg(1)).await?.id;
    test.proxy("pg2")?.cut();
    let finishing = tokio::spawn(async move { mover.finish(id).await });
    sleep(Duration::from_secs(1)).await;
    test.proxy("pg2")?.heal();
    assert_eq!(finishing.await.unwrap()?.phase, MovePhase::Finished);
    Ok(())
}

/// A mover that loses the slot of the way back on a server when a step begins.
fn losing_its_way_back(test: &TestCluster, on: &'static str, at: MoveStep) -> Result<Mover> {
    const LOSE: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
        WHERE database = current_database() AND slot_name ~ '_r$'";

    let (dsn, runtime) = (test.servers().dsn(on, "postgres")?, Handle::current());
    Ok(Mover::new(&test.config())?.on_event(move |event| {
        let lose = async {
            let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
            let driven = tokio::spawn(connection);
            assert_eq!(client.query(LOSE, &[]).await.unwrap().len(), 1);
            driven.abort();
        };
        if event.step == at && matches!(event.what, MoveNews::Begun) {
            block_in_place(|| runtime.block_on(lose));
        }
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_that_is_lost_is_made_anew_before_the_shard_leaves_and_done_without_after_it()
-> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let losing = losing_its_way_back(&test, "pg1", MoveStep::CheckHosts)?;
    let error = losing.run(shard(), &pg(1)).await.unwrap_err();
    let said = error.to_string();
    assert!(error.is_refused() && said.contains("`howdah moves resume m1`"), "{said}");
    assert_eq!(schemas(&test).await?, ["pg1 shard_0001_e1", "pg2 shard_0001_e1"]);
    let mover = Mover::new(&test.config())?;
    let open = mover.open_move(shard()).await?.unwrap();
    assert_eq!(mover.resume(open.id).await?.phase, MovePhase::Reversible);
    assert_eq!(mover.rollback(open.id).await?.phase, MovePhase::RolledBack);

    let losing = losing_its_way_back(&test, "pg1", MoveStep::DropForward)?;
    assert_eq!(losing.run(shard(), &pg(1)).await?.phase, MovePhase::Finished);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    assert_eq!(schemas(&test).await?, ["pg1 shard_0001_e4"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_cannot_log_in_to_the_target_is_known_before_and_hinders_no_end_after()
-> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let catalog = test.admin("pg1").await?;
    let lead_peers_to = async |dsn: Option<&str>| {
        let change = "UPDATE howdah.instance SET peer_dsn = $1 WHERE name = 'pg1'";
        catalog.execute(change, &[&dsn]).await.unwrap();
    };
    let nowhere = Some("postgres://howdah_app@127.0.0.1:1/nowhere");
    lead_peers_to(nowhere).await;
    let mover = Mover::new(&test.config())?;
    let error = mover.run(shard(), &pg(1)).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("pg2 cannot follow pg1"), "{error}");
    assert!(mover.list().await?.is_empty());
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());

    lead_peers_to(None).await;
    die_at(&test, MoveStep::StartReverse, pg(1)).await?;
    lead_peers_to(nowhere).await;
    let id = mover.open_move(shard()).await?.unwrap().id;
    let error = mover.resume(id).await.unwrap_err();
    assert!(error.to_string().contains("`howdah moves finish m1`"), "{error}");
    assert_eq!(mover.finish(id).await?.phase, MovePhase::Finished);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    assert_eq!(schemas(&test).await?, ["pg1 shard_0001_e2"]);
    Ok(())
}
