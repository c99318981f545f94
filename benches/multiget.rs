//! What does it cost to fetch many rows that are spread over many shards? 1,000 ids over 64 shards on two instances,
//! against the same rows in one table (`= ANY` of all ids), and against asking for one after the other.

use std::time::Instant;

use howdah::{Id, Statement};
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
    let wanted: Vec<&[Id]> = scattered.chunks_exact(IDS).collect();

    let ours = async || {
        each(&wanted, full_or_quick(60, 20), async |ids| {
            Ok(cluster.get_many(&BY_IDS, ids).await?.into_rows().len())
        })
        .await
    };
    let theirs = async || {
        each(&wanted, full_or_quick(60, 20), async |ids| {
            Ok(client.query(&unsharded, &[&ids]).await?.len())
        })
        .await
    };
    bench.compare("1000 ids", "unsharded", Unit::Time("us/call"), ours, theirs).await?;

    let theirs = async || {
        each(&wanted, full_or_quick(3, 1), async |ids| {
            let mut found = 0;
            for id in ids {
                let row = cluster.shard_of_id(*id)?.query_opt(&BY_ID, &[id]).await?;
                found += usize::from(row.is_some());
            }
            Ok(found)
        })
        .await
    };
    bench.compare("1000 ids", "one at a time", Unit::Time("us/call"), ours, theirs).await?;
    bench.write()
}

/// The time of the middle one of some calls, which must find all rows.
async fn each(
    wanted: &[&[Id]],
    calls: usize,
    fetch: impl AsyncFn(&[Id]) -> Result<usize>,
) -> Result<Sample> {
    let mut times = Vec::new();
    for ids in wanted.iter().cycle().take(calls) {
        let asked = Instant::now();
        let found = fetch(ids).await?;
        times.push(asked.elapsed());
        if found != ids.len() {
            return Err(format!("{found} rows of {}", ids.len()).into());
        }
    }
    let latencies = Latencies::new(times);
    Ok(Sample::new(latencies.us(500)).figure("p99_us", latencies.us(990)))
}
