//! What does it cost to fetch many rows that are spread over many shards? 1,000 ids over 64 shards on two instances,
//! against the same rows in one table (`= ANY` of all ids), and against asking for one after the other.

use std::sync::Arc;
use std::time::Instant;

use howdah::postgres::{self, Client};
use howdah::{Cluster, Id, Statement};
use howdah_benches::{
    Bench, Latencies, Result, Sample, Unit, fill, fill_unsharded, full_or_quick, servers,
};

const SHARDS: u16 = 64;
/// Rows of each shard.
const ROWS: usize = 1000;
const IDS: usize = 1000;

const BY_IDS: Statement = Statement::new("SELECT id, text FROM {shard}.items WHERE id = ANY($1)");
const BY_ID: Statement = Statement::new("SELECT id, text FROM {shard}.items WHERE id = $1");
const UNSHARDED: &str = "SELECT id, text FROM unsharded.items WHERE id = ANY($1)";

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let mut bench = Bench::new("multiget");
    let test = servers(2, SHARDS).await?;
    let ids = fill(&test, ROWS).await?;
    fill_unsharded(&test, &ids).await?;
    let cluster = test.cluster().await?;
    let client = test.servers().client("pg1", "howdah_app").await?;
    let unsharded = client.prepare(UNSHARDED).await?;
    // All over the table and in no order; a step that shares no factor with their number meets each once.
    let scattered: Vec<Id> = (0..ids.len()).map(|n| ids[n * 7919 % ids.len()]).collect();
    let wanted: Arc<[_]> = scattered.chunks_exact(IDS).map(<[Id]>::to_vec).collect();

    let many = Arc::new(Many(cluster.clone()));
    let one_statement = Arc::new(OneStatement(client, unsharded));
    let one_at_a_time = Arc::new(OneAtATime(cluster));

    let calls = full_or_quick(30, 20);
    let ours = async || each(&wanted, calls, &many).await;
    let theirs = async || each(&wanted, calls, &one_statement).await;
    bench.compare_closely("1000 ids", "unsharded", Unit::Time("us/call"), ours, theirs).await?;

    let theirs = async || each(&wanted, full_or_quick(3, 1), &one_at_a_time).await;
    bench.compare("1000 ids", "one at a time", Unit::Time("us/call"), ours, theirs).await?;
    bench.write()
}

/// A way to the rows of many ids.
trait Fetch: Send + Sync + 'static {
    /// How many were found.
    fn fetch(&self, ids: &[Id]) -> impl Future<Output = Result<usize>> + Send;
}

struct Many(Cluster);

impl Fetch for Many {
    async fn fetch(&self, ids: &[Id]) -> Result<usize> {
        Ok(self.0.get_many(&BY_IDS, ids).await?.into_rows().len())
    }
}

struct OneStatement(Client, postgres::Statement);

impl Fetch for OneStatement {
    async fn fetch(&self, ids: &[Id]) -> Result<usize> {
        Ok(self.0.query(&self.1, &[&ids]).await?.len())
    }
}

struct OneAtATime(Cluster);

impl Fetch for OneAtATime {
    async fn fetch(&self, ids: &[Id]) -> Result<usize> {
        let mut found = 0;
        for id in ids {
            let row = self.0.shard_of_id(*id)?.query_opt(&BY_ID, &[id]).await?;
            found += usize::from(row.is_some());
        }
        Ok(found)
    }
}

/// The time of the middle one of some calls, which must find all rows; in a task, as an application's requests are.
async fn each<F: Fetch>(wanted: &Arc<[Vec<Id>]>, calls: usize, way: &Arc<F>) -> Result<Sample> {
    let (wanted, way) = (wanted.clone(), way.clone());
    let fetching = tokio::spawn(async move {
        let mut times = Vec::new();
        for ids in wanted.iter().cycle().take(calls) {
            let asked = Instant::now();
            let found = way.fetch(ids).await?;
            times.push(asked.elapsed());
            if found != ids.len() {
                return Err(format!("{found} rows of {}", ids.len()).into());
            }
        }
        Result::<_>::Ok(times)
    });
    let latencies = Latencies::new(fetching.await??);
    Ok(Sample::new(latencies.us(500)).figure("p99_us", latencies.us(990)))
}
