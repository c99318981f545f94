//! The catalog moves to another instance under its readers and its writers, and whatever dies on the way, there is one
//! catalog that takes changes.
#![cfg(test)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use howdah::local::LocalCluster;
use howdah::postgres::Client;
use howdah::testing::{Proxy, TestCluster, TestDir, TestServers};
use howdah::{
    CatalogMove, CatalogMoveStep, CatalogMoved, Cluster, Config, Init, InstanceName, Instances,
    MoveEvent, MovePhase, Mover, NewInstance, Result, ShardCount, ShardId,
};

/// What the journal and the map are, but for the map's version.
const TABLES: [&str; 6] = ["cluster", "instance", "home", "move", "move_step", "move_verified"];

fn name(name: &str) -> InstanceName {
    InstanceName::new(name).unwrap()
}

async fn move_to(config: &Config, to: &str) -> Result<CatalogMoved> {
    patiently(async || CatalogMove::new(name(to)).run(config).await).await
}

async fn instances(config: &Config) -> Result<Instances> {
    patiently(async || Instances::open(config).await).await
}

/// Again while a session has the lock that has ended, which its server notices in its own time.
async fn patiently<T>(mut doing: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        match doing().await {
            Err(error) if error.to_string().contains("another ") && Instant::now() < patience => {}
            done => return done,
        }
    }
}

/// A configuration that names an instance as the catalog's place.
fn leads_to(test: &TestCluster, instance: &str) -> Config {
    Config::new(test.servers().dsn(instance, "howdah_app").unwrap()).max_size(2).min_idle(0)
}

/// The instances whose databases take changes of the catalog.
async fn open_places(test: &TestCluster) -> Vec<String> {
    let mut open = Vec::new();
    for name in test.servers().names() {
        let change = "DO $$ BEGIN UPDATE howdah.cluster SET map_version = map_version + 1;
            IF NOT FOUND THEN RAISE 'no catalog'; END IF; END $$";
        if test.admin(name).await.unwrap().batch_execute(change).await.is_ok() {
            open.push(name.to_owned());
        }
    }
    open
}

/// Whether an instance's database has a signpost.
async fn leads_elsewhere(test: &TestCluster, instance: &str) -> bool {
    let admin = test.admin(instance).await.unwrap();
    admin.query("SELECT FROM howdah.signpost", &[]).await.is_ok_and(|found| !found.is_empty())
}

/// All that a catalog says, in words.
async fn contents(test: &TestCluster, instance: &str) -> Vec<String> {
    let admin = test.admin(instance).await.unwrap();
    let mut contents = Vec::new();
    for table in TABLES {
        let sql = format!(
            "SELECT '{table} ' || (to_jsonb(t) - 'map_version')::text FROM howdah.{table} t ORDER BY 1"
        );
        contents.extend(admin.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)));
    }
    contents
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < patience, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn drains(cluster: &Cluster, instance: &str) -> bool {
    let state = cluster.instance(&name(instance)).unwrap().state();
    state == howdah::InstanceState::Draining
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_takes_everything_along_and_its_readers_follow_there_and_back() -> Result<()> {
    let test = TestCluster::start().await?;
    let config = test.config();
    instances(&config).await?.add(&capacity(&test, "pg2", 2.5)).await?;
    let mover = Mover::new(&config)?.reverse(false);
    let shard = ShardId::new(1)?;
    mover.run(shard, &name("pg1")).await?;
    // One that stays as it is, half done: the journal alone says so.
    let kept = Mover::new(&config)?.run(ShardId::new(3)?, &name("pg1")).await?;
    assert_eq!(kept.phase, MovePhase::Reversible);
    let reader = test.cluster().await?;
    let before = contents(&test, "pg1").await;

    let version = test.cluster().await?.map().version().get();
    let moved = move_to(&config, "pg2").await?;
    assert_eq!((moved.moved, moved.configured), (true, false));
    assert_eq!(moved.dsn.to_string(), test.servers().dsn("pg2", "howdah_app")?);
    assert_eq!(moved.map_version.get(), version + 1);
    assert_eq!(contents(&test, "pg2").await, before);
    assert_eq!(open_places(&test).await, ["pg2"]);
    let unguarded = "SELECT relname FROM pg_class WHERE relnamespace = 'howdah'::regnamespace AND relkind = 'r'
        AND relname NOT IN ('identity', 'signpost')
        AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = pg_class.oid AND tgname = 'howdah_elsewhere')";
    for place in ["pg1", "pg2"] {
        assert!(test.admin(place).await?.query(unguarded, &[]).await.unwrap().is_empty());
    }

    // The program that ran hears of changes made there, and so does one that starts.
    instances(&config).await?.drain(&name("pg1")).await?;
    until("the reader follows", async || drains(&reader, "pg1")).await;
    for config in [&config, &leads_to(&test, "pg2")] {
        let cluster = Cluster::connect(config.clone()).await?;
        assert!(drains(&cluster, "pg1"));
        assert_eq!(cluster.status().await.catalog, moved.dsn);
    }
    assert!(reader.status().await.catalog_moved);
    assert!(!Cluster::connect(leads_to(&test, "pg2")).await?.status().await.catalog_moved);

    // Moves go on from what the journal says, with new names.
    mover.finish(kept.id).await?;
    instances(&config).await?.add(&capacity(&test, "pg1", 1.0)).await?;
    let next = mover.run(shard, &name("pg2")).await?;
    assert!(next.id > kept.id, "{} after {}", next.id, kept.id);
    assert!(!move_to(&config, "pg2").await?.moved);

    let there = contents(&test, "pg2").await;
    let moved = move_to(&config, "pg1").await?;
    assert_eq!((moved.moved, moved.configured), (true, true));
    assert_eq!(contents(&test, "pg1").await, there);
    assert_eq!(open_places(&test).await, ["pg1"]);
    instances(&leads_to(&test, "pg2")).await?.drain(&name("pg2")).await?;
    until("the reader comes back", async || drains(&reader, "pg2")).await;
    assert!(!reader.status().await.catalog_moved);
    Ok(())
}

fn capacity(test: &TestCluster, instance: &str, capacity: f64) -> NewInstance {
    let dsn = test.servers().dsn(instance, "howdah_app").unwrap().parse().unwrap();
    NewInstance::new(name(instance), dsn).capacity(capacity)
}

/// A mover that dies when a step begins.
async fn die_at(config: &Config, to: &str, at: CatalogMoveStep) {
    let dying =
        CatalogMove::new(name(to)).on_step(move |step| assert_ne!(step, at, "died as it should"));
    let config = config.clone();
    assert!(tokio::spawn(async move { dying.run(&config).await }).await.is_err(), "{at:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_may_die_at_any_step_and_the_same_command_goes_on() -> Result<()> {
    let test = TestCluster::start().await?;
    let configs = [test.config(), leads_to(&test, "pg2")];
    let before = contents(&test, "pg1").await;
    // From here on both places lead to it.
    move_to(&configs[0], "pg2").await?;
    let (mut from, mut to) = ("pg2", "pg1");
    for at in CatalogMoveStep::ALL {
        die_at(&configs[0], to, at).await;
        let is_decided = matches!(at, CatalogMoveStep::AwaitClosed | CatalogMoveStep::Open);
        let is_done = at == CatalogMoveStep::Redirect;
        // The dead run's session is gone when its server has noticed.
        let expected = if is_decided { vec![] } else { vec![if is_done { to } else { from }] };
        until("its fence is gone", async || open_places(&test).await == expected).await;
        // Wherever it is, it is read, whichever place the configuration names.
        for config in &configs {
            let reader = Cluster::connect(config.clone()).await?;
            let place = if is_decided || is_done { to } else { from };
            assert_eq!(
                reader.status().await.catalog.to_string(),
                test.servers().dsn(place, "howdah_app")?,
                "{at:?}"
            );
        }
        if is_decided {
            // It cannot be undone, and nobody else changes anything.
            let error = move_to(&configs[0], from).await.unwrap_err();
            assert!(
                error.is_refused() && error.to_string().contains(&format!("--to {to}")),
                "{error}"
            );
            let error = instances(&configs[1]).await.unwrap_err();
            assert!(error.to_string().contains("takes no changes yet"), "{error}");
        }
        // Each second time from where the new place is configured.
        let config = &configs[usize::from(to == "pg2")];
        assert_eq!(move_to(config, to).await?.moved, !is_done, "{at:?}");
        assert_eq!(open_places(&test).await, [to], "{at:?}");
        assert_eq!(contents(&test, to).await, before, "{at:?}");
        (from, to) = (to, from);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_may_be_given_up_for_another_place() -> Result<()> {
    let test = TestCluster::builder().instances(3).start().await?;
    let config = test.config();
    die_at(&config, "pg2", CatalogMoveStep::Close).await;
    move_to(&config, "pg3").await?;
    assert_eq!(open_places(&test).await, ["pg3"]);
    // The copy that came to nothing leads to the catalog, too.
    let reader = Cluster::connect(leads_to(&test, "pg2")).await?;
    assert_eq!(reader.status().await.catalog.to_string(), test.servers().dsn("pg3", "howdah_app")?);

    // Signposts lead straight to it: what is in between may go.
    move_to(&config, "pg2").await?;
    let signposts = "SELECT instance FROM howdah.signpost";
    for place in ["pg1", "pg3"] {
        let row = test.admin(place).await?.query_one(signposts, &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "pg2", "from {place}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_race_it_are_before_it_or_refused() -> Result<()> {
    let test = TestCluster::start().await?;
    let config = test.config();
    let stop = Arc::new(AtomicBool::new(false));
    // One that changes instances, and one that never looks where it writes.
    let tool = tokio::spawn({
        let (config, stop, dsn) = (config.clone(), stop.clone(), capacity(&test, "pg2", 1.0));
        async move {
            let mut done = 0;
            while !stop.load(Ordering::Relaxed) {
                match Instances::open(&config).await {
                    Ok(mut instances) => {
                        instances.add(&dsn).await.unwrap();
                        done += 1;
                    }
                    Err(error) => assert!(error.is_refused(), "{error:?}"),
                }
                // The lock is for others too.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done
        }
    });
    let client = test.admin("pg1").await?;
    let raw = tokio::spawn(async move {
        let mut acknowledged = 0_i64;
        loop {
            let write = "UPDATE howdah.instance SET generation = generation + 1 WHERE name = 'pg1'";
            match client.execute(write, &[]).await {
                Ok(written) => acknowledged += i64::try_from(written).unwrap(),
                Err(error) => break (acknowledged, error),
            }
        }
    });
    assert!(move_to(&config, "pg2").await?.moved);
    stop.store(true, Ordering::Relaxed);
    assert!(tool.await.unwrap() > 0);
    let (acknowledged, error) = raw.await.unwrap();
    let told = error.as_db_error().unwrap();
    assert_eq!(
        (told.code().code(), told.message()),
        ("HW003", "the catalog is not here but at pg2")
    );
    // What was acknowledged is there, and nothing else.
    let generation = "SELECT generation FROM howdah.instance WHERE name = 'pg1'";
    let row = test.admin("pg2").await?.query_one(generation, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1 + acknowledged);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_of_shards_go_on_while_it_moves() -> Result<()> {
    let test = TestCluster::builder().shards(4).start().await?;
    let config = test.config();
    let happened = Arc::new(AtomicU64::new(0));
    let counted = happened.clone();
    let count = move |_: &MoveEvent| {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let mover = Mover::new(&config)?.reverse(false).on_event(count);
    let moving = async {
        for to in ["pg1", "pg2"] {
            for shard in [1, 3] {
                let moved = mover.run(ShardId::new(shard)?, &name(to)).await?;
                assert_eq!(moved.phase, MovePhase::Finished);
            }
        }
        Ok(())
    };
    let ended = AtomicBool::new(false);
    let catalog = async {
        let mut moves = 0;
        while !ended.load(Ordering::Relaxed) {
            move_to(&config, if moves % 2 == 0 { "pg2" } else { "pg1" }).await?;
            moves += 1;
            // The other one gives up when it meets this one again and again.
            let seen = happened.load(Ordering::Relaxed);
            let goes_on = || happened.load(Ordering::Relaxed) > seen + 10;
            until("shards move", async || goes_on() || ended.load(Ordering::Relaxed)).await;
        }
        Ok::<_, howdah::Error>(moves)
    };
    let moving = async {
        let done: Result<()> = moving.await;
        ended.store(true, Ordering::Relaxed);
        done
    };
    let (moved, times) = tokio::join!(moving, catalog);
    moved?;
    assert!(times? > 1);
    let epochs: Vec<_> =
        test.cluster().await?.map().homes().map(|home| home.epoch().get()).collect();
    assert_eq!(epochs, [1, 3, 1, 3]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_server_is_emptied_and_removed_once_the_configuration_is_right() -> Result<()> {
    let test = TestCluster::builder().shards(2).start().await?;
    let (old, new) = (test.config(), leads_to(&test, "pg2"));
    let error = instances(&old).await?.remove(&name("pg1")).await.unwrap_err();
    assert!(error.to_string().contains("the catalog is there"), "{error}");
    move_to(&old, "pg2").await?;
    let reader = Cluster::connect(old.clone()).await?;
    instances(&old).await?.drain(&name("pg1")).await?;
    Mover::new(&old)?.reverse(false).run(ShardId::new(0)?, &name("pg2")).await?;

    let error = instances(&old).await?.remove(&name("pg1")).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("write [catalog] dsn"), "{error}");
    instances(&new).await?.remove(&name("pg1")).await?;
    let left = "SELECT FROM pg_namespace WHERE nspname = 'howdah'";
    assert!(test.admin("pg1").await?.query(left, &[]).await.unwrap().is_empty());
    // Who runs knows where it is; who starts must be told.
    until("the reader goes on", async || reader.instances().len() == 1).await;
    reader.shard(ShardId::new(0)?)?.reserve_ids(1).await?;
    assert!(Cluster::connect(old).await.unwrap_err().is_config());
    Cluster::connect(new).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signpost_that_was_not_turned_keeps_its_way_until_it_is() -> Result<()> {
    const SIGNPOST: &str = "SELECT dsn, map_version FROM howdah.signpost";
    const BACK: &str = "UPDATE howdah.signpost SET dsn = $1, map_version = $2";

    let test = TestCluster::builder().instances(3).shards(1).start().await?;
    let old = test.config();
    move_to(&old, "pg2").await?;
    let first = test.admin("pg1").await?;
    let before = first.query_one(SIGNPOST, &[]).await.unwrap();
    move_to(&leads_to(&test, "pg2"), "pg3").await?;
    // As if the first had been out of reach.
    let (dsn, version): (String, i64) = (before.get(0), before.get(1));
    first.execute(BACK, &[&dsn, &version]).await.unwrap();

    let error = instances(&old).await?.remove(&name("pg2")).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("by way of pg2"), "{error}");
    let again = move_to(&old, "pg3").await?;
    assert!(!again.moved);
    let turned = first.query_one(SIGNPOST, &[]).await.unwrap();
    assert_eq!(turned.get::<_, String>(0), test.servers().dsn("pg3", "howdah_app")?);
    instances(&old).await?.remove(&name("pg2")).await?;
    Cluster::connect(old.clone()).await?;

    let error = instances(&old).await?.remove(&name("pg3")).await.unwrap_err();
    assert!(error.to_string().contains("howdah catalog move --to pg1"), "{error}");
    assert!(move_to(&old, "pg1").await?.moved);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_map_knows_the_place_when_the_old_server_is_gone() -> Result<()> {
    let test = TestCluster::start().await?;
    let (servers, folder) = (test.servers(), tempfile::tempdir().unwrap());
    let old = Proxy::start(servers.server("pg1")?.port()).await?;
    let dsn = format!("postgres://howdah_app@127.0.0.1:{}/{}", old.port(), servers.database());
    let forgetful = Config::new(dsn).max_size(2).min_idle(0);
    let config = forgetful.clone().map_cache(folder.path().join("map"));
    move_to(&config, "pg2").await?;
    drop(Cluster::connect(config.clone()).await?);
    old.cut();
    let cluster = Cluster::connect(config).await?;
    instances(&leads_to(&test, "pg2")).await?.drain(&name("pg1")).await?;
    until("it hears of changes", async || drains(&cluster, "pg1")).await;
    // Without it, nothing leads there.
    assert!(Cluster::connect(forgetful).await.unwrap_err().is_unavailable());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_in_the_way_is_said() -> Result<()> {
    let test = TestCluster::start().await?;
    let config = test.config();
    assert!(move_to(&config, "pg9").await.unwrap_err().is_invalid_input());
    assert!(!move_to(&config, "pg1").await?.moved);
    let mut writer = instances(&config).await?;
    let error = CatalogMove::new(name("pg2")).run(&config).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("another change"), "{error}");
    writer.drain(&name("pg2")).await?;
    drop(writer);
    let error = move_to(&config, "pg2").await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("pg2 is draining"), "{error}");
    assert_eq!(open_places(&test).await, ["pg1"]);
    Ok(())
}

/// Runs as far as it comes while a replica is deaf from a step on, and stops it once it waits where that shows.
async fn with_deaf(
    config: &Config,
    replica: Client,
    [from, never]: [CatalogMoveStep; 2],
    waits: impl AsyncFnMut() -> bool,
) -> Result<Client> {
    let replica = Arc::new(replica);
    let (deaf, reached) = (replica.clone(), Arc::new(AtomicBool::new(false)));
    let there = reached.clone();
    let moving = CatalogMove::new(name("pg2")).on_step(move |step| {
        assert_ne!(step, never);
        if step == from {
            let handle = tokio::runtime::Handle::current();
            tokio::task::block_in_place(|| handle.block_on(deafen(&deaf)));
            there.store(true, Ordering::SeqCst);
        }
    });
    let config = config.clone();
    let mut run = tokio::spawn(async move { moving.run(&config).await });
    until("the replica is deaf", async || reached.load(Ordering::SeqCst)).await;
    until("it waits", waits).await;
    // That it waits is the point: however long, it does not come to that step.
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut run).await.is_err());
    run.abort();
    // What it had of the replica goes with it.
    assert!(run.await.unwrap_err().is_cancelled());
    Ok(Arc::try_unwrap(replica).unwrap())
}

/// It may not have heard of the test's database yet.
async fn replica_of(test: &TestCluster, instance: &str) -> Client {
    let name = format!("{instance}-r1");
    until("it has the database", async || test.admin(&name).await.is_ok()).await;
    test.admin(&name).await.unwrap()
}

/// Stops a replica from receiving anything.
async fn deafen(replica: &Client) {
    replica.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
    replica.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    while !replica.query("SELECT FROM pg_stat_wal_receiver", &[]).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_the_last_commits_leaves_one_catalog() -> Result<()> {
    let mut test = TestCluster::builder().shards(2).replicas(1).start().await?;
    let config = test.config();
    // Nothing is decided as long as a host of the new place does not have the copy.
    let steps = [CatalogMoveStep::Copy, CatalogMoveStep::Close];
    let copied = async || leads_elsewhere(&test, "pg2").await;
    let replica = with_deaf(&config, replica_of(&test, "pg2").await, steps, copied).await?;
    until("its fence is gone", async || open_places(&test).await == ["pg1"]).await;
    replica.batch_execute("ALTER SYSTEM RESET primary_conninfo").await.unwrap();
    replica.batch_execute("SELECT pg_reload_conf()").await.unwrap();

    // And nothing goes on there as long as a host of the old one does not know that it is closed.
    let steps = [CatalogMoveStep::Close, CatalogMoveStep::Open];
    let closed = async || leads_elsewhere(&test, "pg1").await;
    with_deaf(&config, replica_of(&test, "pg1").await, steps, closed).await?;
    assert!(open_places(&test).await.is_empty());
    test.kill("pg1").await?;
    test.promote("pg1-r1").await?;

    // The catalog is as it was, and what is changed there is not lost by going on.
    let refused = "UPDATE howdah.cluster SET map_version = 99";
    let error = test.admin("pg2").await?.batch_execute(refused).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "HW003");
    let promoted = test.servers().dsn("pg1-r1", "howdah_app")?;
    let change = format!("UPDATE howdah.instance SET dsn = '{promoted}' WHERE name = 'pg1'");
    test.admin("pg1-r1").await?.batch_execute(&change).await.unwrap();
    let config = Config::new(&promoted).max_size(2).min_idle(0);
    assert!(move_to(&config, "pg2").await?.moved);
    let cluster = Cluster::connect(config).await?;
    assert_eq!(cluster.instance(&name("pg1"))?.dsn().to_string(), promoted);
    let error = test.admin("pg1-r1").await?.batch_execute(refused).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "HW003");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_moves_to_a_newer_version_and_back() -> Result<()> {
    let dir = TestDir::new().await?;
    let old = TestServers::builder().postgres(15).servers(1).start().await?;
    let new = TestServers::builder().postgres(18).servers(1).start().await?;
    let (old, new) = (old.server("pg1")?.bin_dir(), new.server("pg1")?.bin_dir());
    let mut servers = LocalCluster::open(dir.path().join("both"))?;
    servers.up(&dir.up_options().instances(1).pg_bin(old)).await?;
    servers.add("pg2", Some(new)).await?;
    let dsn = |name: &str| -> Result<String> { Ok(servers.server(name)?.dsn("howdah_app")) };
    let config = Config::new(dsn("pg1")?);
    Init::new(ShardCount::new(64)?)
        .instance(name("pg1"), dsn("pg1")?.parse()?)
        .instance(name("pg2"), dsn("pg2")?.parse()?)
        .run(&config)
        .await?;
    Mover::new(&config)?.reverse(false).run(ShardId::new(1)?, &name("pg1")).await?;
    let before = Cluster::connect(config.clone()).await?.map();
    for (to, change) in [("pg2", "pg1"), ("pg1", "pg2")] {
        assert!(move_to(&config, to).await?.moved);
        let cluster = Cluster::connect(config.clone()).await?;
        assert_eq!(cluster.status().await.catalog.to_string(), dsn(to)?);
        assert!(cluster.map().homes().eq(before.homes()));
        instances(&config).await?.drain(&name(change)).await?;
        let back = NewInstance::new(name(change), dsn(change)?.parse()?);
        instances(&config).await?.add(&back).await?;
    }
    let next = Mover::new(&config)?.reverse(false).run(ShardId::new(1)?, &name("pg2")).await?;
    assert_eq!(next.id.get(), 2);
    servers.destroy().await
}
