//! `init` makes a cluster, finishes a half-made one, and refuses what is not its own before it touches anything.
#![cfg(test)]

use howdah::testing::TestServers;
use howdah::{Cluster, Config, Init, InstanceName, Layout, Result, ShardCount, ShardId};

fn two_instances(servers: &TestServers, shards: u16) -> Result<Init> {
    let mut init = Init::new(ShardCount::new(shards)?);
    for name in ["pg1", "pg2"] {
        init = init.instance(InstanceName::new(name)?, servers.dsn(name, "howdah_app")?.parse()?);
    }
    Ok(init)
}

fn config(servers: &TestServers) -> Result<Config> {
    Ok(Config::new(servers.dsn("pg1", "howdah_app")?).max_size(2).min_idle(0).pipelines(0))
}

/// The schemas of shards in a server's database.
async fn schemas(servers: &TestServers, name: &str) -> Result<Vec<String>> {
    let sql = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'shard%' ORDER BY 1";
    let rows = servers.admin(name).await?.query(sql, &[]).await.unwrap();
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[tokio::test]
async fn it_makes_a_cluster_and_running_it_again_changes_nothing() -> Result<()> {
    let servers = TestServers::start(2).await?;
    let config = config(&servers)?;
    let made = two_instances(&servers, 5)?.run(&config).await?;
    assert!(made.created);
    assert_eq!((made.shards.get(), made.instances), (5, 2));
    assert_eq!(
        schemas(&servers, "pg1").await?,
        ["shard_0000_e1", "shard_0002_e1", "shard_0004_e1"]
    );
    assert_eq!(schemas(&servers, "pg2").await?, ["shard_0001_e1", "shard_0003_e1"]);

    let again = two_instances(&servers, 5)?.run(&config).await?;
    assert!(!again.created);
    assert_eq!(again.cluster, made.cluster);
    let cluster = Cluster::connect(config).await?;
    assert_eq!((cluster.map().version().get(), cluster.layout()), (1, Layout::default()));
    Ok(())
}

#[tokio::test]
async fn a_half_made_cluster_takes_no_clients_and_is_finished() -> Result<()> {
    let servers = TestServers::start(2).await?;
    let config = config(&servers)?;
    two_instances(&servers, 4)?.run(&config).await?;
    // As if the machine had failed before the second instance was furnished.
    servers
        .admin("pg1")
        .await?
        .batch_execute("UPDATE howdah.cluster SET ready = false")
        .await
        .unwrap();
    let second = servers.admin("pg2").await?;
    second.batch_execute("DROP SCHEMA howdah, shard_0001_e1, shard_0003_e1 CASCADE").await.unwrap();

    let error = Cluster::connect(config.clone()).await.unwrap_err();
    assert!(error.is_config() && error.to_string().contains("half made"), "{error}");
    two_instances(&servers, 4)?.run(&config).await?;
    assert_eq!(schemas(&servers, "pg2").await?, ["shard_0001_e1", "shard_0003_e1"]);
    Cluster::connect(config).await?;
    Ok(())
}

#[tokio::test]
async fn what_was_decided_otherwise_is_refused() -> Result<()> {
    let servers = TestServers::start(2).await?;
    let config = config(&servers)?;
    two_instances(&servers, 4)?.run(&config).await?;
    let other = two_instances(&servers, 4)?.layout(Layout::new(0, 13, 10)?);
    for wrong in [two_instances(&servers, 8)?, other] {
        let error = wrong.run(&config).await.unwrap_err();
        assert!(error.is_refused(), "{error:?}");
    }
    let stranger = Init::new(ShardCount::new(4)?)
        .instance(InstanceName::new("pg3")?, servers.dsn("pg2", "howdah_app")?.parse()?);
    let error = stranger.run(&config).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("pg3"), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_of_another_cluster_is_refused_and_left_alone() -> Result<()> {
    let servers = TestServers::start(2).await?;
    let config = config(&servers)?;
    // pg2's database is a cluster of its own.
    let own = Config::new(servers.dsn("pg2", "howdah_app")?);
    let alone = Init::new(ShardCount::new(1)?)
        .instance(InstanceName::new("pg2")?, servers.dsn("pg2", "howdah_app")?.parse()?);
    alone.run(&own).await?;

    let error = two_instances(&servers, 4)?.run(&config).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("another cluster"), "{error:?}");
    assert!(schemas(&servers, "pg1").await?.is_empty());
    assert_eq!(schemas(&servers, "pg2").await?, ["shard_0000_e1"]);
    let howdah = "SELECT count(*) FROM pg_namespace WHERE nspname = 'howdah'";
    let touched = servers.admin("pg1").await?.query_one(howdah, &[]).await.unwrap();
    assert_eq!(touched.get::<_, i64>(0), 0);
    Ok(())
}

#[tokio::test]
async fn somebody_elses_schema_is_refused_and_left_alone() -> Result<()> {
    let servers = TestServers::start(2).await?;
    let theirs = "CREATE SCHEMA howdah; CREATE TABLE howdah.theirs ()";
    servers.admin("pg2").await?.batch_execute(theirs).await.unwrap();
    let error = two_instances(&servers, 4)?.run(&config(&servers)?).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("pg2"), "{error:?}");
    assert!(schemas(&servers, "pg1").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn two_names_for_one_database_are_refused() -> Result<()> {
    let servers = TestServers::start(1).await?;
    let dsn = servers.dsn("pg1", "howdah_app")?;
    let init = Init::new(ShardCount::new(4)?)
        .instance(InstanceName::new("pg1")?, dsn.parse()?)
        .instance(InstanceName::new("twin")?, dsn.parse()?);
    let error = init.run(&config(&servers)?).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("same database"), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_connection_to_the_wrong_server_is_refused() -> Result<()> {
    let servers = TestServers::start(2).await?;
    let config = config(&servers)?;
    two_instances(&servers, 2)?.run(&config).await?;
    let swap =
        "UPDATE howdah.instance SET dsn = (SELECT dsn FROM howdah.instance WHERE name = 'pg1')";
    servers.admin("pg1").await?.batch_execute(swap).await.unwrap();
    let cluster = Cluster::connect(config).await?;
    let wrong = cluster.instance(&InstanceName::new("pg2")?)?.client().await.unwrap_err();
    assert!(wrong.is_wrong_server() && wrong.to_string().contains("pg1"), "{wrong:?}");
    cluster.instance(&InstanceName::new("pg1")?)?.client().await?;

    // A primary that does not know of a move is below the lowest generation.
    let fence = "UPDATE howdah.instance SET generation = 2 WHERE name = 'pg1'; \
                 UPDATE howdah.cluster SET map_version = 2";
    servers.admin("pg1").await?.batch_execute(fence).await.unwrap();
    let cluster = Cluster::connect(self::config(&servers)?).await?;
    let old = cluster.instance(&InstanceName::new("pg1")?)?.client().await.unwrap_err();
    assert!(old.is_wrong_server() && old.to_string().contains("generation 1"), "{old:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_makes_other_ids_is_refused() -> Result<()> {
    let servers = TestServers::start(2).await?;
    let config = config(&servers)?;
    two_instances(&servers, 2)?.run(&config).await?;
    let change = "UPDATE howdah.identity SET sequence_bits = 9, shard_bits = 12";
    servers.admin("pg2").await?.batch_execute(change).await.unwrap();
    let cluster = Cluster::connect(config).await?;
    let wrong = cluster.instance(&InstanceName::new("pg2")?)?.client().await.unwrap_err();
    assert!(wrong.is_wrong_server() && wrong.to_string().contains("ids"), "{wrong:?}");
    Ok(())
}

#[tokio::test]
async fn a_database_without_a_cluster_says_so() -> Result<()> {
    let servers = TestServers::start(1).await?;
    let error = Cluster::connect(config(&servers)?).await.unwrap_err();
    assert!(error.is_config() && error.to_string().contains("howdah init"), "{error}");
    Ok(())
}

#[tokio::test]
async fn an_old_name_is_never_made_anew() -> Result<()> {
    let servers = TestServers::start(2).await?;
    let config = config(&servers)?;
    two_instances(&servers, 4)?.run(&config).await?;
    // A cutover that init did not see: the catalog was read before.
    let admin = servers.admin("pg2").await?;
    admin.batch_execute("ALTER SCHEMA shard_0001_e1 RENAME TO shard_0001_e2").await.unwrap();
    let error = two_instances(&servers, 4)?.run(&config).await.unwrap_err().to_string();
    assert!(error.contains("says: 1;") && error.contains("run it again"), "{error}");
    assert_eq!(schemas(&servers, "pg2").await?, ["shard_0001_e2", "shard_0003_e1"]);
    Ok(())
}

#[tokio::test]
async fn a_shard_with_an_open_move_is_left_as_it_is_and_named() -> Result<()> {
    let servers = TestServers::start(2).await?;
    let config = config(&servers)?;
    assert_eq!(two_instances(&servers, 4)?.run(&config).await?.left, []);
    let second = servers.admin("pg2").await?;
    // As an older version has made it.
    let older = "CREATE TABLE shard_0001_e1.howdah_move (); \
        DROP FUNCTION shard_0001_e1.is_local; DROP FUNCTION shard_0003_e1.is_local";
    second.batch_execute(older).await.unwrap();
    let made = two_instances(&servers, 4)?.run(&config).await?;
    assert_eq!(made.left, [ShardId::new(1)?]);
    second.batch_execute("SELECT shard_0003_e1.is_local(1)").await.unwrap();
    second.batch_execute("SELECT shard_0001_e1.is_local(1)").await.unwrap_err();
    second.batch_execute("DROP TABLE shard_0001_e1.howdah_move").await.unwrap();
    assert_eq!(two_instances(&servers, 4)?.run(&config).await?.left, []);
    second.batch_execute("SELECT shard_0001_e1.is_local(1)").await.unwrap();
    Ok(())
}

#[tokio::test]
async fn a_shard_that_moves_meanwhile_is_brought_up_to_date_where_it_went() -> Result<()> {
    let servers = TestServers::start(2).await?;
    let config = config(&servers)?;
    two_instances(&servers, 2)?.run(&config).await?;
    let second = servers.admin("pg2").await?;
    let moved = "ALTER SCHEMA shard_0001_e1 RENAME TO shard_0001_e2;
        DROP FUNCTION shard_0001_e2.is_local CASCADE;
        SELECT pg_advisory_lock(x'686f7764'::int, 1)";
    second.batch_execute(moved).await.unwrap();
    let catalog = servers.admin("pg1").await?;
    let moving = async {
        // By then the map has been read, and the shard's turn is waited for.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let home = "UPDATE howdah.home SET epoch = 2 WHERE shard = 1";
        catalog.batch_execute(home).await.unwrap();
        second.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    };
    let init = two_instances(&servers, 2)?;
    let (made, ()) = tokio::join!(init.run(&config), moving);
    made?;
    assert_eq!(schemas(&servers, "pg2").await?, ["shard_0001_e2"]);
    second.batch_execute("SELECT shard_0001_e2.is_local(1)").await.unwrap();
    Ok(())
}
