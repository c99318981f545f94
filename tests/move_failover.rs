//! One of the two servers fails over, for real, between the start of a copy and the change of home: what the move has made is void,
//! or it goes forward. Nothing is lost that the server has which took over, and no two homes take writes.
#![cfg(test)]

mod moving;

use howdah::testing::{TestCluster, until};
use howdah::{Error, InstanceName, MoveId, MovePhase, MoveStep, Mover, Result, Statement};
use moving::fault::{Command, Point, Standing};
use moving::{Load, cluster_with_tables, leftovers_on, shard};

const ADD: Statement = Statement::new("INSERT INTO {shard}.users (id) VALUES ($1)");
const ADDED: Statement = Statement::new("SELECT id FROM {shard}.users WHERE id > 20 ORDER BY id");

fn pg(number: u8) -> InstanceName {
    InstanceName::new(&format!("pg{number}")).unwrap()
}

async fn move_stands_at(test: &TestCluster, step: MoveStep, to: u8) -> Result<Standing> {
    let point = Point { step, back: false };
    Standing::at(point, &test.config(), &Command::Go(pg(to))).await
}

/// The primary of an instance dies, and its standby takes over, which may have been dead for a while and lack what came since.
/// Whoever sees to that takes the dead one out of the address. Returns who is the instance's primary now.
async fn fail_over(
    test: &mut TestCluster,
    instance: &str,
    standby_is_dead: bool,
) -> Result<String> {
    let standby = format!("{instance}-r1");
    test.kill(instance).await?;
    if standby_is_dead {
        test.start_server(&standby).await?;
    }
    test.promote(&standby).await?;
    let port = test.servers().server(&standby)?.port();
    let dsn = format!("postgres://howdah_app@127.0.0.1:{port}/{}", test.servers().database());
    let change = "UPDATE howdah.instance SET dsn = $1 WHERE name = $2";
    test.admin("pg1").await?.execute(change, &[&dsn, &instance]).await.unwrap();
    Ok(standby)
}

/// None of these takes writes for the shard, by either name. A mover that has all but unsealed it makes them wait.
async fn assert_no_home(test: &TestCluster, servers: impl IntoIterator<Item = &str>) {
    const MADE_TO_WAIT: &str = "55P03";

    for server in servers {
        let client = test.admin(server).await.unwrap();
        client.batch_execute("SET lock_timeout = '100ms'").await.unwrap();
        for (schema, refusal) in [("shard_0001_e1", "42P01"), ("shard_0001_e2", "HW002")] {
            let write = format!("DELETE FROM {schema}.users WHERE false");
            let refused = client.batch_execute(&write).await.unwrap_err();
            let code = refused.code().unwrap().code();
            assert!([refusal, MADE_TO_WAIT].contains(&code), "{server}, {schema}: {refused}");
        }
    }
}

fn assert_void(error: &Error, who: &str, id: MoveId) {
    let said = error.to_string();
    assert!(error.is_refused(), "{error:?}");
    assert!(said.contains(who) && said.contains("failed over since the copy began"), "{said}");
    assert!(said.contains(&format!("howdah moves abort {id}")), "{said}");
}

/// The first run ends without having moved anything, and so does every other; once it is aborted, the shard moves anew.
async fn begin_anew(
    test: &TestCluster,
    first: Standing,
    to: u8,
    primaries: [&str; 2],
) -> Result<()> {
    let error = first.end().await.unwrap_err();
    assert!(error.is_refused() || error.is_unavailable(), "{error:?}");
    let mover = Mover::new(&test.config())?;
    let open = mover.open_move(shard()).await?.unwrap();
    let who = format!("{} or {}", open.source, open.target);
    assert_void(&mover.resume(open.id).await.unwrap_err(), &who, open.id);
    assert_void(&mover.run(shard(), &pg(to)).await.unwrap_err(), &who, open.id);
    assert!(mover.finish(open.id).await.unwrap_err().is_refused(), "it has not left");
    let home = test.cluster().await?.shard(shard())?.home()?;
    assert_eq!((home.instance(), home.epoch().get()), (&open.source, 1));

    assert_eq!(mover.abort(open.id).await?.phase, MovePhase::Aborted);
    assert_eq!(leftovers_on(test, primaries).await?, Vec::<String>::new());
    let moved = mover.run(shard(), &pg(to)).await?;
    assert_eq!(moved.phase, MovePhase::Reversible);
    mover.verify(shard()).await?;
    assert_eq!(mover.finish(moved.id).await?.phase, MovePhase::Finished);
    assert_eq!(leftovers_on(test, primaries).await?, Vec::<String>::new());
    Ok(())
}

async fn added(test: &TestCluster) -> Result<Vec<i32>> {
    let rows = test.cluster().await?.shard(shard())?.query(&ADDED, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn add(test: &TestCluster, id: i32) -> Result<()> {
    test.cluster().await?.shard(shard())?.execute(&ADD, &[&id]).await.map(drop)
}

/// A row is written which the copy has taken, and acknowledged to the source.
async fn add_and_copy(test: &TestCluster, id: i32, target: &str) -> Result<()> {
    const HAS_ROW: &str = "SELECT FROM shard_0001_e1.users WHERE id = $1";
    const CONFIRMED: &str = "SELECT FROM pg_replication_slots \
        WHERE slot_type = 'logical' AND confirmed_flush_lsn >= $1::text::pg_lsn";

    add(test, id).await?;
    let [source, target] = [test.admin("pg2").await?, test.admin(target).await?];
    let written = source.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap();
    let written: String = written.get(0);
    until("the row is in the copy", async || {
        target.query_opt(HAS_ROW, &[&id]).await.unwrap().is_some()
    })
    .await;
    until("the source keeps it no more", async || {
        source.query_opt(CONFIRMED, &[&written]).await.unwrap().is_some()
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_on_a_target_that_failed_over_before_the_fence_is_void() -> Result<()> {
    let mut test = cluster_with_tables()?.instances(3).shards(2).replicas(1).start().await?;
    let standing = move_stands_at(&test, MoveStep::CheckHosts, 3).await?;
    add_and_copy(&test, 101, "pg3").await?;
    test.replicated("pg3").await?;
    test.kill("pg3-r1").await?;
    add_and_copy(&test, 102, "pg3").await?;
    let promoted = fail_over(&mut test, "pg3", true).await?;
    // It lacks a row that the source will never send again.
    let copy = test.admin(&promoted).await?;
    let rows = copy.query("SELECT id FROM shard_0001_e1.users WHERE id > 20", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), [101]);
    standing.go();
    begin_anew(&test, standing, 3, ["pg2", &promoted]).await?;
    assert_eq!(added(&test).await?, [101, 102]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_source_that_failed_over_before_the_fence_is_void() -> Result<()> {
    let mut test = cluster_with_tables()?.replicas(1).start().await?;
    let standing = move_stands_at(&test, MoveStep::CheckHosts, 1).await?;
    add(&test, 101).await?;
    test.replicated("pg2").await?;
    test.kill("pg2-r1").await?;
    add_and_copy(&test, 102, "pg1").await?;
    let promoted = fail_over(&mut test, "pg2", true).await?;
    standing.go();
    begin_anew(&test, standing, 1, ["pg1", &promoted]).await?;
    // Only the copy had the last row: it was acknowledged without the standby, as in any asynchronous failover.
    assert_eq!(added(&test).await?, [101]);
    Ok(())
}

/// The home is closed, and a standby of it that does not know takes over: it is the home, as the catalog says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_fails_over_without_the_rename_is_the_home_again() -> Result<()> {
    let mut test = cluster_with_tables()?.replicas(1).start().await?;
    add(&test, 101).await?;
    test.replicated("pg2").await?;
    let standing = move_stands_at(&test, MoveStep::CloseSource, 1).await?;
    test.kill("pg2-r1").await?;
    standing.go();
    let port = test.servers().server("pg2-r1")?.port();
    standing.tells(&format!("pg2: host 127.0.0.1:{port} has still to learn of the new name")).await;
    assert_no_home(&test, ["pg1", "pg2"]).await;

    let promoted = fail_over(&mut test, "pg2", true).await?;
    add(&test, 102).await?;
    assert_no_home(&test, ["pg1"]).await;
    begin_anew(&test, standing, 1, ["pg1", &promoted]).await?;
    assert_eq!(added(&test).await?, [101, 102]);
    // Nor does who starts the old primary again find a home there.
    test.start_server("pg2").await?;
    assert_no_home(&test, ["pg2"]).await;
    Ok(())
}

/// The same where each commit waits for the standby, that of the rename too, under load: nothing at all is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_source_that_fails_over_while_it_is_closed_loses_nothing() -> Result<()> {
    const SYNC: &str = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync' \
        AND current_setting('synchronous_standby_names') = $1";
    const HANGS: &str =
        "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%COMMIT%'";

    let mut test = cluster_with_tables()?.replicas(1).start().await?;
    let source = test.admin("pg2").await?;
    let wait_for = async |standbys: &str| {
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{standbys}'");
        source.batch_execute(&set).await.unwrap();
        source.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        until("commits wait for the standby", async || {
            source.query_opt(SYNC, &[&standbys]).await.unwrap().is_some()
        })
        .await;
    };
    // The stream of a copy would count as a standby, too.
    wait_for("*").await;
    let error = Mover::new(&test.config())?.run(shard(), &pg(1)).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("name the standbys"), "{error}");
    wait_for("\"pg2-r1\"").await;
    let load = Load::start(&test, 6).await?;
    let standing = move_stands_at(&test, MoveStep::CloseSource, 1).await?;
    test.kill("pg2-r1").await?;
    standing.go();
    until("the commit of the rename waits", async || {
        source.query_opt(HANGS, &[]).await.unwrap().is_some()
    })
    .await;
    let promoted = fail_over(&mut test, "pg2", true).await?;
    begin_anew(&test, standing, 1, ["pg1", &promoted]).await?;
    let ledger = load.stop().await;
    assert!(ledger.written.len() > 20, "{}", ledger.written.len());
    ledger.check(&test.cluster().await?.shard(shard())?).await
}

/// What the standby has that takes over decides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_source_that_fails_over_with_the_rename_the_move_goes_forward() -> Result<()> {
    let mut test = cluster_with_tables()?.replicas(1).start().await?;
    let load = Load::start(&test, 6).await?;
    let standing = move_stands_at(&test, MoveStep::AwaitSourceHosts, 1).await?;
    test.replicated("pg2").await?;
    let promoted = fail_over(&mut test, "pg2", false).await?;
    assert_no_home(&test, ["pg1", &promoted]).await;
    standing.go();
    standing.tells("a server failed over since the copy began, so the move is finished").await;
    assert_eq!(standing.end().await?.phase, MovePhase::Finished);
    assert_eq!(leftovers_on(&test, ["pg1", &promoted]).await?, Vec::<String>::new());
    let ledger = load.stop().await;
    ledger.check(&test.cluster().await?.shard(shard())?).await
}
