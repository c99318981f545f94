//! What does an id cost? In the process against other generators, in the database against its own.
//!
//! In the process all draw round-robin from the generators of many shards or machines, so that none outruns its clock
//! and has to wait: the figure is the price of an id, not of waiting. The database is durable, as in production.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ferroid::generator::{AtomicSnowflakeGenerator, Poll};
use ferroid::time::TimeSource;
use futures_util::future::try_join_all;
use howdah::postgres::Client;
use howdah::testing::TestCluster;
use howdah::{Generator, Layout, ShardId};
use howdah_benches::{Bench, Result, Sample, Unit, full_or_quick};

/// How many shards' generators share the load of one process.
const SHARDS: usize = 256;

/// Sonyflake has 256 ids a machine in ten milliseconds: it takes more machines not to wait.
const SONYFLAKES: usize = 8192;

/// How many ids are timed at once: a few tenths of a millisecond's work.
const STRETCH: usize = 10_000;

/// How many connections insert single rows.
const CONNECTIONS: usize = 8;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let mut bench = Bench::new("id");
    for threads in [1, 2] {
        process(&mut bench, threads).await?;
    }
    if ["call", "bulk", "single"].iter().any(|case| bench.wants(&format!("database {case}"))) {
        database(&mut bench).await?;
    }
    bench.write()
}

/// Our default layout in ferroid's terms.
mod same_layout {
    #![allow(missing_docs, unreachable_pub, reason = "written by ferroid's macro")]

    ferroid::define_snowflake_id!(
        SameLayout, u64, reserved: 1, timestamp: 40, machine_id: 13, sequence: 10
    );
}
use same_layout::SameLayout;

/// The system's clock, for ferroid: by default it reads a number that a thread of its own refreshes.
struct SystemClock;

impl TimeSource<u64> for SystemClock {
    fn current_millis(&self) -> u64 {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        unix.as_secs() * 1000 + u64::from(unix.subsec_millis())
            - Layout::default().epoch_ms().unsigned_abs()
    }
}

async fn process(bench: &mut Bench, threads: usize) -> Result<()> {
    let case = format!("process {threads} thread{}", if threads == 1 { "" } else { "s" });
    let shards: Vec<_> = (0..u16::try_from(SHARDS).unwrap_or(u16::MAX))
        .map(|shard| Generator::for_sole_owner(Layout::default(), ShardId::new(shard)?))
        .collect::<howdah::Result<_>>()?;
    let ours = async || {
        draw(threads, |n| {
            shards[n % SHARDS]
                .next_id(SystemTime::now())
                .map_or(0, |id| id.get().cast_unsigned().into())
        })
    };
    let unit = Unit::Time("ns/id");

    let clock = async || {
        draw(threads, |n| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            // No id, so nothing to count: the number keeps the readings apart.
            now.as_nanos() << 32 | n as u128
        })
    };
    bench.compare(&case, "clock", unit, ours, clock).await?;

    let machines: Vec<_> = (0..SHARDS as u64)
        .map(|machine| AtomicSnowflakeGenerator::<SameLayout, _>::new(machine, SystemClock))
        .collect();
    let ferroid = async || {
        draw(threads, |n| {
            loop {
                if let Poll::Ready { id } = machines[n % SHARDS].poll_id() {
                    break id.to_raw().into();
                }
            }
        })
    };
    bench.compare(&case, "ferroid", unit, ours, ferroid).await?;

    let uuid = async || draw(threads, |_| uuid::Uuid::now_v7().as_u128());
    bench.compare(&case, "uuid v7", unit, ours, uuid).await?;

    let ulid = async || draw(threads, |_| ulid::Ulid::generate().0);
    bench.compare(&case, "ulid", unit, ours, ulid).await?;

    let machines: Vec<_> = (0..u16::try_from(SONYFLAKES).unwrap_or(u16::MAX))
        .map(|machine| sonyflake::Sonyflake::builder().machine_id(&|| Ok(machine)).finalize())
        .collect::<Result<_, _>>()?;
    let sonyflake = async || {
        draw(threads, |n| machines[n % SONYFLAKES].next_id().map_or(0, |id| id.to_u64().into()))
    };
    bench.compare(&case, "sonyflake", unit, ours, sonyflake).await
}

/// The time that an id takes where so many threads draw as fast as they can: that of the middle one of many short
/// stretches, as a longer one is interrupted by whatever else the machine does.
fn draw(threads: usize, next: impl Fn(usize) -> u128 + Sync) -> Result<Sample> {
    let stretches = full_or_quick(100, 50);
    let barrier = Barrier::new(threads);
    let work = |thread: usize| {
        let mut ids = Vec::with_capacity(stretches * STRETCH);
        let mut times = Vec::with_capacity(stretches);
        barrier.wait();
        for stretch in 0..stretches {
            let started = Instant::now();
            for n in 0..STRETCH {
                // Threads start at different shards, as different requests would.
                ids.push(black_box(next(n + stretch * STRETCH + thread * 97)));
            }
            times.push(started.elapsed());
        }
        (times, ids)
    };
    let (times, ids): (Vec<_>, Vec<_>) = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).unzip()
    });
    let (mut times, mut ids) = (times.concat(), ids.concat());
    times.sort_unstable();
    let time = times[times.len() / 2].as_nanos() as f64 / (STRETCH * threads) as f64;
    let drawn = ids.len();
    ids.sort_unstable();
    ids.dedup();
    Ok(Sample::new(time).count("duplicates", (drawn - ids.len()) as u64))
}

/// What makes ids in a database.
struct Maker {
    name: &'static str,
    sql: &'static str,
    column: &'static str,
}

const OURS: Maker = Maker { name: "ours", sql: "shard_0001_e1.next_id()", column: "bigint" };
const PEERS: [Maker; 4] = [
    Maker { name: "sequence", sql: "nextval('bench.plain')", column: "bigint" },
    Maker { name: "published function", sql: "bench.published()", column: "bigint" },
    Maker { name: "gen_random_uuid", sql: "gen_random_uuid()", column: "uuid" },
    Maker { name: "uuidv7", sql: "uuidv7()", column: "uuid" },
];

/// The function of the post of 2012, for shard 1, as it was published but for its names.
const PUBLISHED: &str = "
    CREATE FUNCTION bench.published(OUT result bigint) AS $$
    DECLARE
        our_epoch bigint := 1314220021721;
        seq_id bigint;
        now_millis bigint;
        shard_id int := 1;
    BEGIN
        SELECT nextval('bench.table_id_seq') % 1024 INTO seq_id;
        SELECT FLOOR(EXTRACT(EPOCH FROM clock_timestamp()) * 1000) INTO now_millis;
        result := (now_millis - our_epoch) << 23;
        result := result | (shard_id << 10);
        result := result | (seq_id);
    END;
    $$ LANGUAGE PLPGSQL";

async fn database(bench: &mut Bench) -> Result<()> {
    let test = TestCluster::builder().instances(1).shards(2).own_servers().start().await?;
    let admin = test.admin("pg1").await?;
    // Tests' servers are not durable by themselves. ALTER SYSTEM takes a statement of its own, and the processes of
    // the server a moment to hear of it.
    for sql in [
        "ALTER SYSTEM SET fsync = on",
        "ALTER SYSTEM SET full_page_writes = on",
        "SELECT pg_reload_conf()",
    ] {
        admin.batch_execute(sql).await?;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    bench.note("postgres", admin.query_one("SHOW server_version", &[]).await?.get::<_, String>(0));
    bench.note("fsync", admin.query_one("SHOW fsync", &[]).await?.get::<_, String>(0));
    admin
        .batch_execute(&format!(
            "CREATE SCHEMA bench; CREATE SEQUENCE bench.plain; CREATE SEQUENCE bench.table_id_seq; {PUBLISHED};
             GRANT USAGE ON SCHEMA bench TO howdah_app; GRANT ALL ON ALL SEQUENCES IN SCHEMA bench TO howdah_app"
        ))
        .await?;
    let mut tables = BTreeMap::new();
    for (number, maker) in std::iter::once(&OURS).chain(&PEERS).enumerate() {
        // The index is not unique, as the published function could not fill one that is.
        let table = format!("bench.t{number}");
        admin
            .batch_execute(&format!(
                "CREATE TABLE {table} (id {} NOT NULL DEFAULT {}, payload bigint NOT NULL) WITH (autovacuum_enabled = false);
                 CREATE INDEX ON {table} (id); GRANT ALL ON {table} TO howdah_app",
                maker.column, maker.sql
            ))
            .await?;
        tables.insert(maker.name, table);
    }
    let table = |maker: &Maker| tables[maker.name].as_str();

    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(test.servers().client("pg1", "howdah_app").await?);
    }
    let (client, admin) = (&clients[0], &admin);
    let time = Unit::Time("us/id");
    for peer in &PEERS {
        let ours = async || call(client, &OURS).await;
        let theirs = async || call(client, peer).await;
        bench.compare("database call", peer.name, time, ours, theirs).await?;
    }
    for peer in &PEERS {
        let ours = async || bulk(client, admin, table(&OURS)).await;
        let theirs = async || bulk(client, admin, table(peer)).await;
        bench.compare("database bulk", peer.name, time, ours, theirs).await?;
    }
    let rate = Unit::Rate("inserts/s");
    for peer in &PEERS {
        let ours = async || single(&clients, admin, table(&OURS)).await;
        let theirs = async || single(&clients, admin, table(peer)).await;
        match peer.name {
            "sequence" => {
                bench.compare_closely("database single", peer.name, rate, ours, theirs).await?;
            }
            _ => bench.compare("database single", peer.name, rate, ours, theirs).await?,
        }
    }
    Ok(())
}

/// Many calls in one statement; another one counts what was repeated.
async fn call(client: &Client, maker: &Maker) -> Result<Sample> {
    let count = full_or_quick(1_000_000_u32, 200_000);
    let sql = maker.sql;
    let started = Instant::now();
    client.query_one(&format!("SELECT count({sql}) FROM generate_series(1, {count})"), &[]).await?;
    let each = started.elapsed().as_secs_f64() * 1e6 / f64::from(count);
    let drawn = format!("SELECT {sql} AS id FROM generate_series(1, {count})");
    Ok(Sample::new(each)
        .count("duplicates", duplicates(client, &format!("({drawn}) drawn")).await?))
}

/// One statement that inserts many rows.
async fn bulk(client: &Client, admin: &Client, table: &str) -> Result<Sample> {
    let count = full_or_quick(1_000_000_u32, 200_000);
    admin.batch_execute(&format!("TRUNCATE {table}; CHECKPOINT")).await?;
    let sql = format!("INSERT INTO {table} (payload) SELECT n FROM generate_series(1, {count}) n");
    let started = Instant::now();
    client.execute(&sql, &[]).await?;
    let each = started.elapsed().as_secs_f64() * 1e6 / f64::from(count);
    Ok(Sample::new(each).count("duplicates", duplicates(client, table).await?))
}

/// Connections that insert row after row, each in a transaction of its own.
async fn single(clients: &[Client], admin: &Client, table: &str) -> Result<Sample> {
    admin.batch_execute(&format!("TRUNCATE {table}; CHECKPOINT")).await?;
    let sql = format!("INSERT INTO {table} (payload) VALUES ($1)");
    let started = Instant::now();
    let until = started + Duration::from_secs(1);
    let insert = async |client: &Client| -> Result<u32> {
        let statement = client.prepare(&sql).await?;
        let mut inserted = 0;
        while Instant::now() < until {
            client.execute(&statement, &[&1_i64]).await?;
            inserted += 1;
        }
        Ok(inserted)
    };
    let inserted: u32 = try_join_all(clients.iter().map(insert)).await?.into_iter().sum();
    let rate = f64::from(inserted) / started.elapsed().as_secs_f64();
    Ok(Sample::new(rate).count("duplicates", duplicates(admin, table).await?))
}

async fn duplicates(client: &Client, from: &str) -> Result<u64> {
    let sql = format!("SELECT count(*) - count(DISTINCT id) FROM {from}");
    Ok(client.query_one(&sql, &[]).await?.get::<_, i64>(0).unsigned_abs())
}
