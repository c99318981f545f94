//! Reads that share connections: each gets its own answer, and none can hold up the others for long.
#![cfg(test)]

use std::time::Duration;

use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Config, Migrations, Outcome, Result, Shard, ShardId, Statement};
use tokio::time::timeout;

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY DEFAULT next_id(), n int)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (n) VALUES ($1)");
const READ: Statement = Statement::new("SELECT n, $2::int4 FROM {shard}.notes WHERE n = $1");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.notes");

async fn test(shards: u16) -> Result<TestCluster> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    TestCluster::builder().instances(1).shards(shards).migrations(notes).start().await
}

/// One connection to lend, and one that carries reads.
fn one_of_each(test: &TestCluster) -> Config {
    test.config().max_size(2).pipelines(1).queue_timeout(Duration::from_secs(60))
}

fn shard(cluster: &Cluster, number: u16) -> Result<Shard> {
    cluster.shard(ShardId::new(number)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_reads_at_once_get_their_own_answers() -> Result<()> {
    let test = test(4).await?;
    let cluster = Cluster::connect(one_of_each(&test)).await?;
    for number in 0..4 {
        shard(&cluster, number)?.execute(&ADD, &[&i32::from(number)]).await?;
    }
    let reads: Vec<_> = (0..1000_i32)
        .map(|read| {
            let cluster = cluster.clone();
            tokio::spawn(async move {
                let number = u16::try_from(read % 4).unwrap();
                let row =
                    shard(&cluster, number)?.query_one(&READ, &[&i32::from(number), &read]).await?;
                Ok::<_, howdah::Error>((row.get::<_, i32>(0), row.get::<_, i32>(1)))
            })
        })
        .collect();
    for (read, answer) in (0..).zip(reads) {
        assert_eq!(answer.await.unwrap()?, (read % 4, read));
    }
    Ok(())
}

#[tokio::test]
async fn a_pipeline_with_much_to_carry_is_joined_by_no_other_read() -> Result<()> {
    const LENGTH: Statement =
        Statement::new("SELECT length($1), $2::int4, count(*) FROM {shard}.notes");

    let test = test(1).await?;
    let cluster = Cluster::connect(one_of_each(&test)).await?;
    let shard = shard(&cluster, 0)?;
    shard.query(&LENGTH, &[&"", &0_i32]).await?;
    let before = cluster.stats().remove(0);
    // None is answered before all have set out: three fill it, and the others queue for the other connection.
    let large = "x".repeat(3 << 19);
    let reads = (0..10_i32).map(|read| {
        let (shard, large) = (&shard, large.as_str());
        async move { shard.query_one(&LENGTH, &[&large, &read]).await.map(|row| (read, row)) }
    });
    for (read, row) in futures_util::future::try_join_all(reads).await? {
        assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (3 << 19, read));
    }
    let after = cluster.stats().remove(0);
    assert_eq!(after.pipelined - before.pipelined, 3, "{after:?}");
    assert_eq!(after.checkouts - before.checkouts, 7, "{after:?}");
    Ok(())
}

#[tokio::test]
async fn what_nobody_waits_for_counts_as_under_way_until_it_is_answered() -> Result<()> {
    const LENGTH: Statement = Statement::new("SELECT length($1), count(*) FROM {shard}.notes");

    let test = test(1).await?;
    let cluster = Cluster::connect(one_of_each(&test)).await?;
    let shard = shard(&cluster, 0)?;
    shard.query(&LENGTH, &[&""]).await?;
    let large = "x".repeat(3 << 19);
    let leave = async || {
        let large = large.as_str();
        let left = async { shard.query(&LENGTH, &[&large]).await };
        assert!(futures_util::poll!(std::pin::pin!(left)).is_pending());
    };
    // Little enough, and answered before the next.
    for _ in 0..3 {
        leave().await;
        leave().await;
        shard.query(&COUNT, &[]).await?;
    }
    assert_eq!(cluster.stats()[0].connects, 1);
    for _ in 0..3 {
        leave().await;
    }
    shard.query(&COUNT, &[]).await?;
    assert_eq!(cluster.stats()[0].connects, 2, "another pipeline");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_travel_together_with_one_that_fails_get_their_answers() -> Result<()> {
    // Reads that the server does as one have its clock's time of one transaction.
    const DIVIDE: Statement =
        Statement::new("SELECT 12 / $1::int4, now()::text FROM {shard}.notes");

    let test = test(1).await?;
    let cluster = Cluster::connect(one_of_each(&test)).await?;
    let shard = shard(&cluster, 0)?;
    shard.execute(&ADD, &[&1_i32]).await?;
    let mut moments = std::collections::BTreeSet::new();
    for round in 0..10_i32 {
        let reads: Vec<_> = (0..100_i32)
            .map(|read| {
                // One in 25 fails, and in the first rounds none.
                let by = if round > 2 && read % 25 == 7 { 0 } else { 1 + read % 12 };
                let shard = shard.clone();
                tokio::spawn(async move { (by, shard.query_one(&DIVIDE, &[&by]).await) })
            })
            .collect();
        for read in reads {
            match read.await.unwrap() {
                (0, answer) => {
                    let error = answer.unwrap_err();
                    assert_eq!(error.code().map(|code| code.code()), Some("22012"), "{error}");
                }
                (by, answer) => {
                    let row = answer?;
                    assert_eq!(row.get::<_, i32>(0), 12 / by);
                    moments.insert(row.get::<_, String>(1));
                }
            }
        }
    }
    assert!(moments.len() < 500, "each of {} was done alone", moments.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_every_length_come_whole() -> Result<()> {
    const REPEAT: Statement =
        Statement::new("SELECT repeat('x', $1 * n), $1::int4 FROM {shard}.notes ORDER BY n");

    let test = test(1).await?;
    let cluster = Cluster::connect(one_of_each(&test)).await?;
    let shard = shard(&cluster, 0)?;
    for n in [1_i32, 2, 40] {
        shard.execute(&ADD, &[&n]).await?;
    }
    shard.query(&COUNT, &[]).await?;
    let before = cluster.stats()[0].pipelined;
    for round in 0..20_i32 {
        let reads: Vec<_> = (0..100_i32)
            .map(|read| {
                let (shard, length) = (shard.clone(), (read * 37 + round * 911) % 1500);
                tokio::spawn(async move { (length, shard.query(&REPEAT, &[&length]).await) })
            })
            .collect();
        for read in reads {
            let (length, rows) = read.await.unwrap();
            let lengths = rows?.iter().map(|row| row.get::<_, &str>(0).len()).collect::<Vec<_>>();
            let length = usize::try_from(length).unwrap();
            assert_eq!(lengths, [length, 2 * length, 40 * length]);
        }
    }
    // None had to be done again elsewhere, as would those on a pipeline that hangs.
    assert_eq!(cluster.stats()[0].pipelined - before, 2000);
    Ok(())
}

#[tokio::test]
async fn the_owner_of_a_transaction_reads_meanwhile() -> Result<()> {
    let test = test(1).await?;
    let cluster = Cluster::connect(one_of_each(&test)).await?;
    let shard = shard(&cluster, 0)?;
    shard.query(&COUNT, &[]).await?;
    let tx = shard.begin().await?;
    tx.execute(&ADD, &[&1_i32]).await?;
    // The only connection to lend is in use; no read has to wait for it.
    for _ in 0..10 {
        assert_eq!(shard.query_one(&COUNT, &[]).await?.get::<_, i64>(0), 0);
    }
    tx.commit().await?;
    assert_eq!(shard.query_one(&COUNT, &[]).await?.get::<_, i64>(0), 1);
    Ok(())
}

#[tokio::test]
async fn writes_get_the_connections_that_reads_no_longer_need() -> Result<()> {
    let test = test(1).await?;
    let cluster = Cluster::connect(one_of_each(&test)).await?;
    let shard = shard(&cluster, 0)?;
    shard.query(&COUNT, &[]).await?;
    let first = shard.begin().await?;
    // Asks again and again: the pipeline is given up some time after its last read.
    let hurried = shard.clone().timeout(Duration::from_millis(500));
    let second = until("a write is let in", async || hurried.begin().await).await;
    first.rollback().await?;
    second.rollback().await
}

#[tokio::test]
async fn a_read_that_waits_for_a_lock_holds_up_nobody_for_long() -> Result<()> {
    let test = test(2).await?;
    let cluster = Cluster::connect(one_of_each(&test)).await?;
    let (blocked, free) = (shard(&cluster, 0)?, shard(&cluster, 1)?);
    free.query(&COUNT, &[]).await?;
    let owner = test.admin("pg1").await?;
    owner.batch_execute("BEGIN; LOCK TABLE shard_0000_e1.notes").await.unwrap();
    let waiting = tokio::spawn(async move { blocked.query_one(&COUNT, &[]).await });
    // They follow it on the same pipeline.
    for _ in 0..100 {
        free.query(&COUNT, &[]).await?;
    }
    assert!(!waiting.is_finished());
    owner.batch_execute("COMMIT").await.unwrap();
    assert_eq!(waiting.await.unwrap()?.get::<_, i64>(0), 0);
    Ok(())
}

#[tokio::test]
async fn a_slow_read_is_done_all_the_same() -> Result<()> {
    const SLOW: Statement = Statement::new(
        "SELECT count(*) FROM generate_series(1, 12000000) a LEFT JOIN {shard}.notes ON n = a",
    );

    let test = test(1).await?;
    let patient = one_of_each(&test).statement_timeout(Duration::from_secs(120));
    let cluster = Cluster::connect(patient).await?;
    let slow = shard(&cluster, 0)?.query_one(&SLOW, &[]).await?;
    assert_eq!(slow.get::<_, i64>(0), 12_000_000);
    Ok(())
}

#[tokio::test]
async fn a_server_that_dies_under_a_full_pipeline_is_unavailable_and_comes_back() -> Result<()> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let builder = TestCluster::builder().instances(1).shards(1).migrations(notes).own_servers();
    let mut test = builder.start().await?;
    let cluster = test.cluster().await?;
    let shard = shard(&cluster, 0)?;
    shard.query(&COUNT, &[]).await?;
    let readers: Vec<_> = (0..50)
        .map(|_| {
            let shard = shard.clone();
            tokio::spawn(async move {
                loop {
                    if let Err(error) = shard.query(&COUNT, &[]).await {
                        return error;
                    }
                }
            })
        })
        .collect();
    test.kill("pg1").await?;
    for reader in readers {
        let error = reader.await.unwrap();
        assert!(error.is_unavailable(), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotExecuted, "{error:?}");
    }
    test.start_server("pg1").await?;
    until("it is back", async || shard.query(&COUNT, &[]).await).await;
    Ok(())
}

/// A pipeline whose server process is stopped, as long as this is there.
struct Hanging {
    process: i32,
    shard: Shard,
    _test: TestCluster,
}

impl Hanging {
    async fn begin() -> Result<Self> {
        Self::after(async |shard| shard.query(&COUNT, &[]).await.map(drop)).await
    }

    /// Stops the process that has done something on the shard.
    async fn after(something: impl AsyncFnOnce(&Shard) -> Result<()>) -> Result<Self> {
        const PROCESS: &str =
            "SELECT pid FROM pg_stat_activity WHERE query LIKE '% shard\\_0000\\_e1.notes%'";

        let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
        let builder = TestCluster::builder().instances(1).shards(1).migrations(notes);
        let test = builder.own_servers().start().await?;
        let shard = shard(&Cluster::connect(one_of_each(&test)).await?, 0)?;
        something(&shard).await?;
        let admin = test.admin("pg1").await?;
        let process: i32 = admin.query_one(PROCESS, &[]).await.unwrap().get(0);
        signal("-STOP", process);
        Ok(Self { process, shard, _test: test })
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        signal("-CONT", self.process);
    }
}

fn signal(name: &str, process: i32) {
    let mut kill = std::process::Command::new("kill");
    assert!(kill.arg(name).arg(process.to_string()).status().unwrap().success());
}

#[tokio::test]
async fn reads_leave_a_server_process_that_hangs() -> Result<()> {
    let hanging = Hanging::begin().await?;
    // They wait for nothing but the pool's own patience, and are answered on the other connection.
    let reads = (0..20).map(|_| async { hanging.shard.query_one(&COUNT, &[]).await });
    for answer in futures_util::future::join_all(reads).await {
        assert_eq!(answer?.get::<_, i64>(0), 0);
    }
    Ok(())
}

#[tokio::test]
async fn a_pipeline_that_many_have_left_without_their_answers_is_replaced() -> Result<()> {
    let test = test(1).await?;
    let cluster = Cluster::connect(one_of_each(&test)).await?;
    let shard = shard(&cluster, 0)?;
    shard.query(&COUNT, &[]).await?;
    let before = cluster.stats()[0].connects;
    for _ in 0..600 {
        // Sent, and never asked for again.
        assert!(futures_util::poll!(std::pin::pin!(shard.query(&COUNT, &[]))).is_pending());
    }
    shard.query(&COUNT, &[]).await?;
    assert!(cluster.stats()[0].connects > before, "it has no end");
    Ok(())
}

#[tokio::test]
async fn a_pipeline_is_not_given_up_for_those_who_left_it_long_ago() -> Result<()> {
    let test = test(1).await?;
    let cluster = Cluster::connect(one_of_each(&test)).await?;
    let shard = shard(&cluster, 0)?;
    shard.query(&COUNT, &[]).await?;
    let before = cluster.stats()[0].connects;
    for n in 1..=600 {
        assert!(futures_util::poll!(std::pin::pin!(shard.query(&COUNT, &[]))).is_pending());
        if n % 100 == 0 {
            // Answered behind all of them.
            shard.query(&COUNT, &[]).await?;
        }
    }
    shard.query(&COUNT, &[]).await?;
    assert_eq!(cluster.stats()[0].connects, before);
    Ok(())
}

#[tokio::test]
async fn a_pipeline_that_answers_later_than_anybody_waits_does_not_hang() -> Result<()> {
    let notes = Migrations::new([("0001_notes.sql", NOTES)])?;
    let builder = TestCluster::builder().instances(1).shards(1).migrations(notes);
    let test = builder.proxies().start().await?;
    let cluster = Cluster::connect(one_of_each(&test)).await?;
    let shard = shard(&cluster, 0)?;
    shard.query(&COUNT, &[]).await?;
    let before = cluster.stats()[0].connects;
    test.proxy("pg1")?.delay(Duration::from_millis(300));
    let impatient = shard.timeout(Duration::from_millis(50));
    for _ in 0..100 {
        assert!(impatient.query(&COUNT, &[]).await.unwrap_err().is_timeout());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(cluster.stats()[0].connects, before);
    Ok(())
}

#[tokio::test]
async fn a_server_process_that_hangs_becomes_no_pipeline() -> Result<()> {
    let hanging =
        Hanging::after(async |shard| shard.execute(&ADD, &[&1_i32]).await.map(drop)).await?;
    // The read would make a pipeline of the connection that was used last.
    let read = timeout(Duration::from_secs(30), hanging.shard.query_one(&COUNT, &[])).await;
    assert_eq!(read.expect("it waits for the greeting")?.get::<_, i64>(0), 1);
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_cannot_be_rolled_back_gives_its_connection_up() -> Result<()> {
    let mut open = Vec::new();
    let hanging = Hanging::after(async |shard| {
        let tx = shard.begin().await?;
        tx.execute(&ADD, &[&1_i32]).await?;
        open.push(tx);
        Ok(())
    })
    .await?;
    // All but the hanging one.
    let other = hanging.shard.begin().await?;
    drop(open);
    let written = timeout(Duration::from_secs(30), hanging.shard.execute(&ADD, &[&2_i32])).await;
    assert_eq!(written.expect("it waits for the ROLLBACK")?, 1);
    other.rollback().await
}

#[tokio::test]
async fn so_do_reads_that_are_not_there_for_long() -> Result<()> {
    let hanging = Hanging::begin().await?;
    let impatient = hanging.shard.clone().timeout(Duration::from_millis(50));
    until("it is read elsewhere", async || {
        // Seldom seen waiting, but seen to have been.
        tokio::time::sleep(Duration::from_millis(600)).await;
        impatient.query_one(&COUNT, &[]).await
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_read_on_a_pipeline_cannot_write() -> Result<()> {
    // A view looks like a table; what it calls is written nowhere in the statement.
    const TRAP: &str = "CREATE FUNCTION add_one() RETURNS int LANGUAGE sql BEGIN ATOMIC \
                        INSERT INTO notes (n) VALUES (1) RETURNING n; END; \
                        CREATE VIEW trap AS SELECT add_one() AS n";
    const SPRING: Statement = Statement::new("SELECT n FROM {shard}.trap");

    let migrations = Migrations::new([("0001_notes.sql", NOTES), ("0002_trap.sql", TRAP)])?;
    let builder = TestCluster::builder().instances(1).shards(1).migrations(migrations);
    let test = builder.start().await?;
    let cluster = Cluster::connect(one_of_each(&test)).await?;
    let shard = shard(&cluster, 0)?;
    // The pipeline refuses; the connection of its own has the last word, and it happens once.
    shard.query_one(&SPRING, &[]).await?;
    assert_eq!(shard.query_one(&COUNT, &[]).await?.get::<_, i64>(0), 1);
    Ok(())
}
