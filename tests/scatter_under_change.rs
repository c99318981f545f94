//! Reads over many shards while rows are added, shards move and servers come and go.
#![cfg(test)]

mod cutover;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cutover::cut_over;
use howdah::postgres::Row;
use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Cursor, Id, Migrations, Result, Scatter, ShardId, Statement};

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), n int)";
const ADD: Statement = Statement::new(
    "INSERT INTO {shard}.notes (n) SELECT n FROM generate_series(1, $1) n RETURNING id",
);
const NEWEST: Statement =
    Statement::new("SELECT id FROM {shard}.notes WHERE id < $1 ORDER BY id DESC LIMIT $2");
const ALL: Statement = Statement::new("SELECT id FROM {shard}.notes ORDER BY id DESC");
const SUM: Statement = Statement::new("SELECT sum(n) FROM {shard}.notes");

fn notes() -> Result<Migrations> {
    Migrations::new([("0001_notes.sql", NOTES)])
}

async fn fill(cluster: &Cluster, each: i32) -> Result<BTreeSet<Id>> {
    let mut ids = BTreeSet::new();
    for shard in cluster.map().count().iter() {
        let rows = cluster.shard(shard)?.query(&ADD, &[&each]).await?;
        ids.extend(rows.iter().map(|row| row.get::<_, Id>(0)));
    }
    Ok(ids)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_to_the_end_miss_no_old_row_and_repeat_none() -> Result<()> {
    let mut test = TestCluster::builder().own_servers().migrations(notes()?).start().await?;
    let cluster = test.cluster().await?;
    let old = fill(&cluster, 60).await?;

    let stop = AtomicBool::new(false);
    let adding = async {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            number = (number + 1) % 8;
            // A write to the server that is down fails, and must not matter.
            let _ = cluster.shard(ShardId::new(number)?)?.execute(&ADD, &[&1]).await;
            tokio::task::yield_now().await;
        }
        Ok::<_, howdah::Error>(())
    };
    let reading = async {
        let mut seen = Vec::new();
        let mut cursor: Option<Cursor> = None;
        let mut with_gaps = 0;
        for number in 0.. {
            match number {
                2 => test.kill("pg2").await?,
                5 => test.start_server("pg2").await?,
                8 => cut_over(&test, 3).await,
                10 => cut_over(&test, 4).await,
                _ => {}
            }
            let scatter = cluster.scatter(&NEWEST).all(&[]).partial();
            let page = scatter.page("id", cursor.as_ref(), 20).await?;
            with_gaps += usize::from(!page.missing.is_empty());
            seen.extend(page.rows.iter().map(|row| row.get::<_, Id>(0)));
            let Some(next) = page.next else { break };
            // As it would come back from a browser.
            cursor = Some(next.to_string().parse()?);
        }
        stop.store(true, Ordering::Relaxed);
        Ok::<_, howdah::Error>((seen, with_gaps))
    };
    // The first that fails ends the other.
    let ((), (seen, with_gaps)) = tokio::try_join!(adding, reading)?;
    // Until the server was back; a pool may look again a little later.
    assert!(with_gaps >= 3, "{with_gaps}");
    let once: BTreeSet<Id> = seen.iter().copied().collect();
    assert_eq!(once.len(), seen.len(), "no row twice");
    let lost: Vec<_> = old.difference(&once).collect();
    assert!(lost.is_empty(), "{lost:?}");
    Ok(())
}

#[tokio::test]
async fn an_instance_that_is_down_is_left_out_of_everything_and_named() -> Result<()> {
    let mut test = TestCluster::builder().own_servers().migrations(notes()?).start().await?;
    let cluster = test.cluster().await?;
    let ids = fill(&cluster, 10).await?;
    let lost = [1, 3, 5, 7].map(|number| ShardId::new(number).unwrap());
    let key = |row: &Row| Reverse(row.get::<_, Id>(0));
    test.kill("pg2").await?;

    assert!(cluster.scatter(&SUM).all(&[]).sum::<i128>().await.unwrap_err().is_unavailable());
    let sum = cluster.scatter(&SUM).all(&[]).partial().sum::<i128>().await?;
    assert_eq!((sum.value, sum.missing.as_slice()), (Some(4 * 55), lost.as_slice()));

    assert!(cluster.scatter(&ALL).all(&[]).merge(5, key).next().await.unwrap().is_err());
    let mut merged = cluster.scatter(&ALL).all(&[]).partial().merge(1000, key);
    let mut seen = Vec::new();
    while let Some(row) = merged.next().await {
        seen.push(row?.get::<_, Id>(0));
    }
    let mut there: Vec<Id> = ids.into_iter().collect();
    there.retain(|id| cluster.layout().shard_of(*id).get() % 2 == 0);
    there.reverse();
    assert_eq!(seen, there);
    assert_eq!(merged.missing(), lost);

    let mut stream = cluster.scatter(&ALL).all(&[]).partial().stream();
    let mut count = 0;
    while let Some(row) = stream.next().await {
        row?;
        count += 1;
    }
    assert_eq!((count, stream.missing().as_slice()), (40, lost.as_slice()));
    assert_eq!(stream.finished().len(), 4);
    Ok(())
}

#[tokio::test]
async fn a_shard_that_has_moved_is_followed_by_every_kind_of_read() -> Result<()> {
    let test = TestCluster::builder().migrations(notes()?).start().await?;
    let cluster = test.cluster().await?;
    let ids = fill(&cluster, 10).await?;
    let newest: Vec<Id> = ids.iter().rev().copied().collect();
    let page = async || cluster.scatter(&NEWEST).all(&[]).page("id", None, 25).await;
    let of = |rows: &[Row]| rows.iter().map(|row| row.get::<_, Id>(0)).collect::<Vec<_>>();
    assert_eq!(of(&page().await?.rows), newest[..25]);
    cut_over(&test, 2).await;
    assert_eq!(of(&page().await?.rows), newest[..25]);
    cut_over(&test, 3).await;
    let mut merged = cluster.scatter(&ALL).all(&[]).merge(25, |row| Reverse(row.get::<_, Id>(0)));
    let mut rows = Vec::new();
    while let Some(row) = merged.next().await {
        rows.push(row?);
    }
    assert_eq!(of(&rows), newest[..25]);
    cut_over(&test, 4).await;
    let mut stream = cluster.scatter(&ALL).all(&[]).stream();
    let mut streamed = BTreeSet::new();
    while let Some(row) = stream.next().await {
        streamed.insert(row?.1.get::<_, Id>(0));
    }
    assert_eq!(streamed, ids);
    cut_over(&test, 5).await;
    assert_eq!(cluster.scatter(&SUM).all(&[]).sum::<i128>().await?.value, Some(8 * 55));
    Ok(())
}

#[tokio::test]
async fn a_merge_of_many_shards_takes_few_round_trips() -> Result<()> {
    let builder = TestCluster::builder().instances(1).shards(32).proxies();
    let test = builder.migrations(notes()?).start().await?;
    let cluster = test.cluster().await?;
    fill(&cluster, 1).await?;
    test.proxy("pg1")?.delay(Duration::from_millis(50));
    let began = Instant::now();
    let mut merged = cluster.scatter(&ALL).all(&[]).merge(32, |row| Reverse(row.get::<_, Id>(0)));
    for _ in 0..32 {
        merged.next().await.unwrap()?;
    }
    // One for each cursor alone would take longer.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_shard_in_another_order_is_an_error_and_not_a_wrong_merge() -> Result<()> {
    const OLDEST: Statement = Statement::new("SELECT id FROM {shard}.notes ORDER BY id");
    let test = TestCluster::builder().migrations(notes()?).start().await?;
    let cluster = test.cluster().await?;
    fill(&cluster, 10).await?;
    let mut merged =
        cluster.scatter(&OLDEST).all(&[]).merge(80, |row| Reverse(row.get::<_, Id>(0)));
    let error = loop {
        match merged.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("it was merged"),
        }
    };
    assert!(error.to_string().contains("order"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_shard_that_is_asked_twice_is_refused_by_every_kind_of_read() -> Result<()> {
    let test = TestCluster::builder().instances(1).shards(2).migrations(notes()?).start().await?;
    let cluster = test.cluster().await?;
    fill(&cluster, 2).await?;
    let shard = ShardId::new(1)?;
    type Ask = fn(Scatter<'static>, ShardId) -> Scatter<'static>;
    let twice: [Ask; 2] = [
        |scatter, shard| scatter.shard(shard, &[]).shard(shard, &[]),
        |scatter, shard| scatter.all(&[]).shard(shard, &[]),
    ];
    for twice in twice {
        let of = |statement: &Statement| twice(cluster.scatter(statement), shard);
        let mut stream = of(&ALL).stream();
        let mut merged = of(&ALL).merge(10, |row| Reverse(row.get::<_, Id>(0)));
        let refused = [
            of(&NEWEST).page("id", None, 10).await.unwrap_err(),
            of(&ALL).rows().await.unwrap_err(),
            of(&SUM).sum::<i128>().await.unwrap_err(),
            stream.next().await.unwrap().unwrap_err(),
            merged.next().await.unwrap().unwrap_err(),
        ];
        assert!(refused.iter().all(|error| error.is_invalid_input()), "{refused:?}");
        assert!(stream.next().await.is_none() && merged.next().await.is_none());
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_that_is_dropped_or_slow_holds_up_nobody() -> Result<()> {
    let test = TestCluster::builder().instances(1).shards(4).migrations(notes()?).start().await?;
    let cluster = Cluster::connect(test.config().max_size(2).pipelines(0)).await?;
    fill(&cluster, 2_000).await?;
    for _ in 0..5 {
        let mut stream = cluster.scatter(&ALL).all(&[]).stream();
        stream.next().await.unwrap()?;
        drop(stream);
        let key = |row: &Row| Reverse(row.get::<_, Id>(0));
        let mut merged = cluster.scatter(&ALL).all(&[]).merge(1_000, key);
        merged.next().await.unwrap()?;
        drop(merged);
        let sum = cluster.scatter(&SUM).all(&[]).sum::<i128>().await?.value;
        assert_eq!(sum, Some(4 * 2_001_000));
    }
    // To their ends, over many batches.
    let mut stream = cluster.scatter(&ALL).all(&[]).stream();
    let mut count = 0;
    while let Some(row) = stream.next().await {
        row?;
        count += 1;
    }
    assert_eq!(count, 8_000);
    let mut merged =
        cluster.scatter(&ALL).all(&[]).merge(9_000, |row| Reverse(row.get::<_, Id>(0)));
    count = 0;
    while let Some(row) = merged.next().await {
        row?;
        count += 1;
    }
    assert_eq!(count, 8_000);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_read_runs_in_a_spawned_task() -> Result<()> {
    const SOME: Statement =
        Statement::new("SELECT id FROM {shard}.notes WHERE id = ANY($1) AND n > $2");

    let test = TestCluster::builder().migrations(notes()?).start().await?;
    let cluster = test.cluster().await?;
    let ids: Vec<Id> = fill(&cluster, 3).await?.into_iter().collect();
    let counts = tokio::spawn(async move {
        let page = cluster.scatter(&NEWEST).all(&[]).partial().page("id", None, 7).await?;
        let least = 1;
        let found = cluster.get_many(&SOME, &ids).params(&[&least]).await?;
        let sum: Option<i128> = cluster.scatter(&SUM).all(&[]).sum().await?.value;
        let mut merged =
            cluster.scatter(&ALL).all(&[]).merge(1, |row| Reverse(row.get::<_, Id>(0)));
        let first = merged.next().await;
        let mut stream = cluster.scatter(&ALL).all(&[]).stream();
        let any = stream.next().await;
        let rows = cluster.scatter(&ALL).all(&[]).rows().await?.rows.len();
        let jobs = cluster.jobs().for_each_shard(async |shard| shard.query(&ALL, &[]).await);
        let jobs = jobs.await?.into_result()?.len();
        Ok::<_, howdah::Error>((
            page.rows.len(),
            found.into_rows().len(),
            sum,
            first.is_some() && any.is_some(),
            rows,
            jobs,
        ))
    })
    .await
    .unwrap()?;
    assert_eq!(counts, (7, 16, Some(48), true, 24, 8));
    Ok(())
}

#[tokio::test]
async fn a_shard_that_does_not_answer_in_time_is_named() -> Result<()> {
    const TWO: Statement = Statement::new("SELECT n FROM {shard}.notes WHERE n = ANY($1)");

    let test = TestCluster::builder().migrations(notes()?).start().await?;
    let cluster = test.cluster().await?;
    let ids: Vec<Id> = fill(&cluster, 2).await?.into_iter().collect();
    let locked = ShardId::new(4)?;
    let admin = test.admin("pg1").await?;
    admin.batch_execute("BEGIN; LOCK TABLE shard_0004_e1.notes").await.unwrap();
    let soon = Duration::from_millis(1_500);

    let numbers = vec![1_i32, 2];
    let scatter = || cluster.scatter(&TWO).all(&[&numbers]);
    assert!(scatter().timeout(soon).rows().await.unwrap_err().is_timeout());
    let found = scatter().partial().timeout(soon).rows().await?;
    assert_eq!((found.rows.len(), found.missing), (14, vec![locked]));

    const BY_IDS: Statement = Statement::new("SELECT id FROM {shard}.notes WHERE id = ANY($1)");
    let found = cluster.get_many(&BY_IDS, &ids).partial().timeout(soon).await?;
    assert_eq!(found.missing, [locked]);
    assert_eq!(found.unknown().len(), 2);

    // Shards that share a statement share its time.
    let page = cluster.scatter(&NEWEST).all(&[]).partial().timeout(soon);
    let page = page.page("id", None, 50).await?;
    assert_eq!((page.rows.len(), page.missing.len()), (8, 4));
    admin.batch_execute("ROLLBACK").await.unwrap();
    let rest = cluster.scatter(&NEWEST).all(&[]).page("id", page.next.as_ref(), 50).await?;
    assert_eq!((rest.rows.len(), rest.next), (8, None));
    Ok(())
}

#[tokio::test]
async fn a_merge_has_the_servers_make_little_more_than_it_returns() -> Result<()> {
    // Each row that a server makes leaves a lock behind, as long as the transaction's session lives.
    const COUNTED: Statement = Statement::new(
        "SELECT n, pg_try_advisory_lock(n) FROM {shard}.notes WHERE n % $1 = 0 OR n > $2 ORDER BY n",
    );
    const NUMBER: Statement = Statement::new(
        "UPDATE {shard}.notes SET n = n * 1000 + split_part('{shard}', '_', 2)::int % 1000",
    );
    const MADE: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

    let index =
        Migrations::new([("0001_notes.sql", NOTES), ("0002_n.sql", "CREATE INDEX ON notes (n)")])?;
    let test = TestCluster::builder().migrations(index).start().await?;
    let cluster = test.cluster().await?;
    fill(&cluster, 500).await?;
    cluster.exec(&NUMBER).write(true).run(|_| {}).await?;
    let made = async || {
        let mut made = 0;
        for instance in ["pg1", "pg2"] {
            let admin = test.admin(instance).await.unwrap();
            made += admin.query_one(MADE, &[]).await.unwrap().get::<_, i64>(0);
        }
        usize::try_from(made).unwrap()
    };
    // All shards alike; then the first rows are all on one of them.
    for (modulus, beyond) in [(1_i32, 0_i32), (1000, 400_000)] {
        for limit in [1_usize, 8, 80, 400] {
            let key = |row: &Row| row.get::<_, i32>(0);
            let mut merged = cluster.scatter(&COUNTED).all(&[&modulus, &beyond]).merge(limit, key);
            for _ in 0..limit {
                merged.next().await.unwrap()?;
            }
            let made_now = made().await;
            assert!(made_now >= limit && made_now <= 3 * limit + 8, "{made_now} rows for {limit}");
            assert!(merged.next().await.is_none());
            drop(merged);
            until("these sessions are gone", async || made().await == 0).await;
        }
    }
    Ok(())
}
