//! What does a page over many shards cost? The newest 50 rows of 64 shards on two instances, and the 50 after 199 pages,
//! against the same rows in one table with one index, and against one `UNION ALL` for each instance, merged by hand.
//!
//! Ours takes a floor (`Scatter::takes_floor`). The peers do not: one index scan reads one leaf, and who writes a union by hand
//! has nothing to guess from.

use std::time::Instant;

use futures_util::future::try_join_all;
use howdah::postgres::{self, Row};
use howdah::testing::TestCluster;
use howdah::{Cluster, Cursor, Id, Statement};
use howdah_benches::{
    Bench, Latencies, Result, Sample, Unit, fill, fill_unsharded, full_or_quick, servers,
};

const SHARDS: u16 = 64;
const ROWS: usize = 400;
const PAGE: usize = 50;
const LIMIT: i64 = 50;

const RECENT: Statement = Statement::new(
    "SELECT id, text FROM {shard}.items WHERE id < $1 AND id >= $3 ORDER BY id DESC LIMIT $2",
);
const BY_HAND: &str = "SELECT id, text FROM {shard}.items WHERE id < $1 ORDER BY id DESC LIMIT $2";
const UNSHARDED: &str =
    "SELECT id, text FROM unsharded.items WHERE id < $1 ORDER BY id DESC LIMIT $2";

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let mut bench = Bench::new("scatter");
    let test = servers(2, SHARDS).await?;
    let ids = fill(&test, ROWS).await?;
    fill_unsharded(&test, &ids).await?;
    let cluster = test.cluster().await?;
    let client = test.servers().client("pg1", "howdah_app").await?;
    let unsharded = client.prepare(UNSHARDED).await?;
    let by_hand = ByHand::open(&test, &cluster).await?;

    let mut cursor: Option<Cursor> = None;
    for (case, number) in [("page of 50", 1), ("page 200 of 50", 200)] {
        if !bench.wants(case) {
            continue;
        }
        let mut read = 1;
        while read < number {
            let scatter = cluster.scatter(&RECENT).all(&[]).takes_floor();
            cursor = scatter.page("id", cursor.as_ref(), PAGE).await?.next;
            read += 1;
        }
        // How many rows there are from this page on.
        let left = ids.len() - (number - 1) * PAGE;
        let before = ids.get(left).copied().unwrap_or(Id::MAX);
        let expected = [ids[left - 1], ids[left - PAGE]];

        let ours = async || {
            latency(expected, async || {
                let scatter = cluster.scatter(&RECENT).all(&[]).takes_floor();
                Ok(scatter.page("id", cursor.as_ref(), PAGE).await?.rows)
            })
            .await
        };
        let theirs = async || {
            latency(expected, async || Ok(client.query(&unsharded, &[&before, &LIMIT]).await?))
                .await
        };
        bench.compare(case, "unsharded", Unit::Time("us/page"), ours, theirs).await?;
        let theirs = async || latency(expected, async || by_hand.page(before).await).await;
        bench.compare(case, "union all", Unit::Time("us/page"), ours, theirs).await?;
    }
    bench.write()
}

/// The time of the middle one of many pages, one after the other; each must begin and end with these rows.
async fn latency(expected: [Id; 2], page: impl AsyncFn() -> Result<Vec<Row>>) -> Result<Sample> {
    let mut times = Vec::new();
    for _ in 0..full_or_quick(200, 100) {
        let asked = Instant::now();
        let rows = page().await?;
        times.push(asked.elapsed());
        let ends = [rows.first(), rows.last()].map(|row| row.map(|row| row.get::<_, Id>(0)));
        if rows.len() != PAGE || ends != expected.map(Some) {
            return Err(format!("a page of {} rows from {ends:?}", rows.len()).into());
        }
    }
    let latencies = Latencies::new(times);
    Ok(Sample::new(latencies.us(500)).figure("p99_us", latencies.us(990)))
}

/// One statement for each instance that names all its shards' tables, as who knows them would write it.
struct ByHand(Vec<(postgres::Client, postgres::Statement)>);

impl ByHand {
    async fn open(test: &TestCluster, cluster: &Cluster) -> Result<Self> {
        let mut instances = Vec::new();
        for instance in cluster.instances() {
            let map = cluster.map();
            let homes = map.homes().filter(|home| home.instance() == instance.name());
            let parts: Vec<String> = homes
                .map(|home| format!("({})", BY_HAND.replace("{shard}", &home.schema())))
                .collect();
            let parts = parts.join(" UNION ALL ");
            let sql = format!("SELECT * FROM ({parts}) page ORDER BY id DESC LIMIT $2");
            let client = test.servers().client(instance.name().as_str(), "howdah_app").await?;
            let statement = client.prepare(&sql).await?;
            instances.push((client, statement));
        }
        Ok(Self(instances))
    }

    async fn page(&self, before: Id) -> Result<Vec<Row>> {
        let parts = self
            .0
            .iter()
            .map(async |(client, statement)| client.query(statement, &[&before, &LIMIT]).await);
        let mut rows: Vec<Row> = try_join_all(parts).await?.into_iter().flatten().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.get::<_, Id>(0)));
        rows.truncate(PAGE);
        Ok(rows)
    }
}
