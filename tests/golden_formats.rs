//! The permanent formats besides those of ids: the cursor of a page, and the copy of the map. What was written once is read for ever.
#![cfg(test)]

mod cutover;

use cutover::cut_over;
use howdah::testing::TestCluster;
use howdah::{
    Cluster, Config, Cursor, InstanceState, Layout, Migrations, Result, ShardId, Statement,
};

/// A copy of a map of four shards, as the first version wrote it.
const MAP: &str = include_str!("golden/map.toml");

#[tokio::test]
async fn a_map_is_read_as_it_always_was() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("map");
    std::fs::write(&copy, MAP).unwrap();
    let nobody = Config::new("postgres://howdah_app@127.0.0.1:1/nowhere").min_idle(0);
    let cluster = Cluster::connect(nobody.map_cache(&copy)).await?;
    let map = cluster.map();
    assert_eq!(map.version().get(), 7);
    let homes: Vec<_> =
        map.homes().map(|home| (home.instance().to_string(), home.epoch().get())).collect();
    let expected = [("pg1", 1), ("pg2", 1), ("pg1", 1), ("pg2", 3)];
    assert_eq!(homes, expected.map(|(instance, epoch)| (instance.to_owned(), epoch)));
    assert_eq!(cluster.layout(), Layout::default());
    let instances = cluster.instances();
    let dsns: Vec<_> = instances.iter().map(|instance| instance.dsn().to_string()).collect();
    assert_eq!(
        dsns,
        ["postgres://howdah_app@127.0.0.1:1/first", "postgres://howdah_app@127.0.0.1:2/second"]
    );
    assert_eq!(instances[0].state(), InstanceState::Active);
    assert_eq!(instances[1].state(), InstanceState::Draining);

    // Of a later format nothing is guessed.
    std::fs::write(&copy, MAP.replace("format = 1", "format = 2")).unwrap();
    let nobody = Config::new("postgres://howdah_app@127.0.0.1:1/nowhere").min_idle(0);
    let error = Cluster::connect(nobody.map_cache(&copy)).await.unwrap_err();
    assert!(error.is_unavailable() || error.is_config(), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_map_is_written_as_it_always_was() -> Result<()> {
    let test = TestCluster::builder().shards(4).start().await?;
    for _ in 0..2 {
        cut_over(&test, 3).await;
    }
    let drain = "UPDATE howdah.instance SET state = 'draining' WHERE name = 'pg2'";
    test.admin("pg1").await?.batch_execute(drain).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("map");
    let cluster = Cluster::connect(test.config().map_cache(&copy)).await?;
    let dsn = |number: usize| cluster.instances()[number].dsn().to_string();
    let expected = MAP
        .replace(
            "6f1c1d2e-0000-4000-8000-000000000001",
            &cluster.status().await.cluster.to_string(),
        )
        .replace("version = 7", &format!("version = {}", cluster.map().version().get()))
        .replace("postgres://howdah_app@127.0.0.1:1/first", &dsn(0))
        .replace("postgres://howdah_app@127.0.0.1:2/second", &dsn(1));
    assert_eq!(std::fs::read_to_string(&copy).unwrap(), expected);
    Ok(())
}

/// One byte of format, the position, and for each shard that is behind its number and its own position: all of them big-endian,
/// in base64url. These texts were computed apart from the crate.
#[tokio::test]
async fn a_cursor_means_what_it_always_did() -> Result<()> {
    const TEN: &str = "CREATE TABLE notes (id bigint PRIMARY KEY);
        INSERT INTO notes SELECT n * 1000 FROM generate_series(1, 10) n";
    const PAGE: Statement =
        Statement::new("SELECT id FROM {shard}.notes WHERE id < $1 ORDER BY id DESC LIMIT $2");
    /// Below 5000.
    const AT_5000: &str = "AQAAAAAAABOI";
    /// Below 1500, and on shard 3 below 5000.
    const ONE_BEHIND: &str = "AQAAAAAAAAXcAAMAAAAAAAATiA";
    const FIRST: &str = "AX__________";

    let ten = Migrations::new([("0001_notes.sql", TEN)])?;
    let test = TestCluster::builder().shards(4).migrations(ten).start().await?;
    let cluster = test.cluster().await?;
    let page = async |cursor: &str, limit| {
        let cursor: Cursor = cursor.parse()?;
        let page = cluster.scatter(&PAGE).all(&[]).page("id", Some(&cursor), limit).await?;
        let ids: Vec<i64> = page.rows.iter().map(|row| row.get(0)).collect();
        Ok::<_, howdah::Error>((ids, page.next.map(|next| next.to_string())))
    };
    let sixth = [10_000, 9000, 8000, 7000, 6000, 5000].map(|id| [id; 4]).concat();
    assert_eq!(page(FIRST, 24).await?, (sixth, Some(AT_5000.to_owned())));
    let rest = [4000, 3000, 2000, 1000].map(|id| [id; 4]).concat();
    assert_eq!(page(AT_5000, 24).await?, (rest, None));
    let of_one = vec![4000, 3000, 2000, 1000, 1000, 1000, 1000];
    assert_eq!(page(ONE_BEHIND, 24).await?, (of_one, None));
    for text in [AT_5000, ONE_BEHIND, FIRST, "AQApV_oMFPeJAAEAKVf6DBT3ih__f_________8"] {
        assert_eq!(text.parse::<Cursor>()?.to_string(), text);
    }
    assert_eq!(Cursor::default().to_string(), FIRST);
    let all_shards = ShardId::LIMIT;
    assert_eq!(all_shards, 8192, "a shard's number has two bytes");
    Ok(())
}
