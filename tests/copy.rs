//! COPY into many shards and out of them: routed, whole chunks or nothing, and an account when it fails.
#![cfg(test)]

mod cutover;

use std::collections::BTreeMap;

use cutover::cut_over;
use futures_util::FutureExt as _;
use howdah::postgres::types::Type;
use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Copied, Id, Migrations, Outcome, Result, ShardId, ShardKey, Statement};

const NOTES: &str = "CREATE TABLE notes (
    id bigint PRIMARY KEY DEFAULT next_id(), owner bigint CHECK (is_local(owner)), n int NOT NULL CHECK (n >= 0), text text)";
const LOAD: Statement =
    Statement::new("COPY {shard}.notes (owner, n, text) FROM STDIN (FORMAT binary)");
const TYPES: [Type; 3] = [Type::INT8, Type::INT4, Type::TEXT];
const DUMP: Statement =
    Statement::new("COPY (SELECT n, text FROM {shard}.notes ORDER BY n) TO STDOUT (FORMAT csv)");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.notes");
const NUMBERS: Statement = Statement::new("SELECT n FROM {shard}.notes ORDER BY id");

async fn test() -> Result<(TestCluster, Cluster)> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let test = TestCluster::builder().migrations(notes).start().await?;
    let cluster = test.cluster().await?;
    Ok((test, cluster))
}

/// An id on each shard.
async fn owners(cluster: &Cluster) -> Result<Vec<Id>> {
    let mut owners = Vec::new();
    for shard in cluster.map().count().iter() {
        owners.extend(cluster.shard(shard)?.reserve_ids(1).await?);
    }
    Ok(owners)
}

#[tokio::test]
async fn rows_go_where_their_ids_and_keys_say() -> Result<()> {
    let (_test, cluster) = test().await?;
    let owners = owners(&cluster).await?;
    let mut told = Vec::new();
    // So little memory that many chunks are sent on the way.
    let mut load = cluster.copy_in(&LOAD, &TYPES).memory(4_000).on_progress(|rows| told.push(rows));
    for n in 0..4_000_i32 {
        let owner = owners[usize::try_from(n).unwrap() % 7];
        load.row(owner, &[&owner, &n, &format!("note {n}")]).await?;
    }
    load.row("alice", &[&None::<Id>, &4_000, &None::<String>]).await?;
    load.row(ShardKey::from(31341), &[&None::<Id>, &4_001, &"of a number"]).await?;
    load.row(ShardId::new(7)?, &[&owners[7], &4_002, &""]).await?;
    assert_eq!(load.finish().await?, 4_003);
    let account = load.account();
    drop(load);
    assert!(told.len() > 10 && told.is_sorted() && told.last() == Some(&4_003), "{told:?}");

    assert_eq!(cluster.scatter(&COUNT).all(&[]).count().await?.value, 4_003);
    for shard in cluster.map().count().iter() {
        let rows = cluster.shard(shard)?.query(&NUMBERS, &[]).await?;
        let numbers: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
        let from_ids = numbers.iter().filter(|n| **n < 4_000);
        assert!(from_ids.clone().is_sorted(), "the order given");
        assert!(from_ids.clone().all(|n| n % 7 == i32::from(shard.get())));
        let copied = account.get(&shard).copied().unwrap_or_default();
        assert_eq!(copied.written, numbers.len() as u64, "{shard}");
        assert_eq!((copied.unknown, copied.unwritten), (0, 0));
    }
    let alice = cluster.shard_for_key("alice").query(&NUMBERS, &[]).await?;
    assert!(alice.iter().any(|row| row.get::<_, i32>(0) == 4_000));
    Ok(())
}

#[tokio::test]
async fn a_row_of_the_wrong_shape_is_left_out_and_others_follow() -> Result<()> {
    let (_test, cluster) = test().await?;
    let mut load = cluster.copy_in(&LOAD, &TYPES);
    load.row("a", &[&None::<Id>, &1, &"kept"]).await?;
    for (place, n) in [("a", None), ("a", Some("text")), ("b", Some("text"))] {
        let values: &[&(dyn howdah::postgres::types::ToSql + Sync)] = match &n {
            None => &[&None::<Id>, &2],
            Some(text) => &[&None::<Id>, text, &"dropped"],
        };
        assert!(load.row(place, values).await.unwrap_err().is_invalid_input());
    }
    let foreign: Id = "11637205501278089".parse()?;
    assert!(load.row(foreign, &[&foreign, &2, &"x"]).await.unwrap_err().is_invalid_input());
    load.row("a", &[&None::<Id>, &3, &"kept"]).await?;
    assert_eq!(load.finish().await?, 2);
    assert_eq!(cluster.shard_for_key("a").query(&NUMBERS, &[]).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_chunk_is_written_whole_or_not_and_the_account_says_which() -> Result<()> {
    let (_test, cluster) = test().await?;
    let mut load = cluster.copy_in(&LOAD, &TYPES).memory(1_000);
    let mut given = BTreeMap::<ShardId, u64>::new();
    let mut failed = None;
    for n in 0..3_000_i32 {
        let shard = ShardId::new(u16::try_from(n % 8).unwrap())?;
        // Refused by the table's CHECK, late on one shard.
        let number = if n == 2_003 { -1 } else { n };
        if let Err(error) = load.row(shard, &[&None::<Id>, &number, &"note"]).await {
            failed = Some(error);
            break;
        }
        *given.entry(shard).or_default() += 1;
    }
    let error = match failed {
        Some(error) => error,
        None => load.finish().await.unwrap_err(),
    };
    assert!(error.to_string().contains("shard 3"), "{error}");
    assert_eq!(error.outcome(), Outcome::Failed);
    assert!(load.row("more", &[&None::<Id>, &1, &"x"]).await.is_err(), "nothing more is taken");
    assert!(load.finish().await.is_err());
    for (shard, Copied { written, unknown, unwritten, .. }) in load.account() {
        let rows = cluster.shard(shard)?.query(&NUMBERS, &[]).await?;
        assert_eq!(rows.len() as u64, written, "{shard}");
        let step = |row: usize| i32::try_from(row * 8).unwrap() + i32::from(shard.get());
        let first = rows.iter().enumerate().all(|(at, row)| row.get::<_, i32>(0) == step(at));
        assert!(first, "those written are the first");
        assert_eq!(unknown, 0);
        assert_eq!(written + unwritten, given[&shard], "what was refused was not taken");
    }
    assert!(load.account()[&ShardId::new(3)?].written > 0, "what came before stays");
    Ok(())
}

#[tokio::test]
async fn a_row_that_was_given_up_was_not_taken() -> Result<()> {
    let (_test, cluster) = test().await?;
    let mut load = cluster.copy_in(&LOAD, &TYPES).memory(0);
    let shard = ShardId::new(5)?;
    for n in 0..500_i32 {
        while load.row(shard, &[&None::<Id>, &n, &""]).now_or_never().transpose()?.is_none() {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(load.finish().await?, 500);
    let numbers = cluster.shard(shard)?.query(&NUMBERS, &[]).await?;
    assert!(numbers.iter().map(|row| row.get::<_, i32>(0)).eq(0..500));
    Ok(())
}

#[tokio::test]
async fn a_server_that_dies_leaves_an_account() -> Result<()> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let mut test = TestCluster::builder().own_servers().migrations(notes).start().await?;
    let cluster = test.cluster().await?;
    let mut load = cluster.copy_in(&LOAD, &TYPES).memory(1_000);
    let mut given = BTreeMap::<ShardId, u64>::new();
    let mut failed = None;
    for n in 0..100_000_i32 {
        if n == 1_000 {
            test.kill("pg2").await?;
        }
        let shard = ShardId::new(u16::try_from(n % 8).unwrap())?;
        if let Err(error) = load.row(shard, &[&None::<Id>, &n, &"note"]).await {
            failed = Some(error);
            break;
        }
        *given.entry(shard).or_default() += 1;
    }
    assert!(failed.unwrap().is_unavailable());
    test.start_server("pg2").await?;
    let account = load.account();
    let all = |copied: &Copied| copied.written + copied.unknown + copied.unwritten;
    let accounted: BTreeMap<_, _> = account.iter().map(|(shard, one)| (*shard, all(one))).collect();
    assert_eq!(accounted, given, "every row of every shard");
    let mut of_the_dead = Vec::new();
    for (shard, copied) in account {
        let home = cluster.shard(shard)?;
        let read = async || home.query(&NUMBERS, &[]).await;
        let rows = until("the shard is served again", read).await.len() as u64;
        assert!(
            (copied.written..=copied.written + copied.unknown).contains(&rows),
            "{copied:?} {rows}"
        );
        if home.home()?.instance().as_str() == "pg2" {
            of_the_dead.push(copied);
        }
    }
    assert!(of_the_dead.iter().any(|one| one.unknown + one.unwritten > 0), "{of_the_dead:?}");
    Ok(())
}

#[tokio::test]
async fn a_shard_that_has_moved_is_followed() -> Result<()> {
    let (test, cluster) = test().await?;
    let owners = owners(&cluster).await?;
    let mut load = cluster.copy_in(&LOAD, &TYPES).memory(0);
    for n in 0..8_i32 {
        if n == 4 {
            cut_over(&test, 2).await;
        }
        load.row(owners[2], &[&owners[2], &n, &"note"]).await?;
    }
    assert_eq!(load.finish().await?, 8);
    cut_over(&test, 2).await;
    let mut dump = cluster.copy_out(&DUMP).stream();
    let mut lines = Vec::new();
    while let Some(row) = dump.next().await {
        lines.push(String::from_utf8(row?.1.to_vec()).unwrap());
    }
    assert_eq!(lines, (0..8).map(|n| format!("{n},note\n")).collect::<Vec<_>>());
    assert_eq!(dump.finished().len(), 8);
    Ok(())
}

#[tokio::test]
async fn rows_come_out_as_they_went_in() -> Result<()> {
    let (_test, cluster) = test().await?;
    let mut load = cluster.copy_in(&LOAD, &TYPES);
    for n in 0..20_000_i32 {
        let shard = ShardId::new(u16::try_from(n % 8).unwrap())?;
        load.row(shard, &[&None::<Id>, &n, &format!("\"{n}\",\n")]).await?;
    }
    load.finish().await?;
    let mut dump = cluster.copy_out(&DUMP).shards([ShardId::new(1)?, ShardId::new(6)?]).stream();
    let mut lines = BTreeMap::<u16, Vec<String>>::new();
    while let Some(row) = dump.next().await {
        let (shard, line) = row?;
        lines.entry(shard.get()).or_default().push(String::from_utf8(line.to_vec()).unwrap());
    }
    for (shard, lines) in &lines {
        let numbers = (0..20_000_i32).filter(|n| n % 8 == i32::from(*shard));
        let expected: Vec<_> = numbers.map(|n| format!("{n},\"\"\"{n}\"\",\n\"\n")).collect();
        assert_eq!(lines, &expected, "whole rows, in their order");
    }
    assert_eq!(lines.into_keys().collect::<Vec<_>>(), [1, 6]);

    // Dropped half-way: the connection is not lent to anybody in the middle of it.
    for _ in 0..5 {
        let mut dump = cluster.copy_out(&DUMP).stream();
        dump.next().await.unwrap()?;
    }
    assert_eq!(cluster.scatter(&COUNT).all(&[]).count().await?.value, 20_000);

    const MISSPELT: Statement = Statement::new("COPY {shard}.ntoes TO STDOUT");
    const WRITES: Statement =
        Statement::new("COPY (DELETE FROM {shard}.notes RETURNING id) TO STDOUT");
    for refused in [MISSPELT, WRITES] {
        let error = cluster.copy_out(&refused).partial().stream().next().await.unwrap();
        assert_eq!(error.unwrap_err().outcome(), Outcome::Failed);
    }
    assert_eq!(cluster.scatter(&COUNT).all(&[]).count().await?.value, 20_000);
    Ok(())
}
