//! What does routing cost? The way from an id to its shard's home on a map of 8,192 shards and 256 instances, against an
//! index into an array; and a read that is routed against one that the caller sends to where he knows the row to be.
//!
//! Beside the lookup stand what a `Shard` costs, which keeps the cluster alive and so counts as one of its holders, and what
//! the home costs on whatever map is current, also while that is replaced all the time.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant, SystemTime};

use howdah::postgres::{self, Client};
use howdah::testing::TestCluster;
use howdah::{Cluster, Home, Id, IdParts, Layout, ShardId, Statement};
use howdah_benches::{Bench, Latencies, Result, Sample, Unit, fill, full_or_quick, servers};

/// How many lookups are timed at once: a tenth of a millisecond's work.
const STRETCH: usize = 10_000;

/// A catalog of the largest size. No connection is ever made to the instances that are added here.
const GROW: &str = "
    INSERT INTO howdah.instance (name, dsn)
    SELECT 'pg' || n, dsn FROM howdah.instance, generate_series(2, 256) n;
    INSERT INTO howdah.home (shard, instance)
    SELECT n, 'pg' || n % 256 + 1 FROM generate_series(1, 8191) n;
    UPDATE howdah.cluster SET shards = 8192, map_version = map_version + 1";
/// Connections in all: some for each instance, or there would be no pools.
const BUDGET: u32 = 1024;

/// What a move changes in the catalog, and how it tells.
const CHANGE: &str = "
    UPDATE howdah.home SET epoch = epoch + 1 WHERE shard = 42;
    UPDATE howdah.cluster SET map_version = map_version + 1;
    NOTIFY howdah_map";

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let mut bench = Bench::new("route");
    if bench.wants("lookup") {
        lookup(&mut bench).await?;
    }
    if bench.wants("point read") {
        point_read(&mut bench).await?;
    }
    bench.write()
}

async fn lookup(bench: &mut Bench) -> Result<()> {
    let test = TestCluster::builder().instances(1).shards(1).own_servers().start().await?;
    let admin = Arc::new(test.admin("pg1").await?);
    admin.batch_execute(GROW).await?;
    let cluster = Cluster::connect(test.config().total_max_size(BUDGET)).await?;
    let ids: Vec<Id> = (0..STRETCH)
        .map(|n| {
            // A large odd step scatters them, so that no processor guesses the next.
            let shard = ShardId::new(u16::try_from(n * 5167 % 8192).unwrap_or(0))?;
            Layout::default().encode(IdParts::at(SystemTime::now().into(), shard, 0))
        })
        .collect::<howdah::Result<_>>()?;
    let (map, layout) = (cluster.map(), cluster.layout());
    let lookup = |n: usize| drop(black_box(map.home(layout.shard_of(black_box(ids[n])))));
    let handle = |n: usize| drop(black_box(cluster.shard_of_id(black_box(ids[n]))));
    let home = |n: usize| drop(black_box(cluster.shard_of_id(ids[n]).and_then(|s| s.home())));

    let ours = async || {
        let (refreshing, refresh) = while_refreshing(&cluster, &admin, || time(1, home)).await?;
        Ok(Sample::new(time(1, lookup))
            .figure("handle_ns", time(1, handle))
            .figure("handle_two_threads_ns", time(2, handle))
            .figure("current_home_ns", time(1, home))
            .figure("current_home_while_refreshing_ns", refreshing)
            .figure("refresh_ms", refresh.as_secs_f64() * 1e3)
            .figure("map_bytes", (map.homes().len() * size_of::<Home>()) as f64))
    };
    let homes: Vec<Home> = map.homes().cloned().collect();
    let theirs = async || {
        let index = |n: usize| {
            let id = black_box(ids[n]).get().unsigned_abs();
            black_box(&homes[(id >> 10 & 8191) as usize]);
        };
        Ok(Sample::new(time(1, index)))
    };
    bench.compare("lookup", "array index", Unit::Time("ns/lookup"), ours, theirs).await
}

/// The nanoseconds that one of many lookups takes on each of so many threads: those of the middle one of many short
/// stretches, as a longer one is interrupted by whatever else the machine does.
fn time(threads: usize, lookup: impl Fn(usize) + Sync) -> f64 {
    let stretches = full_or_quick(2000, 500);
    let barrier = Barrier::new(threads);
    let work = || {
        let mut times = Vec::with_capacity(stretches);
        barrier.wait();
        for _ in 0..stretches {
            let started = Instant::now();
            for n in 0..STRETCH {
                lookup(n);
            }
            times.push(started.elapsed());
        }
        times
    };
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
    });
    times.sort_unstable();
    times[times.len() / 2].as_nanos() as f64 / STRETCH as f64
}

/// Something measured while the map changes all the time; and how long a change takes to arrive here.
async fn while_refreshing<T>(
    cluster: &Cluster,
    admin: &Arc<Client>,
    measure: impl FnOnce() -> T,
) -> Result<(T, Duration)> {
    let done = Arc::new(AtomicBool::new(false));
    let changes = tokio::spawn({
        let (cluster, admin, done) = (cluster.clone(), admin.clone(), done.clone());
        async move {
            let mut delays = Vec::new();
            while !done.load(Ordering::Relaxed) || delays.is_empty() {
                let before = cluster.map().version();
                admin.batch_execute(CHANGE).await?;
                let changed = Instant::now();
                while cluster.map().version() == before {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                delays.push(changed.elapsed());
            }
            delays.sort_unstable();
            Result::<_>::Ok(delays[delays.len() / 2])
        }
    });
    // This thread is none of the runtime's, so it may be busy.
    let measured = measure();
    done.store(true, Ordering::Relaxed);
    Ok((measured, changes.await??))
}

const BY_ID: Statement = Statement::new("SELECT text FROM {shard}.items WHERE id = $1");

async fn point_read(bench: &mut Bench) -> Result<()> {
    let test = servers(1, 64).await?;
    let ids = fill(&test, 50).await?;
    // One connection each.
    let cluster = Cluster::connect(test.config().max_size(2).pipelines(1)).await?;
    let client = test.servers().client("pg1", "howdah_app").await?;
    let mut statements = Vec::new();
    for home in cluster.map().homes() {
        let sql = BY_ID.as_str().replace("{shard}", &home.schema());
        statements.push(client.prepare(&sql).await?);
    }

    let ids: Arc<[Id]> = ids.into();
    let (routed, unrouted) = (Arc::new(Routed(cluster)), Arc::new(Unrouted(client, statements)));
    let ours = async || each(&ids, &routed).await;
    let theirs = async || each(&ids, &unrouted).await;
    bench.compare_closely("point read", "unrouted", Unit::Time("us/read"), ours, theirs).await
}

/// A way to a row.
trait Reader: Send + Sync + 'static {
    fn read(&self, n: usize, id: Id) -> impl Future<Output = Result<String>> + Send;
}

struct Routed(Cluster);

impl Reader for Routed {
    async fn read(&self, _: usize, id: Id) -> Result<String> {
        Ok(self.0.shard_of_id(id)?.query_one(&BY_ID, &[&id]).await?.get(0))
    }
}

struct Unrouted(Client, Vec<postgres::Statement>);

impl Reader for Unrouted {
    async fn read(&self, n: usize, id: Id) -> Result<String> {
        let Self(client, statements) = self;
        Ok(client.query_one(&statements[n % statements.len()], &[&id]).await?.get(0))
    }
}

/// Reads one row after the other, in a task as an application's requests are.
async fn each<R: Reader>(ids: &Arc<[Id]>, reader: &Arc<R>) -> Result<Sample> {
    let (ids, reader) = (ids.clone(), reader.clone());
    let reading = tokio::spawn(async move {
        let mut times = Vec::with_capacity(ids.len());
        for (n, id) in ids.iter().enumerate() {
            let asked = Instant::now();
            black_box(reader.read(n, *id).await?);
            times.push(asked.elapsed());
        }
        Result::<_>::Ok(times)
    });
    let latencies = Latencies::new(reading.await??);
    let mean = latencies.sum().as_secs_f64() * 1e6 / latencies.count() as f64;
    Ok(Sample::new(mean).figure("p50_us", latencies.us(500)).figure("p99_us", latencies.us(990)))
}
