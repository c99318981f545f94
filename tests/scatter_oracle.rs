//! Reads over many shards against one unsharded table with the same rows: whatever is asked, both give the same.
#![cfg(test)]

use std::cmp::Reverse;
use std::collections::BTreeSet;

use howdah::postgres::{Client, Row};
use howdah::testing::TestCluster;
use howdah::{Cluster, Cursor, Id, Migrations, Result, Statement};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};
use tokio::runtime::Runtime;

/// `n` goes through all of a bigint, so that its sums leave it.
const ITEMS: &str = "CREATE TABLE items (
    id bigint PRIMARY KEY DEFAULT next_id() CHECK (is_local(id)), n bigint, small integer NOT NULL, score float8, name text)";
const UNSHARDED: &str = "CREATE TABLE items (
    id bigint PRIMARY KEY, n bigint, small integer NOT NULL, score float8, name text)";

struct World {
    _test: TestCluster,
    cluster: Cluster,
    oracle: Client,
    ids: Vec<Id>,
}

impl World {
    /// Eight shards: one is empty, one has a single row, and each of the others more than the last.
    async fn make() -> Result<Self> {
        const FILL: Statement = Statement::new(
            "INSERT INTO {shard}.items (n, small, score, name)
             SELECT nullif(hashint8extended(g, $2), 0) / (CASE g % 3 WHEN 0 THEN 1 ELSE 1000000 END),
                    abs(hashint8extended(g, $2 + 1)) % 997,
                    CASE WHEN g % 5 > 0 THEN g * 0.25 END,
                    CASE WHEN g % 7 > 0 THEN 'name ' || g % 13 END
             FROM generate_series(1, $1) AS g
             RETURNING id, n, small, score, name",
        );

        let items = Migrations::new([("0001_items.sql", ITEMS)])?;
        let test = TestCluster::builder().migrations(items).start().await?;
        let cluster = test.cluster().await?;
        let oracle = test.admin("pg1").await?;
        oracle.batch_execute(UNSHARDED).await.unwrap();
        let mut ids = Vec::new();
        for number in cluster.map().count().iter() {
            let count = match number.get() {
                0 => 0,
                1 => 1,
                more => i32::from(more) * i32::from(more) * 10,
            };
            let seed = i64::from(number.get());
            let rows = cluster.shard(number)?.query(&FILL, &[&count, &seed]).await?;
            ids.extend(rows.iter().map(|row| row.get::<_, Id>("id")));
            let column = "INSERT INTO items SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::integer[], $4::float8[], $5::text[])";
            oracle
                .execute(
                    column,
                    &[
                        &all::<i64>(&rows, "id"),
                        &all::<Option<i64>>(&rows, "n"),
                        &all::<i32>(&rows, "small"),
                        &all::<Option<f64>>(&rows, "score"),
                        &all::<Option<&str>>(&rows, "name"),
                    ],
                )
                .await
                .unwrap();
        }
        Ok(Self { _test: test, cluster, oracle, ids })
    }
}

fn all<'a, T: howdah::postgres::types::FromSql<'a>>(rows: &'a [Row], column: &str) -> Vec<T> {
    rows.iter().map(|row| row.get(column)).collect()
}

/// Runs many random cases over one cluster.
fn check<C: std::fmt::Debug>(
    cases: u32,
    any: impl Strategy<Value = C>,
    case: impl AsyncFn(&World, C) -> TestCaseResult,
) {
    let runtime = Runtime::new().unwrap();
    let world = runtime.block_on(World::make()).unwrap();
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let run = TestRunner::new(config).run(&any, |value| runtime.block_on(case(&world, value)));
    run.unwrap();
}

/// Selects some of the rows: from all of them to none.
fn any_filter() -> impl Strategy<Value = (i32, i32)> {
    (1_i32..12).prop_flat_map(|modulus| (Just(modulus), 0..modulus + 1))
}

#[test]
fn pages_are_the_rows_of_one_table_in_its_order() {
    const NEWEST: Statement = Statement::new(
        "SELECT id, name FROM {shard}.items WHERE small % $1 = $2 AND id < $3 ORDER BY id DESC LIMIT $4",
    );
    const NEWEST_ABOVE: Statement = Statement::new(
        "SELECT id, name FROM {shard}.items WHERE small % $1 = $2 AND id < $3 AND id >= $5 ORDER BY id DESC LIMIT $4",
    );
    const EXPECTED: &str = "SELECT id FROM items WHERE small % $1 = $2 ORDER BY id DESC";

    // Most guesses of the least key are wrong here: filters change, and shards were filled one after the other.
    let any = (any_filter(), 1_usize..300, any::<bool>());
    check(800, any, async |world, ((modulus, rest), limit, takes_floor)| {
        let expected = world.oracle.query(EXPECTED, &[&modulus, &rest]).await.unwrap();
        let mut seen = Vec::new();
        let mut cursor: Option<Cursor> = None;
        // Not more than a few pages: the next case goes on with others.
        for _ in 0..8 {
            let scatter = match takes_floor {
                false => world.cluster.scatter(&NEWEST),
                true => world.cluster.scatter(&NEWEST_ABOVE).takes_floor(),
            };
            let page = scatter.all(&[&modulus, &rest]);
            let page = page.page("id", cursor.as_ref(), limit).await.unwrap();
            prop_assert!(page.rows.len() == limit || page.next.is_none());
            seen.extend(all::<Id>(&page.rows, "id"));
            cursor = page.next;
            if cursor.is_none() {
                prop_assert_eq!(seen.len(), expected.len());
                break;
            }
        }
        prop_assert_eq!(&seen, &all::<Id>(&expected[..seen.len()], "id"));
        Ok(())
    });
}

#[test]
fn aggregates_are_those_of_one_table() {
    const COUNT: Statement =
        Statement::new("SELECT count(n) FROM {shard}.items WHERE small % $1 = $2");
    const SUM: Statement = Statement::new("SELECT sum(n) FROM {shard}.items WHERE small % $1 = $2");
    const SMALL: Statement =
        Statement::new("SELECT sum(small) FROM {shard}.items WHERE small % $1 = $2");
    const SCORE: Statement =
        Statement::new("SELECT sum(score) FROM {shard}.items WHERE small % $1 = $2");
    const LEAST: Statement =
        Statement::new("SELECT min(n) FROM {shard}.items WHERE small % $1 = $2");
    const LAST: Statement =
        Statement::new("SELECT max(name COLLATE \"C\") FROM {shard}.items WHERE small % $1 = $2");
    const MEAN: Statement =
        Statement::new("SELECT sum(n), count(n) FROM {shard}.items WHERE small % $1 = $2");
    const MEAN_SCORE: Statement =
        Statement::new("SELECT sum(score), count(score) FROM {shard}.items WHERE small % $1 = $2");
    const EXPECTED: &str =
        "SELECT count(n), sum(n)::text, sum(small), sum(score), min(n), max(name COLLATE \"C\"),
                avg(n)::float8, avg(score)
         FROM items WHERE small % $1 = $2";

    check(300, any_filter(), async |world, (modulus, rest)| {
        let expected = world.oracle.query_one(EXPECTED, &[&modulus, &rest]).await.unwrap();
        let ask = |statement: &Statement| world.cluster.scatter(statement).all(&[&modulus, &rest]);

        let count = ask(&COUNT).count().await.unwrap().value;
        prop_assert_eq!(i64::try_from(count).unwrap(), expected.get::<_, i64>(0));
        let sum: Option<i128> = ask(&SUM).sum().await.unwrap().value;
        prop_assert_eq!(sum.map(|sum| sum.to_string()), expected.get::<_, Option<String>>(1));
        let small: Option<i128> = ask(&SMALL).sum().await.unwrap().value;
        prop_assert_eq!(small, expected.get::<_, Option<i64>>(2).map(i128::from));
        // Quarters, and few enough for their sum to be exact.
        let score: Option<f64> = ask(&SCORE).sum().await.unwrap().value;
        prop_assert_eq!(score, expected.get::<_, Option<f64>>(3));
        let least: Option<i64> = ask(&LEAST).min().await.unwrap().value;
        prop_assert_eq!(least, expected.get::<_, Option<i64>>(4));
        let last: Option<String> = ask(&LAST).max().await.unwrap().value;
        prop_assert_eq!(last, expected.get::<_, Option<String>>(5));
        for (statement, column) in [(&MEAN, 6), (&MEAN_SCORE, 7)] {
            let mean = ask(statement).average().await.unwrap().value;
            let right: Option<f64> = expected.get(column);
            prop_assert_eq!(mean.is_some(), right.is_some());
            let near = mean
                .zip(right)
                .is_none_or(|(mean, right)| (mean - right).abs() <= right.abs() * 1e-12);
            prop_assert!(near, "{mean:?} is not {right:?}");
        }
        Ok(())
    });
}

#[test]
fn a_merge_is_the_beginning_of_one_table_in_that_order() {
    const BY_SMALL: Statement = Statement::new(
        "SELECT id, small FROM {shard}.items WHERE small % $1 = $2 ORDER BY small DESC, id",
    );
    const EXPECTED: &str =
        "SELECT id FROM items WHERE small % $1 = $2 ORDER BY small DESC, id LIMIT $3";

    check(300, (any_filter(), 0_usize..200), async |world, ((modulus, rest), limit)| {
        let count = i64::try_from(limit).unwrap();
        let expected = world.oracle.query(EXPECTED, &[&modulus, &rest, &count]).await.unwrap();
        let key = |row: &Row| (Reverse(row.get::<_, i32>("small")), row.get::<_, Id>("id"));
        let mut merged = world.cluster.scatter(&BY_SMALL).all(&[&modulus, &rest]).merge(limit, key);
        let mut seen = Vec::new();
        while let Some(row) = merged.next().await {
            seen.push(row.unwrap().get::<_, Id>("id"));
        }
        prop_assert_eq!(seen, all::<Id>(&expected, "id"));
        Ok(())
    });
}

#[test]
fn a_stream_and_rows_are_all_of_one_table() {
    const ALL: Statement = Statement::new("SELECT id FROM {shard}.items WHERE small % $1 = $2");
    const EXPECTED: &str = "SELECT id FROM items WHERE small % $1 = $2 ORDER BY id";

    check(150, any_filter(), async |world, (modulus, rest)| {
        let expected = world.oracle.query(EXPECTED, &[&modulus, &rest]).await.unwrap();
        let expected = all::<Id>(&expected, "id");
        let mut stream = world.cluster.scatter(&ALL).all(&[&modulus, &rest]).stream();
        let mut streamed = Vec::new();
        while let Some(row) = stream.next().await {
            let (shard, row) = row.unwrap();
            let id: Id = row.get(0);
            prop_assert_eq!(world.cluster.layout().shard_of(id), shard);
            streamed.push(id);
        }
        streamed.sort();
        prop_assert_eq!(&streamed, &expected);
        prop_assert_eq!(stream.finished().len(), 8);

        let gathered = world.cluster.scatter(&ALL).all(&[&modulus, &rest]).rows().await.unwrap();
        let mut gathered: Vec<Id> = gathered.rows.iter().map(|(_, row)| row.get(0)).collect();
        gathered.sort();
        prop_assert_eq!(&gathered, &expected);
        Ok(())
    });
}

#[test]
fn many_ids_are_looked_up_as_in_one_table() {
    const BY_IDS: Statement =
        Statement::new("SELECT name, id FROM {shard}.items WHERE id = ANY($1) AND small % $2 = $3");
    const EXPECTED: &str =
        "SELECT i.id FROM unnest($1::bigint[]) WITH ORDINALITY AS asked (id, place)
         JOIN items i USING (id) WHERE small % $2 = $3 ORDER BY asked.place";

    let any = (vec((any::<prop::sample::Index>(), 0..8_i64), 0..400), any_filter());
    check(1_000, any, async |world, (picked, (modulus, rest))| {
        // One in eight is next to an id that there is; some of those are there too.
        let id = |(index, off): &(prop::sample::Index, i64)| {
            let id = index.get(&world.ids).get();
            Id::new(if *off == 0 { id + 1 } else { id }).unwrap()
        };
        let asked: Vec<Id> = picked.iter().map(id).collect();
        let expected = world.oracle.query(EXPECTED, &[&asked, &modulus, &rest]).await.unwrap();
        let expected = all::<Id>(&expected, "id");

        let found = world.cluster.get_many(&BY_IDS, &asked).key("id").params(&[&modulus, &rest]);
        let found = found.await.unwrap();
        prop_assert_eq!(found.iter().map(|(id, _)| id).collect::<Vec<_>>(), asked.clone());
        let rows = found.iter().filter_map(|(_, row)| row);
        prop_assert_eq!(
            rows.map(|row| row.get::<_, Id>("id")).collect::<Vec<_>>(),
            expected.clone()
        );
        let there: BTreeSet<Id> = expected.iter().copied().collect();
        let absent: BTreeSet<Id> = asked.iter().copied().filter(|id| !there.contains(id)).collect();
        prop_assert_eq!(found.absent().into_iter().collect::<BTreeSet<_>>(), absent);
        prop_assert!(found.unknown().is_empty());
        let mut once = BTreeSet::new();
        let firsts: Vec<Id> = expected.into_iter().filter(|id| once.insert(*id)).collect();
        prop_assert_eq!(all::<Id>(&found.into_rows(), "id"), firsts);
        Ok(())
    });
}
